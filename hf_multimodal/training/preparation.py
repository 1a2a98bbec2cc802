"""From arguments to checked splits, before any model is built."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers.utils import logging

from hf_multimodal.cli.training_arguments import DataArguments
from hf_multimodal.data.checks import BadSample, first_reasons, missing_columns
from hf_multimodal.data.classes import check_classes
from hf_multimodal.data.counts import class_counts, presence
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.presence import MissingRate, take_away
from hf_multimodal.data.splits import complete_splits

logger = logging.get_logger(__name__)


def prepare_training_data(
    args: DataArguments, modality: str, folder: Path | None = None, labelled: bool = True
) -> tuple[LoadedData, list[BadSample]]:
    """Load, split and check the data of a training run.

    Args:
        args: The arguments.
        modality: `both`, `image` or `text`; files of a modality that is not read are not opened.
        folder: Where bad samples are listed if the policy refuses some.
        labelled: Whether every row needs a label.

    Returns:
        Data with the splits `train`, `validation` (unless the final fit trains on it) and `test`, and all bad samples
        that the policy let pass, in a dry run also those that it refuses. What is odd about the classes is in the
        data's `warnings`, and why a dry run's data would be refused in its `refusals`.

    Raises:
        ValueError: If there is nothing to train on, the data lack a column that the modality needs, there is a bad
            sample that the policy does not allow, or a class has no training row.
    """
    data = args.load()
    if "train" not in data.splits:
        raise ValueError(f"{args.data} has no training rows, only {sorted(map(str, data.splits))}.")
    missing = missing_columns(data, modality, labels=labelled)
    if missing:
        left = [name for name in ("image", "text") if name in data.columns]
        alone = labelled and modality == "both" and len(left) == 1
        way_out = f" scripts/train_fusion.py --modality {left[0]} trains on that alone." if alone else ""
        raise ValueError(f"{args.data}: {' Also, '.join(missing)}{way_out}")
    splits = complete_splits(data.splits, **args.split_options)
    limits = {
        "train": args.max_train_samples,
        "validation": args.max_eval_samples,
        "test": args.max_predict_samples,
    }
    used = {name: first_rows(splits[name], limit) for name, limit in limits.items()}
    listing = None if args.dry_run or folder is None else folder / "bad_samples.csv"
    used_data = replace(data, splits=DatasetDict(used))
    # A dry run reports bad samples instead of stopping at them.
    options: dict[str, Any] = {"prediction": not labelled, "image_value_range": args.image_value_range}
    checked, bad_samples = args.check(used_data, modality, listing, refuse=not args.dry_run, **options)
    hidden = dict(checked.splits)
    for name, rows in checked.splits.items():
        rate = args.eval_missing if name == "test" else args.missing
        if rate is not None:
            hidden[name] = take_away(rows, used[name], MissingRate.parse(rate), args.missing_seed)
    checked = replace(checked, splits=DatasetDict(hidden))
    needed: tuple[str, ...] = ()
    if args.complete_only:
        needed = ("image", "text")
    elif args.missing is not None and modality != "both":
        needed = (modality,)
    if needed:
        readable = keep_readable(checked.splits, needed)
        for split, rows in readable.items():
            if not len(rows):
                name = str(split)
                reasons = first_reasons(bad_samples, used[name], data.sources.get(name))
                raise ValueError(
                    f"{args.data}: no usable row is left in the split {name!r}: none of its "
                    f"{len(checked.splits[split])} rows has {' and '.join(needed)}.{reasons}"
                )
        checked = replace(checked, splits=readable)
    if labelled and checked.problem_type == "single_label_classification" and len(checked.id2label) == 1:
        raise ValueError(
            f"{args.data}: all rows have one class, {checked.id2label[0]!r}, in column {checked.columns['label']!r}, "
            "and a classifier needs two. Is that the column of the labels? For numbers problem_type is 'regression'."
        )
    if args.fit_on_validation:
        joined = dict(checked.splits)
        joined["train"] = concatenate_datasets([joined["train"], joined.pop("validation")])
        checked = replace(checked, splits=DatasetDict(joined))
    if labelled and not checked.generated:
        checked = _check_classes(checked, splits["train"], args)
    return checked, bad_samples


def _check_classes(data: LoadedData, all_training: Dataset, args: DataArguments) -> LoadedData:
    """Log what is odd about the classes, and refuse one without training rows, but in a dry run."""
    cut: list[str] = []
    if args.max_train_samples is not None:
        counts = class_counts(all_training["label"][:], data.id2label)
        cut = [name for name in data.id2label.values() if counts[name]]
    warnings, refusals = check_classes(
        data.splits, data.id2label, cut=cut, allow_untrained=args.allow_untrained_classes
    )
    for sentence in warnings:
        logger.warning("%s: %s", args.data, sentence)
    if refusals and not args.dry_run:
        raise ValueError(f"{args.data}: {' '.join(refusals)}")
    return replace(data, warnings=(*data.warnings, *warnings), refusals=tuple(refusals))


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
