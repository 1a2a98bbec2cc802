"""Metrics against scikit-learn, against loops written by hand, and at the edges."""

import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics as reference
from transformers import EvalPrediction

from hf_multimodal.evaluation.calibration import brier, ece, nll
from hf_multimodal.evaluation.metrics import (
    classification_metrics,
    compute_metrics_for,
    metrics_from_outputs,
    multilabel_metrics,
    outputs_from_logits,
    regression_metrics,
)
from hf_multimodal.evaluation.thresholds import decide, tune_thresholds

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def answers():
    generator = np.random.default_rng(0)
    labels = generator.choice(3, size=200, p=[0.6, 0.3, 0.1])  # class d never occurs
    logits = generator.normal(size=(200, 4)) + 1.5 * np.eye(4)[labels]
    return outputs_from_logits("single_label_classification", logits), labels


def test_single_label_metrics_equal_those_of_scikit_learn(answers):
    probabilities, labels = answers
    predicted = probabilities.argmax(axis=1)
    found = classification_metrics(probabilities, labels, NAMES)
    f1 = {"y_true": labels, "y_pred": predicted, "zero_division": 0}
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(
        reference.recall_score(labels, predicted, average="macro", labels=[0, 1, 2])
    )
    assert found["macro_f1"] == pytest.approx(reference.f1_score(average="macro", **f1))
    assert found["weighted_f1"] == pytest.approx(reference.f1_score(average="weighted", **f1))
    assert found["nll"] == pytest.approx(reference.log_loss(labels, probabilities, labels=range(4)))
    counts = np.bincount(labels)
    assert found["majority_accuracy"] == counts.max() / len(labels)
    majority = np.full(len(labels), counts.argmax())
    assert found["majority_macro_f1"] == pytest.approx(
        reference.f1_score(labels, majority, average="macro", zero_division=0)
    )
    assert found["count"] == 200
    assert found["per_class"]["a"]["support"] == counts[0]
    assert found["per_class"]["a"]["recall"] == pytest.approx((predicted[labels == 0] == 0).mean())
    assert found["per_class"]["a"]["precision"] == pytest.approx((labels[predicted == 0] == 0).mean())
    assert found["per_class"]["d"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_macro_f1_leaves_out_classes_that_never_occur():
    right = np.eye(4)[[0, 1, 0]]
    assert classification_metrics(right, [0, 1, 0], NAMES)["macro_f1"] == 1.0
    stray = np.eye(4)[[0, 1, 3]]  # d is predicted once, so it counts
    assert classification_metrics(stray, [0, 1, 0], NAMES)["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_brier_is_the_sum_over_classes(answers):
    probabilities, labels = answers
    total = 0.0
    for row, label in zip(probabilities, labels, strict=True):
        total += sum((p - (k == label)) ** 2 for k, p in enumerate(row))
    assert brier(probabilities, labels) == pytest.approx(total / len(labels))


def test_nll_of_a_certain_error_is_finite():
    assert nll([[1.0, 0.0]], [1]).tolist() == [pytest.approx(-math.log(np.finfo(float).eps))]


def loop_ece(confidences, correct, bins):
    order = sorted(range(len(confidences)), key=lambda row: confidences[row])
    error, start = 0.0, 0
    for number in range(bins):
        size = len(order) // bins + (number < len(order) % bins)
        rows = order[start : start + size]
        start += size
        if rows:
            confidence = sum(confidences[row] for row in rows) / len(rows)
            accuracy = sum(correct[row] for row in rows) / len(rows)
            error += len(rows) / len(order) * abs(confidence - accuracy)
    return error


@pytest.mark.parametrize("count", [1, 7, 15, 100, 151])
def test_ece_equals_a_plain_loop(count):
    generator = np.random.default_rng(count)
    confidences = generator.uniform(0.3, 1, size=count)
    correct = generator.uniform(size=count) < confidences**2
    assert ece(confidences, correct) == pytest.approx(loop_ece(confidences, correct, 15), abs=1e-12)


def test_ece_does_not_depend_on_the_order_of_ties():
    generator = np.random.default_rng(1)
    confidences = generator.choice([0.5, 0.7, 0.9], size=100)
    correct = generator.uniform(size=100) < 0.6
    order = generator.permutation(100)
    assert ece(confidences, correct) == ece(confidences[order], correct[order])
    assert ece([0.8] * 100, [1] * 60 + [0] * 40) == pytest.approx(0.2)


def test_rows_without_a_label_are_left_out_and_counted(answers):
    probabilities, labels = answers
    hidden = labels.copy()
    hidden[::2] = -100
    assert classification_metrics(probabilities, hidden, NAMES) == classification_metrics(
        probabilities[1::2], labels[1::2], NAMES
    )


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, 0.5]], [2], r"row 0: label must be in 0..1, got 2"),
        ([[0.5, 0.5]], [-1], r"row 0: label must be in 0..1, got -1"),
        ([[0.5, 0.5]], [-100], r"no row has a label"),
        ([[0.5, 0.5]], [0.5], r"labels must be whole numbers"),
        ([[0.5, 0.5]], [float("nan")], r"labels must be whole numbers"),
        ([[0.5, 0.5]], [0, 1], r"labels must have shape \(1,\)"),
        ([[0.5, 0.5], [0.9, 0.9]], [0, 1], r"row 1: probabilities sum to 1.8, not to 1"),
        ([[3.0, -1.0]], [0], r"row 0, class 'x': 3.0 is no probability. Is it a logit\?"),
        ([[0.5, float("nan")]], [0], r"row 0, class 'y': nan is no probability"),
        ([[0.5, 0.2, 0.3]], [0], r"probabilities must have shape \(rows, 2 classes\), got \(1, 3\)"),
    ],
)
def test_bad_input_is_named(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(probabilities, labels, ["x", "y"])


def test_equal_class_names_are_refused():
    with pytest.raises(ValueError, match="class names must differ"):
        classification_metrics([[0.5, 0.5]], [0], ["x", "x"])


def test_multilabel_metrics_equal_those_of_scikit_learn():
    generator = np.random.default_rng(2)
    labels = (generator.uniform(size=(100, 4)) < [0.7, 0.4, 0.2, 0.0]).astype(float)  # d never holds
    probabilities = np.clip(0.5 * labels + generator.uniform(0, 0.6, size=(100, 4)), 0, 1)
    predicted = (probabilities >= 0.5).astype(int)
    found = multilabel_metrics(probabilities, labels, NAMES)
    for average in ("macro", "micro"):
        expected = reference.f1_score(labels, predicted, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    areas = [reference.average_precision_score(labels[:, k], probabilities[:, k]) for k in range(3)]
    assert found["mAP"] == pytest.approx(np.mean(areas))
    assert found["per_class"]["d"]["average_precision"] == 0.0
    losses = [reference.log_loss(labels[:, k], probabilities[:, k], labels=[0, 1]) for k in range(4)]
    assert found["nll"] == pytest.approx(np.mean(losses))
    assert "accuracy" not in found
    assert found["label_accuracy"] == pytest.approx(1 - reference.hamming_loss(labels, predicted))
    assert found["subset_accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    share = labels.mean(axis=0)
    assert found["majority_label_accuracy"] == pytest.approx(np.maximum(share, 1 - share).mean())
    majority = np.tile(share > 0.5, (100, 1)).astype(int)
    expected = reference.f1_score(labels, majority, average="macro", zero_division=0)
    assert found["majority_macro_f1"] == pytest.approx(expected)
    assert found["majority_subset_accuracy"] == pytest.approx(reference.accuracy_score(labels, majority))
    confidence = np.maximum(probabilities, 1 - probabilities).ravel()
    assert found["ece"] == pytest.approx(ece(confidence, (predicted == labels).ravel()))
    assert found["per_class"]["a"]["support"] == labels[:, 0].sum()


def test_what_is_said_may_come_from_other_thresholds():
    probabilities, labels = [[0.9, 0.4], [0.6, 0.2]], [[1, 1], [0, 0]]
    usual, other = (
        multilabel_metrics(probabilities, labels, ["x", "y"], said)
        for said in (None, decide(probabilities, [0.7, 0.3]))
    )
    assert (usual["label_accuracy"], usual["subset_accuracy"], usual["macro_f1"]) == (0.5, 0.0, pytest.approx(1 / 3))
    assert (other["label_accuracy"], other["subset_accuracy"], other["macro_f1"]) == (1.0, 1.0, 1.0)
    assert [usual[name] for name in ("nll", "brier", "ece", "mAP")] == [
        other[name] for name in ("nll", "brier", "ece", "mAP")
    ]
    logits = np.log(np.array(probabilities) / (1 - np.array(probabilities)))
    function = compute_metrics_for("multi_label_classification", ["x", "y"], [0.7, 0.3])
    assert function(EvalPrediction(logits, np.array(labels)))["subset_accuracy"] == 1.0
    with pytest.raises(ValueError, match=r"predicted must have the shape of the probabilities \(2, 2\), got \(1, 2\)"):
        multilabel_metrics(probabilities, labels, ["x", "y"], [[1, 1]])


def test_tuned_thresholds_are_best_on_their_rows():
    generator = np.random.default_rng(5)
    labels = (generator.uniform(size=(200, 4)) < [0.1, 0.5, 0.8, 0.0]).astype(float)
    probabilities = np.round(np.clip(0.2 * labels + generator.uniform(0, 0.5, size=(200, 4)), 0, 1), 2)  # with ties
    thresholds = tune_thresholds(probabilities, labels)
    for k in range(3):
        grid = [reference.f1_score(labels[:, k], probabilities[:, k] >= cut) for cut in np.arange(0.005, 1, 0.01)]
        found = reference.f1_score(labels[:, k], probabilities[:, k] >= thresholds[k])
        assert found == pytest.approx(max(grid)) and 0 < thresholds[k] < 1
    assert thresholds[3] == 0.5  # nobody has it
    assert tune_thresholds([[0.5], [0.4]], [[1], [0]]) == [0.5]  # nothing is better
    with pytest.raises(ValueError, match=r"labels must have the shape of the probabilities \(1, 2\), got \(2,\)"):
        tune_thresholds([[0.1, 0.2]], [0, 1])


def test_one_label_is_one_label_and_not_two_classes():
    assert multilabel_metrics([[0.9], [0.2], [0.8]], [[1], [0], [0]], ["x"])["macro_f1"] == pytest.approx(2 / 3)


def test_multilabel_labels_must_be_0_or_1():
    with pytest.raises(ValueError, match="row 1, label 'y': must be 0 or 1, got -100"):
        multilabel_metrics([[0.5, 0.5]] * 2, [[0, 1], [1, -100]], ["x", "y"])


def test_regression_metrics_equal_those_of_scikit_learn():
    generator = np.random.default_rng(3)
    labels = generator.normal(size=50)
    values = labels + generator.normal(size=50)
    found = regression_metrics(values[:, None], labels)
    assert found["mse"] == pytest.approx(reference.mean_squared_error(labels, values))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(labels, values))
    assert found["r2"] == pytest.approx(reference.r2_score(labels, values))
    assert found["pearson"] == pytest.approx(np.corrcoef(values, labels)[0, 1])
    assert found["mean_baseline_mse"] == pytest.approx(labels.var())
    assert found["mean_baseline_mae"] == pytest.approx(np.abs(labels - labels.mean()).mean())


@pytest.mark.parametrize(("value", "r2"), [(0.1, 1.0), (0.2, 0.0)])
def test_regression_on_equal_labels_is_finite(value, r2):
    found = regression_metrics([value] * 3, [0.1] * 3)
    assert (found["r2"], found["pearson"]) == (r2, 0.0)


def test_regression_refuses_nan_by_row():
    with pytest.raises(ValueError, match="row 1: labels must be finite, got nan"):
        regression_metrics([1.0, 2.0], [1.0, float("nan")])


def test_compute_metrics_takes_logits_and_travels_to_other_processes():
    generator = np.random.default_rng(4)
    logits, labels = generator.normal(size=(30, 3)).astype(np.float32) * 50, generator.integers(0, 3, 30)
    function = pickle.loads(pickle.dumps(compute_metrics_for("single_label_classification", ["x", "y", "z"])))
    found = function(EvalPrediction(predictions=(logits, logits[:, :1]), label_ids=labels))
    assert found == function(EvalPrediction(predictions=logits, label_ids=labels))
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    expected = classification_metrics(exact / exact.sum(axis=1, keepdims=True), labels, ["x", "y", "z"])
    assert found == {name: value for name, value in expected.items() if name != "per_class"}
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_compute_metrics_by_problem_type():
    logits = np.array([[2.0, -2.0], [0.0, 900.0]])
    found = compute_metrics_for("multi_label_classification", ["x", "y"])(EvalPrediction(logits, np.eye(2)))
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)  # a logit of 0 is a probability of .5, which says yes
    found = compute_metrics_for("regression", [])(EvalPrediction(np.array([[1.0], [3.0]]), np.array([1.0, 2.0])))
    assert found["mse"] == 0.5


def test_unknown_problem_type_is_refused():
    message = r"problem_type must be one of \['single_label_classification', .*\], got 'single'"
    for call in (lambda: compute_metrics_for("single", []), lambda: metrics_from_outputs("single", [], [], [])):
        with pytest.raises(ValueError, match=message):
            call()


NO_NETWORK = """
import socket

def refuse(*args, **kwargs):
    raise OSError("no network in this test")

socket.socket.connect = refuse
socket.getaddrinfo = refuse
"""
MODULE_RUN = """
print(found["accuracy"], found["per_class"]["dog"]["support"])
several = evaluate.load(IMAGE_TEXT_CLASSIFICATION, "multi_label_classification")
print(several.compute(predictions=[[0.9, 0.1], [0.3, 0.7]], references=[[1, 0], [1, 1]])["micro_f1"])
limits = {"thresholds": [0.2, 0.5]}
print(several.compute(predictions=[[0.9, 0.1], [0.3, 0.7]], references=[[1, 0], [1, 1]], **limits)["subset_accuracy"])
print(evaluate.load(IMAGE_TEXT_CLASSIFICATION, "regression").compute(predictions=[1.0], references=[3.0])["mse"])
try:
    evaluate.load(IMAGE_TEXT_CLASSIFICATION, "regresion")
except ValueError as error:
    print(error)
"""


def test_evaluate_module_loads_without_network(tmp_path):
    home = {"HF_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    page = Path(__file__).parents[2].joinpath("docs", "training.md").read_text(encoding="utf-8")
    snippet = re.search(r"```python\n(import evaluate\n.*?)```", page, re.DOTALL)
    assert snippet is not None
    run = subprocess.run(
        [sys.executable, "-c", NO_NETWORK + snippet[1] + MODULE_RUN],
        env={**os.environ, **home},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    accuracy, micro_f1, subset_accuracy, mse, refusal = run.stdout.splitlines()
    assert accuracy == "0.6666666666666666 2"
    assert micro_f1 == "0.8" and subset_accuracy == "1.0"
    assert mse == "4.0"
    assert refusal.startswith("the configuration must be one of ['single_label_classification',")
