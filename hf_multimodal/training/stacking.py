"""Fitting the stack of a robust classifier on validation rows, after training."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.optimize import minimize, nnls
from scipy.special import log_softmax
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_multimodal.inference.prediction import forward_dataset
from hf_multimodal.models.configuration_vision_text import PRESENCE_PATTERNS
from hf_multimodal.models.modeling_robust_fusion import HEADS, KNOTS, PATTERNS, log_odds
from hf_multimodal.models.modeling_vision_text import distributed_run

logger = logging.get_logger(__name__)

CLASSIFIERS = {"joint": "classifier", "image": "image_classifier", "text": "text_classifier"}  # of each head
READS = {"image": ("joint", "image"), "text": ("joint", "text"), "both": HEADS}  # heads with a weight, by pattern
LEAST_SCALE = 1e-3  # of the summed coefficients: heads that say nothing get a temperature of 1,000, not infinity
POOLED_ROWS = 100.0  # that equal weights and the common temperature weigh as much as
SMOOTHNESS = 10.0  # rows that a difference of 1 between neighbouring scales weighs as much as


def fit_stack(
    model: PreTrainedModel,
    processor: Any,
    dataset: Dataset,
    prior_labels: Sequence[Any],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
) -> list[str]:
    """Fit weights, temperatures and prior of a robust classifier, in place.

    Every pattern of presence is fitted on all rows that can show it, by hiding from the joint branch what they have
    besides. Weights are not negative. For classes a prior worth `POOLED_ROWS` rows draws to equal weights at the one
    temperature that all patterns together ask for, so that a pattern which few rows can show learns from the rest
    (partial pooling, [Efron and Morris, 1975](https://doi.org/10.1080/01621459.1975.10479864)), unless one head alone
    does better than what comes of that. Heads that were not trained (`untrained_heads`) get no weight, and a warning.
    In a distributed run rank 0 fits and the others receive. The model is left in evaluation mode.

    Args:
        model: A `RobustFusionForImageTextClassification`.
        processor: Its processor.
        dataset: Labelled validation rows with `image`, `text`, `id` and `label`.
        prior_labels: Labels of the training rows, for the prediction where nothing is there.
        batch_size: Examples a forward pass.
        num_workers: Processes that decode and tokenize.

    Returns:
        The heads that were left out because they were not trained.

    Raises:
        ValueError: If the model has no stack, its configuration no `problem_type`, or there are no rows, or rows
            without a label.
    """
    if not hasattr(model, "stack"):
        raise ValueError(f"{type(model).__name__} has no stack: fit_stack is for robust classifiers.")
    if model.config.problem_type is None:
        raise ValueError("the configuration's problem_type is None: set it, or train first.")
    if not len(dataset):
        raise ValueError("fit_stack needs labelled validation rows, got none.")
    problem_type, given = model.config.problem_type, dataset["label"][:]
    of_classes = problem_type != "regression"
    for name, labelled in (("dataset", given), ("prior_labels", prior_labels)):
        unlabelled = [
            row for row, label in enumerate(labelled) if label is None or (of_classes and np.any(np.less(label, 0)))
        ]
        if unlabelled:
            raise ValueError(f"{len(unlabelled)} rows of {name} have no label, such as row {unlabelled[0]}.")
    left_out = untrained_heads(model)
    if left_out:
        logger.warning("left out of the stack, since training gave them no gradient: heads %s.", ", ".join(left_out))
    distributed = distributed_run()
    if not distributed or torch.distributed.get_rank() == 0:
        set_prior(model, prior_labels)
        joint, present = joint_and_single_logits(model, processor, dataset, batch_size, num_workers)
        labels = np.asarray(given)
        columns = {}
        for pattern, heads in READS.items():  # all heads where none of them was trained
            trained = [head for head in heads if head not in left_out]
            columns[pattern] = [HEADS.index(head) for head in trained or heads]
        shown: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for pattern, used in columns.items():
            rows = present[:, PRESENCE_PATTERNS[pattern]].all(axis=1)
            if rows.any():
                shown[pattern] = (joint[pattern][rows][:, used], labels[rows])
            else:
                logger.warning("no validation row can show the pattern %r: its head stays as trained.", pattern)
        common = common_scale(list(shown.values())) if shown and problem_type not in FITS else None
        fit = FITS.get(problem_type) or partial(fit_classes, scale=common)
        for pattern, (logits, wanted) in shown.items():
            number, used = PATTERNS.index(pattern), columns[pattern]
            coefficients = fit(logits, wanted)  # (used, 1 or num_labels)
            scale = coefficients.sum(axis=0).clip(min=LEAST_SCALE)
            model.stack.weights[number] = 0.0
            model.stack.weights[number, used] = torch.from_numpy(coefficients / scale).float().to(model.device)
            model.stack.temperatures[number] = torch.from_numpy(1 / scale).float().to(model.device)
            if problem_type == "single_label_classification":
                knots, scales = fit_scales(np.einsum("hc,nhc->nc", coefficients, logits), wanted)
                model.stack.knots[number] = torch.from_numpy(knots).float().to(model.device)
                model.stack.scales[number] = torch.from_numpy(scales[:, None]).float().to(model.device)
    if distributed:
        for buffer in model.stack.buffers():
            torch.distributed.broadcast(buffer, 0)
    return left_out


def untrained_heads(model: PreTrainedModel) -> list[str]:
    """Heads of a robust classifier that learned nothing where another did.

    The bias of a head starts as zeros, which weight decay leaves alone and any gradient moves. So zeros tell that no
    gradient came, however the model was trained, saved and loaded: labels that never reached it, no example with the
    modality, a head that is frozen. Where all are zeros nothing was trained, and no head is worse than another.

    Args:
        model: A `RobustFusionForImageTextClassification`.

    Returns:
        Their names as in `HEADS`; `image` and `text` where `unimodal_loss_weight` is 0.
    """
    if not model.config.unimodal_loss_weight:
        return list(HEADS[1:])
    still = [head for head, name in CLASSIFIERS.items() if not getattr(model, name).bias.any()]
    return still if len(still) < len(HEADS) else []


def set_prior(model: PreTrainedModel, labels: Sequence[Any]) -> None:
    """Let a robust classifier predict the class frequencies where nothing is there, in place.

    Args:
        model: A `RobustFusionForImageTextClassification`.
        labels: Of the training rows.
    """
    prior = prior_logits(labels, model.config.problem_type, model.config.num_labels)
    model.stack.prior.copy_(torch.from_numpy(prior))


def joint_and_single_logits(
    model: PreTrainedModel, processor: Any, dataset: Dataset, batch_size: int, num_workers: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Raw logits of the three heads, with the joint one shown each pattern in turn; the inner models run once.

    Returns:
        By pattern (rows, heads, num_labels) float64, and (rows, 2) bool, what each row has.
    """

    def forward(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        features = model.encode(**inputs)
        mask = features.modality_mask
        shown = {pattern: mask * mask.new_tensor(PRESENCE_PATTERNS[pattern]) for pattern in READS}
        return {pattern: model.heads(features, joint_mask)[0] for pattern, joint_mask in shown.items()}

    found, present = forward_dataset(
        model, processor, dataset, forward, batch_size=batch_size, num_workers=num_workers
    )
    return {pattern: logits.double().numpy() for pattern, logits in found.items()}, present.bool().numpy()


def prior_logits(labels: Sequence[Any], problem_type: str, num_labels: int) -> np.ndarray:
    """What to predict knowing nothing: logits of the class frequencies (one imagined example each), or the mean.

    Args:
        labels: Of the training rows.
        problem_type: As in the model's configuration.
        num_labels: Width of the logits.

    Returns:
        (num_labels,) float32.

    Example:

    >>> np.exp(prior_logits([0, 0, 1, 0], "single_label_classification", 2)).round(2)
    array([0.67, 0.33], dtype=float32)
    """
    table = np.asarray(labels)
    if problem_type == "regression":
        return table.reshape(-1, num_labels).mean(axis=0).astype(np.float32)
    if problem_type == "multi_label_classification":
        positives = table.sum(axis=0) + 1.0
        return np.log(positives / (len(table) + 2.0 - positives)).astype(np.float32)
    counts = np.bincount(table, minlength=num_labels) + 1.0
    return np.log(counts / counts.sum()).astype(np.float32)


def _least(
    prior: np.ndarray,
    rows: int,
    mean_loss: Callable[[np.ndarray], tuple[float, np.ndarray]],
    least: float = 0.0,
    smoothness: float = 0.0,
    worth: float = 1.0,
) -> np.ndarray:
    """Minimise a convex mean loss over coefficients, none of them below `least`.

    A normal prior of width 1 around `prior` weighs as much as `worth` rows: a few rows that are all predicted rightly
    would else ask for endless confidence. Another holds neighbours together, with the weight of `smoothness` rows.
    """
    differences = np.diff(np.eye(len(prior)), axis=0)
    precision = worth * np.eye(len(prior)) + smoothness * differences.T @ differences

    def objective(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = mean_loss(coefficients)
        pull = precision @ (coefficients - prior)
        return loss + (coefficients - prior) @ pull / (2 * rows), slope + pull / rows

    return minimize(objective, prior, jac=True, method="L-BFGS-B", bounds=[(least, None)] * len(prior)).x


def _softmax_loss(parts: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Mean NLL of softmax(sum of coefficient x part) and its slope, of the coefficients.

    Args:
        parts: (rows, coefficients, classes).
        labels: (rows,).
    """
    rows = np.arange(len(labels))

    def mean_loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = np.einsum("h,nhc->nc", coefficients, parts)
        log_probabilities = log_softmax(mixed, axis=1)
        error = np.exp(log_probabilities)
        error[rows, labels] -= 1
        return -log_probabilities[rows, labels].mean(), np.einsum("nc,nhc->h", error, parts) / len(rows)

    return mean_loss


def common_scale(shown: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """The one factor that the mean of the heads' logits asks for over all patterns of presence together.

    Args:
        shown: For each pattern logits (rows, heads, classes) and labels (rows,).
    """
    means = np.concatenate([logits.mean(axis=1, keepdims=True) for logits, _ in shown])
    labels = np.concatenate([wanted for _, wanted in shown])
    return float(fit_classes(means, labels).clip(min=LEAST_SCALE)[0, 0])


def fit_classes(logits: np.ndarray, labels: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Coefficients of the lowest NLL of softmax(sum of coefficient x logits), but for a prior; the problem is convex.

    Args:
        logits: (rows, heads, classes).
        labels: (rows,).
        scale: From `common_scale`: what the coefficients sum to in the prior, which is then worth `POOLED_ROWS` rows;
            where one head alone at its own temperature has a summed NLL that is lower by more than 1 (as for
            `fit_scales`), the prior is that head. None means 1, and a prior worth one row.

    Returns:
        (heads, 1), weight divided by temperature.

    Example:

    >>> logits = np.array([[[4.0, 0.0]]] * 3000)
    >>> fit_classes(logits, np.array([0, 0, 1] * 1000)).round(2).tolist()  # log(2) / 4: probability 2 in 3
    [[0.17]]
    """
    heads = logits.shape[1]
    loss = _softmax_loss(logits, labels)

    def drawn_to(prior: np.ndarray, worth: float) -> np.ndarray:
        unit = prior.sum()
        return unit * _least(prior / unit, len(labels), _softmax_loss(unit * logits, labels), worth=worth)

    if scale is None:
        return drawn_to(np.full(heads, 1.0 / heads), 1.0)[:, None]
    pooled = drawn_to(np.full(heads, scale / heads), POOLED_ROWS)
    alone = [one * fit_classes(logits[:, [head]], labels)[0, 0] for head, one in enumerate(np.eye(heads))]
    best = min(alone, key=lambda coefficients: loss(coefficients)[0])
    lost = len(labels) * (loss(pooled)[0] - loss(best)[0])
    if lost > 1 and best.sum() > LEAST_SCALE:  # more than chance gives a temperature
        return drawn_to(best, POOLED_ROWS)[:, None]
    return pooled[:, None]


def fit_scales(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales of the lowest NLL for logits that are sure to different degrees, but for a prior; the problem is convex.

    One temperature cannot mend a model that is too sure of what it hardly knows and rightly sure of the rest. Scales
    that lower the summed NLL by less than one for each number that they add (the criterion of
    [Akaike, 1974](https://doi.org/10.1109/TAC.1974.1100705)), as on few rows, are chance: then all are 1.

    Args:
        logits: (rows, classes), divided by their temperature already.
        labels: (rows,).

    Returns:
        Log-odds of the first class, (knots,), between which equal shares of the rows lie, and the scale at each,
        (knots,).

    Example:

    >>> logits = np.array([[2.0, 0.0], [4.0, 0.0]] * 3000)  # the first row says .88, the second .98
    >>> labels = np.array([0, 0, 1, 0, 0, 0, 1, 1] * 750)  # the first is right in 1 of 2, the second in 3 of 4
    >>> knots, scales = fit_scales(logits, labels)
    >>> np.interp([2.0, 4.0], knots, scales).round(2).tolist()
    [0.0, 0.27]
    """
    sureness = log_odds(torch.from_numpy(logits)).numpy()[:, 0]
    knots = np.unique(np.quantile(sureness, np.linspace(0, 1, KNOTS)).astype(np.float32)).astype(float)
    lines = np.stack([np.interp(sureness, knots, corner) for corner in np.eye(len(knots))], axis=1)
    loss = _softmax_loss(lines[:, :, None] * logits[:, None], labels)
    scales = _least(np.ones(len(knots)), len(labels), loss, least=LEAST_SCALE, smoothness=SMOOTHNESS)
    plain = np.ones(len(knots))
    if len(labels) * (loss(plain)[0] - loss(scales)[0]) < len(knots) - 1:  # one of them is the temperature's
        scales = plain
    beyond = np.arange(1.0, KNOTS - len(knots) + 1)  # where fewer differ
    return np.append(knots, knots[-1] + beyond), np.append(scales, np.full(len(beyond), scales[-1]))


def fit_labels(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same for each label of a multi-label problem with the sigmoid: (heads, labels)."""

    def one(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
        def mean_loss(coefficients: np.ndarray) -> tuple[float, np.ndarray]:
            mixed = scores @ coefficients
            error = 1 / (1 + np.exp(-mixed)) - target
            return (np.logaddexp(0, mixed) - target * mixed).mean(), scores.T @ error / len(target)

        heads = scores.shape[1]
        return _least(np.full(heads, 1.0 / heads), len(target), mean_loss)

    return np.stack([one(logits[:, :, k], labels[:, k]) for k in range(logits.shape[2])], axis=1)


def fit_values(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The blend of least squared error for each output of a regression, weights that sum to 1: (heads, outputs)."""
    target = labels.reshape(len(labels), -1)
    heads = logits.shape[1]
    heavy = 1e4 * np.sqrt(len(target))  # a row that holds the sum at 1

    def one(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        size = max(np.abs(values).max(), 1e-12)
        weights = nnls(np.vstack([values / size, np.full(heads, heavy)]), np.append(wanted / size, heavy))[0]
        return weights / weights.sum()

    return np.stack([one(logits[:, :, k], target[:, k]) for k in range(logits.shape[2])], axis=1)


FITS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "multi_label_classification": fit_labels,
    "regression": fit_values,
}
