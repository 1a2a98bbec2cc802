"""Turn a source's columns into the package's rows, noting on each row what is wrong with it."""

import ast
import contextlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, List, Value, concatenate_datasets

from hf_multimodal.data.archives import archives_in, locate
from hf_multimodal.data.conversations import MESSAGES_FEATURE, read_conversation
from hf_multimodal.data.images import IMAGE_SUFFIXES, is_url
from hf_multimodal.data.labels import LabelScheme
from hf_multimodal.data.tables import BadCell, ColumnNames

Fault = dict[str, str]

_MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}  # in a column a label
_NO_WORDS = (bytes, dict, list)
_SEVERAL = "the cell holds {} images, and an example has one: make a row of each, or keep one"
FAULT_FEATURE = List({"column": Value("string"), "value": Value("string"), "reason": Value("string")})


@dataclass
class SourceRows:
    """Rows of one source before its labels are numbers.

    Args:
        source: The file or data set they come from.
        images: Either `{"bytes", "path"}` dicts and None, or a data set with the one column `image`.
        texts: None where there is no text.
        labels: As they stand in the source.
        ids: Unique unless noted in `faults`.
        faults: For each row, what is wrong with it.
        label_names: Class names where the source declares them.
        extra: Columns kept as words, by our name: `image_id`, `group`.
        messages: Of conversations, those of each row, None where it has none that can be read.
        own: All columns of the source, where they are to be kept (`data.own_columns`).
    """

    source: str
    images: list[Any] | Dataset
    texts: list[str | None]
    labels: list[Any]
    ids: list[str]
    faults: list[list[Fault]]
    label_names: list[str] | None = None
    extra: dict[str, list[str | None]] = field(default_factory=dict)
    messages: list[Any] | None = None
    own: pa.Table | None = None

    def build(self, scheme: LabelScheme) -> Dataset:
        """Encode the labels and join `image`, `text`, `label`, `id`, `index`, `faults` and the extra columns."""
        labels, reasons = scheme.encode(self.labels)
        faults = [
            [*found, {"column": "label", "value": str(value), "reason": reason}] if reason else found
            for found, value, reason in zip(self.faults, self.labels, reasons, strict=True)
        ]
        columns: dict[str, Any] = {"text": self.texts, "label": labels, "id": self.ids}
        columns |= {"index": list(range(len(self.ids))), "faults": faults}
        features: dict[str, Any] = {"text": Value("string"), "label": scheme.feature, "id": Value("string")}
        features |= {"index": Value("int64"), "faults": FAULT_FEATURE}
        columns |= self.extra
        features |= dict.fromkeys(self.extra, Value("string"))
        if self.messages is not None:
            columns["messages"], features["messages"] = self.messages, MESSAGES_FEATURE
        if isinstance(self.images, Dataset):
            return concatenate_datasets([self.images, Dataset.from_dict(columns, features=Features(features))], axis=1)
        return Dataset.from_dict(
            {"image": self.images, **columns}, features=Features({"image": Image(decode=False), **features})
        )


def inside(root: str, value: str) -> str | None:
    """Join a relative path to a folder, or give None when it leaves the folder.

    The check reads the path only: a link inside the folder may point elsewhere, as in the Hub's own cache.

    Args:
        root: Absolute and normalised.
        value: A path relative to it, or an absolute one within it.

    Example:

    >>> inside("/data", "a/../b.jpg"), inside("/data", "../data2/b.jpg")
    ('/data/b.jpg', None)
    """
    joined = os.path.normpath(os.path.join(root, value))
    return joined if joined.startswith(root.rstrip(os.sep) + os.sep) else None


