"""Classification losses, one value a label, and their mean over the examples that have one."""

import torch
from torch import nn
from transformers.utils import logging

from .configuration_fusion import FusionConfig

logger = logging.get_logger(__name__)

NO_LABEL = -100  # as for torch's losses and transformers' collators


def warn_of_no_labels(lost: str) -> None:
    """Say, once a process, that a classifier is trained by another loss than its own.

    Args:
        lost: What of its own loss then goes unused.
    """
    logger.warning_once(
        f"labels is None in training: the model's own loss is not computed, and with it go {lost}. Trainer's "
        "label_smoothing_factor and compute_loss_func take the labels away: leave label_smoothing_factor at 0 and "
        "compute_loss_func out, and set label_smoothing and class_weights in the model's configuration."
    )


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """Cross-entropy of (batch, classes) against class numbers (batch,), with the config's smoothing and weights.

    A class weight multiplies its examples' loss and the batch is averaged by its size, so that the gradient does not
    depend on how a batch is cut into accumulation steps.
    """
    labels = labels.long()
    loss = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
    if config.class_weights is not None:
        loss = loss * torch.tensor(config.class_weights, device=loss.device, dtype=loss.dtype)[labels]
    return loss[:, None]


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """Binary cross-entropy of (batch, labels) against 0 and 1."""
    weights = None
    if config.class_weights is not None:
        weights = torch.tensor(config.class_weights, device=logits.device, dtype=logits.dtype)
    return nn.functional.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype), reduction="none", pos_weight=weights
    )


def squared_error(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """Squared error of (batch, outputs) against (batch, outputs), or (batch,) where there is one output.

    In deviations of the training targets where the config has them, so that it is as large whatever their unit.
    """
    error = logits - labels.to(logits.dtype).view_as(logits)
    if config.target_deviation is not None:
        error = error / error.new_tensor(config.target_deviation)
    return error.square()


def in_target_units(outputs: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """What a head puts out, about 0 and 1 wide, in the unit of the targets that it was trained on.

    Args:
        outputs: (batch, num_labels).
        config: Its `target_mean` and `target_deviation`; None leaves the outputs as they are.

    Example:

    >>> config = FusionConfig(num_labels=1, problem_type="regression", target_mean=[50.0], target_deviation=[20.0])
    >>> in_target_units(torch.tensor([[0.5]]), config)
    tensor([[60.]])
    """
    if config.target_mean is None or config.target_deviation is None:
        return outputs
    return outputs * outputs.new_tensor(config.target_deviation) + outputs.new_tensor(config.target_mean)


CLASSIFICATION_LOSSES = {
    "single_label_classification": cross_entropy,
    "multi_label_classification": binary_cross_entropy,
    "regression": squared_error,
}


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig, readable: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean loss over the labelled examples of a batch, a scalar in float32 or wider.

    What has no label counts neither above nor below the line: -100 and NaN in classification, NaN alone in
    regression, where -100 is a number like any other. Of an example that lacks some of its labels, the mean is taken
    over the others. Where nothing has a label the loss is 0, and so is its gradient.

    Args:
        logits: (batch, num_labels).
        labels: (batch,) class numbers; (batch, num_labels) of 0 to 1 for multi-label; (batch,) or (batch,
            num_labels) numbers for regression.
        config: Its `problem_type` is decided by the labels and filled in if it is None, as transformers does.
        readable: (batch,) bool, examples that these logits can answer; others add 0 and count all the same, so that
            the gradient does not depend on who shares a batch with them. None means all.

    Raises:
        ValueError: On labels of another shape, and on the CPU, where looking at them makes no device wait, on labels
            that no class has.

    Example:

    >>> config = FusionConfig(num_labels=2)
    >>> logits = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    >>> classification_loss(logits, torch.tensor([1, -100]), config)  # log(2): the second row has no label
    tensor(0.6931)
    """
    problem_type = config.problem_type
    if problem_type is None:
        classes = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem_type = "regression" if config.num_labels == 1 else classes
    _check_shape(labels, logits, problem_type)
    known = ~labels.isnan()
    if problem_type != "regression":
        known = known & (labels != NO_LABEL)
        _refuse_unknown_classes(labels, known, problem_type, logits.shape[-1])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = CLASSIFICATION_LOSSES[problem_type](logits, labels.masked_fill(~known, 0), config)
    if config.problem_type is None:  # only now: labels of a wrong shape decide nothing
        config.problem_type = problem_type
    known = known.view_as(losses)  # (batch, labels an example)
    losses = losses.masked_fill(~known, 0.0).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
    if readable is not None:
        losses = losses.masked_fill(~readable, 0.0)
    return losses.sum() / known.any(dim=-1).sum().clamp(min=1)


def _check_shape(labels: torch.Tensor, logits: torch.Tensor, problem_type: str) -> None:
    shape, size = tuple(labels.shape), tuple(logits.shape)
    fits = "num_labels or id2label of the model's configuration must fit the data"
    if problem_type == "single_label_classification" and shape != size[:1]:
        raise ValueError(
            f"labels of single-label classification are (batch,), got {shape} for {size[0]} rows: several labels an "
            "example are given as floats, or need problem_type 'multi_label_classification' in the configuration."
        )
    if problem_type == "multi_label_classification" and shape != size:
        advice = "numbers of classes are given as integers" if len(shape) == 1 else fits
        raise ValueError(f"labels of multi-label classification are {size}, got {shape}: {advice}.")
    if problem_type == "regression" and shape not in (size, size[:1] if size[1] == 1 else size):
        raise ValueError(f"labels of regression are {size}, got {shape}: {fits}.")


def _refuse_unknown_classes(labels: torch.Tensor, known: torch.Tensor, problem_type: str, num_labels: int) -> None:
    """Name the first label that is no class, unless a device would have to be waited for, or a graph be broken."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return
    single = problem_type == "single_label_classification"
    wrong = (labels < 0) | (labels > (num_labels - 1 if single else 1))
    if single:
        wrong = wrong | (labels != labels.floor())
    found = (known & wrong).nonzero()
    if not len(found):
        return
    row, *column = found[0].tolist()
    value = labels[row, *column].item()
    if single:
        raise ValueError(
            f"the label of row {row} of the batch is {value}, but the model has {num_labels} classes, 0 to "
            f"{num_labels - 1}: num_labels or id2label of its configuration must fit the data. {NO_LABEL} marks a row "
            "without a label."
        )
    raise ValueError(
        f"label {column[0]} of row {row} of the batch is {value}, but multi-label targets lie between 0 and 1; "
        f"{NO_LABEL} marks one that is not known."
    )
