"""Probabilities and labels in, plain dicts of finite floats out.

Beside every accuracy stands the accuracy of the majority class alone: an accuracy without it says little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support
from transformers import EvalPrediction

from hf_multimodal.evaluation.calibration import FloatArray, binary_nll, brier, ece, nll
from hf_multimodal.evaluation.thresholds import decide

IGNORE_INDEX = -100  # the label that transformers and torch read as "no label"


def classification_metrics(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, class_names: Sequence[str]
) -> dict[str, Any]:
    """Metrics of a classifier that gives each row one class.

    Macro-F1 is the mean over the classes that occur among labels or predictions, as scikit-learn has it; balanced
    accuracy is the mean recall over the classes that occur among the labels. A quotient of 0 by 0 counts as 0.

    Args:
        probabilities: (n, K), rows summing to 1.
        labels: (n,) class indices; rows with -100 have no label and are left out, `count` tells how many remain.
        class_names: The K names, in the order of the columns.

    Returns:
        `accuracy`, `balanced_accuracy`, `macro_f1`, `weighted_f1`, `nll`, `brier`, `ece`, the baseline that always
        predicts the most common label `majority_accuracy` and `majority_macro_f1`, `count`, and `per_class`:
        a dict by class name of `precision`, `recall`, `f1` and `support`.

    Raises:
        ValueError: Shapes disagree, a row is no distribution, a label is out of range, or no row has a label.

    Example:

    >>> found = classification_metrics([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], [0, 0, 1], ["cat", "dog"])
    >>> round(found["accuracy"], 3), round(found["majority_accuracy"], 3), found["macro_f1"]
    (0.667, 0.667, 0.4)
    """
    table = _check_probabilities(probabilities, class_names)
    target = np.asarray(labels)
    if target.shape != table.shape[:1]:
        raise ValueError(f"labels must have shape ({len(table)},) like the probabilities, got {target.shape}.")
    if not np.all(np.isfinite(target)) or np.any(target != np.round(target)):
        raise ValueError("labels must be whole numbers (class indices).")
    labelled = target != IGNORE_INDEX
    outside = np.flatnonzero(labelled & ((target < 0) | (target >= len(class_names))))
    if len(outside):
        row = outside[0]
        raise ValueError(f"row {row}: label must be in 0..{len(class_names) - 1}, got {target[row]}.")
    if not labelled.any():
        raise ValueError("no row has a label: there is nothing to measure.")
    table, target = table[labelled], target[labelled].astype(np.int64)
    off = np.flatnonzero(np.abs(table.sum(axis=1) - 1) > 1e-3)
    if len(off):
        raise ValueError(f"row {off[0]}: probabilities sum to {table[off[0]].sum():.4g}, not to 1. Are they logits?")

    predicted = table.argmax(axis=1)
    classes = np.arange(len(class_names))
    precision, recall, f1, support = precision_recall_fscore_support(
        target, predicted, labels=classes, zero_division=0
    )
    majority = np.full_like(target, np.bincount(target).argmax())
    return {
        "accuracy": float((predicted == target).mean()),
        "balanced_accuracy": float(recall[support > 0].mean()),
        "macro_f1": float(f1_score(target, predicted, average="macro", zero_division=0)),
        "weighted_f1": float(np.average(f1, weights=support)),
        "nll": float(nll(table, target).mean()),
        "brier": brier(table, target),
        "ece": ece(table.max(axis=1), predicted == target),
        "majority_accuracy": float((majority == target).mean()),
        "majority_macro_f1": float(f1_score(target, majority, average="macro", zero_division=0)),
        "count": len(target),
        "per_class": {
            name: {
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "support": int(support[k]),
            }
            for k, name in enumerate(class_names)
        },
    }


def multilabel_metrics(
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    class_names: Sequence[str],
    predicted: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Metrics of a classifier that says yes or no to each label of each row.

    `label_accuracy` is the share of all n·K decisions that are right, `subset_accuracy` that of the rows in which all
    are. `nll`, `brier` and `ece` are means over the n·K probabilities and do not depend on what is said: confidence
    is that of the likelier decision. The majority baseline decides each label as most rows do (no, at a tie). A label
    that no row has is left out of `mAP` (its average precision is undefined).

    Args:
        probabilities: (n, K), each in 0..1.
        labels: (n, K) of 0 and 1.
        class_names: The K names, in the order of the columns.
        predicted: (n, K) of 0 and 1, what is said; None says yes from .5 on.

    Returns:
        `label_accuracy`, `subset_accuracy`, `macro_f1`, `micro_f1`, `mAP`, `nll`, `brier`, `ece`,
        `majority_label_accuracy`, `majority_subset_accuracy`, `majority_macro_f1`, `majority_micro_f1`, `count`
        (rows), and `per_class` with `precision`, `recall`, `f1`, `support` and `average_precision`.

    Raises:
        ValueError: Shapes disagree, or a value is no probability or no 0 or 1.

    Example:

    >>> found = multilabel_metrics([[0.9, 0.2], [0.7, 0.6]], [[1, 0], [0, 1]], ["day", "sea"])
    >>> found["label_accuracy"], found["subset_accuracy"], found["mAP"], found["majority_label_accuracy"]
    (0.75, 0.5, 1.0, 0.5)
    """
    table = _check_probabilities(probabilities, class_names)
    raw = np.asarray(labels)
    if raw.shape != table.shape:
        raise ValueError(f"labels must have the shape of the probabilities {table.shape}, got {raw.shape}.")
    wrong = np.argwhere((raw != 0) & (raw != 1))
    if len(wrong):
        row, column = wrong[0]
        value = raw[row, column]
        raise ValueError(f"row {row}, label {class_names[column]!r}: must be 0 or 1, got {value}.")
    if len(raw) == 0:
        raise ValueError("no row has a label: there is nothing to measure.")

    target = raw.astype(np.int64)
    likelier = decide(table)
    said_so = likelier if predicted is None else np.asarray(predicted)
    if said_so.shape != table.shape:
        raise ValueError(f"predicted must have the shape of the probabilities {table.shape}, got {said_so.shape}.")
    majority = np.broadcast_to((target.mean(axis=0) > 0.5).astype(np.int64), target.shape)
    hits, said, support = (target * said_so).sum(axis=0), said_so.sum(axis=0), target.sum(axis=0)
    macro, micro, f1 = _multilabel_f1(target, said_so)
    majority_macro, majority_micro, _ = _multilabel_f1(target, majority)
    areas = [
        float(average_precision_score(target[:, k], table[:, k])) if support[k] else 0.0
        for k in range(len(class_names))
    ]
    present = [area for area, rows in zip(areas, support, strict=True) if rows]
    return {
        "label_accuracy": float((said_so == target).mean()),
        "subset_accuracy": float((said_so == target).all(axis=1).mean()),
        "macro_f1": macro,
        "micro_f1": micro,
        "mAP": float(np.mean(present)) if present else 0.0,
        "nll": float(binary_nll(table, target).mean()),
        "brier": float(((table - target) ** 2).mean()),
        "ece": ece(np.maximum(table, 1 - table).ravel(), (likelier == target).ravel()),
        "majority_label_accuracy": float((majority == target).mean()),
        "majority_subset_accuracy": float((majority == target).all(axis=1).mean()),
        "majority_macro_f1": majority_macro,
        "majority_micro_f1": majority_micro,
        "count": len(target),
        "per_class": {
            name: {
                "precision": float(hits[k] / max(said[k], 1)),
                "recall": float(hits[k] / max(support[k], 1)),
                "f1": float(f1[k]),
                "support": int(support[k]),
                "average_precision": areas[k],
            }
            for k, name in enumerate(class_names)
        },
    }


