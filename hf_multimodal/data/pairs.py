"""Rows of an image and a caption, seen as images with their captions."""

import hashlib
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List, Value

from hf_multimodal.data.counts import presence


def name_images(rows: Dataset) -> Dataset:
    """Add the column `image_id`, the same for all rows of one image, unless the source has brought it.

    Args:
        rows: Rows with `image`.

    Returns:
        The rows; an image is named by its path, one without a file by a hash of its content, a missing one by None.
    """
    if "image_id" in rows.column_names:
        return rows
    names = [_name(image) for image in rows.select_columns(["image"])[:]["image"]]
    return rows.add_column("image_id", names, feature=Value("string"))


def group_pairs(rows: Dataset) -> tuple[Dataset, int]:
    """Join the captions of each image.

    A row that lacks its image or its caption is no pair and is left out.

    Args:
        rows: Rows with `image`, `text`, `id` and `image_id`, perhaps `group`.

    Returns:
        A row for each image, in the order of their first rows: `image`, `texts`, `id` (the image's), `index` (the
        number of the row), and `group` where there is one; and the number of rows that were left out.

    Raises:
        ValueError: If the captions of one image are in different groups.

    Example:

    >>> image = {"bytes": b"", "path": None}
    >>> columns = {"image": [image, image, None], "text": ["a dog", "a wet dog", "a cat"]}
    >>> images, incomplete = group_pairs(Dataset.from_dict({**columns, "image_id": ["d", "d", None]}))
    >>> images["texts"][:], incomplete
    ([['a dog', 'a wet dog']], 1)
    """
    complete = np.flatnonzero(presence(rows).all(axis=1))
    kept = rows.select(complete)
    first: dict[str, int] = {}
    texts: dict[str, list[str]] = {}
    for row, (name, text) in enumerate(zip(kept["image_id"][:], kept["text"][:], strict=True)):
        first.setdefault(name, row)
        texts.setdefault(name, []).append(text)
    chosen = kept.select(list(first.values()))
    columns: dict[str, Any] = {
        "image": chosen.select_columns(["image"])[:]["image"],
        "texts": list(texts.values()),
        "id": list(first),
        "index": list(range(len(first))),
    }
    features: dict[str, Any] = {"image": Image(decode=False), "texts": List(Value("string"))}
    features |= {"id": Value("string"), "index": Value("int64")}
    if "group" in rows.column_names:
        columns["group"] = [value or "(none)" for value in chosen["group"][:]]
        group_of = dict(zip(first, columns["group"], strict=True))
        for name, value in zip(kept["image_id"][:], kept["group"][:], strict=True):
            if (value or "(none)") != group_of[name]:
                raise ValueError(
                    f"an image has one group, but {name!r} is in {group_of[name]!r} and in {value or '(none)'!r}: "
                    "group by a column that is the same for all captions of an image."
                )
        features["group"] = Value("string")
    return Dataset.from_dict(columns, features=Features(features)), len(rows) - len(kept)


def unique_images(rows: Dataset) -> Dataset:
    """The first row of each image; rows without one are left out.

    Args:
        rows: Rows with `image`.

    Example:

    >>> image = {"bytes": b"", "path": None}
    >>> rows = Dataset.from_dict({"image": [image, image, None], "text": ["a dog", "a wet dog", "a cat"]})
    >>> unique_images(rows)["text"][:]
    ['a dog']
    """
    first: dict[str, int] = {}
    for row, name in enumerate(name_images(rows)["image_id"][:]):
        if name is not None:
            first.setdefault(name, row)
    return rows.select(list(first.values()))


def _name(image: Any) -> str | None:
    if image is None:
        return None
    return image["path"] if image["bytes"] is None else hashlib.sha256(image["bytes"]).hexdigest()
