"""Read CSV, TSV, JSON, JSONL and Parquet tables without changing what their cells say."""

import contextlib
import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Json, List, concatenate_datasets

from hf_multimodal.data.archives import is_file, read_file
from hf_multimodal.data.charsets import decode_file
from hf_multimodal.validation import check_choice, did_you_mean

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
DEFAULT_COLUMNS = {
    "image": ("image", "image_path", "file_name"),
    "text": ("text",),
    "label": ("label",),
    "id": ("id", "guid"),
    "image_id": (),  # these are read where they are named
    "group": (),
    "conversation": (),
    "answer": (),
}
FLAGS = {"group": "group_by", "conversation": "text_column"}  # all others are named like `image_column`


MAX_DEPTH = 32  # of lists and objects within a cell of JSON

_HALF = re.compile(
    r"\\u[dD][89a-fA-F]"
)  # a surrogate escape of JSON: half a character, whole only beside its other half

# A list asks for all of its columns together, as those of several labels.
AskedColumns = Mapping[str, str | list[str] | tuple[str | list[str], ...] | None]


class BadCell(NamedTuple):
    """A cell that cannot be held as it stands in its file; in the table it is empty.

    Args:
        row: Its row, from 0 below the header.
        column: The file's name of the column.
        value: What stands there, in ASCII.
        reason: What is wrong with it.
    """

    row: int
    column: str
    value: str
    reason: str


class Table(NamedTuple):
    """A table as read: its columns, the encoding of its file (None for Parquet), and its bad cells."""

    rows: Dataset
    encoding: str | None
    bad_cells: list[BadCell]


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
    conversation: str | None = None
    answer: str | None = None

    def as_dict(self) -> dict[str, str]:
        """The columns that are there, by our name; several of labels are joined by commas."""
        found = {ours: theirs for ours, theirs in asdict(self).items() if theirs is not None}
        return {ours: theirs if isinstance(theirs, str) else ", ".join(theirs) for ours, theirs in found.items()}


def find_columns(available: Sequence[str], asked: AskedColumns, source: str) -> ColumnNames:
    """Match the columns that were asked for, or the usual names, against those that a source has.

    Args:
        available: The source's column names.
        asked: For each of the fields of `ColumnNames` the name the user gave, of `label` perhaps a list of several, a
            tuple of names to look for before the usual ones (an empty one if the column is not wanted), or None.
        source: The source's name, for messages.

    Names that are one word in different Unicode normal forms are the same name.

    Raises:
        ValueError: A column that was asked for is not there, two columns have the name that is looked for, or there is
            neither an image nor a text column.

    Example:

    >>> find_columns(["image", "caption"], {"image": "image", "text": "captoin"}, "a.csv")
    Traceback (most recent call last):
    ...
    ValueError: a.csv has no column 'captoin' (text_column), its columns are ['image', 'caption']. Did you mean \
'caption'?
    """
    found: dict[str, Any] = {}
    forms: dict[str, list[str]] = {}
    for column in available:
        forms.setdefault(unicodedata.normalize("NFC", column), []).append(column)

    def spelled(name: str) -> str | None:
        """The source's spelling of a name."""
        same = forms.get(unicodedata.normalize("NFC", name), [])
        if len(same) > 1:
            spellings = ", ".join(map(ascii, same))
            raise ValueError(
                f"{source}: the columns {spellings} differ in their Unicode normal form only: rename one."
            )
        return next(iter(same), None)

    def all_spelled(name: str | list[str]) -> str | tuple[str, ...] | None:
        """The source's spelling of a name, or of all of several."""
        if isinstance(name, str):
            return spelled(name)
        names = tuple(spelling for one in name if (spelling := spelled(one)) is not None)
        return names if len(names) == len(name) else None

    for ours, usual in DEFAULT_COLUMNS.items():
        name = asked.get(ours)
        if isinstance(name, (str, list)):
            for one in _as_list(name):
                if spelled(one) is None:
                    flag = FLAGS.get(ours, f"{ours}_column")
                    raise ValueError(
                        f"{source} has no column {one!r} ({flag}), its columns are {list(available)}."
                        f"{did_you_mean(one, available)}"
                    )
            found[ours] = all_spelled(name)
        elif name != ():  # what names the images does not name the rows
            looked_for = (n for n in (*(name or ()), *usual) if n != asked.get("image_id"))
            found[ours] = next(filter(None, map(all_spelled, looked_for)), None)
    if not any(found.get(name) for name in ("image", "text", "conversation")):
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


def read_table(path: Path, encoding: str | None = None) -> Table:
    """Read a table whole, every CSV and TSV cell as the string that stands there.

    The words "NaN", "None", "null" and "NA" stay text; what an empty cell means is decided by the column it is in.

    Args:
        path: A file with one of `TABLE_SUFFIXES`, perhaps in a zip archive.
        encoding: Replaces the choice of an encoding when a text table is not UTF-8.

    Returns:
        The columns, the encoding (None for Parquet), and the cells that cannot be held as they are.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Unknown suffix, undecodable or malformed content (the line is named), or no rows.
    """
    check_choice("the table's suffix", path.suffix.lower(), TABLE_SUFFIXES)
    if not is_file(path):
        raise FileNotFoundError(f"there is no table {str(path)!r}.")
    found: str | None = None
    bad: list[BadCell] = []
    if path.suffix.lower() == ".parquet":
        table = _parquet(path)
    else:
        text, found = decode_file(read_file(path), str(path), encoding)
        if path.suffix.lower() in (".json", ".jsonl"):
            columns, bad = _json(text, path)
        else:
            columns = _delimited(text, path)
        _check_names(columns, path)
        table = _joined({name: _uniform(values) for name, values in columns.items()})
    if not len(table):
        raise ValueError(f"{path} has no rows.")
    return Table(table, found, bad)


