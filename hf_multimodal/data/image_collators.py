"""Rows to batches of the models that write images: pixels alone, or prompts with pixels or tokens."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from hf_multimodal.data.collator import MultimodalCollator, row_name


class ImageCollator(MultimodalCollator):
    """Decode and augment images; one batch of `pixel_values`.

    Args:
        processor: An image processor of transformers.
        image_column: As for `MultimodalCollator`.
        augment: As for `MultimodalCollator`.

    Raises:
        ValueError: At a call, on a row without an image.
        BadImageError: On an unreadable image; names the row.

    Example:

    >>> from transformers import ViTImageProcessor
    >>> collator = ImageCollator(ViTImageProcessor(size={"height": 8, "width": 8}))
    >>> collator([{"image": Image.new("RGB", (9, 5))}])["pixel_values"].shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(
        self,
        processor: Any,
        *,
        image_column: str = "image",
        augment: Callable[[Image.Image, int, int], Image.Image] | None = None,
    ) -> None:
        super().__init__(processor, image_column=image_column, augment=augment)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Build one batch.

        Args:
            rows: Rows of a dataset, as dicts.

        Returns:
            `pixel_values` (batch, channels, height, width).
        """
        return {"pixel_values": self._pixels(rows)}

    def _pixels(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        self._refuse_lacking(rows, self.image_column, "image")
        images = [self._image(row) for row in rows]
        return self.processor(images=images, return_tensors="pt")["pixel_values"]

    def _refuse_lacking(self, rows: list[dict[str, Any]], column: str, what: str) -> None:
        for number, row in enumerate(rows):
            if column not in row:
                raise ValueError(
                    f"the rows have no column {column!r}, only {sorted(row)}. Trainer hands their columns on with "
                    "remove_unused_columns=False."
                )
            if row[column] is None:
                raise ValueError(f"row {row_name(row, number)!r} has no {what} in column {column!r}: leave it out.")


class CaptionCollator(ImageCollator):
    """Captions to prompts, and their images to pixels or, from a cache, to tokens.

    Args:
        processor: A `TextToImageProcessor`.
        image_column: As for `MultimodalCollator`.
        text_column: As for `MultimodalCollator`.
        token_cache: A `TokenCache` that holds the tokens of the images; images are then not opened.

    Raises:
        ValueError: At a call, on a row without an image or a text.
        BadImageError: On an unreadable image; names the row.
    """

    def __init__(
        self, processor: Any, *, image_column: str = "image", text_column: str = "text", token_cache: Any = None
    ) -> None:
        super().__init__(processor, image_column=image_column)
        self.text_column = text_column
        self.token_cache = token_cache

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Build one batch.

        Args:
            rows: Rows of a dataset, as dicts.

        Returns:
            `input_ids` and `attention_mask` (batch, prompt_length + 1), texts cut to what a prompt holds, and
            `image_token_ids` (batch, rows, columns) with a cache, else `pixel_values`.
        """
        self._refuse_lacking(rows, self.text_column, "text")
        texts = [row[self.text_column] for row in rows]
        batch = dict(self.processor(text=texts, truncation=True, return_tensors="pt"))
        if self.token_cache is None:
            return {**batch, "pixel_values": self._pixels(rows)}
        self._refuse_lacking(rows, self.image_column, "image")
        return {**batch, "image_token_ids": self.token_cache.batch([row[self.image_column] for row in rows])}
