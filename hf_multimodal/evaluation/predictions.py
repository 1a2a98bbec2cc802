"""The table `predictions.csv`: what a model predicted, row by row, joined to other tables by `id`.

The same table is written as TSV, JSONL or Parquet where the file is so named; only CSV is read back.

Columns: `id, label, predicted, has_image, has_text`, then `prob_<class>` for each class (none for regression), and
`row_count`, the same number in each row: of how many the table is, so that a table that was cut is not taken for a
shorter one. In a CSV or TSV that has it a text that a spreadsheet would run as a formula, or that begins with a single
quote, has one more before it (`data.spreadsheets`), which `read_predictions` takes away.
Behind them stand the columns of the user's own table, where there is one, as they are. One whose name is one of those
above is kept as `given_<name>`; only an `id` that is the id of the rows stands there once. In a CSV, TSV or JSONL a
cell that is a date is text, and in a CSV or TSV one that is a list or an object is JSON.
Everything is read as text, so an id or a class called "NaN" stays what it is, and floats are written in full, so
metrics from the file equal those of the run to the last digit. An empty `label` means that the row has none.
Multi-label cells join the names by `|`, with `\\` before a `|` or a `\\` within a name; a lone `|` says that no label
holds.
"""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hf_multimodal.data.spreadsheets import from_cell, write_csv
from hf_multimodal.evaluation.metrics import IGNORE_INDEX, METRICS, metrics_from_outputs
from hf_multimodal.evaluation.thresholds import decide
from hf_multimodal.hub.storage import naming_damage, replaced, write_text
from hf_multimodal.validation import check_choice

FIXED_COLUMNS = ["id", "label", "predicted", "has_image", "has_text"]
PROBABILITY_PREFIX = "prob_"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
ROW_COUNT = "row_count"


