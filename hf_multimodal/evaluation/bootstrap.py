"""How sure a metric, or a difference between two runs, is: bootstrap over rows, and the spread over seeds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_multimodal.evaluation.calibration import FloatArray, binary_nll, binned_error, ece, nll
from hf_multimodal.evaluation.predictions import Predictions
from hf_multimodal.evaluation.thresholds import decide

RESAMPLES = 2000
CHUNK_CELLS = 4_000_000  # resample-by-row counts held at once: 32 MB
Reduce = Callable[[FloatArray, int], FloatArray]  # sums over a resample's rows (resamples, columns) -> (resamples,)


@dataclass(frozen=True)
class Difference:
    """A metric of run `a` minus that of run `b`, with its 95 % interval.

    Args:
        a: The metric of `a` (the mean over its seeds).
        b: The metric of `b` (the mean over its seeds).
        difference: `a - b`.
        low: 2.5 % percentile of the difference over resamples.
        high: 97.5 % percentile.
        count: Number of rows.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class SeedSummary:
    """Mean and spread of one number over training seeds.

    Args:
        mean: Mean.
        sd: Sample standard deviation (divided by count - 1); 0 for one seed.
        count: Number of seeds.
    """

    mean: float
    sd: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.sd:.4f} ({self.count} seed{'s' if self.count > 1 else ''})"


def seed_summary(values: Sequence[float]) -> SeedSummary:
    """Mean and sample standard deviation over seeds.

    Args:
        values: One number a seed.

    Raises:
        ValueError: No values.

    Example:

    >>> print(seed_summary([0.75, 0.76, 0.77]))
    0.7600 ± 0.0100 (3 seeds)
    """
    if len(values) == 0:
        raise ValueError("a summary over seeds needs at least one value.")
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return SeedSummary(float(np.mean(values)), sd, len(values))


def paired_bootstrap(
    a: Predictions | Sequence[Predictions],
    b: Predictions | Sequence[Predictions],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """95 % percentile interval of `a` minus `b` for each metric, both evaluated on the same resampled rows.

    Rows are joined by id, whatever their order in the files, and drawn with replacement, the same draw for every
    file and every metric ([Efron and Tibshirani, 1993](https://doi.org/10.1201/9780429246593)). Given several files
    a side (one a training seed), a side's metric is its mean over them inside each resample: the interval is then
    that of the recipe's mean over these seeds, and tells of the sampling of rows, not of other seeds.

    Args:
        a: One run's predictions, or several seeds' of one recipe.
        b: The other run's predictions, or its seeds'; the number of seeds may differ.
        resamples: Number of bootstrap draws.
        seed: Seed of the draws.

    Returns:
        By metric name: `accuracy`, `macro_f1` and `nll`; for multi-label `label_accuracy`, `subset_accuracy`,
        `macro_f1`, `micro_f1` and `nll` over label decisions; for regression `mse` and `mae`.

    Raises:
        ValueError: The files differ in problem type, classes, ids or labels, or a row has no label.

    Example:

    >>> def run(probabilities):
    ...     kind, names = "single_label_classification", ["cat", "dog"]
    ...     return Predictions.from_outputs(kind, "xyz", probabilities, names, labels=[0, 0, 1])
    >>> right, wrong = run([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]), run([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    >>> found = paired_bootstrap(right, wrong)["accuracy"]
    >>> round(found.difference, 3), found.low, found.high
    (0.333, 0.0, 1.0)
    """
    left = [a] if isinstance(a, Predictions) else list(a)
    right = [b] if isinstance(b, Predictions) else list(b)
    if not left or not right:
        raise ValueError("paired_bootstrap needs predictions on both sides.")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}.")
    reference = left[0]
    _check_labelled(reference)
    runs = [_align(reference, other) for other in left + right]
    count = len(reference.ids)

    statistics = [_row_statistics(run) for run in runs]
    draws: dict[str, list[FloatArray]] = {name: [] for name in statistics[0]}
    for weights in resample_counts(resamples, count, seed):
        for name in draws:
            draws[name].append(_side_means(statistics, name, weights, len(left)))
    whole = np.ones((1, count))
    found = {}
    for name, parts in draws.items():
        side_a, side_b = _side_means(statistics, name, whole, len(left))[:, 0].tolist()
        joined = np.concatenate(parts, axis=1)
        low, high = np.percentile(joined[0] - joined[1], [2.5, 97.5]).tolist()
        found[name] = Difference(side_a, side_b, side_a - side_b, low, high, count)
    return found


