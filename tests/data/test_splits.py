"""Splits: stratified, as scikit-learn makes them, grouped by duplicates, or as given."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from sklearn.model_selection import train_test_split

from hf_multimodal.data.loading import load_data
from hf_multimodal.data.splits import complete_splits, duplicate_groups

LABELS = [0] * 120 + [1] * 60 + [2] * 20


def rows_of(labels, texts=None, images=None):
    count = len(labels)
    features = {"image": Image(decode=False), "text": Value("string"), "index": Value("int64")}
    features["label"] = List(Value("float32")) if isinstance(labels[0], list) else Value(
        "float32" if isinstance(labels[0], float) else "int64"
    )  # fmt: skip
    columns = {"image": images or [None] * count, "text": texts or [f"text {i}" for i in range(count)]}
    return Dataset.from_dict({**columns, "label": labels, "index": list(range(count))}, features=Features(features))


def make_splits(rows, **options):
    return complete_splits(DatasetDict(train=rows), **options)


def assert_partition(splits, count):
    assert sorted(i for rows in splits.values() for i in rows["index"]) == list(range(count))


def test_stratified_by_default():
    splits = make_splits(rows_of(LABELS))
    assert {name: Counter(rows["label"]) for name, rows in splits.items()} == {
        "train": {0: 84, 1: 42, 2: 14},
        "validation": {0: 12, 1: 6, 2: 2},
        "test": {0: 24, 1: 12, 2: 4},
    }
    assert_partition(splits, 200)
    assert make_splits(rows_of(LABELS))["test"]["index"][:] == splits["test"]["index"][:]
    assert make_splits(rows_of(LABELS), seed=1)["test"]["index"][:] != splits["test"]["index"][:]


def test_plain_split_is_scikit_learns_own():
    splits = make_splits(rows_of(LABELS), stratify=False)
    assert splits["test"]["index"][:] == train_test_split(range(200), test_size=0.2, random_state=42)[1]
    rest = Counter(splits["train"]["label"]) + Counter(splits["validation"]["label"])
    expected = {label: count / 8 for label, count in rest.items()}
    assert all(abs(Counter(splits["validation"]["label"])[label] - expected[label]) < 1 for label in expected)
    assert len(splits["validation"]) == 20
    assert_partition(splits, 200)


def test_rare_classes_unlabelled_rows_and_other_label_types():
    assert_partition(make_splits(rows_of([*LABELS, 3, None])), 202)
    assert_partition(make_splits(rows_of([i / 7 for i in range(40)])), 40)
    hot = [[1.0, 0.0]] * 20 + [[1.0, 1.0]] * 20 + [[0.0, 0.0]]
    splits = make_splits(rows_of(hot))
    assert sum(label == [1.0, 1.0] for label in splits["test"]["label"]) in (4, 5)
    assert_partition(splits, 41)
    with pytest.raises(ValueError, match="1 rows cannot be cut with a share of 0.2"):
        make_splits(rows_of([0]))


def test_given_splits_are_kept():
    splits = DatasetDict(train=rows_of(LABELS), test=rows_of([0, 1]), predict=rows_of([None]))
    completed = complete_splits(splits)
    assert list(completed) == ["train", "validation", "test", "predict"]
    assert completed["test"]["label"][:] == [0, 1]
    assert (len(completed["train"]), len(completed["validation"])) == (175, 25)
    assert list(splits) == ["train", "test", "predict"]
    completed = complete_splits(DatasetDict(train=rows_of(LABELS), validation=rows_of([0, 1])))
    assert {name: len(rows) for name, rows in completed.items()} == {"train": 160, "validation": 2, "test": 40}
    assert complete_splits(DatasetDict(test=rows_of([0])))["test"]["label"][:] == [0]


def test_duplicate_groups_follow_links_of_either_kind(tmp_path):
    for name, content in {"a": b"same", "b": b"same", "c": b"else", "d": b"longer", "e": b""}.items():
        (tmp_path / name).write_bytes(content)
    images = [{"bytes": None, "path": str(tmp_path / name)} for name in "abcde"]
    images += [None, {"bytes": b"longer", "path": None}, {"bytes": None, "path": str(tmp_path / "e")}]
    images += [{"bytes": None, "path": str(tmp_path / "no")}] * 2
    texts = ["one", "two", "TWO ", "four", "five", None, "six  seven", None, "\nsix seven", None]
    groups = duplicate_groups(rows_of([0] * 10, texts, images)).tolist()
    members = {}
    for row, group in enumerate(groups):
        members.setdefault(group, set()).add(row)
    # a = b by content, b = c by text; d = row 6 by content, 6 = 8 by text; empty or missing files link nothing
    assert sorted(map(sorted, members.values())) == [[0, 1, 2], [3, 6, 8], [4], [5], [7], [9]]


@pytest.mark.parametrize("stratify", [True, False])
def test_grouped_split_keeps_duplicates_together(stratify):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 600).tolist()
    texts = [f"text {i}" for i in generator.integers(0, 400, 600)]
    splits = make_splits(rows_of(labels, texts), stratify=stratify, group_duplicates=True)
    seen = [set(rows["text"]) for rows in splits.values()]
    assert all(not seen[i] & seen[j] for i in range(3) for j in range(i))
    assert_partition(splits, 600)
    assert abs(len(splits["test"]) - 120) <= 3
    assert abs(len(splits["validation"]) - 60) <= 3
    if stratify:
        whole = Counter(labels)
        assert all(abs(Counter(splits["test"]["label"])[c] - whole[c] / 5) <= 4 for c in whole)


def test_rows_that_all_hang_together_cannot_be_grouped():
    with pytest.raises(ValueError, match="10 rows .*(grouped folds|hang together)"):
        make_splits(rows_of([0, 1] * 5, ["same"] * 10), group_duplicates=True)


def test_courseworks_split_of_the_real_data(real_data):
    data = load_data(real_data / "ecnu")
    splits = complete_splits(data.splits, stratify=False)
    names = [data.id2label[label] for label in splits["test"]["label"]]
    assert Counter(names) == {"positive": 483, "negative": 234, "neutral": 83}
    assert splits["test"]["index"][:] == train_test_split(range(4000), test_size=0.2, random_state=42)[1]
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 2800, "validation": 400, "test": 800, "predict": 511
    }  # fmt: skip
    groups = duplicate_groups(data.splits["train"])
    assert len(set(groups.tolist())) == 3840
    grouped = complete_splits(data.splits, group_duplicates=True)
    sides = [set(groups[rows["index"][:]]) for name, rows in grouped.items() if name != "predict"]
    assert all(not sides[i] & sides[j] for i in range(3) for j in range(i))
    assert [len(rows) for rows in grouped.values()] == [2800, 400, 800, 511]