def faults_of(bad_cells: Sequence[BadCell], columns: ColumnNames, count: int, source: str) -> list[list[Fault]]:
    """What is wrong with the cells of each row, of the columns that are read.

    Args:
        bad_cells: Of the whole table.
        columns: The names of our columns.
        count: Number of rows.
        source: The table's name, for the message.

    Raises:
        ValueError: A cell is bad by which rows are grouped, which no policy can mend.
    """
    faults: list[list[Fault]] = [[] for _ in range(count)]
    ours = {theirs: name for name, theirs in columns.as_dict().items()}
    ours |= dict.fromkeys(columns.label if isinstance(columns.label, tuple) else (), "label")
    for row, column, value, reason in bad_cells:
        if ours.get(column) in ("image_id", "group"):
            raise ValueError(f"{source}, row {row}, column {column!r}, {value}: {reason}.")
        if column in ours:
            faults[row].append({"column": ours[column], "value": value, "reason": reason})
    return faults


def read_rows(
    raw: Dataset,
    columns: ColumnNames,
    source: str,
    root: Path | None,
    known_faults: Sequence[list[Fault]] | None = None,
) -> SourceRows:
    """Take our columns out of a source.

    Args:
        raw: The source's columns. Images may be paths, bytes, or an `Image` feature.
        columns: Their names.
        source: The source's name.
        root: Folder that image paths are relative to and may not leave. None, for data sets that bring their own
            images, leaves an `Image` feature untouched.
        known_faults: Faults that reading the source already found.

    Raises:
        ValueError: Images are given as paths but there is no `root`, or a row has several texts.
    """
    count = len(raw)
    if columns.text is not None and isinstance(raw.features[columns.text], List):
        raise ValueError(
            f"{source}, column {columns.text!r} holds several texts a row: make a row of each, which repeats the "
            "image."
        )
    named = [name for ours, name in columns.as_dict().items() if ours not in ("image", "label")]
    named += [columns.label] if isinstance(columns.label, str) else columns.label or ()
    cells = read_cells(raw, list(dict.fromkeys(named)), source)
    faults: list[list[Fault]] = [list(found) for found in known_faults] if known_faults else [[] for _ in range(count)]
    labels: list[Any] = [None] * count
    label_names: list[str] | None = None
    if isinstance(columns.label, str):
        labels, label_names = class_names_of_cells(raw.features[columns.label], cells[columns.label])
    elif columns.label is not None:
        label_names = list(columns.label)
        labels = _joined({name: cells[name] for name in columns.label}, faults)
    images = _images(raw, columns.image, source, root, faults)
    texts: list[str | None] = [None] * count
    messages = None
    if columns.conversation:
        answers = cells[columns.answer] if columns.answer else [None] * count
        texts, messages = _conversations(cells[columns.conversation], answers, _images_named(images, faults), faults)
    elif columns.text:
        texts = _texts(cells[columns.text], faults)
    return SourceRows(
        source=source,
        images=images,
        texts=texts,
        messages=messages,
        labels=labels,
        ids=_ids(cells[columns.id], faults) if columns.id else [str(i) for i in range(count)],
        faults=faults,
        label_names=label_names,
        extra={
            name: [clean_text(value) for value in cells[theirs]]
            for name, theirs in columns.as_dict().items()
            if name in ("image_id", "group")
        },
    )


def _images_named(images: list[Any] | Dataset, faults: list[list[Fault]]) -> list[int]:
    """How many images each row names, those included that cannot be found."""
    if isinstance(images, list):
        there = [image is not None for image in images]
    else:
        there = images.with_format("arrow")[:]["image"].is_valid().to_pylist()  # without their bytes
    lost = [any(fault["column"] == "image" for fault in found) for found in faults]
    return [int(found or gone) for found, gone in zip(there, lost, strict=True)]


def _conversations(
    cells: list[Any], answers: list[Any], images: list[int], faults: list[list[Fault]]
) -> tuple[list[str | None], list[Any]]:
    """All that is said, and the messages; None where there is no conversation, or one that cannot be read."""
    texts: list[str | None] = []
    conversations: list[Any] = []
    for row, (cell, answer, number) in enumerate(zip(cells, answers, images, strict=True)):
        text, messages = None, None
        try:
            if cell is not None:
                text, messages = read_conversation(cell, answer, number)
        except ValueError as error:
            faults[row].append({"column": "text", "value": _shown(cell), "reason": str(error).rstrip(".")})
        texts.append(text)
        conversations.append(messages)
    return texts, conversations


