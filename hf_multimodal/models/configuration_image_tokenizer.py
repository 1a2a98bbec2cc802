"""The configuration of an image tokenizer. No torch is imported here."""

import math
from typing import Any

from transformers import PreTrainedConfig

from .configuration_vision_text import check_choice, loaded_table


class ImageTokenizerConfig(PreTrainedConfig):
    """Configuration of [`ImageTokenizerModel`].

    Args:
        image_size: Height and width of an image, in pixels; a multiple of `2**num_downsamplings`.
        num_channels: Of an image; 3 is RGB.
        hidden_size: Channels of the convolutions.
        num_downsamplings: Convolutions that each halve height and width.
        num_residual_blocks: At the smallest size, in the encoder and in the decoder each.
        quantizer: Name of a quantizer, an entry of `QUANTIZERS` in `modeling_image_tokenizer.py`.
        levels: Values that each channel of an `fsq` code takes; their product is the number of codes.
        codebook_size: Number of codes of the other quantizers.
        codebook_dim: Width of their codes.
        codebook_decay: Decay a step of the moving averages of `vq`.
        commitment_weight: Weight of the loss that keeps features near their codes, for all but `fsq`.

    Raises:
        ValueError: On an unknown `quantizer`, a size below 1, a level below 2, an `image_size` that cannot be halved
            so often, a `codebook_decay` outside [0, 1) or a negative `commitment_weight`.

    Example:

    >>> config = ImageTokenizerConfig(image_size=32)
    >>> config.grid, config.num_image_tokens, config.vocab_size
    ((8, 8), 64, 512)
    """

    model_type = "multimodal_image_tokenizer"
    keys_to_ignore_at_inference = ["reconstruction_loss"]

    image_size: int = 64
    num_channels: int = 3
    hidden_size: int = 64
    num_downsamplings: int = 2
    num_residual_blocks: int = 2
    quantizer: str = "fsq"
    levels: list[int] | tuple[int, ...] = (8, 8, 8)
    codebook_size: int = 512
    codebook_dim: int = 16
    codebook_decay: float = 0.99
    commitment_weight: float | int = 0.25

    def __post_init__(self, **kwargs: Any) -> None:
        self.levels = list(self.levels)
        super().__post_init__(**kwargs)
        if quantizers := loaded_table("modeling_image_tokenizer", "QUANTIZERS"):
            check_choice("quantizer", self.quantizer, quantizers)
        sizes = ("image_size", "num_channels", "hidden_size", "num_downsamplings", "codebook_size", "codebook_dim")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if self.num_residual_blocks < 0:
            raise ValueError(f"num_residual_blocks must be 0 or more, got {self.num_residual_blocks}.")
        if self.image_size % self.downsampling:
            raise ValueError(
                f"image_size must be a multiple of {self.downsampling}, since it is halved {self.num_downsamplings} "
                f"times, got {self.image_size}."
            )
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"levels must be numbers of 2 or more, one a channel of the code, got {self.levels}.")
        if not 0 <= self.codebook_decay < 1:
            raise ValueError(f"codebook_decay must lie in [0, 1), got {self.codebook_decay}.")
        if self.commitment_weight < 0:
            raise ValueError(f"commitment_weight must be 0 or more, got {self.commitment_weight}.")

    @property
    def downsampling(self) -> int:
        """Pixels a token, in height and in width."""
        return 2**self.num_downsamplings

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image's tokens."""
        return self.image_size // self.downsampling, self.image_size // self.downsampling

    @property
    def num_image_tokens(self) -> int:
        """Tokens of an image."""
        return math.prod(self.grid)

    @property
    def vocab_size(self) -> int:
        """Number of codes."""
        return math.prod(self.levels) if self.quantizer == "fsq" else self.codebook_size
