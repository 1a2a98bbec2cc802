"""Which rows of the data a script evaluates or predicts, and what it takes over from the run that left the model."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.source_arguments import SourceArguments
from hf_multimodal.data.checks import missing_columns
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.splits import complete_splits
from hf_multimodal.data.tables import DEFAULT_COLUMNS
from hf_multimodal.hub.runs import read_arguments
from hf_multimodal.inference.prediction import modality_of

SPLITS = ("all", "train", "validation", "test")
SPLIT_ARGUMENTS = ("split_seed", "no_stratify", "group_duplicates")
READING_ARGUMENTS = ("image_root", "encoding", "data_config")


def run_arguments(model: str) -> dict[str, Any]:
    """The arguments in the `run.yaml` beside a model; empty where there is none."""
    return read_arguments(Path(model, "run.yaml"))


def parse_arguments(
    types: tuple[type, ...], argv: list[str] | None, description: str | None, defaults: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """Read the arguments of a script.

    How splits are made is by default as in the run that left the model, and how its own data are read, too.

    Args:
        types: The dataclasses; one of them has `model`.
        argv: The flags; None means those of the process.
        description: Docstring of the script.
        defaults: Defaults that replace those of the dataclasses.

    Returns:
        One instance of each type.
    """
    line = CommandLine(types, argv, description, defaults)
    given = vars(line.parser.parse_known_args(line.flags)[0])
    run = run_arguments(given["model"])
    names = SPLIT_ARGUMENTS + (READING_ARGUMENTS if _same_data(run.get("data"), given["data"]) else ())
    run = {name: run[name] for name in names if name in run}
    return CommandLine(types, argv, description, {**(defaults or {}), **run}).parse()


def _same_data(one: str | None, other: str | None) -> bool:
    """Whether two names mean the same data, however a path is spelled."""
    if one is None or other is None or not (Path(one).exists() and Path(other).exists()):
        return one == other
    return Path(one).resolve() == Path(other).resolve()


def load_rows(
    model: str, split: str | None, source: SourceArguments, *, prediction: bool = False, **options: Any
) -> LoadedData:
    """Load the data and keep the rows that are wanted as the only split, named `test`, or `predict` for prediction.

    Columns are looked for under the names that the model's run was given before the usual ones.

    Args:
        model: Folder or name of the model.
        split: One of `SPLITS`, for prediction also `predict`, or None: the first that the data give of `predict` (for
            prediction) and `test`; for evaluation on the data of the model's run its test split; else all rows.
        source: The data, and how missing splits are made.
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
    data = source.load(usual_columns=columns, splits=wanted, **options)
    given = DatasetDict({name: rows for name, rows in data.splits.items() if prediction or name != "predict"})
    if split is None:
        trained_on_them = not prediction and _same_data(run.get("data"), source.data)
        usual = ["predict", "test"] if prediction else ["test"]
        split = next((name for name in usual if name in given), "test" if trained_on_them else "all")
    if split == "all":
        rows = replace(data, splits=given, sources={name: data.sources[name] for name in given}).all_rows()
    else:
        as_given = data.generated or (split in given and split != "train")  # training may have left part of `train`
        splits = given if as_given else complete_splits(given, **source.split_options)
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
        config: The model's. A robust classifier answers from the one column that there is, with a warning.
        source: Where the data come from, for the message.

    Raises:
        ValueError: If a column is not there that the model needs.
    """
    sentences = missing_columns(data, modality_of(config), labels=False)
    left = [name for name in ("image", "text") if name in data.columns]
    if sentences and config.model_type == "multimodal_robust_fusion" and left:
        warnings.warn(f"{source}: {sentences[0]} All rows are answered from their {left[0]} alone.", stacklevel=3)
    elif sentences:
        robust = " Only a robust classifier answers from one side." if config.model_type == "multimodal_fusion" else ""
        alone = robust if left and modality_of(config) == "both" else ""
        raise ValueError(f"{source}: {' Also, '.join(sentences)}{alone}")
