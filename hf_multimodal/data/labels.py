"""Turn label values as people write them into class numbers, multi-hot vectors or floats."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

from datasets import ClassLabel, List, Value

from hf_multimodal.validation import check_choice, did_you_mean

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
_FRACTION = "the label {!r} is a fraction: for such labels problem_type is 'regression'."
_MINUS_ONE = "where the classes are whole numbers from 0, -1 means no label; with -1 among label_names it is a class"
_INTEGER = re.compile(r"[+-]?\d{1,4000}")  # as many digits as `int` reads
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


class LabelError(ValueError):
    """A label that the problem type does not allow.

    Args:
        message: What is wrong with it.
        place: Its position among the labels.
    """

    def __init__(self, message: str, place: int):
        super().__init__(message)
        self.place = place


class _NoLabel(ValueError):
    """In words, why a value is no label."""


@dataclass(frozen=True)
class LabelScheme:
    """How labels of one data set become numbers.

    Args:
        problem_type: As transformers names it.
        names: Class names in the order of their numbers; empty for regression.
        multi_hot: Whether lists of 0 and 1 say of each class in turn if it holds. Otherwise lists name classes.
    """

    problem_type: str
    names: tuple[str, ...]
    multi_hot: bool = False

    @property
    def feature(self) -> Any:
        """The `datasets` feature of the label column."""
        if self.problem_type == "single_label_classification":
            # Without a single label there are no names, and ClassLabel wants at least one.
            return ClassLabel(names=list(self.names)) if self.names else Value("int64")
        return Value("float32") if self.problem_type == "regression" else List(Value("float32"))

    def encode(self, values: Sequence[Any]) -> tuple[list[Any], list[str | None]]:
        """Convert labels, None staying None.

        Args:
            values: Labels as they stand in the source.

        Returns:
            The converted labels, and for each value that is no label of this scheme the reason (its label is None).

        Example:

        >>> LabelScheme("single_label_classification", ("bad", "good")).encode(["good", "", "god"])
        ([1, None, None], [None, None, "unknown label 'god', the classes are ['bad', 'good']. Did you mean 'good'?"])
        """
        convert = {
            "single_label_classification": self._class_number,
            "multi_label_classification": self._multi_hot,
            "regression": _number,
        }[self.problem_type]
        numbers = {name: i for i, name in enumerate(self.names)}
        labels: list[Any] = []
        reasons: list[str | None] = []
        for value in values:
            label, reason = None, None
            try:
                cleaned = _clean(value) if self.problem_type == "regression" else _read(value, numbers)
                if self.skips_minus_one and _is_minus_one(cleaned):
                    raise _NoLabel(_MINUS_ONE)
                if cleaned is not None:
                    label = convert(cleaned, numbers)
            except _NoLabel as error:
                reason = str(error)
            labels.append(label)
            reasons.append(reason)
        return labels, reasons

    @cached_property
    def skips_minus_one(self) -> bool:
        """Whether -1 is no label, as in `datasets`: where the classes are whole numbers from 0."""
        return self.problem_type != "regression" and all(map(_is_natural, self.names))

    def _unknown(self, name: str) -> NoReturn:
        shown = list(self.names[:20]) + (["..."] if len(self.names) > 20 else [])
        raise _NoLabel(f"unknown label {name!r}, the classes are {shown}.{did_you_mean(name, self.names)}")

    def _class_number(self, value: Any, numbers: Mapping[str, int]) -> int:
        name = str(value)
        return numbers[name] if name in numbers else self._unknown(name)

    def _multi_hot(self, value: Any, numbers: Mapping[str, int]) -> list[float]:
        if self.multi_hot and value != [] and _is_hot_or_number(value):
            if not _is_hot(value):
                raise _NoLabel(f"{value!r} is no multi-hot label, whose entries are 0 or 1")
            if len(value) != len(numbers):
                raise _NoLabel(f"a multi-hot label of length {len(value)} for {len(numbers)} classes")
            return [float(entry) for entry in value]
        hot = [0.0] * len(numbers)
        for name in _members(value):
            if name not in numbers:
                self._unknown(name)
            if hot[numbers[name]]:
                raise _NoLabel(f"the class {name!r} is named twice in one cell")
            hot[numbers[name]] = 1.0
        return hot


def infer_scheme(
    values: Iterable[Any], problem_type: str | None = None, names: Sequence[str] | None = None
) -> LabelScheme:
    """Read the problem type and the class names off the labels.

    Names are sorted, those that are all whole numbers in numeric order. What cannot be read as a label is passed over;
    `LabelScheme.encode` says why.

    - A list of names, or `"a|b"` where the problem type says so, holds the classes of its row.
    - Lists of 0 and 1 (numbers or booleans) of one length are multi-hot: one entry for each class. They are class
      numbers where other rows hold other numbers, or have other lengths and no entry twice, or where `names` has "0"
      and "1" and no list of whole numbers has an entry twice.
    - A cell that begins with `[` is read as a JSON list of either kind.
    - -1 is no label where all others are whole numbers from 0.

    Args:
        values: The training labels: strings or whole numbers; for multi-label lists as above; for regression numbers.
            None and empty strings are skipped.
        problem_type: As transformers names it. None reads lists as multi-label and all else as single-label.
        names: Class names in order, where they are known already. By default those of multi-hot lists are `class_0`,
            `class_1` and so on.

    Raises:
        LabelError: Fractions, or lists, where single labels are expected. Numbers written as words are fractions too
            if one of them is, unless `problem_type` or `names` say that they are names.
        ValueError: Unknown `problem_type`, a name given twice, or names for regression.

    Example:

    >>> infer_scheme(["10", "9", "10"]).names, infer_scheme(["b|a", "c"], "multi_label_classification").names
    (('9', '10'), ('a', 'b', 'c'))
    >>> infer_scheme([[0, 1, 0], [1, 1, 0]]).names, infer_scheme(['["b", "a"]', "[]"]).names
    (('class_0', 'class_1', 'class_2'), ('a', 'b'))
    """
    twice = [name for name, count in Counter(names or ()).items() if count > 1]
    if twice:
        raise ValueError(
            f"label_names must differ from each other, and {twice[0]!r} stands twice in {list(names or [])}."
        )
    places: dict[int, Any] = {}
    for place, value in enumerate(values):
        try:
            cleaned = _clean(value) if problem_type == "regression" else _read(value, names or ())
        except _NoLabel:
            continue
        if cleaned is not None:
            places[place] = cleaned
    present = list(places.values())
    if problem_type is None:
        lists = any(isinstance(value, list) for value in present)
        if names is None:
            _refuse_written_fractions(places)
        problem_type = "multi_label_classification" if lists else "single_label_classification"
    check_choice("problem_type", problem_type, PROBLEM_TYPES)
    if problem_type == "regression":
        if names is not None:
            raise ValueError(f"label_names {list(names)} have no use with problem_type 'regression'.")
        return LabelScheme(problem_type, ())
    if problem_type == "single_label_classification":
        for place, value in places.items():
            if isinstance(value, float):
                raise LabelError(_FRACTION.format(value), place)
            if isinstance(value, list):
                message = f"the label {value!r} is a list: problem_type must be 'multi_label_classification'."
                raise LabelError(message, place)
        found = {str(value) for value in present}
        return LabelScheme(problem_type, _sorted_names(found) if names is None else tuple(names))
    width = _multi_hot_width(present, names)
    if names is not None:
        return LabelScheme(problem_type, tuple(names), width is not None)
    if width is not None:
        return LabelScheme(problem_type, tuple(f"class_{i}" for i in range(width)), True)
    return LabelScheme(problem_type, _sorted_names({name for value in present for name in _members(value)}))


def check_label_columns(columns: Sequence[str], names: Sequence[str] | None, problem_type: str | None) -> None:
    """Refuse several columns of labels, each of 0 and 1, that cannot be one class each.

    Args:
        columns: Their names.
        names: The class names, where they are known already, in any order.
        problem_type: As transformers names it, or None.

    Raises:
        ValueError: A column stands twice, the columns are not the classes, or the problem is of another type.

    Example:

    >>> check_label_columns(["red", "blue"], ["blue", "rde"], None)
    Traceback (most recent call last):
    ...
    ValueError: label_column: several columns are one for each class, got ['red', 'blue'] for the classes \
