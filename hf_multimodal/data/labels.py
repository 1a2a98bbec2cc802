"""Turn label values as people write them into class numbers, multi-hot vectors or floats."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, List, Value

from .choices import check_choice, did_you_mean

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
_FRACTION = "the label {!r} is a fraction: for such labels problem_type is 'regression'."
_INTEGER = re.compile(r"[+-]?\d{1,4000}")  # as many digits as `int` reads
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


class LabelError(ValueError):
    """A label that the problem type does not allow.

    Args:
        message: What is wrong with it.
        place: Its position among the labels.
    """

    def __init__(self, message: str, place: int):
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class LabelScheme:
    """How labels of one data set become numbers.

    Args:
        problem_type: As transformers names it.
        names: Class names in the order of their numbers; empty for regression.
    """

    problem_type: str
    names: tuple[str, ...]

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
            "regression": self._number,
        }[self.problem_type]
        numbers = {name: i for i, name in enumerate(self.names)}
        labels: list[Any] = []
        reasons: list[str | None] = []
        for value in values:
            cleaned = _clean(value)
            label, reason = (None, None) if cleaned is None else convert(cleaned, numbers)
            labels.append(label)
            reasons.append(reason)
        return labels, reasons

    def _unknown(self, name: str) -> str:
        shown = list(self.names[:20]) + (["..."] if len(self.names) > 20 else [])
        return f"unknown label {name!r}, the classes are {shown}.{did_you_mean(name, self.names)}"

    def _class_number(self, value: Any, numbers: dict[str, int]) -> tuple[int | None, str | None]:
        name = str(value)
        return (numbers[name], None) if name in numbers else (None, self._unknown(name))

    def _multi_hot(self, value: Any, numbers: dict[str, int]) -> tuple[list[float] | None, str | None]:
        if _is_multi_hot(value):
            if len(value) != len(numbers):
                return None, f"a multi-hot label of length {len(value)} for {len(numbers)} classes"
            return [float(entry) for entry in value], None
        hot = [0.0] * len(numbers)
        for name in _members(value):
            if name not in numbers:
                return None, self._unknown(name)
            hot[numbers[name]] = 1.0
        return hot, None

    def _number(self, value: Any, numbers: dict[str, int]) -> tuple[float | None, str | None]:
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None, f"label {value!r} is not a number, as regression needs"
        return (number, None) if math.isfinite(number) else (None, f"label {value!r} is not finite")


def infer_scheme(
    values: Iterable[Any], problem_type: str | None = None, names: Sequence[str] | None = None
) -> LabelScheme:
    """Read the problem type and the class names off the labels.

    Names are sorted, those that are all whole numbers in numeric order.

    Args:
        values: The training labels: strings or whole numbers; for multi-label lists of them, `"a|b"` strings, or
            multi-hot lists of floats; for regression numbers. None and empty strings are skipped.
        problem_type: As transformers names it. None reads lists as multi-label and all else as single-label.
        names: Class names in order, where they are known already.

    Raises:
        LabelError: Fractions, or lists, where single labels are expected. Numbers written as words are fractions too
            if one of them is, unless `problem_type` or `names` say that they are names.
        ValueError: Unknown `problem_type`.

    Example:

    >>> infer_scheme(["10", "9", "10"]).names, infer_scheme(["b|a", "c"], "multi_label_classification").names
    (('9', '10'), ('a', 'b', 'c'))
    """
    places = {place: cleaned for place, cleaned in enumerate(map(_clean, values)) if cleaned is not None}
    present = list(places.values())
    if problem_type is None:
        lists = any(isinstance(value, list) for value in present)
        if names is None:
            _refuse_written_fractions(places)
        problem_type = "multi_label_classification" if lists else "single_label_classification"
    check_choice("problem_type", problem_type, PROBLEM_TYPES)
    if problem_type == "regression":
        return LabelScheme(problem_type, ())
    if problem_type == "single_label_classification":
        for place, value in places.items():
            if isinstance(value, float):
                raise LabelError(_FRACTION.format(value), place)
            if isinstance(value, list):
                message = f"the label {value!r} is a list: problem_type must be 'multi_label_classification'."
                raise LabelError(message, place)
    if names is not None:
        return LabelScheme(problem_type, tuple(names))
    if problem_type == "single_label_classification":
        found = {str(value) for value in present}
    else:
        widths = [len(value) for value in present if _is_multi_hot(value)]
        found = {str(i) for i in range(max(widths))} if widths else {n for value in present for n in _members(value)}
    numeric = all(_INTEGER.fullmatch(name) for name in found)
    return LabelScheme(problem_type, tuple(sorted(found, key=(lambda n: (int(n), n)) if numeric else None)))


def _refuse_written_fractions(places: Mapping[int, Any]) -> None:
    """Treat a column of numbers in a CSV, where all cells are words, as one of a Parquet table."""
    if all(isinstance(value, str) and _NUMBER.fullmatch(value) for value in places.values()):
        for place, value in places.items():
            if not float(value).is_integer():
                raise LabelError(f"{_FRACTION.format(value)} 'single_label_classification' reads it as a name.", place)


def _clean(value: Any) -> Any:
    """Map the ways to write no label to None, and whole floats (an integer column with gaps) to int."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return value


def _is_multi_hot(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(v, float) and v in (0.0, 1.0) for v in value)


def _members(value: Any) -> list[str]:
    parts = value.split("|") if isinstance(value, str) else value if isinstance(value, list) else [value]
    return [str(cleaned) for cleaned in map(_clean, parts) if cleaned is not None]
