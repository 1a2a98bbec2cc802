"""Conversations about images to batches of a vision-language model, with labels on what the assistant says."""

import re
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from hf_multimodal.data.collator import MultimodalCollator, row_name
from hf_multimodal.data.conversations import messages_of

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
IGNORED = -100


class ConversationCollator(MultimodalCollator):
    """Every turn of the assistant is learned, its end included, and nothing else.

    Args:
        processor: A `VisionLanguageProcessor`.
        image_column: Column of the image, or of a list of images; rows may lack it.
        max_length: Tokens of a row; longer ones lose what stands behind. None cuts nothing.

    Raises:
        ValueError: If the chat template does not mark what the assistant says; at a call, for what `messages_of`
            refuses, and where a cut would reach an image's tokens or leave nothing to learn.
        BadImageError: On an unreadable image; names the row.
    """

    def __init__(self, processor: Any, *, image_column: str = "image", max_length: int | None = None) -> None:
        super().__init__(processor, image_column=image_column)
        if not GENERATION.search(processor.chat_template or ""):
            raise ValueError(
                "the chat template has no {% generation %} ... {% endgeneration %} around what the assistant says, so "
                "that there would be no label: add it, or leave chat_template out of the processor for its own."
            )
        self.max_length = max_length

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Build one batch.

        Args:
            rows: Rows of a dataset, as dicts.

        Returns:
            `input_ids`, `attention_mask` and `labels` (batch, length), -100 where nothing is to be learned, and
            `pixel_values` (images, channels, height, width) where there are images.
        """
        names = [row_name(row, number) for number, row in enumerate(rows)]
        conversations = [self._conversation(row, name) for row, name in zip(rows, names, strict=True)]
        batch = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": False},
        )
        examples = [
            self._cut(ids, learned, name)
            for ids, learned, name in zip(batch["input_ids"], batch["assistant_masks"], names, strict=True)
        ]
        padding = self.processor.tokenizer.pad_token_id
        found = {
            "input_ids": _padded([ids for ids, _ in examples], padding),
            "attention_mask": _padded([torch.ones_like(ids) for ids, _ in examples], 0),
            "labels": _padded([ids.masked_fill(~learned, IGNORED) for ids, learned in examples], IGNORED),
        }
        if "pixel_values" in batch:
            found["pixel_values"] = torch.stack([torch.as_tensor(image) for image in batch["pixel_values"]])
        return found

    def _conversation(self, row: dict[str, Any], name: Any) -> list[dict[str, Any]]:
        """Messages whose image parts hold their images."""
        cells = row.get(self.image_column)
        cells = [] if cells is None else cells if isinstance(cells, list) else [cells]
        images = iter([self._image({**row, self.image_column: cell}) for cell in cells])
        messages = messages_of(row, len(cells), name)
        for message in messages:
            message["content"] = [
                {"type": "image", "image": next(images)} if part["type"] == "image" else part
                for part in message["content"]
            ]
        return messages

    def _cut(self, ids: Any, learned: Any, name: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(length,) ids and booleans, no longer than asked for."""
        ids, learned = torch.as_tensor(ids), torch.as_tensor(learned).bool()
        if self.max_length is None or len(ids) <= self.max_length:
            return ids, learned
        if (ids[self.max_length :] == self.processor.image_token_id).any() or not learned[: self.max_length].any():
            raise ValueError(
                f"row {name!r} has {len(ids)} tokens, and cut to {self.max_length} (max_length) it would lose tokens "
                "of an image or all that the assistant says: give more, or leave the row out."
            )
        return ids[: self.max_length], learned[: self.max_length]


def _padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    """(rows, length), padded on the left, as generation needs it."""
    return pad_sequence(rows, batch_first=True, padding_value=value, padding_side="left")
