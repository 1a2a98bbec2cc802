"""A run's predictions on the test rows, as small as paired intervals allow, so that the rows of a series hold them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_multimodal.evaluation.bootstrap import RESAMPLES, Difference, resample_counts
from hf_multimodal.evaluation.calibration import ECE_BINS, binned_error, nll
from hf_multimodal.evaluation.predictions import Predictions

BLOCKS = 200


@dataclass
class Predicted:
    """Scores of one run on one pattern of presence, and their sums over blocks of rows.

    A bootstrap that draws blocks of independent rows gives the interval that drawing single rows gives, and needs 200
    numbers of 8,000 rows.

    Args:
        test_rows: Digest of the ids and labels, which must agree before two runs are paired.
        count: Number of rows.
        accuracy: Share of the rows that are predicted rightly.
        nll: Mean negative log-likelihood, in nats.
        ece: Expected calibration error.
        ece_high: What the ECE of a perfectly calibrated model with these confidences exceeds in 2.5 % of samples.
        right: (blocks,), how many predictions of each block are right.
        nlls: (blocks,), sums of the negative log-likelihoods.
    """

    test_rows: str
    count: int
    accuracy: float
    nll: float
    ece: float
    ece_high: float
    right: list[int]
    nlls: list[float]

    @classmethod
    def of(cls, predictions: Predictions) -> "Predicted":
        """Sum up the predictions of labelled rows of one class each; rows are blocked in the order of their ids."""
        found = predictions.take(np.argsort(predictions.ids))
        right, nlls = found.predicted == found.labels, nll(found.probabilities, found.labels)
        named = json.dumps([list(found.ids), found.labels.tolist()])
        return cls(
            test_rows=hashlib.sha256(named.encode()).hexdigest()[:8],
            count=len(right),
            **{name: round(found.metrics()[name], 6) for name in ("accuracy", "nll", "ece")},
            ece_high=round(ece_band(found.probabilities.max(axis=1))[1], 6),
            right=[int(block.sum()) for block in np.array_split(right, BLOCKS)],
            nlls=[round(float(block.sum()), 4) for block in np.array_split(nlls, BLOCKS)],
        )

    def row(self) -> dict[str, Any]:
        """What stands in a row of a series; `Predicted(**row)` reads it."""
        return asdict(self)


def ece_band(
    confidences: npt.ArrayLike, *, bins: int = ECE_BINS, repeats: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Where 95 % of the ECEs of a perfectly calibrated model with these confidences lie.

    A finite sample's ECE is above 0 even then, so it is to be judged by this band, found by drawing whether each
    decision is right with the probability that its confidence says.

    Args:
        confidences: (n,) probability of each decision.
        bins: Number of bins.
        repeats: Number of simulated samples.
        seed: Of the draws.

    Returns:
        The 2.5th and the 97.5th percentile.

    Example:

    >>> low, high = ece_band([0.8] * 100)
    >>> 0 <= low < 0.05 < high < 0.1
    True
    """
    values = np.asarray(confidences, dtype=np.float64)
    draw = np.random.default_rng(seed)
    groups, group = np.unique(values, return_inverse=True)
    sizes = np.bincount(group)
    samples = (np.bincount(group, weights=draw.random(len(values)) < values) for _ in range(repeats))
    errors = [binned_error(groups, sizes, right, bins) for right in samples]
    low, high = np.percentile(errors, [2.5, 97.5])
    return float(low), float(high)


def paired_difference(ours: Sequence[Predicted], theirs: Sequence[Predicted], metric: str) -> Difference:
    """`accuracy` or `nll` of one recipe minus that of another, the mean over seeds, with its paired 95 % interval.

    Args:
        ours: One run a seed.
        theirs: Of the other recipe, on the same test rows.
        metric: Which.

    Raises:
        ValueError: If the test rows differ.
    """
    if len({run.test_rows for run in [*ours, *theirs]}) > 1:
        raise ValueError("runs on different test rows cannot be paired.")
    sums = {"accuracy": "right", "nll": "nlls"}[metric]
    a, b = (np.mean([getattr(run, sums) for run in runs], axis=0) for runs in (ours, theirs))
    sizes = np.array([len(block) for block in np.array_split(np.arange(ours[0].count), BLOCKS)])
    drawn = [counts @ (a - b) / (counts @ sizes) for counts in resample_counts(RESAMPLES, BLOCKS, seed=0)]
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5]).tolist()
    ours_mean, theirs_mean = (float(side.sum() / sizes.sum()) for side in (a, b))
    return Difference(ours_mean, theirs_mean, ours_mean - theirs_mean, low, high, ours[0].count)