['blue', 'rde'].
    """
    if len(set(columns)) < len(columns):
        raise ValueError(f"label_column names a column twice: {columns}.")
    if problem_type not in (None, "multi_label_classification"):
        raise ValueError(
            f"label_column: several columns are for multi-label data, and problem_type is {problem_type!r}."
        )
    if names is not None and set(names) != set(columns):
        raise ValueError(
            f"label_column: several columns are one for each class, got {list(columns)} for the classes {list(names)}."
        )


def notation_warnings(scheme: LabelScheme, values: Sequence[Any]) -> list[str]:
    """Say what was read out of labels that another reader could take otherwise.

    Args:
        scheme: From `infer_scheme`.
        values: Labels as they stand in the source.

    Example:

    >>> scheme = LabelScheme("single_label_classification", ("0", "1"))
    >>> [sentence.partition(",")[0] for sentence in notation_warnings(scheme, ["1", "-1"])]
    ['1 label is -1: where the classes are whole numbers from 0']
    """
    warnings = []
    unlabelled = sum(map(_is_minus_one, values)) if scheme.skips_minus_one else 0
    if unlabelled:
        count = "1 label is" if unlabelled == 1 else f"{unlabelled} labels are"
        warnings.append(f"{count} -1: {_MINUS_ONE}.")
    if scheme.problem_type == "multi_label_classification":
        written = [value for value in map(_clean, values) if value is not None]
        lists = sum(isinstance(value, list) or str(value).startswith("[") for value in written)
        if 0 < lists < len(written):
            warnings.append(
                f'{lists} of {len(written)} labels are lists such as ["a", "b"] and the others are words: all are '
                "read as sets of classes (multi_label_classification)."
            )
    return warnings


def _sorted_names(found: Collection[str]) -> tuple[str, ...]:
    others = [name for name in found if not _is_minus_one(name)]
    if all(map(_is_natural, others)):
        found = others
    numeric = all(_INTEGER.fullmatch(name) for name in found)
    return tuple(sorted(found, key=(lambda name: (int(name), name)) if numeric else None))


def _refuse_written_fractions(places: Mapping[int, Any]) -> None:
    """Treat a column of numbers in a CSV, where all cells are words, as one of a Parquet table."""
    if all(isinstance(value, str) and NUMBER.fullmatch(value) for value in places.values()):
        for place, value in places.items():
            if not float(value).is_integer():
                raise LabelError(f"{_FRACTION.format(value)} 'single_label_classification' reads it as a name.", place)


def _read(value: Any, names: Collection[str]) -> Any:
    """Give None, a word, a number, or a list of them; a known name is one whatever it begins with."""
    if isinstance(value, (bytes, dict)):
        raise _NoLabel(f"a label must be a word, a number or a list of them, got {type(value).__name__}")
    cleaned = _clean(value)
    if isinstance(cleaned, str) and cleaned.startswith("[") and cleaned not in names:
        cleaned = _json_list(cleaned)
    if isinstance(cleaned, list):
        for entry in cleaned:
            if isinstance(entry, (list, dict, bytes)):
                raise _NoLabel(f"the entries of a list must be names, or 0 and 1, got {type(entry).__name__}")
    return cleaned


def _json_list(cell: str) -> list[Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no value of JSON")

    try:
        found: list[Any] = json.loads(cell, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _NoLabel(
            f"a label that begins with [ is read as a JSON list, and this is none ({error}): write it as "
            '["red", "blue"], as [0, 1], or as red|blue; a class whose own name begins so is known by label_names'
        ) from None
    return found


def _clean(value: Any) -> Any:
    """Map the ways to write no label to None, and whole floats (an integer column with gaps) to int."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return value