@dataclass(frozen=True)
class Predictions:
    """One model's predictions. Build it with `Predictions.from_outputs`, or read it with `read_predictions`.

    Args:
        problem_type: A key of `metrics.METRICS`.
        ids: n unique names of rows.
        labels: (n,) class indices, -100 where a row has no label; multi-label (n, K) of 0. and 1., a row of NaN
            where there is none; regression (n,) floats, NaN where there is none.
        predicted: (n,) class indices; multi-label (n, K) of 0 and 1; regression (n,) floats.
        probabilities: (n, K), or (n, 0) for regression.
        class_names: K names; empty for regression.
        has_image: (n,) bool.
        has_text: (n,) bool.
    """

    problem_type: str
    ids: list[str]
    labels: npt.NDArray[Any]
    predicted: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float64]
    class_names: list[str]
    has_image: npt.NDArray[np.bool_]
    has_text: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.problem_type not in METRICS:
            raise ValueError(f"problem_type must be one of {list(METRICS)}, got {self.problem_type!r}.")
        if len(set(self.class_names)) != len(self.class_names) or "" in self.class_names:
            raise ValueError(f"class names must differ and not be empty, got {self.class_names}.")
        count, width = len(self.ids), len(self.class_names)
        wide = (count, width) if self.problem_type == "multi_label_classification" else (count,)
        shapes = {"labels": wide, "predicted": wide, "probabilities": (count, width)}
        for name, shape in {**shapes, "has_image": (count,), "has_text": (count,)}.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {getattr(self, name).shape}.")
        if self.problem_type == "single_label_classification":
            wrong = np.flatnonzero(self.labelled & ((self.labels < 0) | (self.labels >= width)))
            if len(wrong):
                raise ValueError(f"row {wrong[0]}: label must be in 0..{width - 1}, got {self.labels[wrong[0]]}.")
        first: dict[str, int] = {}
        for row, name in enumerate(self.ids):
            if first.setdefault(name, row) != row:
                raise ValueError(f"row {row}: id {name!r} stands in row {first[name]} already; ids must be unique.")

    @classmethod
    def from_outputs(
        cls,
        problem_type: str,
        ids: Sequence[str],
        outputs: npt.ArrayLike,
        class_names: Sequence[str] = (),
        *,
        labels: Sequence[Any] | npt.NDArray[Any] | None = None,
        has_image: npt.ArrayLike | None = None,
        has_text: npt.ArrayLike | None = None,
        thresholds: npt.ArrayLike | None = None,
    ) -> "Predictions":
        """Decide from a model's outputs: the most probable class, each label from its threshold on, or the value.

        Args:
            problem_type: A key of `metrics.METRICS`.
            ids: n unique names of rows.
            outputs: Probabilities (n, K), or for regression values (n,): see `metrics.outputs_from_logits`.
            class_names: K names; left out for regression.
            labels: n labels as the rows of a data set have them, None or -100 in a row without one; None if no row
                has one.
            has_image: (n,) whether the row came with an image; None means that all did.
            has_text: (n,) whether the row came with a text; None means that all did.
            thresholds: In a multi-label problem, broadcast to the probabilities; None is .5 for every label.

        Raises:
            ValueError: Shapes disagree, an id is there twice, or the problem type is unknown.

        Example:

        >>> found = Predictions.from_outputs(
        ...     "single_label_classification", ["a", "b"], [[0.9, 0.1], [0.4, 0.6]], ["cat", "dog"], labels=[0, None]
        ... )
        >>> found.predicted.tolist(), found.labels.tolist(), found.metrics()["count"]
        ([0, 1], [0, -100], 1)
        """
        table = np.asarray(outputs, dtype=np.float64)
        if problem_type != "regression" and table.ndim != 2:
            raise ValueError(f"probabilities must have shape ({len(ids)}, {len(class_names)}), got {table.shape}.")
        given = [None] * len(ids) if labels is None else list(labels)
        predicted: npt.NDArray[Any]
        if problem_type == "regression":
            predicted = table[:, 0] if table.ndim == 2 and table.shape[1] == 1 else table
            table = np.empty((len(ids), 0))
        elif problem_type == "multi_label_classification":
            predicted = decide(table, thresholds)
        else:
            predicted = table.argmax(axis=1)
        return cls(
            problem_type,
            [str(name) for name in ids],
            _label_array(problem_type, given, len(class_names)),
            predicted,
            table,
            list(class_names),
            np.ones(len(ids), bool) if has_image is None else np.asarray(has_image, dtype=bool),
            np.ones(len(ids), bool) if has_text is None else np.asarray(has_text, dtype=bool),
        )

    @property
    def outputs(self) -> npt.NDArray[np.float64]:
        """What the metrics take: the probabilities, or for regression the values."""
        return self.predicted if self.problem_type == "regression" else self.probabilities

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """(n,) whether the row has a label."""
        if self.problem_type == "single_label_classification":
            return self.labels != IGNORE_INDEX
        known = np.isfinite(self.labels)
        return known.all(axis=1) if known.ndim == 2 else known

    def take(self, rows: npt.ArrayLike) -> "Predictions":
        """The given rows (indices or a mask), in the given order."""
        index = np.arange(len(self.ids))[np.asarray(rows)]
        arrays = {name: getattr(self, name)[index] for name in ("labels", "predicted", "probabilities")}
        presence = {name: getattr(self, name)[index] for name in ("has_image", "has_text")}
        return replace(self, ids=[self.ids[row] for row in index], **arrays, **presence)

    def metrics(self) -> dict[str, Any]:
        """Metrics over the rows that have a label; `count` tells how many these are.

        Raises:
            ValueError: No row has a label.
        """
        rows = self.labelled
        given = (self.outputs[rows], self.labels[rows], self.class_names, self.predicted[rows])
        return metrics_from_outputs(self.problem_type, *given)


