"""Scores of the probabilities themselves: likelihood, Brier, calibration error."""

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

EPSILON = float(np.finfo(np.float64).eps)  # scikit-learn's log_loss clips here too: a row costs at most 36.04 nats
ECE_BINS = 15


def nll(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> FloatArray:
    """Negative log-likelihood of each row's label, in nats.

    Probabilities are clipped at the float64 epsilon, so one certain and wrong row costs 36.04 and not infinity.

    Args:
        probabilities: (n, K), rows summing to 1.
        labels: (n,) class indices.

    Returns:
        (n,), one value a row; its mean is the metric `nll`.

    Example:

    >>> nll([[0.5, 0.5], [0.0, 1.0]], [0, 0]).round(2).tolist()
    [0.69, 36.04]
    """
    table = np.asarray(probabilities, dtype=np.float64)
    chosen = np.take_along_axis(table, np.asarray(labels, dtype=np.int64)[:, None], axis=1)[:, 0]
    return -np.log(np.clip(chosen, EPSILON, 1.0))


def binary_nll(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> FloatArray:
    """Negative log-likelihood of yes-or-no decisions, in nats, clipped as in `nll`.

    Args:
        probabilities: Probabilities of yes, in any shape.
        labels: 0 or 1, the same shape.

    Returns:
        Values in the shape of the probabilities.
    """
    table = np.clip(np.asarray(probabilities, dtype=np.float64), EPSILON, 1.0 - EPSILON)
    return -np.log(np.where(np.asarray(labels) > 0.5, table, 1.0 - table))


def brier(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Mean over rows of the squared distance between probabilities and the one-hot label.

    Brier's own sum over classes, from 0 to 2; the one-sided form for two classes is half of it.

    Args:
        probabilities: (n, K).
        labels: (n,) class indices.

    Example:

    >>> brier([[0.5, 0.5], [0.0, 1.0]], [0, 0])
    1.25
    """
    table = np.asarray(probabilities, dtype=np.float64)
    one_hot = np.eye(table.shape[1])[np.asarray(labels, dtype=np.int64)]
    return float(((table - one_hot) ** 2).sum(axis=1).mean())


def ece(confidences: npt.ArrayLike, correct: npt.ArrayLike, bins: int = ECE_BINS) -> float:
    """Expected calibration error over bins of equal mass.

    Rows are sorted by confidence and cut into bins of equal count; the error is the mean, weighted by count, of the
    distance between a bin's mean confidence and its accuracy
    ([Guo et al., 2017](https://arxiv.org/abs/1706.04599), with equal-mass bins). Rows of equal confidence share
    their mean correctness, so the order of the rows cannot matter where a bin's edge cuts through a tie.

    Args:
        confidences: (n,) probability of each decision.
        correct: (n,) whether each decision was right.
        bins: Number of bins; with fewer rows than bins, each row is a bin.

    Example:

    >>> ece([0.8] * 5, [1, 1, 1, 1, 0])
    0.0
    >>> round(ece([0.9, 0.9, 0.6, 0.6], [1, 1, 0, 1], bins=2), 3)
    0.1
    """
    values, group = np.unique(np.asarray(confidences, dtype=np.float64), return_inverse=True)
    right = np.bincount(group, weights=np.asarray(correct, dtype=np.float64))
    return binned_error(values, np.bincount(group), right, bins)


def binned_error(values: FloatArray, sizes: npt.NDArray[Any], right: npt.NDArray[Any], bins: int = ECE_BINS) -> float:
    """`ece` of rows that are already sorted and counted, for many samples of the same confidences.

    Args:
        values: (groups,) different confidences, ascending.
        sizes: (groups,) rows of each confidence.
        right: (groups,) how many of them are right.
        bins: Number of bins.

    Example:

    >>> round(binned_error(np.array([0.6, 0.9]), np.array([2, 2]), np.array([1.0, 2.0]), bins=2), 3)
    0.1
    """
    ends = np.append(0, np.cumsum(sizes))
    count = int(ends[-1])
    numbers = np.arange(bins + 1)
    cuts = numbers * (count // bins) + np.minimum(numbers, count % bins)  # the first bins hold one more
    # Confidence beyond correctness, summed over the rows so far, is linear within a group.
    beyond = np.interp(cuts, ends, np.append(0, np.cumsum(values * sizes - right)))
    return float(np.abs(np.diff(beyond)).sum()) / count