def _is_minus_one(value: Any) -> bool:
    """Whether a value is -1, as a number, a word or the one entry of a list."""
    if isinstance(value, list):
        return len(value) == 1 and _is_minus_one(value[0])
    if isinstance(value, str):
        return bool(NUMBER.fullmatch(value.strip())) and float(value) == -1
    return isinstance(value, (int, float)) and value == -1


def _is_natural(name: str) -> bool:
    """Whether a name is a whole number from 0, perhaps written as a float (an integer column with gaps)."""
    return bool(NUMBER.fullmatch(name)) and float(name) >= 0 and float(name).is_integer()


def _is_hot(value: Any) -> bool:
    """Whether a value is a list that multi-hot notation allows."""
    return _is_hot_or_number(value) and len(value) > 0 and all(entry in (0, 1) for entry in value)


def _is_hot_or_number(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, (bool, int, float)) for entry in value)


def _multi_hot_width(present: Sequence[Any], names: Sequence[str] | None) -> int | None:
    """Length of the multi-hot lists; None where the lists name classes.

    An entry that stands twice cannot name a class, so that most lists having it outweighs a few of other kinds.
    """
    present = [value for value in present if value != []]  # no class in either notation
    hot = [value for value in present if _is_hot(value)]
    if not hot:
        return None
    width, count = Counter(map(len, hot)).most_common(1)[0]
    repeats = any(len(set(value)) < len(value) for value in hot)
    fractions = any(isinstance(entry, float) for value in hot for entry in value)  # as of no class number
    if names is not None and {"0", "1"} <= set(names) and not repeats and not (fractions and width == len(names)):
        return None
    return width if count == len(present) or (repeats and 2 * count > len(present)) else None


def _members(value: Any) -> list[str]:
    parts = value.split("|") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [str(cleaned) for cleaned in map(_clean, parts) if cleaned is not None]


def _number(value: Any, numbers: Mapping[str, int]) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _NoLabel(f"label {value!r} is not a number, as regression needs") from None
    if not math.isfinite(number):
        raise _NoLabel(f"label {value!r} is not finite")
    return number
