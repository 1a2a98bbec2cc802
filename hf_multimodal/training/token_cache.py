"""Tokens of images, computed once for all epochs and for all runs that share the folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_multimodal.data.images import open_rgb
from hf_multimodal.training.feature_cache import ImageArrays, digest_of, image_key


def fingerprint(image_tokenizer: torch.nn.Module, image_processor: Any) -> str:
    """What the tokens of an image hang on, in a few letters: the tokenizer's weights and the image processor."""
    return digest_of([image_processor.to_json_string()], image_tokenizer.state_dict().values())


class TokenCache(ImageArrays):
    """The tokens of each image of a data set, on disk.

    Args:
        folder: Where they lie; runs that share it compute them once.
        image_tokenizer: An `ImageTokenizerModel`.
        image_processor: Its image processor.
        images: Cells of all images, `None`s among them.
        value_range: The processor's `image_value_range`.
        batch_size: Images a forward pass.

    Raises:
        ValueError: If there are no images.
    """

    def __init__(
        self,
        folder: str | Path,
        image_tokenizer: Any,
        image_processor: Any,
        images: Sequence[Any],
        *,
        value_range: tuple[float, float] | None = None,
        batch_size: int = 64,
    ) -> None:
        cells = {image_key(image): image for image in images if image is not None}
        if not cells:
            raise ValueError("there are no images whose tokens could be cached.")
        self.fingerprint = fingerprint(image_tokenizer, image_processor)

        @torch.inference_mode()
        def compute(keys: Sequence[str]) -> np.ndarray:
            opened = [open_rgb(cells[key], value_range) for key in keys]
            pixels = image_processor(opened, return_tensors="pt")["pixel_values"]
            return image_tokenizer.eval().encode(pixels.to(image_tokenizer.device)).cpu().numpy().astype(np.int32)

        super().__init__(folder, sorted(cells), [self.fingerprint, value_range], (), compute, batch_size)

    def batch(self, images: Sequence[Any]) -> torch.Tensor:
        """The tokens (batch, rows, columns) of some images, given as cells."""
        return torch.tensor(self.arrays[[self.rows[image_key(image)] for image in images]], dtype=torch.long)

    def check(self, image_tokenizer: torch.nn.Module, image_processor: Any) -> None:
        """Refuse another image tokenizer than the one that made these tokens.

        Raises:
            ValueError: If its weights or its image processor are others.
        """
        if fingerprint(image_tokenizer, image_processor) != self.fingerprint:
            raise ValueError(
                f"the tokens in {self.path} were made by another image tokenizer than the model's, or of images that "
                "were prepared otherwise: make the cache anew with the model's own."
            )
