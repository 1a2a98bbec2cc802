"""The paired bootstrap against a loop over resamples that calls the metrics themselves."""

import numpy as np
import pytest

from hf_multimodal.evaluation.bootstrap import _count_rows, bootstrap_intervals, paired_bootstrap, seed_summary
from hf_multimodal.evaluation.metrics import metrics_from_outputs
from hf_multimodal.evaluation.predictions import Predictions

NAMES = ["a", "b", "c"]
SINGLE = "single_label_classification"


def make_run(seed, labels, skill, problem_type=SINGLE):
    generator = np.random.default_rng(seed)
    ids = [f"row{k}" for k in range(len(labels))]
    if problem_type == SINGLE:
        logits = generator.normal(size=(len(labels), 3)) + skill * np.eye(3)[labels]
        outputs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    elif problem_type == "regression":
        return Predictions.from_outputs(problem_type, ids, labels + generator.normal(size=len(labels)), labels=labels)
    else:
        outputs = 1 / (1 + np.exp(-generator.normal(size=labels.shape) - skill * (2 * labels - 1)))
    return Predictions.from_outputs(problem_type, ids, outputs, NAMES, labels=labels)


@pytest.fixture
def labels():
    return np.random.default_rng(0).choice(3, size=60, p=[0.7, 0.25, 0.05])  # resamples without the third class occur


def measure(run, rows):
    return metrics_from_outputs(run.problem_type, run.outputs[rows], run.labels[rows], run.class_names)


def looped(a, b, metric, resamples, seed):
    """Percentiles of the difference, every resample measured by the metrics themselves; equal ids in equal rows."""
    counts = _count_rows(np.random.default_rng(seed), resamples, len(a[0].ids)).astype(int)
    differences = []
    for count in counts:
        rows = np.repeat(np.arange(len(count)), count)
        side_a, side_b = (np.mean([measure(run, rows)[metric] for run in side]) for side in (a, b))
        differences.append(side_a - side_b)
    return np.percentile(differences, [2.5, 97.5])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "nll"])
def test_equals_a_loop_over_resamples(labels, metric):
    a, b = make_run(1, labels, 2.0), make_run(2, labels, 1.0)
    found = paired_bootstrap(a, b, resamples=80, seed=5)[metric]
    assert found.a == pytest.approx(a.metrics()[metric])
    assert found.b == pytest.approx(b.metrics()[metric])
    assert found.difference == found.a - found.b
    assert [found.low, found.high] == pytest.approx(looped([a], [b], metric, 80, 5))
    assert found.count == 60


def test_several_seeds_are_averaged_inside_each_resample(labels):
    a, b = [make_run(k, labels, 2.0) for k in range(3)], [make_run(k, labels, 1.0) for k in range(10, 12)]
    found = paired_bootstrap(a, b, resamples=50, seed=1)["macro_f1"]
    assert found.a == pytest.approx(np.mean([run.metrics()["macro_f1"] for run in a]))
    assert [found.low, found.high] == pytest.approx(looped(a, b, "macro_f1", 50, 1))


@pytest.mark.parametrize(
    ("problem_type", "metrics"),
    [
        ("multi_label_classification", ["label_accuracy", "subset_accuracy", "macro_f1", "micro_f1", "nll"]),
        ("regression", ["mse", "mae"]),
    ],
)
def test_other_problem_types(problem_type, metrics):
    generator = np.random.default_rng(3)
    truth = (generator.uniform(size=(40, 3)) < 0.4) * 1.0 if len(metrics) == 5 else generator.normal(size=40)
    a, b = make_run(1, truth, 1.0, problem_type), make_run(2, truth, 0.5, problem_type)
    found = paired_bootstrap(a, b, resamples=30)
    assert list(found) == metrics
    for metric in metrics:
        assert found[metric].a == pytest.approx(a.metrics()[metric])
        assert [found[metric].low, found[metric].high] == pytest.approx(looped([a], [b], metric, 30, 0))


def test_rows_are_joined_by_id(labels):
    a, b = make_run(1, labels, 2.0), make_run(2, labels, 1.0)
    shuffled = b.take(np.random.default_rng(9).permutation(60))
    assert paired_bootstrap(a, shuffled) == paired_bootstrap(a, b)


def test_seeded_and_signed(labels):
    a, b = make_run(1, labels, 3.0), make_run(2, labels, 0.0)
    found = paired_bootstrap(a, b)
    assert found == paired_bootstrap(a, b)
    assert found["nll"] != paired_bootstrap(a, b, seed=1)["nll"]
    assert 0 < found["accuracy"].low < found["accuracy"].difference < found["accuracy"].high
    assert found["nll"].high < 0  # better is lower
    same = paired_bootstrap(a, a)["nll"]
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    assert str(same) == "+0.0000 [+0.0000, +0.0000]"


