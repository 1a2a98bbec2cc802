"""What the adapter hands to a fusion, and what it is made of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What callers may ask of the inner models, by the name that transformers gives it; `keep_states` is ours.
ASKED = ("output_hidden_states", "output_attentions", "keep_states")


def states_of(output: Any, keep: bool) -> tuple[Any, Any, Any]:
    """What [`Encoded`] keeps of an inner model's answer: nothing that was not asked for."""
    more = tuple(getattr(output, name, None) for name in ("hidden_states", "attentions"))  # not all models know them
    return (output.last_hidden_state, *more) if keep or more != (None, None) else (None, None, None)


def asks_for_states(model: torch.nn.Module, asked: dict[str, Any]) -> bool:
    """Whether an inner model answers with states, because it is asked to here or by its configuration."""
    given = {name: asked.get(name) for name in ASKED}
    return any(getattr(model.config, name, False) if value is None else value for name, value in given.items())


def warn_of_missing(name: str) -> None:
    """Say, once a process, that a plain classifier does without the image or the text."""
    logger.warning_once(
        f"{name} is None: this classifier was trained on both modalities and predicts from one alone. "
        "RobustFusionForImageTextClassification is made for missing ones."
    )


def like_rows(rows: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(batch,) or (batch, 1) shaped to broadcast over the rows of `other`."""
    return rows.view(-1, *[1] * (other.ndim - 1))


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], parts: Any) -> Any:
    """The tensors of nested tuples, each put through the function; None stays None."""
    if isinstance(parts, tuple):
        return tuple(map_tensors(function, part) for part in parts)
    return None if parts is None else function(parts)


class Encoded(NamedTuple):
    """One side of a batch; the rows that lack it are zeros throughout.

    Args:
        embeds: (batch, hidden), projected.
        tokens: (batch, length, hidden), projected, only for a fusion that reads tokens.
        token_mask: (batch, length) bool, likewise.
        states: What the inner model answered, where it was asked for: `last_hidden_state`, `hidden_states` and
            `attentions`, these two tuples with an entry a layer.
    """

    embeds: torch.Tensor
    tokens: torch.Tensor | None = None
    token_mask: torch.Tensor | None = None
    states: tuple[Any, Any, Any] = (None, None, None)

    def model_output(self, pooled: torch.Tensor) -> BaseModelOutputWithPooling:
        """The states beside a pooled feature (batch, width)."""
        last, hidden_states, attentions = self.states
        return BaseModelOutputWithPooling(
            last_hidden_state=last, pooler_output=pooled, hidden_states=hidden_states, attentions=attentions
        )

    def asked_output(self) -> BaseModelOutputWithPooling | None:
        """The states beside `embeds`; None where neither hidden states nor attentions were asked for."""
        asked = any(part is not None for part in self.states[1:])
        return self.model_output(self.embeds) if asked else None


@dataclass
class Features:
    """Projected features of a batch. What the masks call absent is filled with zeros here, whatever it held.

    Args:
        embeds: (batch, 2, hidden), column 0 image, column 1 text.
        modality_mask: (batch, 2), 1 = present.
        image_tokens: (batch, patches, hidden), only for a fusion that reads tokens.
        image_token_mask: (batch, patches) bool, False throughout for an example without image.
        text_tokens: (batch, length, hidden), likewise.
        text_token_mask: (batch, length) bool, False on padding too.
        vision_model_output: Hidden states and attentions of the vision model, where they were asked for.
        text_model_output: Likewise of the text model.
    """

    embeds: torch.Tensor
    modality_mask: torch.Tensor
    image_tokens: torch.Tensor | None = None
    image_token_mask: torch.Tensor | None = None
    text_tokens: torch.Tensor | None = None
    text_token_mask: torch.Tensor | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    text_model_output: BaseModelOutputWithPooling | None = None

    def __post_init__(self) -> None:
        self.embeds = self.embeds.masked_fill(~self.modality_mask[..., None].bool(), 0)
        if self.image_tokens is not None and self.image_token_mask is not None:
            self.image_tokens = self.image_tokens.masked_fill(~self.image_token_mask[..., None], 0)
        if self.text_tokens is not None and self.text_token_mask is not None:
            self.text_tokens = self.text_tokens.masked_fill(~self.text_token_mask[..., None], 0)

    def shown(self, image: bool, text: bool) -> "Features":
        """The same batch with nothing of the images, or of the texts, unless they are to be seen."""
        tokens = ((self.image_token_mask, image), (self.text_token_mask, text))
        image_tokens, text_tokens = (None if mask is None else mask & seen for mask, seen in tokens)
        seen = self.modality_mask * self.modality_mask.new_tensor([image, text])
        return replace(self, modality_mask=seen, image_token_mask=image_tokens, text_token_mask=text_tokens)
