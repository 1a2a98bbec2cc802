"""What the adapter hands to a fusion."""

from dataclasses import dataclass

import torch


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
    """

    embeds: torch.Tensor
    modality_mask: torch.Tensor
    image_tokens: torch.Tensor | None = None
    image_token_mask: torch.Tensor | None = None
    text_tokens: torch.Tensor | None = None
    text_token_mask: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.embeds = self.embeds.masked_fill(~self.modality_mask[..., None].bool(), 0)
        if self.image_tokens is not None and self.image_token_mask is not None:
            self.image_tokens = self.image_tokens.masked_fill(~self.image_token_mask[..., None], 0)
        if self.text_tokens is not None and self.text_token_mask is not None:
            self.text_tokens = self.text_tokens.masked_fill(~self.text_token_mask[..., None], 0)