def test_the_interval_covers_what_theory_says():
    labels = np.zeros(2000, dtype=int)
    right = np.arange(2000) < 1400
    rows = [f"{k}" for k in range(2000)]
    a = Predictions.from_outputs(
        SINGLE, rows, np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]]), "xy", labels=labels
    )
    b = Predictions.from_outputs(SINGLE, rows, np.full((2000, 2), [0.1, 0.9]), "xy", labels=labels)
    found = paired_bootstrap(a, b)["accuracy"]
    half = 1.96 * np.sqrt(0.7 * 0.3 / 2000)
    assert found.low == pytest.approx(0.7 - half, abs=0.002)
    assert found.high == pytest.approx(0.7 + half, abs=0.002)


def test_mismatches_are_named(labels):
    a = make_run(1, labels, 2.0)
    with pytest.raises(
        ValueError, match=r"1 ids only in the first, 0 only in the second; id 'row0' is only in the first"
    ):
        paired_bootstrap(a, a.take(np.arange(1, 60)))
    with pytest.raises(ValueError, match="id 'row59' is only in the second"):
        paired_bootstrap(a.take(np.arange(59)), a)
    changed = labels.copy()
    changed[[4, 7]] = (changed[[4, 7]] + 1) % 3
    with pytest.raises(ValueError, match=r"id 'row4' has different labels in the two \(2 such rows\)"):
        paired_bootstrap(a, make_run(1, changed, 2.0))
    bare = Predictions.from_outputs(SINGLE, a.ids, a.probabilities, NAMES)
    with pytest.raises(ValueError, match=r"id 'row0' has no label \(60 such rows\)"):
        paired_bootstrap(bare, bare)
    other = Predictions.from_outputs(SINGLE, a.ids, a.probabilities, ["a", "b", "d"], labels=labels)
    with pytest.raises(ValueError, match="the two predictions differ in class_names"):
        paired_bootstrap(a, other)
    with pytest.raises(ValueError, match="needs predictions on both sides"):
        paired_bootstrap(a, [])


def test_seed_summary():
    found = seed_summary([0.7, 0.8, 0.9])
    assert (found.mean, found.sd, found.count) == (pytest.approx(0.8), pytest.approx(0.1), 3)
    assert str(seed_summary([0.7])) == "0.7000 ± 0.0000 (1 seed)"
    with pytest.raises(ValueError, match="at least one value"):
        seed_summary([])


@pytest.mark.parametrize("problem_type", [SINGLE, "multi_label_classification", "regression"])
def test_intervals_equal_a_loop_over_resamples(labels, problem_type):
    own = labels if problem_type != "multi_label_classification" else np.eye(3)[labels]
    run = make_run(3, own.astype(float) if problem_type == "regression" else own, 1.0, problem_type)
    counts = _count_rows(np.random.default_rng(4), 90, 60).astype(int)
    looped = [measure(run, np.repeat(np.arange(60), count)) for count in counts]
    found = bootstrap_intervals(run, resamples=90, seed=4)
    several = problem_type == "multi_label_classification"
    accuracies = {"label_accuracy", "subset_accuracy"} if several else {"accuracy"}
    assert set(found) >= ({"mse", "mae"} if problem_type == "regression" else {*accuracies, "macro_f1", "nll", "ece"})
    for name, interval in found.items():
        low, high = np.percentile([metrics[name] for metrics in looped], [2.5, 97.5])
        if name == "ece":  # about the value, since resamples are biased upwards
            whole = run.metrics()["ece"]
            assert np.mean([metrics["ece"] for metrics in looped]) > whole
            low, high = max(2 * whole - high, 0), max(2 * whole - low, 0)
        assert [interval["low"], interval["high"]] == pytest.approx([low, high])


def test_rows_without_a_label_enter_no_interval(labels):
    probabilities = make_run(1, labels, 2.0).probabilities
    known = [int(label) if row % 2 else None for row, label in enumerate(labels)]
    ids = [str(row) for row in range(60)]
    whole = Predictions.from_outputs(SINGLE, ids, probabilities, NAMES, labels=known)
    half = Predictions.from_outputs(SINGLE, ids[1::2], probabilities[1::2], NAMES, labels=labels[1::2])
    assert bootstrap_intervals(whole, resamples=20) == bootstrap_intervals(half, resamples=20)
    with pytest.raises(ValueError, match="no row has a label"):
        bootstrap_intervals(Predictions.from_outputs(SINGLE, ids, probabilities, NAMES))
