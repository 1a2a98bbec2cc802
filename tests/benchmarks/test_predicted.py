"""What the rows of the guarantees keep of a run's predictions."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from hf_multimodal.evaluation.calibration import binned_error
from hf_multimodal.evaluation.predictions import Predictions

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def predicted(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("predicted")


def test_the_band_is_where_a_calibrated_model_lies(predicted):
    low, high = predicted.ece_band([0.8] * 100)
    assert 0 <= low < 0.05 < high < 0.1
    assert predicted.ece_band([0.8] * 100) == (low, high)  # one seed
    draw = np.random.default_rng(1)
    confidences = draw.uniform(0.5, 1.0, 400)
    low, high = predicted.ece_band(confidences)
    groups, group = np.unique(confidences, return_inverse=True)
    errors = [
        binned_error(groups, np.bincount(group), np.bincount(group, weights=draw.random(400) < confidences), 15)
        for _ in range(400)
    ]
    assert 0.9 < np.mean([low <= error <= high for error in errors]) < 0.99


def test_paired_differences_of_blocks(predicted):
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 1000)
    tables = [draw.dirichlet([1, 1], 1000) for _ in range(2)]
    runs = [
        predicted.Predicted.of(
            Predictions.from_outputs(
                "single_label_classification", list(map(str, range(1000))), table, ["a", "b"], labels=labels
            )
        )
        for table in tables
    ]
    found = predicted.paired_difference(runs[:1], runs[1:], "accuracy")
    assert found.difference == pytest.approx(runs[0].accuracy - runs[1].accuracy, abs=1e-6)
    assert found.low < found.difference < found.high
    runs[1].test_rows = "other"
    with pytest.raises(ValueError, match="runs on different test rows cannot be paired"):
        predicted.paired_difference(runs[:1], runs[1:], "nll")
