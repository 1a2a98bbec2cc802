"""Images with their captions to one batch of an aligner."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_multimodal.data.collator import MultimodalCollator

COLUMNS = ("image", "texts", "index")  # of a row of `group_pairs`


class PairCollator(MultimodalCollator):
    """Draw captions for each image, decode, tokenize and pad; every image of a batch is prepared once.

    Which captions are drawn is a function of (seed, epoch, image), so a resumed run sees what the whole run would
    have seen. An image with fewer captions than are asked for repeats some: all batches of all processes have as
    many texts an image, and repeated captions, like all of one image, are no negatives of each other.

    Args:
        processor: A `MultimodalProcessor` with both parts.
        captions_per_image: How many captions are drawn, without repetition as long as there are enough.
        seed: Of the draws.
        augment: As for `MultimodalCollator`.
        feature_cache: As for `MultimodalCollator`.
        max_length: As for `MultimodalCollator`.

    Raises:
        ValueError: If `captions_per_image` is less than 1, a row is none of `group_pairs`, or has no image, so is no
            pair.
        BadImageError: On an unreadable image; names the row.

    Example:

    >>> class Processor:
    ...     image_processor = tokenizer = "any"
    ...     def __call__(self, images=None, text=None, **kwargs):
    ...         if text is None:
    ...             return {"pixel_values": torch.zeros(len(images), 3, 8, 8)}
    ...         return {"input_ids": torch.tensor([[len(one)] for one in text])}
    >>> from PIL import Image
    >>> rows = [{"image": Image.new("RGB", (8, 8)), "texts": ["a", "bb", "ccc"], "index": 7}]
    >>> batch = PairCollator(Processor(), captions_per_image=2)(rows)
    >>> len(batch["pixel_values"]), len(batch["input_ids"]), batch["image_ids"]
    (1, 2, tensor([7, 7]))
    """

    def __init__(
        self,
        processor: Any,
        *,
        captions_per_image: int = 1,
        seed: int = 0,
        augment: Callable[[Image.Image, int, int], Image.Image] | None = None,
        feature_cache: Any = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__(processor, augment=augment, feature_cache=feature_cache, max_length=max_length)
        if captions_per_image < 1:
            raise ValueError(f"captions_per_image must be 1 or more, got {captions_per_image}.")
        self.captions_per_image = captions_per_image
        self.seed = seed

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Build one batch.

        Args:
            rows: Rows of `group_pairs`.

        Returns:
            `pixel_values` (images, ...), `input_ids` and `attention_mask` (images * captions, length), those of
            one image after each other, `image_ids` (images * captions,), and `return_loss`, True.
        """
        for row in rows:
            if lacks := [name for name in COLUMNS if name not in row]:
                raise ValueError(
                    f"a row with the columns {sorted(row)} is no row of group_pairs: it lacks {lacks}. Take "
                    "group_pairs(rows)[0], of rows as load_data(source, pairs=True) gives them. Trainer hands their "
                    "columns on with remove_unused_columns=False."
                )
            if row["image"] is None:
                raise ValueError(f"row {row.get('id', row['index'])!r} has no image, so it is no pair: leave it out.")
        texts = [caption for row in rows for caption in self._draw(row)]
        limit = {} if self.max_length is None else {"max_length": self.max_length}
        batch = dict(self.processor(text=texts, return_tensors="pt", **limit))
        if self.feature_cache is None:
            images = [self._image(row) for row in rows]
            batch["pixel_values"] = self.processor(images=images, return_tensors="pt")["pixel_values"]
        else:
            batch["pixel_values"] = self._cached_features(rows)
        batch.pop("modality_mask", None)  # pairs are complete
        index = torch.tensor([row["index"] for row in rows])
        return {**batch, "image_ids": index.repeat_interleave(self.captions_per_image), "return_loss": True}

    def _draw(self, row: dict[str, Any]) -> list[str]:
        draw = np.random.default_rng([self.seed, int(self.epoch), row["index"], 1])  # 1: not what augmentation draws
        order = draw.permutation(len(row["texts"]))
        return [row["texts"][caption] for caption in np.resize(order, self.captions_per_image)]
