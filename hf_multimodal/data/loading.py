"""One door for every kind of data: `load_data`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Value, concatenate_datasets, load_dataset, load_from_disk
from transformers.utils import logging

from hf_multimodal.data.conversations import CONVERSATION_COLUMNS, FORMS
from hf_multimodal.data.folders import SPLIT_NAMES, find_tables
from hf_multimodal.data.labels import LabelError, check_label_columns, infer_scheme, notation_warnings
from hf_multimodal.data.own_columns import own_columns
from hf_multimodal.data.pairs import name_images
from hf_multimodal.data.rows import SourceRows, faults_of, read_cells, read_rows
from hf_multimodal.data.sidecar_text import (
    SIDECAR_COLUMNS,
    add_texts,
    is_sidecar_folder,
    read_image_folder,
    read_sidecar_folder,
)
from hf_multimodal.data.tables import (
    TABLE_SUFFIXES,
    AskedColumns,
    ColumnNames,
    check_class_numbers,
    find_columns,
    one_or_several,
    read_table,
)
from hf_multimodal.synthetic.classification import CLASS_NAMES, CONTROLLED_TASKS, make_controlled
from hf_multimodal.synthetic.questions import QUESTION_TASKS, make_questions
from hf_multimodal.synthetic.retrieval import RETRIEVAL_TASKS, SHAPES, make_retrieval
from hf_multimodal.validation import did_you_mean

logger = logging.get_logger(__name__)

_CONTROLLED = "controlled:"


@dataclass(frozen=True)
class LoadedData:
    """Rows by split, and what is known about them.

    Args:
        splits: Those that the source gives: `train`, `validation`, `test`, and `predict` for rows to be predicted. A
            source without splits is all `train`. Columns `image`, `text`, `label`, `id`, `index`, and `faults`,
            which `check_splits` reads and removes.
        id2label: Class names by number; empty for regression and where nothing is labelled.
        problem_type: As transformers names it.
        sources: The file or data set behind each split.
        columns: The source's names of our columns.
        report: For people: `kind`, `encodings`, and what else is known of a kind of source.
        generated: The images were drawn by this package and need no check.
        warnings: What is odd about the labels, in sentences that were logged.
        refusals: Why no model should be trained on them, in sentences.
        own_columns: The columns of each file or data set, a row for each of its rows; empty unless they were to be
            kept.
    """

    splits: DatasetDict
    id2label: dict[int, str]
    problem_type: str
    sources: dict[str, str]
    columns: dict[str, str]
    report: dict[str, Any] = field(default_factory=dict)
    generated: bool = False
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    own_columns: dict[str, pa.Table] = field(default_factory=dict)

    def own_rows(self, split: str) -> pa.Table | None:
        """The source's own columns for the rows of a split, as far as `load_data` was told to keep them."""
        table = self.own_columns.get(self.sources[split])
        return None if table is None else table.take(pa.array(self.splits[split]["index"][:], pa.int64()))

    def all_rows(self) -> Dataset:
        """Join the splits of one source in its own order, as predicting a whole table needs it.

        Raises:
            ValueError: The splits come from several sources.
        """
        sources = sorted(set(self.sources.values()))
        if len(sources) > 1:
            raise ValueError(f"the data come from several sources, name one of them: {sources}, or a split.")
        rows = concatenate_datasets(list(self.splits.values()))
        return rows if len(self.splits) == 1 else rows.select(np.argsort(rows["index"][:]))


