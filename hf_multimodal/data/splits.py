"""Make the splits that a data set lacks: stratified, plain as scikit-learn's, or grouped by duplicates."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from hf_multimodal.data.archives import file_size, read_file

MORE = " Give a column `split` with train, validation and test, or more rows."


def complete_splits(
    splits: DatasetDict,
    *,
    seed: int = 42,
    stratify: bool = True,
    group_duplicates: bool = False,
    test_size: float = 0.2,
    validation_size: float = 0.125,
) -> DatasetDict:
    """Keep the splits that are given, and cut from `train` what is missing of test and validation.

    With `stratify=False` the test split is exactly scikit-learn's
    `train_test_split(range(n), test_size=test_size, random_state=seed)`. The validation split is cut from the rest
    and is stratified in either case.

    Args:
        splits: As `LoadedData.splits`: rows with `label`, and `image` and `text` for `group_duplicates`. Rows that
            share an `image_id`, where there is that column, always stay on one side. Without `train`, or with all
            three, the splits are returned as they are.
        seed: Of both cuts.
        stratify: Give the test split each class's share. Continuous labels are never stratified.
        group_duplicates: Keep rows that share a byte-identical image, or a text that differs in white space and
            case only, on one side, with all that hangs together by such links. Given splits are not touched.
        test_size: Share of `train`.
        validation_size: Share of what is then left of `train`.

    Returns:
        `train`, `validation` and `test`.

    Raises:
        ValueError: Too few rows of a class for a stratified cut, or too few rows at all.
    """
    completed = DatasetDict(splits)
    if "train" not in completed:
        return completed
    if "test" not in completed:
        completed["train"], completed["test"] = _cut(completed["train"], test_size, seed, stratify, group_duplicates)
    if "validation" not in completed:
        completed["train"], completed["validation"] = _cut(
            completed["train"], validation_size, seed, True, group_duplicates
        )
    return DatasetDict({name: completed[name] for name in sorted(completed, key=_order)})


def duplicate_groups(dataset: Dataset, by_content: bool = True) -> np.ndarray:
    """Number the groups of rows that hang together by equal images or equal texts, or by their `image_id`.

    Args:
        dataset: Rows with `image` and `text`, perhaps `image_id`; missing ones link nothing.
        by_content: Whether equal images and texts link; else only `image_id` does.

    Returns:
        A group number for each row, shape (rows,).

    Example:

    >>> rows = Dataset.from_dict({"image": [None] * 3, "text": ["Good day", "bad day", " good  DAY"]})
    >>> duplicate_groups(rows).tolist()
    [0, 1, 0]
    """
    count = len(dataset)
    keys: dict[Any, int] = {}
    edges: list[tuple[int, int]] = []  # (row, node): a node for each image or text that is seen
    for row, name in enumerate(dataset["image_id"] if "image_id" in dataset.column_names else []):
        if name is not None:
            edges.append((row, keys.setdefault(("image_id", name), len(keys))))
    for row, text in enumerate(dataset["text"] if by_content else []):
        if text is not None:
            edges.append((row, keys.setdefault(("text", " ".join(text.split()).casefold()), len(keys))))
    for row, image in enumerate(_image_keys(dataset) if by_content else []):
        if image is not None:
            edges.append((row, keys.setdefault(image, len(keys))))
    size = count + len(keys)
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1] + count)), shape=(size, size))
    return connected_components(graph, directed=False)[1][:count]


def _cut(dataset: Dataset, share: float, seed: int, stratify: bool, group_duplicates: bool) -> tuple[Dataset, Dataset]:
    """Give (rest, cut), the cut holding about `share` of the rows."""
    count = len(dataset)
    strata = _strata(dataset) if stratify else None
    if group_duplicates or "image_id" in dataset.column_names:
        folds = StratifiedGroupKFold(n_splits=max(2, round(1 / share)), shuffle=True, random_state=seed)
        classes = np.zeros(count, dtype=int) if strata is None else strata
        try:
            rest, cut = next(folds.split(np.zeros(count), classes, duplicate_groups(dataset, group_duplicates)))
        except ValueError as error:
            raise ValueError(
                f"{count} rows cannot be cut into {folds.n_splits} grouped folds: {error}{MORE}"
            ) from None
        if not len(rest) or not len(cut):
            raise ValueError(f"the {count} rows hang together by duplicates so that no cut leaves both sides rows.")
        return dataset.select(rest), dataset.select(cut)
    try:
        rest, cut = train_test_split(range(count), test_size=share, random_state=seed, stratify=strata)
    except ValueError as error:
        raise ValueError(f"{count} rows cannot be cut with a share of {share}: {error}{MORE}") from None
    return dataset.select(rest), dataset.select(cut)


def _strata(dataset: Dataset) -> np.ndarray | None:
    """Number the rows' classes; a combination seen once joins the most frequent, as it cannot be on both sides."""
    labels: Sequence[Any] = dataset["label"][:]
    if any(isinstance(label, float) for label in labels):
        return None
    names = [str(label) for label in labels]
    counts = Counter(names)
    common = counts.most_common(1)[0][0] if counts else ""
    numbers = {name: i for i, name in enumerate(sorted(counts))}
    return np.array([numbers[name if counts[name] > 1 else common] for name in names])


def _image_keys(dataset: Dataset) -> list[Any]:
    """Key each image by its content; a file is only read when another one has its size."""
    images: list[Any] = dataset.select_columns(["image"])[:]["image"]
    names: list[Any] = []  # a file is named by its path, an image in memory by its row
    for row, image in enumerate(images):
        names.append(None if image is None else image["path"] if image["bytes"] is None else row)
    sizes: dict[Any, int] = {}
    for name in names:
        if isinstance(name, int):
            sizes[name] = len(images[name]["bytes"])
        elif name is not None and name not in sizes:
            sizes[name] = file_size(name)
    shared = Counter(sizes.values())
    keys: dict[Any, Any] = {None: None}
    for name, size in sizes.items():
        if not size:  # missing and empty files are no duplicates of each other
            keys[name] = None
        elif shared[size] == 1:
            keys[name] = ("size", size)
        else:
            try:
                content = images[name]["bytes"] if isinstance(name, int) else read_file(name)
                keys[name] = ("image", hashlib.sha256(content).digest())
            except OSError:  # `check_rows` names it
                keys[name] = None
    return [keys[name] for name in names]


def _order(split: str) -> int:
    names = ("train", "validation", "test")
    return names.index(split) if split in names else len(names)