def bootstrap_intervals(run: Predictions, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, dict[str, float]]:
    """95 % interval of each metric of one run, over its labelled rows drawn with replacement.

    Percentile intervals, except that of the ECE: a resample's ECE is on average above that of the rows themselves, as
    repeated rows look like errors of calibration, so its percentiles are reflected about the ECE (the basic
    interval) and cut at 0.

    Args:
        run: The predictions.
        resamples: Number of bootstrap draws.
        seed: Seed of the draws.

    Returns:
        By metric name `low` and `high`: the metrics of `paired_bootstrap`, and `ece` where there are probabilities.

    Raises:
        ValueError: No row has a label.

    Example:

    >>> predictions = Predictions.from_outputs(
    ...     "single_label_classification", "xyz", [[0.9, 0.1]] * 3, ["cat", "dog"], labels=[0, 0, 1]
    ... )
    >>> bootstrap_intervals(predictions)["accuracy"]
    {'low': 0.0, 'high': 1.0}
    """
    run = run.take(run.labelled)
    count = len(run.ids)
    if not count:
        raise ValueError("no row has a label: there is nothing to measure.")
    statistics = _row_statistics(run)
    draws: dict[str, list[FloatArray]] = {name: [] for name in statistics}
    confidences, right = _decisions(run)
    values, group = np.unique(confidences.ravel(), return_inverse=True)
    errors: list[float] = []
    for weights in resample_counts(resamples, count, seed):
        for name, (rows, reduce) in statistics.items():
            draws[name].append(reduce(weights @ rows, count))
        for drawn in weights if confidences.size else ():
            times = np.repeat(drawn, confidences.shape[1])
            sizes, hits = (np.bincount(group, weights=counts) for counts in (times, times * right.ravel()))
            errors.append(binned_error(values, sizes, hits))
    found = {name: np.percentile(np.concatenate(parts), [2.5, 97.5]).tolist() for name, parts in draws.items()}
    if errors:
        whole = ece(confidences.ravel(), right.ravel())
        low, high = np.percentile(errors, [2.5, 97.5]).tolist()
        found["ece"] = [max(2 * whole - high, 0.0), max(2 * whole - low, 0.0)]
    return {name: {"low": low, "high": high} for name, (low, high) in found.items()}


def _decisions(run: Predictions) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """(n, decisions a row): how confident each is and whether it is right; none for regression."""
    table = run.probabilities
    if run.problem_type == "multi_label_classification":
        return np.maximum(table, 1 - table), decide(table) == run.labels  # of the likelier decision, as the ECE has it
    if run.problem_type == "regression":
        return table, np.zeros_like(table, dtype=bool)
    return table.max(axis=1, keepdims=True), (run.predicted == run.labels)[:, None]