def _multilabel_f1(target: npt.NDArray[Any], said: npt.NDArray[Any]) -> tuple[float, float, FloatArray]:
    """Macro and micro F1 and the F1 of each label; scikit-learn would read one column as two classes."""
    hits, total = (target * said).sum(axis=0), said.sum(axis=0) + target.sum(axis=0)
    f1 = 2 * hits / np.maximum(total, 1)
    return float(f1.mean()), float(2 * hits.sum() / max(int(total.sum()), 1)), f1


def regression_metrics(values: npt.ArrayLike, labels: npt.ArrayLike) -> dict[str, Any]:
    """Metrics of one predicted number a row, beside the baseline that always predicts the mean label.

    Where a quotient is undefined (labels or predictions all equal) `pearson` is 0, and `r2` is 0 unless every
    prediction is exact.

    Args:
        values: (n,) or (n, 1) predictions.
        labels: (n,) or (n, 1).

    Returns:
        `mse`, `mae`, `r2`, `pearson`, `mean_baseline_mse`, `mean_baseline_mae`, `count`.

    Raises:
        ValueError: More than one number a row, shapes that disagree, a value that is not finite, or no rows.

    Example:

    >>> found = regression_metrics([1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    >>> round(found["mse"], 3), round(found["mean_baseline_mse"], 3), round(found["r2"], 3)
    (0.333, 0.667, 0.5)
    """
    guess, target = _column(values, "predictions"), _column(labels, "labels")
    if guess.shape != target.shape:
        raise ValueError(f"predictions and labels must have one length, got {len(guess)} and {len(target)}.")
    if len(target) == 0:
        raise ValueError("no row has a label: there is nothing to measure.")
    error, spread, guess_spread = guess - target, target - target.mean(), guess - guess.mean()
    mse, variance = float((error**2).mean()), float((spread**2).mean())
    varied = float(np.ptp(target)) > 0  # not variance > 0: the mean of equal floats can be off by a rounding
    scale = float(np.sqrt((guess_spread**2).mean() * variance)) if varied and float(np.ptp(guess)) > 0 else 0.0
    return {
        "mse": mse,
        "mae": float(np.abs(error).mean()),
        "r2": 1 - mse / variance if varied else float(mse == 0),
        "pearson": float((guess_spread * spread).mean()) / scale if scale > 0 else 0.0,
        "mean_baseline_mse": variance,
        "mean_baseline_mae": float(np.abs(spread).mean()),
        "count": len(target),
    }


