"""The last step of the robust classifier: its heads weighed and calibrated for each pattern of presence."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

HEADS = ("joint", "image", "text")
PATTERNS = ("neither", "image", "text", "both")  # image + 2 * text
KNOTS = 6


def pattern_of(modality_mask: torch.Tensor) -> torch.Tensor:
    """Number of each row's pattern of presence, (batch,), an index of `PATTERNS`.

    Args:
        modality_mask: (batch, 2), 1 = present, column 0 image, column 1 text.
    """
    return modality_mask[:, 0].long() + 2 * modality_mask[:, 1].long()


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """How sure each answer is: log of the first class's probability over that of all others, (batch, 1).

    The log-probability says the same, but float32 cannot tell .999999 from 1.

    Args:
        logits: (batch, classes).
    """
    first = logits.max(dim=1, keepdim=True)
    others = logits.scatter(1, first.indices, torch.finfo(logits.dtype).min)
    return first.values - others.logsumexp(dim=1, keepdim=True)


class Stack(nn.Module):
    """Weigh the logits of the heads, divide by a temperature, answer the prior where nothing is there.

    Until it is fitted it is the identity on the joint head. All its numbers are float32 and stay so when the model is
    cast. A head that reads a missing modality has no weight. What is left is multiplied by a positive scale that
    depends on how sure it is, so that the first class stays the first. Stacked generalisation of
    [Wolpert, 1992](https://doi.org/10.1016/S0893-6080(05)80023-1), temperatures of
    [Guo et al., 2017](https://arxiv.org/abs/1706.04599), made to depend on the logits as by
    [Tomani et al., 2022](https://arxiv.org/abs/2102.12182).

    Args:
        num_labels: Width of the logits. The labels of a multi-label problem and the outputs of a regression have
            weights and temperatures of their own; classes share theirs, so that each column says the same.

    Example:

    >>> stack = Stack(num_labels=2)
    >>> heads = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])
    >>> stack(heads, torch.tensor([[1, 1]])), stack(heads, torch.tensor([[0, 0]]))
    (tensor([[1., 0.]]), tensor([[0., 0.]]))
    """

    weights: torch.Tensor
    temperatures: torch.Tensor
    knots: torch.Tensor
    scales: torch.Tensor
    prior: torch.Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        for name, value in self.identity(num_labels).items():
            self.register_buffer(name, value)

    @staticmethod
    def identity(num_labels: int) -> dict[str, torch.Tensor]:
        """What the buffers hold before the stack is fitted.

        Args:
            num_labels: Width of the logits.

        Returns:
            `weights` (patterns, heads, num_labels), `temperatures` (patterns, num_labels), `scales` (patterns, knots,
            num_labels) at the log-odds of the first class `knots` (patterns, knots), rising, with straight lines
            between them, and `prior` (num_labels,), the logits of an example without image and text.
        """
        weights = torch.zeros(len(PATTERNS), len(HEADS), num_labels)
        weights[:, 0] = 1.0
        return {
            "weights": weights,
            "temperatures": torch.ones(len(PATTERNS), num_labels),
            "knots": torch.arange(1.0 - KNOTS, 1.0).repeat(len(PATTERNS), 1),
            "scales": torch.ones(len(PATTERNS), KNOTS, num_labels),
            "prior": torch.zeros(num_labels),
        }

    def forward(self, heads: torch.Tensor, modality_mask: torch.Tensor) -> torch.Tensor:
        """(batch, num_labels), float32 or wider.

        Args:
            heads: (batch, heads, num_labels) raw logits, finite also where a head's modality is missing.
            modality_mask: (batch, 2), 1 = present.
        """
        pattern = pattern_of(modality_mask)
        scale = self.weights / self.temperatures[:, None]  # (patterns, heads, num_labels)
        heads = heads.to(torch.promote_types(heads.dtype, scale.dtype))
        logits = (scale[pattern] * heads).sum(dim=1)
        passed = ((log_odds(logits) - self.knots[pattern, :-1]) / self.knots.diff(dim=1)[pattern]).clamp(0, 1)
        rise = (passed[:, :, None] * self.scales.diff(dim=1)[pattern]).sum(dim=1)
        logits = logits * (self.scales[pattern, 0] + rise)
        return torch.where((pattern == 0)[:, None], self.prior.to(logits.dtype), logits)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Follow the model to a device, but not to another dtype: a temperature in bfloat16 has three digits."""
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self