def resample_counts(resamples: int, count: int, seed: int) -> Iterator[FloatArray]:
    """How often each row is drawn in each resample, as many resamples at once as memory allows.

    Args:
        resamples: Number of bootstrap draws.
        count: Number of rows.
        seed: Seed of the draws.

    Yields:
        (some resamples, count) float64.

    Example:

    >>> [counts.sum(axis=1).tolist() for counts in resample_counts(2, 5, 0)]
    [[5.0, 5.0]]
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // count)
    for start in range(0, resamples, chunk):
        yield _count_rows(generator, min(chunk, resamples - start), count)


def _count_rows(generator: np.random.Generator, size: int, count: int) -> FloatArray:
    """(size, count): how often each row is in each resample."""
    rows = generator.integers(0, count, size=(size, count))
    flat = (rows + np.arange(size)[:, None] * count).ravel()
    return np.bincount(flat, minlength=size * count).reshape(size, count).astype(np.float64)


def _side_means(
    statistics: Sequence[dict[str, tuple[FloatArray, Reduce]]], name: str, weights: FloatArray, split: int
) -> FloatArray:
    """(2, resamples): the metric averaged over the first `split` runs and over the others."""
    values = []
    for run in statistics:
        rows, reduce = run[name]
        values.append(reduce(weights @ rows, weights.shape[1]))
    return np.stack([np.mean(values[:split], axis=0), np.mean(values[split:], axis=0)])


def _row_statistics(run: Predictions) -> dict[str, tuple[FloatArray, Reduce]]:
    """For each metric the columns whose sums over rows determine it, and the formula from these sums."""
    if run.problem_type == "regression":
        error = (run.predicted - run.labels)[:, None]
        return {"mse": (error**2, _mean), "mae": (np.abs(error), _mean)}
    if run.problem_type == "multi_label_classification":
        cells = _f1_columns(run.labels, run.predicted.astype(np.float64))
        right = run.labels == run.predicted
        accuracies = {"label_accuracy": (right.mean(axis=1, keepdims=True), _mean)}
        accuracies |= {"subset_accuracy": (right.all(axis=1, keepdims=True).astype(np.float64), _mean)}
        loss = binary_nll(run.probabilities, run.labels).mean(axis=1, keepdims=True)
        f1 = {"macro_f1": (cells, _macro_f1_all), "micro_f1": (cells, _micro_f1)}
        return {**accuracies, **f1, "nll": (loss, _mean)}
    identity = np.eye(len(run.class_names))
    cells = _f1_columns(identity[run.labels], identity[run.predicted])
    right = (run.labels == run.predicted).astype(np.float64)[:, None]
    loss = nll(run.probabilities, run.labels)[:, None]
    return {"accuracy": (right, _mean), "macro_f1": (cells, _macro_f1_present), "nll": (loss, _mean)}


def _f1_columns(labels: FloatArray, predicted: FloatArray) -> FloatArray:
    return np.concatenate([labels * predicted, labels + predicted], axis=1)  # (n, 2K): hits, and what F1 divides by


def _mean(sums: FloatArray, count: int) -> FloatArray:
    return sums[:, 0] / count


def _macro_f1_all(sums: FloatArray, count: int) -> FloatArray:
    hits, total = np.split(sums, 2, axis=1)
    return (2 * hits / np.maximum(total, 1)).mean(axis=1)


def _macro_f1_present(sums: FloatArray, count: int) -> FloatArray:
    hits, total = np.split(sums, 2, axis=1)
    return (2 * hits / np.maximum(total, 1)).sum(axis=1) / (total > 0).sum(axis=1)


def _micro_f1(sums: FloatArray, count: int) -> FloatArray:
    hits, total = np.split(sums, 2, axis=1)
    return 2 * hits.sum(axis=1) / np.maximum(total.sum(axis=1), 1)


def _check_labelled(reference: Predictions) -> None:
    if not reference.ids:
        raise ValueError("the predictions hold no rows.")
    bare = np.flatnonzero(~reference.labelled)
    if len(bare):
        raise ValueError(f"id {reference.ids[bare[0]]!r} has no label ({len(bare)} such rows): nothing to compare.")


def _align(reference: Predictions, other: Predictions) -> Predictions:
    for field in ("problem_type", "class_names"):
        ours, theirs = getattr(reference, field), getattr(other, field)
        if ours != theirs:
            raise ValueError(f"the two predictions differ in {field}: {ours!r} and {theirs!r}.")
    place = {name: row for row, name in enumerate(other.ids)}
    absent = [name for name in reference.ids if name not in place]
    surplus = sorted(set(place) - set(reference.ids))
    if absent or surplus:
        example = f"id {absent[0]!r} is only in the first" if absent else f"id {surplus[0]!r} is only in the second"
        raise ValueError(
            f"the two predictions hold different rows: {len(absent)} ids only in the first, "
            f"{len(surplus)} only in the second; {example}."
        )
    aligned = other.take([place[name] for name in reference.ids])
    differing: npt.NDArray[np.bool_] = aligned.labels != reference.labels
    wrong = np.flatnonzero(differing.any(axis=1) if differing.ndim == 2 else differing)
    if len(wrong):
        raise ValueError(f"id {reference.ids[wrong[0]]!r} has different labels in the two ({len(wrong)} such rows).")
    return aligned