def load_data(
    data: str | Path,
    *,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    id_column: str | None = None,
    image_id_column: str | None = None,
    group_column: str | None = None,
    answer_column: str | None = None,
    pairs: bool = False,
    conversations: bool = False,
    image_root: str | Path | None = None,
    encoding: str | None = None,
    problem_type: str | None = None,
    label_names: Sequence[str] | None = None,
    untrained_names: bool = False,
    config_name: str | None = None,
    usual_columns: Mapping[str, str | Sequence[str]] | None = None,
    splits: Sequence[str] | None = None,
    keep_columns: bool = False,
    train_size: int = 16_000,
    validation_size: int = 2_000,
    test_size: int = 8_000,
    seed: int = 0,
) -> LoadedData:
    """Load images, texts and labels from any supported place.

    Nothing is refused for a single bad row here: a path that leaves the folder, an unknown label, an unreadable text
    or a duplicate id is noted in the row's `faults`, and `check_splits` deals with all of them at once.

    In the sidecar-text layout each text is a file beside its image: `1.txt` beside `1.jpg`. Any folder of images is
    read so (`data.sidecar_text.read_image_folder`). Sub-folders name the classes (`dog/1.jpg`, `dog/1.txt`), or a
    table does (`metadata.csv` or `.jsonl` with `file_name` and `label`, without a column of texts); without either the
    rows are unlabelled. Splits are folders `train/`, `validation/` and `test/`. An image without a text, and a text
    without an image, is a row that lacks the other. A folder may also hold two lists of lines `guid,tag`, `train.txt`
    and `test_without_label.txt`, beside `data/{guid}.jpg` and `data/{guid}.txt`.

    Args:
        data: A CSV, TSV, JSON, JSONL or Parquet table; a folder of tables named by split; a folder in the `datasets`
            ImageFolder convention (`metadata.csv` or `.jsonl`); a folder of images; a folder in the sidecar-text
            layout; a folder saved by `datasets`; `controlled:<task>`; else the name of a data set on the Hub.
        image_column: Name of the column of images; None looks for `image`, `image_path`, `file_name`.
        text_column: None looks for `text`, with `pairs` first for `caption`, with `conversations` for `messages`,
            `conversations` and `question`.
        label_column: None looks for `label`. Rows may be unlabelled. Several columns are one of 0 and 1 a label, each
            named by it.
        id_column: None looks for `id`, `guid`, else rows are numbered.
        image_id_column: Column that names the image of a row; rows of one image share it.
        group_column: Column kept as `group`, by which results are reported apart.
        answer_column: Column of the answers to questions; with `conversations` None looks for `answer`.
        pairs: The rows are images with captions: no label is read, and the column `image_id` is there in any case.
            By default it is the path of the image, or a hash of it where it comes without a file.
        conversations: The rows are conversations: no label is read, and there is a column `messages` (`role` and
            `content`, in which `<image>` stands for an image); `text` is all that is said.
        image_root: Folder that image paths are relative to; by default the table's own.
        encoding: For texts that are not UTF-8, in place of a decision by plausibility.
        problem_type: As transformers names it; None reads it off the labels.
        label_names: The classes in order, as those of a trained model. By default they are read off the training
            labels.
        untrained_names: Read the classes off the labels of all splits; without, a label that only other splits than
            the training rows have is a bad sample.
        config_name: Configuration of a data set on the Hub.
        usual_columns: Names to look for before the usual ones, by our name of the column; they need not be there.
        splits: The controlled splits that are wanted; None means all. Other data are always read whole.
        keep_columns: Keep all columns of a table or a data set beside the rows, for `LoadedData.own_rows`; images in
            memory are not kept twice.
        train_size: Rows of the controlled training split.
        validation_size: Rows of the controlled validation split.
        test_size: Rows of the controlled test split.
        seed: Of the controlled data.

    Raises:
        FileNotFoundError: A path that does not exist.
        ValueError: An unknown task, column, encoding or split name, a folder of no known layout, an option that the
            kind of data does not use, or several label columns that are not the classes.
    """
    name = str(data)
    named: dict[str, Any] = {"image_column": image_column, "text_column": text_column, "label_column": label_column}
    named |= {"id_column": id_column, "image_id_column": image_id_column, "image_root": image_root}
    if name.startswith(_CONTROLLED):
        sizes = {"train": train_size, "validation": validation_size, "test": test_size}
        if conversations:
            _refuse_unused(name, "controlled", {**named, "encoding": encoding, "data_config": config_name})
            return _generate_questions(name, {split: sizes[split] for split in splits or sizes}, seed)
        usual = SHAPES if name.removeprefix(_CONTROLLED) in RETRIEVAL_TASKS else CLASS_NAMES
        foreign = label_names is not None and list(label_names) != usual
        options = {**named, "encoding": encoding, "data_config": config_name}
        options["problem_type"] = None if problem_type == "single_label_classification" else problem_type
        _refuse_unused(name, "controlled", {**options, "label_names": label_names if foreign else None})
        found = _load_controlled(name, {split: sizes[split] for split in splits or sizes}, seed, group_column)
        return _name_all_images(found) if pairs else found
    asked: dict[str, Any] = {ours: (one_or_several(usual),) for ours, usual in (usual_columns or {}).items()}
    label = None if label_column is None else one_or_several(label_column)
    if isinstance(label, list):
        check_label_columns(label, label_names, problem_type)
    given = {"image": image_column, "text": text_column, "label": label, "id": id_column}
    given |= {"image_id": image_id_column, "group": group_column}
    if pairs:
        asked = {"text": ("caption",), **asked, "label": ()}
    if conversations:
        given = {"image": image_column, "conversation": text_column, "id": id_column, "group": group_column}
        given |= {"answer": answer_column}
        asked = {
            "image": ("image", "images"),
            "answer": ("answer",),
            **asked,
            "conversation": (*asked.get("text", ()), *CONVERSATION_COLUMNS),
        }
        asked |= {"text": (), "label": (), "image_id": ()}
    asked |= {ours: column for ours, column in given.items() if column is not None}
    root = None if image_root is None else Path(image_root)
    path = Path(name)
    if path.exists():
        _refuse_unused(name, "local", {"data_config": config_name})
    if path.is_file():
        parts, columns, report = _load_tables({"train": path}, asked, root, encoding, keep_columns)
    elif not path.is_dir():
        parts, columns, report = _load_hub(name, config_name, asked, root, keep_columns)
    elif (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        parts, columns, report = _load_datasets(load_from_disk(name), name, asked, root, keep_columns)
        report["kind"] = "saved by datasets"
    elif is_sidecar_folder(path):
        _refuse_unused(name, "sidecar-text", {**named, "group_by": group_column})
        parts, columns, report = _load_lists(path, encoding)
    else:
        parts, columns, report = _load_folder(path, asked, root, encoding, keep_columns)
    if conversations:
        if "conversation" not in columns:
            raise ValueError(
                f"{name} has no conversations, which stand in {FORMS}; its columns are "
                f"{list(report.get('columns', []))}: name the one that is meant with --text_column."
            )
        columns["text"] = columns.pop("conversation")
    found = _assemble(parts, columns, report, problem_type, label_names, untrained_names)
    return _name_all_images(found) if pairs else found


def _name_all_images(data: LoadedData) -> LoadedData:
    return replace(data, splits=DatasetDict({name: name_images(rows) for name, rows in data.splits.items()}))


def _refuse_unused(name: str, kind: str, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        if value is not None:
            raise ValueError(f"{option} {str(value)!r} has no use with {kind} data such as {name!r}.")


Parts = dict[str, tuple[SourceRows, Sequence[int] | None]]  # split: its source, and which rows of it (None: all)
_Loaded = tuple[Parts, dict[str, str], dict[str, Any]]


def _assemble(
    parts: Parts,
    columns: dict[str, str],
    report: dict[str, Any],
    problem_type: str | None,
    label_names: Sequence[str] | None,
    untrained_names: bool,
) -> LoadedData:
    """Number the labels by the training rows and build each source once."""
    labels = {
        split: rows.labels if chosen is None else [rows.labels[i] for i in chosen]
        for split, (rows, chosen) in parts.items()
    }
    declared = label_names or next((rows.label_names for rows, _ in parts.values() if rows.label_names), None)
    learned_from = ["train"] if "train" in labels and not untrained_names else list(labels)
    try:
        scheme = infer_scheme((label for split in learned_from for label in labels[split]), problem_type, declared)
    except LabelError as error:
        places = [
            (rows.source, row)
            for rows, chosen in map(parts.__getitem__, learned_from)
            for row in (range(len(rows.labels)) if chosen is None else chosen)
        ]
        source, row = places[error.place]
        raise ValueError(f"{source}, row {row}, column {columns['label']!r}: {error}") from None
    built: dict[int, Dataset] = {}
    for rows, _ in parts.values():
        if id(rows) not in built:
            built[id(rows)] = rows.build(scheme)
    splits = {
        split: built[id(rows)] if chosen is None else built[id(rows)].select(chosen)
        for split, (rows, chosen) in parts.items()
    }
    sources = {split: rows.source for split, (rows, _) in parts.items()}
    warnings = notation_warnings(scheme, [label for found in labels.values() for label in found])
    for sentence in warnings:
        logger.warning("%s: %s", next(iter(sources.values())), sentence)
    return LoadedData(
        DatasetDict(splits),
        dict(enumerate(scheme.names)),
        scheme.problem_type,
        sources,
        columns,
        report,
        warnings=tuple(warnings),
        own_columns={rows.source: rows.own for rows, _ in parts.values() if rows.own is not None},
    )


def _load_controlled(name: str, sizes: Mapping[str, int], seed: int, group: str | None) -> LoadedData:
    task = name.removeprefix(_CONTROLLED)
    known = [*CONTROLLED_TASKS, *RETRIEVAL_TASKS]
    if task in QUESTION_TASKS:
        raise ValueError(f"controlled task {task!r} is one of conversations: `train-vision-language` learns from it.")
    if task not in known:
        raise ValueError(f"the controlled task must be one of {known}, got {task!r}.{did_you_mean(task, known)}")

    def make(size: int, split: str) -> Dataset:
        if task in RETRIEVAL_TASKS:
            return make_retrieval(size, seed=seed, split=split, hold_out=RETRIEVAL_TASKS[task])
        return make_controlled(task, size=size, seed=seed, split=split)

    splits = DatasetDict({split: make(size, split) for split, size in sizes.items()})
    features = next(iter(splits.values())).features
    if group is not None:
        find_columns(list(features), {"group": group}, name)  # refuses one that is not there
        splits = DatasetDict({s: rows.add_column("group", list(map(str, rows[group]))) for s, rows in splits.items()})
    label = features["label"]
    assert isinstance(label, ClassLabel)
    return LoadedData(
        splits,
        dict(enumerate(label.names)),
        "single_label_classification",
        dict.fromkeys(sizes, name),
        {column: column for column in ("image", "text", "label", "id")},
        {"kind": "controlled", "encodings": {}},
        generated=True,
    )


def _generate_questions(name: str, sizes: Mapping[str, int], seed: int) -> LoadedData:
    task = name.removeprefix(_CONTROLLED)
    known = list(QUESTION_TASKS)
    if task not in known:
        raise ValueError(
            f"the controlled task of conversations must be one of {known}, got {task!r}.{did_you_mean(task, known)}"
        )
    splits = {}
    for split, size in sizes.items():
        rows = make_questions(size, seed=seed, split=split, **QUESTION_TASKS[task])
        texts = ["\n".join(message["content"] for message in messages) for messages in rows["messages"][:]]
        labels: list[None] = [None] * len(rows)
        splits[split] = rows.add_column("text", texts, feature=Value("string")).add_column(
            "label", labels, feature=Value("null")
        )
    columns = {"image": "image", "text": "messages", "id": "id"}
    report = {"kind": "controlled", "encodings": {}}
    return LoadedData(
        DatasetDict(splits),
        {},
        "single_label_classification",
        dict.fromkeys(sizes, name),
        columns,
        report,
        generated=True,
    )


def _load_tables(
    tables: Mapping[str, Path], asked: AskedColumns, root: Path | None, encoding: str | None, keep: bool
) -> _Loaded:
    parts: Parts = {}
    columns = ColumnNames()
    available: list[str] = []
    encodings: dict[str, int] = {}
    for split, path in tables.items():
        raw, found, bad_cells = read_table(path, encoding)
        found_columns = find_columns(raw.column_names, asked, str(path))
        if not parts:  # the training table, where there is one
            columns, available = found_columns, raw.column_names
        check_class_numbers(raw, found_columns.label, str(path))
        faults = faults_of(bad_cells, found_columns, len(raw), str(path))
        rows = read_rows(raw, found_columns, str(path), root or path.parent, faults)
        rows.own = own_columns(raw) if keep else None
        if found is not None:
            encodings[found] = encodings.get(found, 0) + 1
        if len(tables) == 1 and "split" in raw.column_names and "split" not in found_columns.as_dict().values():
            by_split = _by_split(read_cells(raw, ["split"], str(path))["split"], path)
            parts.update({name: (rows, chosen) for name, chosen in by_split.items()})
        else:
            parts[split] = (rows, None)
    return parts, columns.as_dict(), {"kind": "table", "encodings": encodings, "columns": available}


def _by_split(values: list[Any], path: Path) -> dict[str, list[int]]:
    chosen: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        split = SPLIT_NAMES.get(str(value).strip().lower())
        if split is None:
            raise ValueError(
                f"{path}, row {row}, column 'split' must be one of {list(SPLIT_NAMES)}, got {value!r}."
                f"{did_you_mean(str(value), SPLIT_NAMES)}"
            )
        chosen.setdefault(split, []).append(row)
    return {split: chosen[split] for split in ("train", "validation", "test") if split in chosen}


def _load_folder(folder: Path, asked: AskedColumns, root: Path | None, encoding: str | None, keep: bool) -> _Loaded:
    """Find metadata files (ImageFolder), tables named by split, or images, named by their paths."""
    metadata, tables = find_tables(folder)
    if metadata:
        asked = {**asked, "image": asked.get("image") or "file_name"}
        parts, columns, report = _load_tables(metadata, asked, root, encoding, keep)
        report["kind"] = "ImageFolder"
        if "text" not in columns:
            encodings, unlisted = add_texts(list({id(rows): rows for rows, _ in parts.values()}.values()), encoding)
            if encodings:
                columns["text"] = columns["image"]  # whose cells name the texts
                report |= {"kind": "sidecar-text", "text_encodings": encodings, "unlisted": unlisted}
        return parts, columns, report
    if tables:
        return _load_tables(tables, asked, root, encoding, keep)
    rows, encodings = read_image_folder(folder, encoding, classes=asked.get("label") != ())
    if rows:
        with_texts = any("text" in part.rows.column_names for part in rows.values())
        kind = "sidecar-text" if with_texts else "images"
        _refuse_unused(str(folder), "image", {"image_root": root, "encoding": None if with_texts else encoding})
        available = next(iter(rows.values())).rows.column_names
        found = find_columns(available, asked, str(folder))
        parts = {
            split: (read_rows(part.rows, found, str(part.path), folder, part.faults), None)
            for split, part in rows.items()
        }
        return _to_predict(parts), found.as_dict(), {"kind": kind, "encodings": encodings, "columns": available}
    raise ValueError(
        f"the folder {str(folder)!r} has no known layout. Expected are metadata.csv or metadata.jsonl (ImageFolder, "
        "also in train/ and test/, or within train.zip and test.zip), tables such as train.csv and test.csv, images, "
        "alone or with texts (1.txt beside 1.jpg), train.txt beside data/, or a data set written by save_to_disk."
    )


def _load_lists(folder: Path, encoding: str | None) -> _Loaded:
    lists, encodings, unlisted = read_sidecar_folder(folder, encoding)
    parts: Parts = {
        split: (read_rows(part.rows, SIDECAR_COLUMNS, str(part.path), folder, part.faults), None)
        for split, part in lists.items()
    }
    report = {"kind": "sidecar-text", "encodings": encodings, "unlisted": unlisted}
    return parts, {"image": "guid", "text": "guid", "label": "tag", "id": "guid"}, report


def _load_datasets(
    loaded: Dataset | DatasetDict, source: str, asked: AskedColumns, root: Path | None, keep: bool
) -> _Loaded:
    given = loaded if isinstance(loaded, dict) else {"train": loaded}
    parts: Parts = {}
    columns = ColumnNames()
    available: list[str] = []
    for name, raw in given.items():
        split = SPLIT_NAMES.get(str(name).lower())
        if split is None:
            continue
        found = find_columns(raw.column_names, asked, source)
        check_class_numbers(raw, found.label, f"{source} ({name})")
        if split == "train" or not parts:
            columns, available = found, raw.column_names
        rows = read_rows(raw, found, f"{source} ({name})", root)
        rows.own = own_columns(raw) if keep else None
        parts[split] = (rows, None)
    if not parts:
        raise ValueError(f"{source} has none of the splits {list(SPLIT_NAMES)}, it has {list(given)}.")
    ignored = [str(name) for name in given if SPLIT_NAMES.get(str(name).lower()) is None]
    if ignored:
        logger.warning("%s: the splits %s are left out, which are none of %s.", source, ignored, list(SPLIT_NAMES))
    report = {"kind": "datasets", "encodings": {}, "columns": available, "ignored_splits": ignored}
    return _to_predict(parts), columns.as_dict(), report


def _to_predict(parts: Parts) -> Parts:
    """Name a test split without labels `predict` where training has some, as the Hub's benchmarks keep theirs back."""
    labelled = {split: not all(label in (None, -1) for label in rows.labels) for split, (rows, _) in parts.items()}
    if labelled.get("train") and not labelled.get("test", True):
        parts["predict"] = parts.pop("test")
    return parts


def _load_hub(name: str, config_name: str | None, asked: AskedColumns, root: Path | None, keep: bool) -> _Loaded:
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.lower().endswith(TABLE_SUFFIXES)
    if looks_local:
        folder = Path(name).parent
        beside = [file.name for file in folder.iterdir()] if folder.is_dir() else []
        raise FileNotFoundError(f"there is no file or folder {name!r}.{did_you_mean(Path(name).name, beside)}")
    if ":" in name:  # no name on the Hub has one
        hint = did_you_mean(name, [_CONTROLLED + task for task in (*CONTROLLED_TASKS, *RETRIEVAL_TASKS)])
        raise ValueError(f"data {name!r} is neither a file, a folder, '{_CONTROLLED}<task>' nor a Hub name.{hint}")
    try:
        loaded = load_dataset(name, config_name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"data {name!r} is neither a file, a folder, nor a data set that the Hub gives ({error})."
        ) from error
    parts, columns, report = _load_datasets(loaded, name, asked, root, keep)
    return parts, columns, {**report, "kind": "Hub"}