def outputs_from_logits(problem_type: str, logits: npt.ArrayLike, ids: Sequence[str] | None = None) -> FloatArray:
    """Turn a model's logits into what the metrics take.

    Args:
        problem_type: One of the keys of `METRICS`.
        logits: (n, K), any float dtype; (n,) or (n, 1) for regression.
        ids: n names of the rows, for messages.

    Returns:
        Float64 probabilities (n, K) by softmax or sigmoid; for regression the values (n,).

    Raises:
        ValueError: An unknown problem type, or logits that are not finite; the message names the first such row.

    Example:

    >>> outputs_from_logits("single_label_classification", [[0.0, 0.0]]).tolist()
    [[0.5, 0.5]]
    """
    _check_problem_type(problem_type)
    table = np.asarray(logits, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(table).reshape(len(table), -1).all(axis=1))
    if len(broken):
        row = f"row {broken[0]}" + ("" if ids is None else f" (id {ids[broken[0]]!r})")
        raise ValueError(
            f"{row}: logits must be finite, got {np.atleast_1d(table[broken[0]]).tolist()}; {len(broken)} of "
            f"{len(table)} rows are like this."
        )
    if problem_type == "regression":
        return table[:, 0] if table.ndim == 2 and table.shape[1] == 1 else table
    if problem_type == "multi_label_classification":
        return np.exp(-np.logaddexp(0.0, -table))
    shifted = np.exp(table - table.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def metrics_from_outputs(
    problem_type: str,
    outputs: npt.ArrayLike,
    labels: npt.ArrayLike,
    class_names: Sequence[str],
    predicted: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Metrics by problem type: `METRICS[problem_type]`, with the class names where they matter.

    Args:
        problem_type: One of the keys of `METRICS`.
        outputs: Probabilities (n, K), or values (n,) for regression.
        labels: As the function for that problem type takes them.
        class_names: The K names; unused for regression.
        predicted: What is said in a multi-label problem; None says yes from .5 on. Others are decided by the
            outputs alone.

    Raises:
        ValueError: An unknown problem type, or what the function for it refuses.
    """
    _check_problem_type(problem_type)
    return METRICS[problem_type](outputs, labels, class_names, predicted)


@dataclass(frozen=True)
class ComputeMetrics:
    """`compute_metrics` for `transformers.Trainer`; picklable. Build it with `compute_metrics_for`."""

    problem_type: str
    class_names: tuple[str, ...]
    thresholds: tuple[float, ...] | None = None

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        outputs = outputs_from_logits(self.problem_type, logits)
        said = decide(outputs, self.thresholds) if self.problem_type == "multi_label_classification" else None
        found = metrics_from_outputs(self.problem_type, outputs, prediction.label_ids, self.class_names, said)
        return {name: float(value) for name, value in found.items() if name != "per_class"}


def metric_names(problem_type: str) -> list[str]:
    """Names of the metrics of a problem type by which a checkpoint can be chosen: no baseline, no count.

    Args:
        problem_type: One of the keys of `METRICS`.

    Example:

    >>> metric_names("regression")
    ['mse', 'mae', 'r2', 'pearson']
    """
    outputs = [1.0] if problem_type == "regression" else [[1.0]]
    labels = [[1]] if problem_type == "multi_label_classification" else [0]
    found = metrics_from_outputs(problem_type, outputs, labels, ["x"])
    left_out = ("majority_", "mean_baseline_", "count", "per_class")
    return [name for name in found if not name.startswith(left_out)]


def compute_metrics_for(
    problem_type: str, class_names: Sequence[str], thresholds: Sequence[float] | None = None
) -> ComputeMetrics:
    """Make the `compute_metrics` argument of `transformers.Trainer`.

    Args:
        problem_type: One of the keys of `METRICS`.
        class_names: Names in the order of the logits (`id2label`); unused for regression.
        thresholds: In a multi-label problem, the probability from which on each label holds; None is .5 for all.

    Returns:
        A picklable function from an `EvalPrediction`, whose predictions are logits or a tuple that begins with
        logits, to a flat dict of floats: the metrics of the problem type without `per_class`.

    Raises:
        ValueError: An unknown problem type.

    Example:

    >>> function = compute_metrics_for("single_label_classification", ["cat", "dog"])
    >>> function(EvalPrediction(np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 1])))["accuracy"]
    1.0
    """
    _check_problem_type(problem_type)
    return ComputeMetrics(problem_type, tuple(class_names), None if thresholds is None else tuple(thresholds))


def _check_problem_type(problem_type: str) -> None:
    if problem_type not in METRICS:
        raise ValueError(f"problem_type must be one of {list(METRICS)}, got {problem_type!r}.")


def _check_probabilities(probabilities: npt.ArrayLike, class_names: Sequence[str]) -> FloatArray:
    table = np.asarray(probabilities, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(class_names):
        raise ValueError(f"probabilities must have shape (rows, {len(class_names)} classes), got {table.shape}.")
    if len(set(class_names)) != len(class_names):
        raise ValueError(f"class names must differ from each other, got {list(class_names)}.")
    wrong = np.argwhere(~((table >= -1e-6) & (table <= 1 + 1e-6)))
    if len(wrong):
        row, column = wrong[0]
        value = table[row, column]
        raise ValueError(f"row {row}, class {class_names[column]!r}: {value} is no probability. Is it a logit?")
    return np.clip(table, 0.0, 1.0)


def _column(values: npt.ArrayLike, what: str) -> FloatArray:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 2 and table.shape[1] == 1:
        table = table[:, 0]
    if table.ndim != 1:
        raise ValueError(f"{what} of a regression must be one number a row, got shape {table.shape}.")
    wrong = np.flatnonzero(~np.isfinite(table))
    if len(wrong):
        raise ValueError(f"row {wrong[0]}: {what} must be finite, got {table[wrong[0]]}.")
    return table


METRICS: dict[str, Callable[[Any, Any, Sequence[str], Any], dict[str, Any]]] = {
    "single_label_classification": lambda outputs, labels, names, _: classification_metrics(outputs, labels, names),
    "multi_label_classification": multilabel_metrics,
    "regression": lambda values, labels, *_: regression_metrics(values, labels),
}
