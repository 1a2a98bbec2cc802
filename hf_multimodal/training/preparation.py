"""Rows that are ready to train on: complete ones, the first of them, and their lengths in tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from transformers.utils import logging

from hf_multimodal.data.counts import presence

logger = logging.get_logger(__name__)


def keep_readable(splits: DatasetDict, needed: Sequence[str]) -> DatasetDict:
    """Leave out training and validation rows that lack something; how many is logged. Test rows all stay.

    Args:
        splits: Rows with `image` and `text`.
        needed: `image`, `text`, or both.
    """
    left = dict(splits)
    columns = [("image", "text").index(name) for name in needed]
    for name in ("train", "validation"):
        if name in splits:
            kept = np.flatnonzero(presence(splits[name])[:, columns].all(axis=1))
            lost = len(splits[name]) - len(kept)
            if lost:
                logger.warning("%s: %d rows lack %s and are left out.", name, lost, " or ".join(needed))
                left[name] = splits[name].select(kept)
    return DatasetDict(left)


def keep_complete(splits: DatasetDict) -> tuple[DatasetDict, dict[str, int]]:
    """Leave out rows, of all splits, that lack their image or their text; how many is logged.

    Args:
        splits: Rows with `image` and `text`.

    Returns:
        The rest, and how many were left out of each split.
    """
    kept, lost = {}, {}
    for name, rows in splits.items():
        whole = np.flatnonzero(presence(rows).all(axis=1))
        lost[str(name)] = len(rows) - len(whole)
        kept[name] = rows.select(whole) if lost[str(name)] else rows
        if lost[str(name)]:
            logger.warning("%s: %d rows lack their image or their text and are left out.", name, lost[str(name)])
    return DatasetDict(kept), lost


def first_rows(dataset: Dataset, limit: int | None) -> Dataset:
    """The first `limit` rows, or all of them where there are fewer or no limit is set."""
    return dataset if limit is None else dataset.select(range(min(limit, len(dataset))))


def token_lengths(dataset: Dataset, tokenizer: Any, column: str = "text") -> np.ndarray:
    """Lengths of all texts in tokens, before they are cut.

    Args:
        dataset: The rows; a missing text counts as empty.
        tokenizer: The tokenizer.
        column: Of the texts.

    Returns:
        (rows,) integers.
    """
    texts = [text or "" for text in dataset[column][:]]
    if not texts:
        return np.zeros(0, dtype=int)
    encoded = tokenizer(texts, truncation=False, padding=False, return_attention_mask=False, verbose=False)
    return np.array([len(tokens) for tokens in encoded["input_ids"]])


def add_lengths(splits: DatasetDict, tokenizer: Any) -> DatasetDict:
    """Add the column `length`, without which `Trainer` cannot group texts of like length into batches.

    Args:
        splits: Rows with `text`.
        tokenizer: The tokenizer; None, where no text is read, adds nothing.

    Returns:
        The splits, their `length` cut at what the model reads.
    """
    if tokenizer is None:
        return splits
    return DatasetDict({name: _with_lengths(rows, batching_lengths(rows, tokenizer)) for name, rows in splits.items()})


def _with_lengths(rows: Dataset, lengths: np.ndarray) -> Dataset:
    """Add the column without `add_column`'s copy of the chosen rows, which lands in the folder of the data."""
    if rows._indices is None:
        return rows.add_column("length", lengths.tolist())
    chosen = rows._indices.column(0).to_numpy()
    of_all = np.zeros(len(rows.data), dtype=int)
    of_all[chosen] = lengths
    return Dataset(rows.data, info=rows.info.copy()).add_column("length", of_all.tolist()).select(chosen)


def batching_lengths(rows: Dataset, tokenizer: Any, column: str = "text") -> np.ndarray:
    """Lengths in tokens; a row without text gets that of another, or all such rows would share their batches.

    Args:
        rows: The rows.
        tokenizer: The tokenizer.
        column: Of the texts.

    Returns:
        (rows,) integers, cut at what the model reads.
    """
    lengths = token_lengths(rows, tokenizer, column).clip(max=tokenizer.model_max_length)
    has_text = np.array([bool(text) for text in rows[column][:]], dtype=bool)
    if has_text.any():
        lengths[~has_text] = np.random.default_rng(0).choice(lengths[has_text], (~has_text).sum())
    return lengths
