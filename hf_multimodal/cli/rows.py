"""From flags to rows: what a command trains on, evaluates or predicts."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers.utils import logging

from hf_multimodal.cli.arguments import (
    ClassArguments,
    CountArguments,
    LabelArguments,
    MissingArguments,
    RunArguments,
    SourceArguments,
)
from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.data.checks import (
    BadSample,
    BadSamplesError,
    check_splits,
    first_reasons,
    missing_columns,
    write_bad_samples,
)
from hf_multimodal.data.classes import check_classes
from hf_multimodal.data.counts import class_counts, presence
from hf_multimodal.data.loading import LoadedData, load_data
from hf_multimodal.data.presence import MissingRate, take_away
from hf_multimodal.data.splits import complete_splits
from hf_multimodal.data.tables import DEFAULT_COLUMNS
from hf_multimodal.data.value_ranges import ValueRanges
from hf_multimodal.hub.runs import read_arguments
from hf_multimodal.inference.prediction import modality_of
from hf_multimodal.models.processing_multimodal import check_value_range
from hf_multimodal.training.preparation import first_rows, keep_readable

logger = logging.get_logger(__name__)

SPLIT_ARGUMENTS = ("split_seed", "no_stratify", "group_duplicates")
READING_ARGUMENTS = ("image_root", "encoding", "data_config")


def load(source: SourceArguments, labels: LabelArguments | None = None, **options: Any) -> LoadedData:
    """Load the data that the flags name.

    Args:
        source: Where they are.
        labels: Where their labels are; None reads none that are named.
        options: Further arguments of `load_data`.

    Returns:
        The data as the source gives them, neither split further nor checked.

    Raises:
        ValueError: If no data were named.
    """
    if source.data is None:
        raise ValueError("data is needed: a table, a folder, a Hub data set, or controlled:<task>.")
    if source.max_predict_samples is not None:
        wanted = options.get("splits") or ["test"]  # of a controlled task; the others are cut later
        options |= {f"{split}_size": source.max_predict_samples for split in wanted}
    if labels is not None:
        options = {"label_column": labels.label_column, "problem_type": labels.problem_type, **options}
    return load_data(
        source.data,
        image_column=source.image_column,
        text_column=source.text_column,
        id_column=source.id_column,
        image_root=source.image_root,
        encoding=source.encoding,
        config_name=source.data_config,
        **options,
    )


def split_options(source: SourceArguments, labels: LabelArguments | None = None) -> dict[str, Any]:
    """The arguments of `complete_splits`."""
    stratify = labels is None or not labels.no_stratify
    return {"seed": source.split_seed, "stratify": stratify, "group_duplicates": source.group_duplicates}


def check(
    source: SourceArguments,
    data: LoadedData,
    modality: str,
    listing: Path | None,
    *,
    prediction: bool = False,
    refuse: bool = True,
    image_value_range: Any = None,
) -> tuple[LoadedData, list[BadSample]]:
    """Check all rows under the policy of the flags.

    Args:
        source: Its policy `on_bad_sample`.
        data: As loaded and split.
        modality: `both`, `image` or `text`; files of a modality that is not read are not opened.
        listing: File that lists all bad samples if the policy refuses some; None lists none.
        prediction: Check for prediction, which needs no label.
        refuse: Whether errors are raised; if not, their rows are left out.
        image_value_range: Of the processor that will read the images.

    Returns:
        The checked data, whose report says under `image_values` what is odd about the images' ranges, and the
        bad samples that the policy let pass.

    Raises:
        BadSamplesError: If the policy refuses some; the message names the first of them.
        ValueError: If it lets bad samples pass and not one of several images was found, or a split is left
            without rows; the message names the first of them.
    """
    try:
        ranges = ValueRanges(check_value_range(image_value_range))
        options: dict[str, Any] = {"prediction": prediction, "refuse": refuse, "value_ranges": ranges}
        checked, samples = check_splits(data, policy=source.on_bad_sample, modality=modality, **options)
    except BadSamplesError as error:
        raise _listed(error, error.samples, listing) from None
    gone = [
        sample.value
        for sample in samples
        if (sample.action, sample.column) == ("missing", data.columns.get("image"))
        and sample.reason.endswith("there is no such file")
    ]
    if len(gone) > 1 and not any(presence(rows)[:, 0].any() for rows in checked.splits.values()):
        message = (
            f"{source.data}: none of its {len(gone)} images was found, such as {gone[0]!r}: name the "
            f"folder that the paths are relative to with --image_root.{first_reasons(samples)}"
        )
        raise _listed(ValueError(message), samples, listing)
    for split, rows in checked.splits.items():
        if not len(rows):
            reasons = first_reasons(samples, data.splits[split], data.sources.get(str(split)))
            message = f"{source.data}: no usable row is left in the split {str(split)!r}.{reasons}"
            raise _listed(ValueError(message), samples, listing)
    if ranges.warning is not None:
        checked = replace(checked, report={**checked.report, "image_values": ranges.warning})
        if refuse:  # a dry run has it in its report
            logger.warning("%s", ranges.warning)
    return checked, samples


def _listed(error: ValueError, samples: Sequence[BadSample], listing: Path | None) -> ValueError:
    """The error, whose bad samples are all written to a file where one is named."""
    if listing is not None:
        listing.parent.mkdir(parents=True, exist_ok=True)
        write_bad_samples(listing, samples)
        error.add_note(f"All are listed in {listing}.")
    return error


def training_rows(
    source: SourceArguments,
    reading: CountArguments | None = None,
    run: RunArguments | None = None,
    labels: LabelArguments | None = None,
    classes: ClassArguments | None = None,
    missing: MissingArguments | None = None,
    *,
    modality: str = "both",
    folder: Path | None = None,
    **options: Any,
) -> tuple[LoadedData, list[BadSample]]:
    """Load, split and check the data of a training run.

    Args:
        source: Where the data are.
        reading: How many of them are used.
        run: Whether it is a dry run, and whether validation rows are trained on.
        labels: Where the labels are; None reads none, for an aligner.
        classes: What is made of them.
        missing: What is taken away.
        modality: `both`, `image` or `text`; files of a modality that is not read are not opened.
        folder: Where bad samples are listed if the policy refuses some.
        options: Further arguments of `load_data`.

    Returns:
        Data with the splits `train`, `validation` (unless the final fit trains on it) and `test`, and all bad samples
        that the policy let pass, in a dry run also those that it refuses. What is odd about the classes is in the
        data's `warnings`, and why a dry run's data would be refused in its `refusals`.

    Raises:
        ValueError: If there is nothing to train on, the data lack a column that the modality needs, there is a bad
            sample that the policy does not allow, or a class has no training row.
    """
    reading, run, missing = reading or CountArguments(), run or RunArguments(), missing or MissingArguments()
    labelled, classes = labels is not None, classes or ClassArguments()
    sizes = {"train_size": reading.max_train_samples, "validation_size": reading.max_eval_samples}
    options |= {name: size for name, size in sizes.items() if size is not None}
    if labelled:
        options |= {"label_names": classes.label_names, "untrained_names": classes.allow_untrained_classes}
    data = load(source, labels, **options)
    if "train" not in data.splits:
        raise ValueError(f"{source.data} has no training rows, only {sorted(map(str, data.splits))}.")
    lacking = missing_columns(data, modality, labels=labelled)
    if lacking:
        left = [name for name in ("image", "text") if name in data.columns]
        alone = labelled and modality == "both" and len(left) == 1
        way_out = f" train-fusion --modality {left[0]} trains on that alone." if alone else ""
        raise ValueError(f"{source.data}: {' Also, '.join(lacking)}{way_out}")
    splits = complete_splits(data.splits, **split_options(source, labels))
    limits = {
        "train": reading.max_train_samples,
        "validation": reading.max_eval_samples,
        "test": source.max_predict_samples,
    }
    used = {name: first_rows(splits[name], limit) for name, limit in limits.items()}
    listing = None if run.dry_run or folder is None else folder / "bad_samples.csv"
    used_data = replace(data, splits=DatasetDict(used))
    # A dry run reports bad samples instead of stopping at them.
    checks: dict[str, Any] = {
        "prediction": not labelled,
        "image_value_range": getattr(reading, "image_value_range", None),
    }
    checked, bad_samples = check(source, used_data, modality, listing, refuse=not run.dry_run, **checks)
    hidden = dict(checked.splits)
    for name, rows in checked.splits.items():
        rate = missing.eval_missing if name == "test" else missing.missing
        if rate is not None:
            hidden[name] = take_away(rows, used[name], MissingRate.parse(rate), missing.missing_seed)
    checked = replace(checked, splits=DatasetDict(hidden))
    needed: tuple[str, ...] = ()
    if missing.complete_only:
        needed = ("image", "text")
    elif missing.missing is not None and modality != "both":
        needed = (modality,)
    if needed:
        readable = keep_readable(checked.splits, needed)
        for split, rows in readable.items():
            if not len(rows):
                name = str(split)
                reasons = first_reasons(bad_samples, used[name], data.sources.get(name))
                raise ValueError(
                    f"{source.data}: no usable row is left in the split {name!r}: none of its "
                    f"{len(checked.splits[split])} rows has {' and '.join(needed)}.{reasons}"
                )
        checked = replace(checked, splits=readable)
    if labelled and checked.problem_type == "single_label_classification" and len(checked.id2label) == 1:
        raise ValueError(
            f"{source.data}: all rows have one class, {checked.id2label[0]!r}, in column {checked.columns['label']!r}"
            ", and a classifier needs two. Is that the column of the labels? For numbers problem_type is 'regression'."
        )
    if run.fit_on_validation:
        joined = dict(checked.splits)
        joined["train"] = concatenate_datasets([joined["train"], joined.pop("validation")])
        checked = replace(checked, splits=DatasetDict(joined))
    if labelled and not checked.generated:
        checked = _check_classes(checked, splits["train"], source, reading, classes, run.dry_run, bad_samples)
    return checked, bad_samples


def _check_classes(
    data: LoadedData,
    all_training: Dataset,
    source: SourceArguments,
    reading: CountArguments,
    classes: ClassArguments,
    dry_run: bool,
    bad_samples: Sequence[BadSample],
) -> LoadedData:
    """Log what is odd about the classes, and refuse one without training rows, but in a dry run."""
    cut: list[str] = []
    if reading.max_train_samples is not None:
        counts = class_counts(all_training["label"][:], data.id2label)
        cut = [name for name in data.id2label.values() if counts[name]]
    warnings, refusals = check_classes(
        data.splits, data.id2label, cut=cut, allow_untrained=classes.allow_untrained_classes
    )
    for sentence in warnings:
        logger.warning("%s: %s", source.data, sentence)
    if refusals and not dry_run:
        raise ValueError(f"{source.data}: {' '.join(refusals)}{first_reasons(bad_samples)}")
    return replace(data, warnings=(*data.warnings, *warnings), refusals=tuple(refusals))


def run_arguments(model: str) -> dict[str, Any]:
    """The arguments in the `run.yaml` beside a model; empty where there is none."""
    return read_arguments(Path(model, "run.yaml"))


def parse_for_model(name: str, argv: list[str] | None) -> Any:
    """Read the flags of a command that takes a trained model.

    How splits are made is by default as in the run that left the model, and how its own data are read, too.

    Args:
        name: Of the command.
        argv: The flags; None means those of the process.

    Returns:
        The groups of the command.
    """
    line = CommandLine(COMMANDS[name], argv)
    given = line.values()
    run = run_arguments(given["model"])
    names = SPLIT_ARGUMENTS + (READING_ARGUMENTS if _same_data(run.get("data"), given["data"]) else ())
    return line.parse({name: run[name] for name in names if name in run})


def _same_data(one: str | None, other: str | None) -> bool:
    """Whether two names mean the same data, however a path is spelled."""
    if one is None or other is None or not (Path(one).exists() and Path(other).exists()):
        return one == other
    return Path(one).resolve() == Path(other).resolve()


def chosen_rows(
    model: str,
    split: str | None,
    source: SourceArguments,
    labels: LabelArguments | None = None,
    *,
    prediction: bool = False,
    **options: Any,
) -> LoadedData:
    """Load the data and keep the rows that are wanted as the only split, named `test`, or `predict` for prediction.

    Columns are looked for under the names that the model's run was given before the usual ones.

    Args:
        model: Folder or name of the model.
        split: One of `SPLITS`, for prediction also `predict`, or None: the first that the data give of `predict` (for
            prediction) and `test`; for evaluation on the data of the model's run its test split; else all rows.
        source: The data, and how missing splits are made.
        labels: Where their labels are.
        prediction: Whether rows without labels are wanted.
        options: Further arguments of `load_data`.

    Returns:
        The data with one split, of at most `source.max_predict_samples` rows.

    Raises:
        ValueError: If there is no such split.
    """
    run = run_arguments(model)
    columns = {name: run[f"{name}_column"] for name in DEFAULT_COLUMNS if f"{name}_column" in run}
    wanted = None if split == "all" else ["test" if split in (None, "predict") else split]
    data = load(source, labels, usual_columns=columns, splits=wanted, **options)
    given = DatasetDict({name: rows for name, rows in data.splits.items() if prediction or name != "predict"})
    if split is None:
        trained_on_them = not prediction and _same_data(run.get("data"), source.data)
        usual = ["predict", "test"] if prediction else ["test"]
        split = next((name for name in usual if name in given), "test" if trained_on_them else "all")
    if split == "all":
        rows = replace(data, splits=given, sources={name: data.sources[name] for name in given}).all_rows()
    else:
        as_given = data.generated or (split in given and split != "train")  # training may have left part of `train`
        splits = given if as_given else complete_splits(given, **split_options(source, labels))
        if split not in splits:
            raise ValueError(f"split must be one of {sorted(map(str, splits))}, which the data have, got {split!r}.")
        rows = splits[split]
        made = "" if split in given and len(rows) == len(given[split]) else ", made as in training"
    if source.max_predict_samples is not None:
        rows = rows.select(range(min(source.max_predict_samples, len(rows))))
    what = "all rows" if split == "all" else f"the split {split!r}{made}"
    print(f"{source.data}: {what}, {len(rows)} rows")
    origin = data.sources.get(split) or next(iter(data.sources.values()))
    name = "predict" if prediction else "test"
    return replace(data, splits=DatasetDict({name: rows}), sources={name: origin})


def check_columns(data: LoadedData, config: Any, source: str) -> None:
    """Refuse data that have no column at all of what a model reads; an empty column is one of missing cells.

    Args:
        data: As loaded.
        config: The model's. A robust classifier predicts from the one column that there is, with a warning.
        source: Where the data come from, for the message.

    Raises:
        ValueError: If a column is not there that the model needs.
    """
    sentences = missing_columns(data, modality_of(config), labels=False)
    left = [name for name in ("image", "text") if name in data.columns]
    if sentences and config.model_type == "multimodal_robust_fusion" and left:
        warnings.warn(f"{source}: {sentences[0]} All rows are predicted from their {left[0]} alone.", stacklevel=3)
    elif sentences:
        robust = (
            " Only a robust classifier predicts from one side." if config.model_type == "multimodal_fusion" else ""
        )
        alone = robust if left and modality_of(config) == "both" else ""
        raise ValueError(f"{source}: {' Also, '.join(sentences)}{alone}")
