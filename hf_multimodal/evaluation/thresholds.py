"""Thresholds of a multi-label problem: the probability from which on a label is said to hold."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

NEUTRAL = 0.5


def decide(probabilities: npt.ArrayLike, thresholds: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
    """Say which labels hold: those whose probability is at least their threshold.

    Args:
        probabilities: (n, K) or (K,), each in 0..1.
        thresholds: Broadcast to the probabilities, for instance (K,); None is .5 for every label.

    Returns:
        0 or 1, in the shape of the probabilities.

    Example:

    >>> decide([[0.5, 0.4], [0.2, 0.6]]).tolist(), decide([0.5, 0.4], [0.6, 0.3]).tolist()
    ([[1, 0], [0, 1]], [0, 1])
    """
    limits = NEUTRAL if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    return (np.asarray(probabilities, dtype=np.float64) >= limits).astype(np.int64)


def tune_thresholds(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> list[float]:
    """For each label the threshold of the best F1 on these rows, which must not be test rows.

    A threshold lies midway between two neighbouring probabilities. Of several with the same F1 the one nearest to .5
    is taken, so that .5 stays wherever nothing is better. A label that no row has keeps .5.

    Args:
        probabilities: (n, K), each in 0..1.
        labels: (n, K) of 0 and 1.

    Returns:
        K numbers between 0 and 1.

    Raises:
        ValueError: If the shapes disagree.

    Example:

    >>> tune_thresholds([[0.1, 0.9], [0.3, 0.8], [0.5, 0.2]], [[0, 1], [1, 1], [1, 0]])
    [0.2, 0.5]
    """
    table, target = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if table.ndim != 2 or table.shape != target.shape:
        raise ValueError(f"labels must have the shape of the probabilities {table.shape}, got {target.shape}.")
    return [_best(table[:, k], target[:, k]) for k in range(table.shape[1])]


def _best(scores: npt.NDArray[np.float64], target: npt.NDArray[np.float64]) -> float:
    """Walk down the sorted probabilities: what is said so far, and how much of it is right, gives each cut's F1."""
    positives = target.sum()
    if not positives:
        return NEUTRAL
    order = np.argsort(-scores, kind="stable")
    down = scores[order]
    last = np.append(down[1:] != down[:-1], True)  # a cut lies below the last of several equal ones
    cuts = (down + np.append(down[1:], 0.0)) / 2
    said, hits = np.arange(1, len(down) + 1), target[order].cumsum()
    f1 = 2 * hits / (said + positives)
    yes = scores >= NEUTRAL
    candidates: Sequence[tuple[float, float]] = [
        (2 * float(target[yes].sum()) / float(yes.sum() + positives), NEUTRAL),
        *((float(value), float(cut)) for value, cut in zip(f1[last], cuts[last], strict=True) if 0 < cut < 1),
    ]
    return max(candidates, key=lambda found: (found[0], -abs(found[1] - NEUTRAL)))[1]