def _texts(values: list[Any], faults: list[list[Fault]]) -> list[str | None]:
    texts: list[str | None] = []
    for row, value in enumerate(values):
        if isinstance(value, _NO_WORDS):
            reason = f"a text must be a string, got {_kind(value)}"
            faults[row].append({"column": "text", "value": _shown(value), "reason": reason})
        texts.append(None if isinstance(value, _NO_WORDS) else clean_text(value))
    return texts


def _shown(value: Any) -> str:
    """A cell that is no word, short enough for a message."""
    return str(value) if len(str(value)) <= 80 else f"{str(value)[:77]}..."


def _kind(value: Any) -> str:
    return f"a dict with {sorted(value)}" if isinstance(value, dict) else f"a {type(value).__name__}"


def read_cells(raw: Dataset, columns: list[str], source: str) -> dict[str, list[Any]]:
    """Read columns into Python values, all rows of them.

    Args:
        raw: The source's columns.
        columns: Which.
        source: The source's name, for the message.

    Raises:
        ValueError: A cell is no value of Python's; its column is named.
    """
    try:
        return raw.select_columns(columns)[:] if columns else {}
    except Exception as error:  # a date beyond Python's years, a sound that no library decodes, ...
        if len(columns) > 1:
            return {column: read_cells(raw, [column], source)[column] for column in columns}
        raise ValueError(f"{source}, column {columns[0]!r}: its cells cannot be read ({error}).") from None


def clean_text(value: Any) -> str | None:
    """The text of a cell; None for an empty or a blank one."""
    if value is None or value != value:  # NaN, the only value unlike itself
        return None
    text = value if isinstance(value, str) else str(value)
    return text if text.strip() else None


def _images(
    raw: Dataset, column: str | None, source: str, root: Path | None, faults: list[list[Fault]]
) -> list[Any] | Dataset:
    if column is None:
        return [None] * len(raw)
    if isinstance(raw.features[column], Image) and root is None:
        image_rows = raw.select_columns([column])
        image_rows = image_rows if column == "image" else image_rows.rename_column(column, "image")
        return image_rows.cast_column("image", Image(decode=False))
    image_rows = raw.select_columns([column])
    if isinstance(raw.features[column], Image):
        image_rows = image_rows.cast_column(column, Image(decode=False))
    elif isinstance(raw.features[column], List) and isinstance(raw.features[column].feature, Image):
        image_rows = image_rows.cast_column(column, List(Image(decode=False)))
    base = None if root is None else os.path.abspath(root)
    archives = archives_in(base) if base is not None else []
    images: list[Any] = []
    for row, cell in enumerate(read_cells(image_rows, [column], source)[column]):
        value, reason = _only_one(cell)
        if reason is not None:
            faults[row].append({"column": "image", "value": str(cell)[:200], "reason": reason})
            images.append(None)
            continue
        if isinstance(value, bytes):
            value = {"bytes": value, "path": None}
        if isinstance(value, dict) and value.get("bytes") is not None:
            images.append({"bytes": value["bytes"], "path": value.get("path")})
            continue
        if isinstance(value, dict) and not value.get("path"):
            reason = f"an image must be a path, bytes, or a dict that fills one of the two, got {_kind(value)}"
            faults[row].append({"column": "image", "value": _shown(value), "reason": reason})
            images.append(None)
            continue
        path = value.get("path") if isinstance(value, dict) else value
        path = None if path is None else str(path).strip()
        if not path:
            images.append(None)
            continue
        if base is None:
            raise ValueError(f"{source}, column {column!r} holds paths such as {path!r}: name their image_root.")
        full, reason = None, "a URL is not fetched: download the image and give its path"
        if not is_url(path):
            full, reason = _find(base, path, archives)
        if full is None:
            faults[row].append({"column": "image", "value": path, "reason": reason})
        images.append(None if full is None else {"bytes": None, "path": full})
    return images


