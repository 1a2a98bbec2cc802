"""Rows of a dataset to one batch of model inputs."""

import warnings
from collections.abc import Callable, Collection
from copy import copy
from typing import Any

import torch
from PIL import Image

from hf_multimodal.data.images import BadImageError, open_rgb, value_range_of
from hf_multimodal.validation import check_choice, did_you_mean

ON_BAD_IMAGE = ("error", "missing")
ON_EMPTY = ("error", "keep")
NO_LABEL = -100  # as for torch's losses


class MultimodalCollator:
    """Decode, augment, tokenize and pad a list of rows; the same object serves `Trainer` and a plain `DataLoader`.

    Images are decoded here, so in the workers, and all texts of the batch go through the tokenizer in one call,
    padded to the longest of them (the processor's `padding`). A side for which the processor has no part is neither
    read nor decoded, so a text-only run never opens an image.

    Args:
        processor: A `MultimodalProcessor`, or anything called alike that has `image_processor` and `tokenizer`.
        image_column: Column of images: `{"bytes", "path"}`, a PIL image, or None where missing. A row may also
            lack the key, as samples of a WebDataset do.
        text_column: Column of texts, None or without the key where missing.
        label_column: Column of labels: class number, multi-hot list of floats, or float. None where no row of a batch
            has one. Where some have none it is -100, in a regression NaN: the losses leave it out.
        num_labels: Of the model, so that labels that it has not are refused with their row; `MultimodalTrainer` fills
            it in. None leaves that to the model, which on a GPU cannot name the row.
        augment: Called with (image, epoch, example index) on every image; rows then need an `index` column.
            Leave it out for evaluation.
        modality_dropout: Called with (epoch, example indices, modality_mask) on every batch; what it returns is the
            batch's `fusion_mask`. For training a robust classifier; rows then need an `index` column.
        feature_cache: Where `pixel_values` come from in place of images: its `batch`, called with a batch of cells and
            the epoch (None without `augment`), gives (batch, ...) the output of frozen layers.
        on_bad_image: `"error"` raises on an image that cannot be read; `"missing"` warns and treats it as missing.
        on_empty: `"error"` raises on a labelled example with nothing that the model reads, from which it would learn
            the label of nothing; `"keep"` is for evaluation. Unlabelled examples are always kept.
        max_length: Longest text in tokens; None means what the tokenizer says.

    Raises:
        ValueError: At construction, on an unknown `on_bad_image` or `on_empty`, or a `max_length` beyond what the
            tokenizer says that the text model reads; at a call, on rows none of which has a column that the model
            reads, a batch in which only some rows have a label, a label that the model has not, or an empty example
            under `"error"`.
        BadImageError: On an unreadable image under `"error"`; names the row.

    Example:

    >>> def processor(images=None, text=None, **kwargs):
    ...     return {"input_ids": torch.tensor([[len(t)] for t in text])}
    >>> processor.image_processor, processor.tokenizer = None, "any"
    >>> batch = MultimodalCollator(processor)([{"text": "one", "label": 1}, {"text": "three", "label": 0}])
    >>> batch["labels"]
    tensor([1, 0])
    """

    def __init__(
        self,
        processor: Any,
        *,
        image_column: str = "image",
        text_column: str = "text",
        label_column: str = "label",
        num_labels: int | None = None,
        augment: Callable[[Image.Image, int, int], Image.Image] | None = None,
        modality_dropout: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        feature_cache: Any = None,
        on_bad_image: str = "error",
        on_empty: str = "error",
        max_length: int | None = None,
    ) -> None:
        self.processor = processor
        self.image_column = image_column
        self.text_column = text_column
        self.label_column = label_column
        self.num_labels = num_labels
        self.augment = augment
        self.modality_dropout = modality_dropout
        self.feature_cache = feature_cache
        self.on_bad_image = check_choice("on_bad_image", on_bad_image, ON_BAD_IMAGE)
        self.on_empty = check_choice("on_empty", on_empty, ON_EMPTY)
        self.max_length = max_length
        longest = getattr(getattr(processor, "tokenizer", None), "model_max_length", None)
        if max_length is not None and longest is not None and max_length > longest:
            raise ValueError(
                f"max_length must be at most {longest}, which the text model reads (tokenizer.model_max_length), got "
                f"{max_length}."
            )
        # In shared memory, so that workers that live through the whole run see the epoch that the main process sets.
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def for_evaluation(self) -> "MultimodalCollator":
        """The same without augmentation and modality dropout, which keeps labelled examples that have nothing."""
        other = copy(self)
        other.augment, other.modality_dropout, other.on_empty = None, None, "keep"
        return other

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Build one batch.

        Args:
            rows: Rows of a dataset, as dicts.

        Returns:
            What the processor returns, `labels` unless all rows are unlabelled, and with `modality_dropout` a
            `fusion_mask`.
        """
        inputs: dict[str, Any] = {}
        self._refuse_lost_columns(rows)
        if self.processor.image_processor is not None and self.feature_cache is None:
            inputs["images"] = [self._image(row) for row in rows]
        if self.processor.tokenizer is not None:
            inputs["text"] = [row.get(self.text_column) for row in rows]
            inputs |= {} if self.max_length is None else {"max_length": self.max_length}
        batch = dict(self.processor(**inputs, return_tensors="pt")) if inputs else {}
        if self.feature_cache is not None:
            batch["pixel_values"] = self._cached_features(rows)
            batch.setdefault("modality_mask", torch.zeros(len(rows), 2, dtype=torch.long))
            batch["modality_mask"][:, 0] = torch.tensor([row.get(self.image_column) is not None for row in rows])
        if self.modality_dropout is not None:
            index = torch.tensor([_value(row, "index") for row in rows])
            batch["fusion_mask"] = self.modality_dropout(int(self.epoch), index, batch["modality_mask"])
        labels = self._labels(rows)
        if labels is not None:
            batch["labels"] = labels
            if self.on_empty == "error" and "modality_mask" in batch:
                self._refuse_empty(rows, batch["modality_mask"])
        return batch

    def _refuse_lost_columns(self, rows: list[dict[str, Any]]) -> None:
        """Refuse or warn of a column that no row has: the data set lost it, or never had it."""
        parts = ((self.image_column, self.processor.image_processor), (self.text_column, self.processor.tokenizer))
        wanted = [column for column, part in parts if part is not None]
        keys = set().union(*rows)
        lost = [column for column in wanted if column not in keys]
        if len(lost) == len(wanted) or any(did_you_mean(column, keys - set(wanted)) for column in lost):
            raise ValueError(_lost(lost[0], keys))
        for column in lost:
            warnings.warn(
                f"no row of a batch has a column {column!r}, only {sorted(keys)}: it is taken as missing in all.",
                stacklevel=3,
            )

    def _image(self, row: dict[str, Any]) -> Image.Image | None:
        image = row.get(self.image_column)
        if image is None:
            return None
        augment = self.augment
        number: Any = None if augment is None else _value(row, "index")
        changed = None if augment is None else lambda image: augment(image, int(self.epoch), number)
        try:
            return open_rgb(image, value_range_of(self.processor), changed)
        except BadImageError as error:
            where = f"{error.name} (row {row_name(row, '?')}, column {self.image_column})"
            unreadable = BadImageError(error.reason, where, error.detail)
            if self.on_bad_image == "error":
                raise unreadable from error
            warnings.warn(f"{unreadable}. The row is taken as one without an image.", stacklevel=2)
            return None

    def _cached_features(self, rows: list[dict[str, Any]]) -> torch.Tensor:
        images = [row.get(self.image_column) for row in rows]
        return self.feature_cache.batch(images, None if self.augment is None else int(self.epoch))

    def _refuse_empty(self, rows: list[dict[str, Any]], modality_mask: torch.Tensor) -> None:
        empty = [row_name(rows[i], i) for i in (~modality_mask.any(dim=1)).nonzero()[:, 0].tolist()]
        if empty:
            parts = (("image", self.processor.image_processor), ("text", self.processor.tokenizer))
            wanted = " nor ".join(name for name, part in parts if part is not None)
            raise ValueError(
                f"{len(empty)} of {len(rows)} labelled examples have {'neither' if ' ' in wanted else 'no'} {wanted}, "
                f"such as {empty[:5]}: leave them out of training; on_empty='keep' is for evaluation."
            )

    def _labels(self, rows: list[dict[str, Any]]) -> torch.Tensor | None:
        labels = [row.get(self.label_column) for row in rows]
        unlabelled = [row_name(row, number) for number, row in enumerate(rows) if labels[number] is None]
        if len(unlabelled) == len(rows):
            return None
        if unlabelled:
            raise ValueError(
                f"{len(unlabelled)} of {len(rows)} rows have no label in column {self.label_column!r}: "
                f"{unlabelled[:5]}."
            )
        if isinstance(labels[0], str):
            raise ValueError(
                f"labels must be numbers of classes, and column {self.label_column!r} holds words such as "
                f"{labels[0]!r}: number them by dataset.class_encode_column({self.label_column!r})."
            )
        tensor = torch.tensor(labels)
        self._refuse_unknown_labels(rows, tensor)
        return tensor.float() if tensor.is_floating_point() else tensor

    def _refuse_unknown_labels(self, rows: list[dict[str, Any]], labels: torch.Tensor) -> None:
        """Name the first label that the model has not: a GPU would end in an assertion without row or number."""
        if self.num_labels in (None, 1):  # not known, or a regression, whose labels are any numbers
            return
        fits = "num_labels or id2label of the model's configuration must fit the data"
        if labels.ndim > 1 and labels.shape[1] != self.num_labels:
            raise ValueError(
                f"rows have {labels.shape[1]} labels each in column {self.label_column!r}, but the model has "
                f"{self.num_labels}: {fits}."
            )
        wrong = (labels < 0) | (labels >= self.num_labels)
        if labels.ndim > 1 or not (wrong := wrong & (labels != NO_LABEL)).any():
            return
        number = int(wrong.nonzero()[0, 0])
        row = rows[number].get("id", rows[number].get("index", number))
        raise ValueError(
            f"the label of row {row!r}, column {self.label_column!r}, is {labels[number].item()}, but the model has "
            f"{self.num_labels} classes, 0 to {self.num_labels - 1}: {fits}. {NO_LABEL} marks a row without a label."
        )


def row_name(row: dict[str, Any], default: Any) -> Any:
    """What messages call a row."""
    return next((row[key] for key in ("id", "__key__", "index") if row.get(key) is not None), default)


def _value(row: dict[str, Any], column: str) -> Any:
    if column not in row:
        raise ValueError(_lost(column, row))
    return row[column]


def _lost(column: str, keys: Collection[str]) -> str:
    advice = " If the data set has it, the Trainer took it away: give TrainingArguments remove_unused_columns=False."
    if column == "index":
        advice += " Else number the examples: dataset.add_column('index', range(len(dataset)))."
    return f"the rows have no column {column!r}, only {sorted(keys)}.{did_you_mean(column, keys)}{advice}"