def write_predictions(path: str | Path, predictions: Predictions, own: pa.Table | None = None) -> dict[str, str]:
    """Write the table, in UTF-8.

    Args:
        path: The file; replaced as a whole if it exists. Its suffix says what is written: `.csv`, `.tsv`, `.jsonl` or
            `.parquet`.
        predictions: What to write.
        own: Further columns, a row for each prediction, in their order.

    Returns:
        The names under which further columns stand that have another name in `own`.

    Raises:
        ValueError: Another suffix, or `own` has another number of rows.
    """
    suffix = check_choice("the suffix of predictions", Path(path).suffix.lower(), SUFFIXES)
    names, problem_type = predictions.class_names, predictions.problem_type
    header = [*FIXED_COLUMNS, *(PROBABILITY_PREFIX + name for name in names)]
    header += [ROW_COUNT] if predictions.ids else []  # a table without rows has no place for it
    renamed = {} if own is None else _further_names(own, predictions.ids)
    further = {} if own is None else {new: own[name] for name, new in renamed.items()}
    rows: list[list[Any]] = []
    for row, name in enumerate(predictions.ids):
        label = _cell(problem_type, predictions.labels[row], names) if predictions.labelled[row] else None
        said = _cell(problem_type, predictions.predicted[row], names)
        presence = [int(predictions.has_image[row]), int(predictions.has_text[row])]
        rows.append([name, label, said, *presence, *predictions.probabilities[row].tolist(), len(predictions.ids)])
    if suffix == ".parquet":
        columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
        with replaced(path) as part:
            pq.write_table(pa.table(columns | {name: _storage(column) for name, column in further.items()}), part)
    else:
        cells = [_cells(column) for column in further.values()]
        rows = [[*row, *beside] for row, *beside in zip(rows, *cells, strict=True)]
        header += further
        if suffix == ".jsonl":
            records = (dict(zip(header, row, strict=True)) for row in rows)
            write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        else:
            table = ([_flat(cell) for cell in row] for row in rows)
            write_csv(path, header, table, "\t" if suffix == ".tsv" else ",")
    return {name: new for name, new in renamed.items() if name != new}


def read_predictions(path: str | Path, problem_type: str | None = None) -> Predictions:
    """Read a table that `write_predictions`, or anyone who keeps to its columns, wrote.

    Args:
        path: The file.
        problem_type: A key of `metrics.METRICS`. None finds it out: no `prob_` column is regression, rows of
            probabilities that all sum to 1 with one class each are single-label, everything else is multi-label.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no CSV, a column is missing, rows are missing, a cell is not what its column holds, or
            an id is there twice; the message names file, row (the header is row 1) and column.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no table of predictions {str(path)!r}.")
    check_choice(f"the suffix of {str(path)!r}", Path(path).suffix.lower(), [".csv"])
    with naming_damage(path), open(path, encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.reader(stream))
    header, body = (rows[0], rows[1:]) if rows else ([], [])
    missing = [name for name in FIXED_COLUMNS if name not in header]
    if missing:
        raise ValueError(f"{path}: predictions need the columns {FIXED_COLUMNS}, missing {missing}.")
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise ValueError(f"{path}, row {number}: {len(header)} cells expected, got {len(row)}.")
    places = [place for place, name in enumerate(header) if name.startswith(PROBABILITY_PREFIX)]
    names = [header[place].removeprefix(PROBABILITY_PREFIX) for place in places]
    counted = ROW_COUNT in header
    cells = {name: [row[header.index(name)] for row in body] for name in FIXED_COLUMNS}
    if counted:
        cells = {name: [from_cell(cell) for cell in column] for name, column in cells.items()}

    def numbers(values: Sequence[str], column: str) -> list[float]:
        found = []
        for number, value in enumerate(values, start=2):
            try:
                found.append(float(value))
            except ValueError:
                raise ValueError(f"{path}, row {number}, column {column!r}: {value!r} is not a number.") from None
        return found

    if counted:
        count = max(numbers([row[header.index(ROW_COUNT)] for row in body], ROW_COUNT), default=1)
        if len(body) < count:
            written = f"the {count:.0f}" if body else "the"
            raise ValueError(
                f"{path} holds {len(body)} of {written} rows that were written: it was cut. Write it again; a choice "
                f"of its rows needs their own number in the column {ROW_COUNT!r}."
            )
    columns = [numbers([row[place] for row in body], header[place]) for place in places]
    table = np.array(columns, dtype=np.float64).reshape(len(names), len(body)).T
    kind = problem_type or _guess_problem_type(table, cells["predicted"], names)

    def parse(column: str) -> list[Any]:
        if kind == "regression":
            return [None if value == "" else numbers([value], column)[0] for value in cells[column]]
        known = {name: index for index, name in enumerate(names)}
        found: list[Any] = []
        for number, value in enumerate(cells[column], start=2):
            parts = _split(value) if kind == "multi_label_classification" else [value]
            unknown = [part for part in parts if part not in known]
            if value == "":
                found.append(None)
            elif unknown:
                raise ValueError(
                    f"{path}, row {number}, column {column!r}: {unknown[0]!r} is none of the classes {names}."
                )
            elif kind == "multi_label_classification":
                found.append([float(name in parts) for name in names])
            else:
                found.append(known[value])
        return found

    predicted, labels = parse("predicted"), parse("label")
    if None in predicted:
        raise ValueError(f"{path}, row {predicted.index(None) + 2}, column 'predicted': the cell is empty.")
    decided = _label_array(kind, predicted, len(names))
    presence = {}
    for column in ("has_image", "has_text"):
        for number, value in enumerate(cells[column], start=2):
            if value not in ("0", "1"):
                raise ValueError(f"{path}, row {number}, column {column!r}: must be 0 or 1, got {value!r}.")
        presence[column] = np.array([value == "1" for value in cells[column]], dtype=bool)
    if kind == "multi_label_classification":
        decided = decided.astype(np.int64)
    try:
        return Predictions(
            kind, cells["id"], _label_array(kind, labels, len(names)), decided, table, names, **presence
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _further_names(own: pa.Table, ids: Sequence[str]) -> dict[str, str]:
    """The names under which further columns are written, without an `id` that is the id of the rows."""
    if own.num_rows != len(ids):
        raise ValueError(
            f"further columns must have a row for each of the {len(ids)} predictions, got {own.num_rows}."
        )
    names: dict[str, str] = {}
    reserved = {*FIXED_COLUMNS, ROW_COUNT}
    taken = reserved | set(own.column_names)
    for name in own.column_names:
        if name == "id" and [str(cell).strip() for cell in own[name].to_pylist()] == ids:
            continue
        new = name
        if name in reserved or name.startswith(PROBABILITY_PREFIX):
            while new in taken or new.startswith(PROBABILITY_PREFIX):
                new = f"given_{new}"
        names[name] = new
        taken.add(new)
    return names


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that any reader of Parquet knows: JSON as text."""
    extension = isinstance(column.type, pa.BaseExtensionType)
    return column.cast(column.type.storage_type) if extension else column