def _only_one(cell: Any) -> tuple[Any, str | None]:
    """The image of a cell that may be a list of one, or why there is none."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        for read in (json.loads, ast.literal_eval):  # as JSON or, from pandas, as Python writes a list
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # a path that begins so
                cell = read(cell)
                break
    if not isinstance(cell, list):
        return cell, None
    if len(cell) > 1:
        return None, _SEVERAL.format(len(cell))
    return (cell[0] if cell else None), None


def _find(base: str, path: str, archives: Sequence[Path]) -> tuple[str | None, str]:
    """The whole path of an image, in a zip archive where it is not in the folder, or None and why there is none."""
    full = inside(base, path)
    if full is None:
        return None, f"the path leaves the data folder {base!r}"
    parts = re.split(r"[|;,]", path)
    several = len(parts) > 1 and all(part.strip().lower().endswith(IMAGE_SUFFIXES) for part in parts)
    if not (archives or several) or os.path.exists(full):
        return full, ""
    try:
        found = locate(archives, os.path.relpath(full, base))
    except OSError as error:
        return None, f"it is not in the folder, and {error.strerror}"
    if len(found) > 1:
        return None, f"it is in several zip archives: {found}"
    return (None, _SEVERAL.format(len(parts))) if several and not found else (found[0] if found else full, "")


def class_names_of_cells(feature: Any, cells: list[Any]) -> tuple[list[Any], list[str] | None]:
    """Name the classes whose numbers a `ClassLabel` column holds.

    Args:
        feature: The feature of the column, perhaps a list of class labels.
        cells: Its cells.

    Returns:
        The cells with names for numbers, None where one is -1, and all names; of another column its cells and None.
    """
    inner = feature.feature if isinstance(feature, List) else feature
    if not isinstance(inner, ClassLabel):
        return cells, None
    names = inner.names

    def to_name(value: Any) -> Any:
        if isinstance(value, list):
            return [to_name(entry) for entry in value]
        return None if value is None or value < 0 else names[value]  # -1 marks an unlabelled row on the Hub

    return [to_name(value) for value in cells], names


def _joined(cells: dict[str, list[Any]], faults: list[list[Fault]]) -> list[list[str] | None]:
    """For each row the names of the columns that hold 1; None where all are empty, or one holds anything else."""
    labels: list[list[str] | None] = []
    for row, marks in enumerate(zip(*cells.values(), strict=True)):
        texts = [(clean_text(mark) or "").strip().lower() for mark in marks]
        wrong = next((i for i, text in enumerate(texts) if text not in _MARKS), None) if any(texts) else None
        if wrong is not None:
            reason = f"column {list(cells)[wrong]!r} must hold 0 or 1, as one of several columns of labels"
            faults[row].append({"column": "label", "value": _shown(marks[wrong]), "reason": reason})
        on = [name for name, text in zip(cells, texts, strict=True) if _MARKS.get(text)]
        labels.append(on if any(texts) and wrong is None else None)
    return labels


def _ids(values: list[Any], faults: list[list[Fault]]) -> list[str]:
    first: dict[str, int] = {}
    ids = []
    for row, value in enumerate(values):
        name = "" if value is None else str(value).strip()
        if isinstance(value, _NO_WORDS):
            reason = f"an id must be a word or a number, got {_kind(value)}"
            faults[row].append({"column": "id", "value": _shown(value), "reason": reason})
        elif not name:
            if not any(fault["column"] == "id" for fault in faults[row]):  # as of a cell that could not be held
                faults[row].append({"column": "id", "value": "", "reason": "an empty id"})
        elif name in first:
            reason = f"a duplicate id, first in row {first[name]}"
            faults[row].append({"column": "id", "value": name, "reason": reason})
        first.setdefault(name, row)
        ids.append(name)
    return ids
