"""What the adapter hands to a fusion."""

from dataclasses import dataclass

import torch


@dataclass
class Features:
    """Projected features of a batch; the slots of absent modalities hold zeros.

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
