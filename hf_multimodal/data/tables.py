"""Read CSV, TSV, JSONL and Parquet tables without changing what their cells say."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Json, concatenate_datasets

from .choices import check_choice, did_you_mean
from .encodings import decode_file

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
DEFAULT_COLUMNS = {
    "image": ("image", "image_path", "file_name"),
    "text": ("text",),
    "label": ("label",),
    "id": ("id", "guid"),
    "image_id": (),  # these two are read where they are named
    "group": (),
}
FLAGS = {"group": "group_by"}  # all others are named like `image_column`


# A list asks for all of its columns together, as those of several labels.
AskedColumns = Mapping[str, str | list[str] | tuple[str | list[str], ...] | None]


@dataclass(frozen=True)
class ColumnNames:
    """The source's names of the columns that this package calls `image`, `text`, `label` and so on; None if absent.

    Of labels there may be several columns, each of 0 and 1 and named like its class.
    """

    image: str | None = None
    text: str | None = None
    label: str | tuple[str, ...] | None = None
    id: str | None = None
    image_id: str | None = None
    group: str | None = None

    def as_dict(self) -> dict[str, str]:
        """The columns that are there, by our name; several of labels are joined by commas."""
        found = {ours: theirs for ours, theirs in asdict(self).items() if theirs is not None}
        return {ours: theirs if isinstance(theirs, str) else ", ".join(theirs) for ours, theirs in found.items()}


def find_columns(available: Sequence[str], asked: AskedColumns, source: str) -> ColumnNames:
    """Match the columns that were asked for, or the usual names, against those that a source has.

    Args:
        available: The source's column names.
        asked: For each of `image`, `text`, `label`, `id`, `image_id` and `group` the name the user gave, of `label`
            perhaps a list of several, a tuple of names to look for before the usual ones (an empty one if the column
            is not wanted), or None.
        source: The source's name, for messages.

    Raises:
        ValueError: A column that was asked for is not there, or there is neither an image nor a text column.

    Example:

    >>> find_columns(["picture", "caption"], {"image": "picture", "text": "captoin"}, "a.csv")
    Traceback (most recent call last):
    ...
    ValueError: a.csv has no column 'captoin' (text_column), its columns are ['picture', 'caption']. Did you mean \
'caption'?
    """
    found: dict[str, Any] = {}
    for ours, usual in DEFAULT_COLUMNS.items():
        name = asked.get(ours)
        if isinstance(name, (str, list)):
            for one in _as_list(name):
                if one not in available:
                    flag = FLAGS.get(ours, f"{ours}_column")
                    raise ValueError(
                        f"{source} has no column {one!r} ({flag}), its columns are {list(available)}."
                        f"{did_you_mean(one, available)}"
                    )
            found[ours] = name
        elif name != ():  # what names the pictures does not name the rows
            looked_for = (n for n in (*(name or ()), *usual) if n != asked.get("image_id"))
            found[ours] = next((n for n in looked_for if set(_as_list(n)) <= set(available)), None)
        if isinstance(found.get(ours), list):
            found[ours] = tuple(found[ours])
    if found.get("image") is None and found.get("text") is None:
        delimiter = next((mark for mark in ";\t|" if len(available) == 1 and mark in available[0]), None)
        advice = "name them with image_column and text_column."
        if delimiter is not None:
            advice = f"it looks delimited by {delimiter!r}; save it with commas, or as .tsv with tabs."
        raise ValueError(
            f"{source} has neither an image nor a text column under the usual names, its columns are "
            f"{list(available)}: {advice}"
        )
    return ColumnNames(**found)


def one_or_several(columns: str | Sequence[str]) -> str | list[str]:
    """A name by itself, also where it stands alone in a list; else the list.

    Example:

    >>> one_or_several(["label"]), one_or_several(["sea", "sun"])
    ('label', ['sea', 'sun'])
    """
    return columns if isinstance(columns, str) else columns[0] if len(columns) == 1 else list(columns)


def _as_list(name: str | list[str]) -> list[str]:
    return [name] if isinstance(name, str) else name


def read_table(path: Path, encoding: str | None = None) -> tuple[Dataset, str | None]:
    """Read a table whole, every CSV and TSV cell as the string that stands there.

    The words "NaN", "None", "null" and "NA" stay text; what an empty cell means is decided by the column it is in.

    Args:
        path: A file with one of `TABLE_SUFFIXES`.
        encoding: Replaces the choice of an encoding when a text table is not UTF-8.

    Returns:
        The columns, and the encoding (None for Parquet).

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Unknown suffix, undecodable or malformed content (the line is named), or no rows.
    """
    check_choice("the table's suffix", path.suffix.lower(), TABLE_SUFFIXES)
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {str(path)!r}.")
    found: str | None = None
    if path.suffix.lower() == ".parquet":
        try:
            table = Dataset(pq.read_table(path))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: not a readable Parquet file ({error}).") from None
    else:
        text, found = decode_file(path.read_bytes(), str(path), encoding)
        columns = _jsonl(text, path) if path.suffix.lower() == ".jsonl" else _delimited(text, path)
        parts = [_column(name, _uniform(values)) for name, values in columns.items()]
        table = concatenate_datasets(parts, axis=1) if parts else Dataset.from_dict({})
    if not len(table):
        raise ValueError(f"{path} has no rows.")
    return table, found


def _delimited(text: str, path: Path) -> dict[str, list[str]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)  # an open quote is an error
    previous_limit = csv.field_size_limit(len(text) + 1)  # the default stops at 131,072 characters a cell
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise ValueError(f"{path}: a column name stands twice in {header}.")
        rows = []
        for row in reader:
            if not row:  # a blank line
                continue
            if len(row) != len(header):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(row)} cells under {len(header)} columns {header}. "
                    "A cell that holds the delimiter or a line break must be quoted."
                )
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from None
    finally:
        csv.field_size_limit(previous_limit)
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _jsonl(text: str, path: Path) -> dict[str, list[Any]]:
    records = []
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}).") from None
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: a JSON object is expected, got {line.strip()[:40]!r}.")
        records.append(record)
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _uniform(values: list[Any]) -> list[Any]:
    """Write a column of mixed kinds (numbers and words) as words, since Arrow has one type a column.

    JSON's bare `NaN`, with which pandas writes a missing cell, is a missing cell here too; the string "NaN" is text.
    """
    values = [None if value != value else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    mixed = len(kinds) > 1 and kinds != {int, float} and not kinds & {list, dict}
    return [value if value is None else str(value) for value in values] if mixed else values


def _column(name: str, values: list[Any]) -> Dataset:
    """Build one column; one for which Arrow has no type (lists beside words) keeps its values as JSON."""
    try:
        return Dataset.from_dict({name: values})
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # Written out here, since `Json` takes a word that looks like JSON, such as null, for JSON.
        written = [None if value is None else json.dumps(value) for value in values]
        return Dataset.from_dict({name: written}, features=Features({name: Json()}))