def check_class_numbers(rows: Dataset, column: str | tuple[str, ...] | None, source: str) -> None:
    """Refuse numbers of classes beyond the names that a data set declares for them.

    Args:
        rows: Columns as read.
        column: That of the labels, or None; several hold 0 and 1 each, and no numbers of classes.
        source: The source's name, for the message.

    Raises:
        ValueError: There is such a number; the row is named.
    """
    feature = rows.features[column] if isinstance(column, str) else None
    feature = feature.feature if isinstance(feature, List) else feature
    if not isinstance(feature, ClassLabel):
        return
    count = len(feature.names)
    for row, value in enumerate(rows[column][:]):
        for number in value if isinstance(value, list) else [value]:
            if number is not None and number >= count:
                raise ValueError(
                    f"{source}, row {row}, column {column!r}: class number {number}, but the data set names {count} "
                    "classes, which are counted from 0."
                )


def _check_names(names: Iterable[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if "\0" in name:
            raise ValueError(
                f"{path}: the column name {ascii(name)} holds a NUL character. A table in UTF-16 or UTF-32 without a "
                "byte order mark looks so: save it as UTF-8."
            )
        if name in seen:
            raise ValueError(f"{path}: a column name stands twice in {list(names)}.")
        seen.add(name)


def _parquet(path: Path) -> Dataset:
    with _naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
        table.validate(full=True)  # bytes that are no UTF-8 show here, and not when a row is read
    _check_names(table.column_names, path)
    with _naming(path):
        return Dataset(table)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of damaged files pyarrow and datasets pass on whatever their parsers meet
        detail = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: not a readable Parquet file ({detail}).") from None


def _delimited(text: str, path: Path) -> dict[str, list[str]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)  # an open quote is an error
    previous_limit = csv.field_size_limit(len(text) + 1)  # the default stops at 131,072 characters a cell
    try:
        header = next(reader, [])
        _check_names(header, path)
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


def _json(text: str, path: Path) -> tuple[dict[str, list[Any]], list[BadCell]]:
    records: list[dict[str, Any]] = []
    bad: list[BadCell] = []
    for where, record, written in _records(text, path):
        if not isinstance(record, dict):
            raise ValueError(f"{path}, {where}: a JSON object is expected, got {written.strip()[:40]!r}.")
        halves = _HALF.search(written) is not None
        for name, value in record.items():
            if halves and not _is_unicode(name):
                raise ValueError(f"{path}, {where}: the column name {ascii(name)} holds half a character.")
            if isinstance(value, (list, dict)) and _is_deeper(value, MAX_DEPTH):
                raise ValueError(
                    f"{path}, {where}, column {name!r}: lists and objects are nested more than {MAX_DEPTH} deep."
                )
            if halves and not _is_unicode(value):
                reason = "half a character (a lone surrogate) is in it"
                bad.append(BadCell(len(records), name, json.dumps(value)[:100], reason))
                record[name] = None
        records.append(record)
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}, bad


def _records(text: str, path: Path) -> Iterator[tuple[str, Any, str]]:
    """Where a row stands, the row, and what stands there: of JSONL a line each, of JSON one list of them."""
    if path.suffix.lower() == ".json":
        rows = _parsed(text, str(path))
        if not isinstance(rows, list):
            raise ValueError(f"{path}: a list of JSON objects is expected, a row each, got {text.strip()[:40]!r}.")
        whole = text if _HALF.search(text) else ""
        for number, row in enumerate(rows):
            yield f"row {number}", row, whole or json.dumps(row)[:40]
        return
    for number, line in enumerate(io.StringIO(text), start=1):
        if line.strip():
            yield f"line {number}", _parsed(line, f"{path}, line {number}"), line


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"{where}: lists and objects are nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error}).") from None


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_deeper(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth == 0 or any(_is_deeper(part, depth - 1) for part in inner)


def _integer(digits: str) -> int | str:
    """An integer that does not fit into 64 bits, as an id may be, stays the word that it is written as."""
    number = int(digits) if len(digits) < 20 else 2**64
    return number if -(2**63) <= number < 2**63 else digits


def _uniform(values: list[Any]) -> list[Any]:
    """Write a column of mixed kinds (numbers and words) as words, since Arrow has one type a column.

    JSON's bare `NaN`, with which pandas writes a missing cell, is a missing cell here too; the string "NaN" is text.
    """
    values = [None if value != value else value for value in values]
    kinds = {type(value) for value in values if value is not None}
    mixed = len(kinds) > 1 and kinds != {int, float} and not kinds & {list, dict}
    return [value if value is None else str(value) for value in values] if mixed else values


def _joined(columns: dict[str, list[Any]]) -> Dataset:
    """Build a table; a column for which Arrow has no type (lists beside words) keeps its values as JSON."""
    try:
        return Dataset.from_dict(columns)
    except (ValueError, TypeError, OverflowError):  # of Arrow, and of datasets on a NUL in a key
        if len(columns) > 1:
            return concatenate_datasets([_joined({name: values}) for name, values in columns.items()], axis=1)
    name, values = next(iter(columns.items()))
    # Written out here, since `Json` takes a word that looks like JSON, such as null, for JSON.
    written = [None if value is None else json.dumps(value) for value in values]
    return Dataset.from_dict({name: written}, features=Features({name: Json()}))
