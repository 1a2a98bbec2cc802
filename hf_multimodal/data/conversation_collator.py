"""Conversations about images to batches of a vision-language model, with labels on what the assistant says."""

import re
from copy import copy
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from hf_multimodal.data.collator import NO_LABEL, MultimodalCollator, row_name
from hf_multimodal.data.conversations import messages_of

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
ROWS_AT_ONCE = 1000  # that are measured


class ConversationCollator(MultimodalCollator):
    """Every turn of the assistant is learned, its end included, and nothing else.

    Args:
        processor: A `VisionLanguageProcessor`.
        image_column: Column of the image, or of a list of images; rows may lack it.
        max_length: Tokens of a row; longer ones lose what stands behind. None means what the tokenizer says.
        on_bad_image: `"error"` raises on an image that cannot be read; `"missing"` warns and takes its places out of
            the conversation.

    Raises:
        ValueError: If the chat template does not mark what the assistant says; at a call, for what `messages_of`
            refuses, where a cut would reach an image's tokens or leave nothing to learn, and where nothing is left of
            a turn whose image cannot be read.
        BadImageError: On an unreadable image under `"error"`; names the row.
    """

    def __init__(
        self,
        processor: Any,
        *,
        image_column: str = "image",
        max_length: int | None = None,
        on_bad_image: str = "error",
    ) -> None:
        super().__init__(processor, image_column=image_column, max_length=max_length, on_bad_image=on_bad_image)
        if not GENERATION.search(processor.chat_template or ""):
            raise ValueError(
                "the chat template has no {% generation %} ... {% endgeneration %} around what the assistant says, so "
                "that there would be no label: add it, or leave chat_template out of the processor for its own."
            )

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Build one batch.

        Args:
            rows: Rows of a dataset, as dicts.

        Returns:
            `input_ids`, `attention_mask` and `labels` (batch, length), -100 where nothing is to be learned, and
            `pixel_values` (images, channels, height, width) where there are images.
        """
        names = [row_name(row, number) for number, row in enumerate(rows)]
        conversations = [self.conversation(row, name) for row, name in zip(rows, names, strict=True)]
        batch = _tokenize(self.processor, conversations)
        examples = [
            self._cut(ids, learned, name)
            for ids, learned, name in zip(batch["input_ids"], batch["assistant_masks"], names, strict=True)
        ]
        padding = self.processor.tokenizer.pad_token_id
        found = {
            "input_ids": _padded([ids for ids, _ in examples], padding),
            "attention_mask": _padded([torch.ones_like(ids) for ids, _ in examples], 0),
            "labels": _padded([ids.masked_fill(~learned, NO_LABEL) for ids, learned in examples], NO_LABEL),
        }
        if "pixel_values" in batch:
            found["pixel_values"] = torch.stack([torch.as_tensor(image) for image in batch["pixel_values"]])
        return found

    def lengths(self, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Measure conversations without opening their images.

        Args:
            rows: As for the batch.

        Returns:
            (rows,) tokens of each, and (rows,) how many a cut must leave: all of its images, and one that is learned.

        Raises:
            ValueError: What `messages_of` refuses.
        """
        counting = copy(self.processor)  # every image is one token here
        counting.image_processor, counting.image_seq_length = _NoPixels(), 1
        blank = Image.new("RGB", (1, 1))
        whole, needed = [], []
        for start in range(0, len(rows), ROWS_AT_ONCE):
            table = rows.with_format("arrow")[start : start + ROWS_AT_ONCE]  # as it lies there, not decoded
            counts = _image_counts(table, self.image_column)
            texts = table.select([name for name in table.column_names if name != self.image_column]).to_pylist()
            conversations = [
                _with_images(messages_of(row, count, row_name(row, number)), [blank] * count)
                for number, (row, count) in enumerate(zip(texts, counts, strict=True), start)
            ]
            batch = _tokenize(counting, conversations)
            for ids, learned in zip(batch["input_ids"], batch["assistant_masks"], strict=True):
                images = np.array(ids) == self.processor.image_token_id
                ends = np.cumsum(np.where(images, self.processor.image_seq_length, 1))
                whole.append(ends[-1])
                needed.append(max(ends[np.argmax(learned)], *ends[images], 0))
        return np.array(whole, int), np.array(needed, int)

    def conversation(self, row: dict[str, Any], name: Any) -> list[dict[str, Any]]:
        """The messages of a row, whose image parts hold their images.

        Args:
            row: As for the batch.
            name: What errors call it.
        """
        cells = row.get(self.image_column)
        cells = [] if cells is None else cells if isinstance(cells, list) else [cells]
        messages = _with_images(
            messages_of(row, len(cells), name), [self._image({**row, self.image_column: cell}) for cell in cells]
        )
        if not all(any(part.get("image") or part["text"].strip() for part in turn["content"]) for turn in messages):
            raise ValueError(f"row {name!r}: a turn is an image alone, which cannot be read: leave the row out.")
        return messages

    def _cut(self, ids: Any, learned: Any, name: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(length,) ids and booleans, no longer than asked for."""
        ids, learned = torch.as_tensor(ids), torch.as_tensor(learned).bool()
        longest = self.max_length or self.processor.tokenizer.model_max_length
        if len(ids) <= longest:
            return ids, learned
        if (ids[longest:] == self.processor.image_token_id).any() or not learned[:longest].any():
            raise ValueError(
                f"row {name!r} has {len(ids)} tokens, and cut to {longest} (max_length) it would lose tokens of an "
                "image or all that the assistant says: give more, or leave the row out."
            )
        return ids[:longest], learned[:longest]


class _NoPixels:
    """Stands for an image processor where tokens alone are counted."""

    def fetch_images(self, images: Any) -> Any:
        return images

    def __call__(self, images: Any, **kwargs: Any) -> dict[str, Any]:
        return {}


def _tokenize(processor: Any, conversations: list[list[dict[str, Any]]]) -> Any:
    """`input_ids` and `assistant_masks`, a list a conversation, and the pixels of all images."""
    return processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": False},
    )


def _with_images(messages: list[dict[str, Any]], images: list[Any]) -> list[dict[str, Any]]:
    """The messages, their images in their places; of one that is None the place is left out."""
    rest = iter(images)
    for message in messages:
        parts = [{**part, "image": next(rest)} if part["type"] == "image" else part for part in message["content"]]
        message["content"] = [part for part in parts if part.get("image", part) is not None]
    return messages


def _image_counts(table: pa.Table, column: str) -> list[int]:
    """How many images each row has."""
    if column not in table.column_names:
        return [0] * len(table)
    cells = table[column]
    several = pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type)
    counts = pc.list_value_length(cells) if several else pc.cast(pc.is_valid(cells), pa.int64())
    return pc.fill_null(counts, 0).to_pylist()


def _padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    """(rows, length), padded on the left, as generation needs it."""
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")
