"""Count rows for people, without opening an image."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict

from hf_multimodal.models.configuration_vision_text import PRESENCE_PATTERNS

UNLABELLED = "(none)"


def count_rows(splits: DatasetDict | Mapping[str, Dataset], id2label: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """Count each split's rows by class and by which modalities are present.

    Args:
        splits: Rows as `load_data` gives them.
        id2label: Class names by number.

    Returns:
        For each split `rows`; `classes` by name, in multi-label data counting a row once for each of its classes, and
        `(none)` for unlabelled rows; `presence` with `both`, `image`, `text`, `neither`.

    Example:

    >>> rows = Dataset.from_dict({"image": [None, None], "text": ["hello", None], "label": [1, None]})
    >>> count_rows({"train": rows}, {0: "bad", 1: "good"})["train"]["classes"]
    {'bad': 0, 'good': 1, '(none)': 1}
    """
    counts: dict[str, dict[str, Any]] = {}
    for name, rows in splits.items():
        present = presence(rows)
        counts[name] = {
            "rows": len(rows),
            "classes": class_counts(rows["label"][:], id2label),
            "presence": {
                pattern: int((present == shown).all(axis=1).sum()) for pattern, shown in PRESENCE_PATTERNS.items()
            },
        }
    return counts


def presence(rows: Dataset) -> np.ndarray:
    """(rows, 2) bool, True = present, column 0 `image`, column 1 `text`; no image is opened.

    A blank text is none, as for the processor.
    """
    cells = rows.select_columns(["image", "text"]).with_format("arrow")[:]
    words = pc.utf8_length(pc.utf8_trim_whitespace(cells["text"].cast(pa.large_string())))
    columns = [cells["image"].is_valid(), pc.fill_null(pc.greater(words, 0), False)]
    return np.stack([column.to_numpy(zero_copy_only=False) for column in columns], axis=1)


def class_counts(labels: list[Any], id2label: Mapping[int, str]) -> dict[str, int]:
    """Count rows by class, in multi-label data a row once for each of its classes; `(none)` where it is unlabelled.

    Args:
        labels: Class numbers, multi-hot lists, or None.
        id2label: Class names by number.
    """
    found: Counter[str] = Counter()
    for label in labels:
        if label is None:
            found[UNLABELLED] += 1
        elif isinstance(label, list):
            found.update(id2label[i] for i, on in enumerate(label) if on)
        elif id2label:
            found[id2label[label]] += 1
    named = {name: found[name] for name in id2label.values()}
    return named | ({UNLABELLED: found[UNLABELLED]} if found[UNLABELLED] else {})
