"""What is odd about the classes of a data set, found before a model is trained on them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping
from decimal import Decimal

from datasets import Dataset, DatasetDict

from hf_multimodal.data.checks import first_lines
from hf_multimodal.data.counts import UNLABELLED, class_counts
from hf_multimodal.data.labels import NUMBER
from hf_multimodal.validation import did_you_mean

FEW_ROWS = 3  # with fewer a class is hardly learned
MISSING_WORDS = ("NaN", "nan", "NA", "N/A", "n/a", "<NA>", "NaT", "None", "null", "NULL")
_SHOWN = 10
_DIGITS = re.compile(r"\d+")


def check_classes(
    splits: DatasetDict | Mapping[str, Dataset],
    id2label: Mapping[int, str],
    *,
    cut: Collection[str] = (),
    allow_untrained: bool = False,
) -> tuple[list[str], list[str]]:
    """Find classes that look like mistakes: in their writing, their number, or their number of training rows.

    Nothing is merged: what is a class stays one.

    Args:
        splits: Rows with `label`; one of the splits is `train`.
        id2label: Class names by number.
        cut: Classes that have training rows of which none is used, since only the first rows are.
        allow_untrained: Whether a class without any training row is let pass.

    Returns:
        Warnings, and reasons why no model should be trained, each some lines.

    Example:

    >>> splits = {"train": Dataset.from_dict({"label": [0] * 9}), "test": Dataset.from_dict({"label": [0, 1]})}
    >>> print(*check_classes(splits, {0: "positive", 1: "positve"})[1])
    1 class has no training row, so that no model can learn it:
      'positve': no training row, 1 in test. Did you mean 'positive'?
    Mend the labels, give more rows, or add --allow_untrained_classes.
    """
    counts = {str(name): class_counts(rows["label"][:], id2label) for name, rows in splits.items()}
    rows = {name: len(splits[name]) - found.pop(UNLABELLED, 0) for name, found in counts.items()}
    total = sum(map(Counter, counts.values()), Counter())
    warnings = [*writing_warnings(total), *_number_warnings(total, counts["train"], rows)]
    train = counts["train"]
    frequent = [name for name, count in train.items() if count >= FEW_ROWS]
    few = [name for name, count in train.items() if 0 < count < FEW_ROWS]
    none = [name for name, count in train.items() if not count]

    def listed(names: list[str], what: str) -> str:
        classes = f"{len(names)} class{'es have' if len(names) > 1 else ' has'} {what}:\n"
        return classes + first_lines([_described(name, counts, frequent) for name in names], _SHOWN)

    if few:
        warnings.append(listed(few, "fewer than three training rows"))
    left_out = [name for name in none if name in cut]
    if left_out:
        warnings.append(listed(left_out, "no training row among the first, which alone are used"))
    untrained = [name for name in none if name not in cut]
    if not untrained:
        return warnings, []
    sentence = listed(untrained, "no training row, so that no model can learn " + ("them" if untrained[1:] else "it"))
    if allow_untrained:
        return [*warnings, sentence], []
    return warnings, [f"{sentence}\nMend the labels, give more rows, or add --allow_untrained_classes."]


def writing_warnings(counts: Mapping[str, int]) -> list[str]:
    """Name the classes that are one but for their writing, and those that read like a missing label.

    Names are the same but for writing where they agree without case, white space, invisible signs and the form of
    Unicode, as numbers, or as `true` and 1.

    Args:
        counts: Number of rows by class.

    Example:

    >>> print(*writing_warnings({"1": 4, "01": 1, "true": 2, "x": 3}))
    classes that differ only by their writing are told apart:
      '1' (4 rows), 'true' (2 rows), '01' (1 row)
    """
    groups: dict[Hashable, list[str]] = {}
    for name in counts:
        groups.setdefault(_plain(name), []).append(name)
    alike = [_counted(sorted(names, key=lambda name: -counts[name]), counts) for names in groups.values() if names[1:]]
    warnings = []
    if alike:
        warnings.append("classes that differ only by their writing are told apart:\n" + first_lines(alike, _SHOWN))
    missing = [name for name in MISSING_WORDS if counts.get(name)]
    if missing:
        warnings.append(
            f"classes that read like a missing label, for which the cell is empty: {_counted(missing, counts)}"
        )
    return warnings


def _number_warnings(total: Mapping[str, int], train: Mapping[str, int], rows: Mapping[str, int]) -> list[str]:
    warnings = [
        f"all {count} training rows have the class {name!r}: nothing tells a model when it does not hold."
        for name, count in train.items()
        if count == rows["train"] > 1
    ]
    found = [count for count in total.values() if count]
    labelled = sum(rows.values())
    # In multi-label data, where the counts do not add up to the rows, many classes are usual.
    many = 2 * len(found) > labelled if sum(found) == labelled else max(found, default=0) == 1
    if many and labelled > 4:
        warnings.append(
            f"{labelled} rows have {len(found)} classes, nearly each its own: is the column of labels the one that is "
            "meant?"
        )
    return warnings


def _described(name: str, counts: Mapping[str, Mapping[str, int]], frequent: Iterable[str]) -> str:
    count = counts["train"][name]
    places = [f"{other[name]} in {split}" for split, other in counts.items() if split != "train" and other[name]]
    found = ", ".join([f"{count or 'no'} training row{'s' if count > 1 else ''}", *places])
    words = [other for other in frequent if _DIGITS.sub("", other) != _DIGITS.sub("", name)]  # class_1 is no class_2
    return f"{name!r}: {found}.{did_you_mean(name, words)}"


def _counted(names: Iterable[str], counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name!r} ({counts[name]} row{'' if counts[name] == 1 else 's'})" for name in names)


def _plain(name: str) -> Hashable:
    """What is left of a name without its writing; numbers compare as numbers."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = "".join(sign for sign in folded if not sign.isspace() and unicodedata.category(sign) != "Cf")
    text = {"true": "1", "false": "0"}.get(text, text)
    try:
        return Decimal(text) if NUMBER.fullmatch(text) else text
    except ArithmeticError:  # an exponent of twenty digits
        return text
