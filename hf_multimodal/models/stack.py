"""The last step of the robust classifier: its heads weighed and calibrated for each pattern of presence."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

HEADS = ("joint", "image", "text")
PATTERNS = ("neither", "image", "text", "both")  # image + 2 * text


def pattern_of(modality_mask: torch.Tensor) -> torch.Tensor:
    """Number of each row's pattern of presence, (batch,), an index of `PATTERNS`.

    Args:
        modality_mask: (batch, 2), 1 = present, column 0 image, column 1 text.
    """
    return modality_mask[:, 0].long() + 2 * modality_mask[:, 1].long()


class Stack(nn.Module):
    """Weigh the logits of the heads, divide by a temperature, answer the prior where nothing is there.

    Until it is fitted it is the identity on the joint head. All its numbers are float32 and stay so when the model is
    cast. A head that reads a missing modality has no weight. Stacked generalisation of
    [Wolpert, 1992](https://doi.org/10.1016/S0893-6080(05)80023-1), temperatures of
    [Guo et al., 2017](https://arxiv.org/abs/1706.04599).

    Args:
        num_labels: Width of the logits.
        per_label: Whether each label has weights and a temperature of its own (multi-label and regression); classes
            share theirs.

    Example:

    >>> stack = Stack(num_labels=2)
    >>> heads = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])
    >>> stack(heads, torch.tensor([[1, 1]])), stack(heads, torch.tensor([[0, 0]]))
    (tensor([[1., 0.]]), tensor([[0., 0.]]))
    """

    weights: torch.Tensor
    temperatures: torch.Tensor
    prior: torch.Tensor

    def __init__(self, num_labels: int, per_label: bool = False) -> None:
        super().__init__()
        width = num_labels if per_label else 1
        for name, value in self.identity(num_labels, width).items():
            self.register_buffer(name, value)

    @staticmethod
    def identity(num_labels: int, width: int) -> dict[str, torch.Tensor]:
        """What the buffers hold before the stack is fitted.

        Args:
            num_labels: Width of the logits.
            width: Sets of weights: 1, or one a label.

        Returns:
            `weights` (patterns, heads, width), `temperatures` (patterns, width), `prior` (num_labels,), the logits
            of an example without image and text.
        """
        weights = torch.zeros(len(PATTERNS), len(HEADS), width)
        weights[:, 0] = 1.0
        return {
            "weights": weights,
            "temperatures": torch.ones(len(PATTERNS), width),
            "prior": torch.zeros(num_labels),
        }

    def forward(self, heads: torch.Tensor, modality_mask: torch.Tensor) -> torch.Tensor:
        """(batch, num_labels) float32.

        Args:
            heads: (batch, heads, num_labels) raw logits, finite also where a head's modality is missing.
            modality_mask: (batch, 2), 1 = present.
        """
        pattern = pattern_of(modality_mask)
        scale = self.weights / self.temperatures[:, None]  # (patterns, heads, width)
        logits = (scale[pattern] * heads.float()).sum(dim=1)
        return torch.where((pattern == 0)[:, None], self.prior, logits)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Follow the model to a device, but not to another dtype: a temperature in bfloat16 has three digits."""
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self