def _cells(column: pa.ChunkedArray) -> list[Any]:
    """The cells of a column as values that JSON has."""
    read = json.loads if isinstance(column.type, pa.JsonType) else _plain
    return [None if cell is None else read(cell) for cell in _storage(column).to_pylist()]


def _plain(value: Any) -> Any:
    if value is None or value != value:  # NaN, which JSON lacks and a spreadsheet takes for a word
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return value if isinstance(value, (str, int, float)) else str(value)


def _flat(cell: Any) -> Any:
    return json.dumps(cell, ensure_ascii=False) if isinstance(cell, (list, dict)) else cell


def _label_array(problem_type: str, labels: Sequence[Any], width: int) -> npt.NDArray[Any]:
    if problem_type == "single_label_classification":
        return np.array([IGNORE_INDEX if label is None else int(label) for label in labels], dtype=np.int64)
    if problem_type == "multi_label_classification":
        rows = [np.full(width, np.nan) if label is None else label for label in labels]
        return np.array(rows, dtype=np.float64).reshape(len(rows), width)
    return np.array([np.nan if label is None else label for label in labels], dtype=np.float64)


def _cell(problem_type: str, value: Any, names: Sequence[str]) -> str | float:
    if problem_type == "regression":
        return float(value)
    if problem_type == "single_label_classification":
        return names[int(value)]
    escaped = [re.sub(r"([\\|])", r"\\\1", name) for name, holds in zip(names, value, strict=True) if holds]
    return "|".join(escaped) or "|"


def _split(cell: str) -> list[str]:
    parts = [""]
    for escaped, plain in re.findall(r"\\(.)|(.)", cell, flags=re.DOTALL):
        if plain == "|":
            parts.append("")
        else:
            parts[-1] += escaped or plain
    return [part for part in parts if part]


def _guess_problem_type(table: npt.NDArray[np.float64], predicted: Sequence[str], names: Sequence[str]) -> str:
    if not names:
        return "regression"
    single = bool(np.all(np.abs(table.sum(axis=1) - 1) < 1e-3)) and set(predicted) <= set(names)
    return "single_label_classification" if single else "multi_label_classification"
