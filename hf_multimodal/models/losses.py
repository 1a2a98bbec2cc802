"""Classification losses, one value an example, so that the model decides how rows are weighed and averaged."""

import torch
from torch import nn

from .configuration_fusion import FusionConfig


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """Cross-entropy of (batch, classes) against class numbers (batch,), with the config's smoothing and weights.

    A class weight multiplies its examples' loss and the batch is averaged by its size, so that the gradient does not
    depend on how a batch is cut into accumulation steps.
    """
    if labels.ndim != 1:
        raise ValueError(f"labels of single-label classification are (batch,), got {tuple(labels.shape)}.")
    labels = labels.long()
    loss = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
    if config.class_weights is None:
        return loss
    return loss * torch.tensor(config.class_weights, device=loss.device, dtype=loss.dtype)[labels]


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """Mean over the labels of the binary cross-entropy of (batch, labels) against 0 and 1."""
    if labels.shape != logits.shape:
        raise ValueError(f"labels of multi-label classification are {tuple(logits.shape)}, got {tuple(labels.shape)}.")
    weights = None
    if config.class_weights is not None:
        weights = torch.tensor(config.class_weights, device=logits.device, dtype=logits.dtype)
    return nn.functional.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype), reduction="none", pos_weight=weights
    ).mean(dim=-1)


def squared_error(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """Mean over the outputs of the squared error of (batch, outputs) against (batch,) or (batch, outputs)."""
    return (logits - labels.to(logits.dtype).view_as(logits)).square().mean(dim=-1)


CLASSIFICATION_LOSSES = {
    "single_label_classification": cross_entropy,
    "multi_label_classification": binary_cross_entropy,
    "regression": squared_error,
}


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """(batch,) losses in float32 by the config's `problem_type`, which the labels decide where it is not stated.

    Args:
        logits: (batch, num_labels).
        labels: (batch,) class numbers; (batch, num_labels) of 0 and 1 for multi-label; (batch,) or (batch,
            num_labels) numbers for regression.
        config: Its `problem_type` is filled in if it is None, as transformers does.
    """
    if config.problem_type is None:
        if config.num_labels == 1:
            config.problem_type = "regression"
        elif labels.is_floating_point():
            config.problem_type = "multi_label_classification"
        else:
            config.problem_type = "single_label_classification"
    return CLASSIFICATION_LOSSES[config.problem_type](logits.float(), labels, config)
