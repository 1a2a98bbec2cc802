"""Labels as people write them: one content, one meaning, or a bad sample that says why not."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tables import write_csv

from hf_multimodal.data.checks import BadSamplesError, check_splits
from hf_multimodal.data.labels import LabelScheme, infer_scheme
from hf_multimodal.data.loading import LoadedData, load_data

MULTI = "multi_label_classification"


def write_jsonl(path: Path, labels: list[Any]) -> Path:
    lines = [json.dumps({"text": "x", "label": label}) for label in labels]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def labels_of(data: LoadedData) -> list[Any]:
    return data.splits["train"]["label"][:]


def reasons_of(data: LoadedData) -> list[str | None]:
    return [found[0]["reason"] if found else None for found in data.splits["train"]["faults"]]


@pytest.mark.parametrize(
    "kind", [int, bool, float, lambda entry: [0.0, True][entry]], ids=["int", "bool", "float", "mixed"]
)
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_lists_of_0_and_1_are_multi_hot(tmp_path: Path, kind: Callable[[int], Any], suffix: str) -> None:
    rows = [[kind(entry) for entry in row] for row in ([0, 1, 0], [1, 0, 0], [1, 1, 0])]
    path = tmp_path / f"a{suffix}"
    if suffix == ".jsonl":
        write_jsonl(path, rows)
    elif suffix == ".csv":
        write_csv(path, [{"text": "x", "label": json.dumps(row)} for row in rows])
    else:
        Dataset.from_dict({"text": ["x"] * 3, "label": [[float(entry) for entry in row] for row in rows]}).to_parquet(
            path
        )
    data = load_data(path)
    assert data.problem_type == MULTI
    assert data.id2label == {0: "class_0", 1: "class_1", 2: "class_2"}
    assert labels_of(data) == [[0, 1, 0], [1, 0, 0], [1, 1, 0]]
    named = load_data(path, label_names=["sea", "sky", "sun"])
    assert named.id2label == {0: "sea", 1: "sky", 2: "sun"} and labels_of(named) == labels_of(data)


def test_lists_of_numbers_beside_others_are_class_numbers() -> None:
    scheme = infer_scheme([[0, 1], [2, 3], [10]])
    assert scheme == LabelScheme(MULTI, ("0", "1", "2", "3", "10"))
    assert scheme.encode([[0, 1], [2]])[0] == [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0]]
    # Of different lengths, no entry twice: numbers of classes.
    assert infer_scheme([[0, 1], [1], []]) == LabelScheme(MULTI, ("0", "1"))
    assert infer_scheme([["0", "1"], ["1", "0"]]) == LabelScheme(MULTI, ("0", "1"))  # words are names


def test_multi_hot_lists_of_another_length_are_bad_samples(tmp_path: Path) -> None:
    data = load_data(write_jsonl(tmp_path / "a.jsonl", [[0, 1, 0], [1, 1, 0]] * 2 + [[1, 0], [0, 2, 0], [], ["sky"]]))
    assert data.id2label == {0: "class_0", 1: "class_1", 2: "class_2"}
    assert labels_of(data) == [[0, 1, 0], [1, 1, 0]] * 2 + [None, None, [0, 0, 0], None]
    assert reasons_of(data)[4:] == [
        "a multi-hot label of length 2 for 3 classes",
        "[0, 2, 0] is no multi-hot label, whose entries are 0 or 1",
        None,
        "unknown label 'sky', the classes are ['class_0', 'class_1', 'class_2'].",
    ]


@pytest.mark.parametrize(
    ("names", "values", "labels"),
    [
        (["0", "1", "2"], [[0.0, 1.0, 1.0]], [[0, 1, 1]]),  # a run on floats, as its classes were named before
        (["0", "1"], [[0, 1], [1]], [[1, 1], [0, 1]]),  # a run on numbers of classes
        (["0", "1"], [[0, 1]], [[1, 1]]),
        (["0", "1"], [[0.0, 1.0]], [[0, 1]]),
        (['["red", "z"]', "blue"], ['["red", "z"]', "blue"], [0, 1]),  # a run on cells that were one class each
        (["-1", "0"], [-1, 0, "-1"], [0, 1, 0]),
        (["class_0", "class_1"], [["class_1"], ["class_0"]], [[0, 1], [1, 0]]),
    ],
)
def test_classes_of_older_runs_are_known(names: list[str], values: list[Any], labels: list[Any]) -> None:
    scheme = infer_scheme(values, names=names)
    assert scheme.names == tuple(names) and scheme.encode(values) == (labels, [None] * len(values))


def test_a_cell_that_begins_with_a_bracket_is_a_json_list(tmp_path: Path) -> None:
    cells = ['["red", "z"]', ' ["z"]', "[]", '["red", "red"]', "['red']", '["red", ["z"]]', "", "[NaN]"]
    path = write_csv(tmp_path / "a.csv", [{"text": "x", "label": cell} for cell in cells])
    data = load_data(path)
    assert (data.problem_type, data.id2label) == (MULTI, {0: "red", 1: "z"})
    assert labels_of(data) == [[1, 1], [0, 1], [0, 0], None, None, None, None, None]
    reasons = reasons_of(data)
    assert reasons[:4] == [None, None, None, "the class 'red' is named twice in one cell"]
    assert reasons[4] is not None and reasons[4].startswith("a label that begins with [ is read as a JSON list, and ")
    assert 'write it as ["red", "blue"], as [0, 1], or as red|blue; a class whose own name begins so' in reasons[4]
    assert reasons[5] == "the entries of a list must be names, or 0 and 1, got list"
    with pytest.raises(BadSamplesError, match=r"a.csv, row 3 \(id '3'\), column 'label', '\[\"red\", \"red\"\]': the"):
        check_splits(data, policy="error")
    assert check_splits(data, policy="drop")[0].splits["train"]["index"][:] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"row 0, column 'label': .* is a list: problem_type must be 'multi_label"):
        load_data(path, problem_type="single_label_classification")
    named = load_data(write_csv(tmp_path / "b.csv", [{"text": "x", "label": "[UNK]"}]), label_names=["[UNK]"])
    assert labels_of(named) == [0]
    deep = load_data(write_csv(tmp_path / "c.csv", [{"text": "x", "label": "[" * 100_000}]))
    assert "is read as a JSON list" in (reasons_of(deep)[0] or "")


@pytest.mark.parametrize("cell", ["a|b|a", ["a", "a"], ["a", " a"], '["a", "b", "a"]', [2, 2]])
def test_a_class_is_named_once_in_a_cell(cell: Any) -> None:
    scheme = infer_scheme(["a|b", "c", ["2"], cell], MULTI)
    assert scheme.encode([cell])[1][0] in [f"the class {name!r} is named twice in one cell" for name in "a2"]


def test_a_label_of_no_kind_is_a_bad_sample(tmp_path: Path) -> None:
    data = load_data(write_jsonl(tmp_path / "a.jsonl", ["good", {"name": "good"}, "bad"]))
    assert labels_of(data) == [1, None, 0]
    assert reasons_of(data)[1] == "a label must be a word, a number or a list of them, got dict"
    Dataset.from_dict({"text": ["x", "y"], "label": [b"good", b"bad"]}).to_parquet(tmp_path / "a.parquet")
    assert "got bytes" in (reasons_of(load_data(tmp_path / "a.parquet"))[0] or "")


def test_words_and_lists_in_one_column_keep_their_meaning(tmp_path: Path) -> None:
    data = load_data(write_jsonl(tmp_path / "a.jsonl", [["red", "z"], "red", 1, None, "null"]))
    assert data.id2label == {0: "1", 1: "null", 2: "red", 3: "z"}
    assert labels_of(data) == [[0, 0, 1, 1], [0, 0, 1, 0], [1, 0, 0, 0], None, [0, 1, 0, 0]]
    assert "1 of 4 labels are lists" in data.warnings[0]
    path = write_csv(tmp_path / "a.csv", [{"text": "x", "label": cell} for cell in ('["red", "z"]', "red", "")])
    assert load_data(path).warnings == (
        '1 of 2 labels are lists such as ["a", "b"] and the others are words: all are read as sets of classes '
        "(multi_label_classification).",
    )


@pytest.mark.parametrize("minus_one", ["-1", "-1.0", " -1"])
def test_minus_one_is_no_label_where_the_others_are_numbers_from_0(
    tmp_path: Path, minus_one: str, caplog: pytest.LogCaptureFixture
) -> None:
    labels = ["10", "9", minus_one, "10"]
    data = load_data(write_csv(tmp_path / "a.csv", [{"text": "x", "label": label} for label in labels]))
    assert data.id2label == {0: "9", 1: "10"} and labels_of(data) == [1, 0, None, 1]
    assert "1 label is -1: where the classes are whole numbers from 0, -1 means no label" in caplog.text
    assert data.warnings and data.warnings[0] in caplog.text
    with pytest.raises(BadSamplesError, match="row 2 .*-1.*': where the classes are .* -1 among label_names it is a"):
        check_splits(data, policy="error")
    kept, samples = check_splits(data, policy="error", prediction=True)
    assert len(kept.splits["train"]) == 4 and samples == []


def test_minus_one_is_a_class_where_it_is_declared_or_among_words(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [{"text": "x", "label": label} for label in ("-1", "0", "1")])
    data = load_data(path, label_names=["-1", "0", "1"])
    assert labels_of(data) == [0, 1, 2] and data.warnings == ()
    assert infer_scheme(["-1", "-2", "1"]).names == ("-2", "-1", "1")
    assert infer_scheme(["-1", "good"]).names == ("-1", "good")
    assert load_data(path, problem_type="regression").splits["train"]["label"][:] == [-1, 0, 1]


def test_minus_one_is_the_same_in_numbers_as_in_a_class_label(tmp_path: Path) -> None:
    columns = {"text": ["x", "y", "z"], "label": [1, 0, -1]}
    for label in (Value("int64"), ClassLabel(names=["0", "1"])):
        rows = Dataset.from_dict(columns, features=Features({"text": Value("string"), "label": label}))
        hidden = rows.map(lambda _: {"label": -1}, features=rows.features)
        DatasetDict(train=rows, test=hidden).save_to_disk(tmp_path / str(type(label).__name__))
        data = load_data(tmp_path / str(type(label).__name__))
        assert (data.id2label, labels_of(data)) == ({0: "0", 1: "1"}, [1, 0, None])
        assert list(data.splits) == ["train", "predict"]  # a test split whose labels are kept back


def test_several_columns_of_0_and_1_are_one_label_each(tmp_path: Path) -> None:
    rows = [{"text": "x", "sea": sea, "sky": "1", "sun": "0"} for sea in ("0", "1", "1.0", "True", "FALSE", "", "2")]
    path = write_csv(tmp_path / "a.csv", [*rows, {"text": "x", "sea": "", "sky": "", "sun": ""}])
    data = load_data(path, label_column=["sky", "sea", "sun"])
    assert (data.problem_type, data.id2label) == (MULTI, {0: "sky", 1: "sea", 2: "sun"})
    assert labels_of(data) == [[1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0], None, None, None]
    reason = "column 'sea' must hold 0 or 1, as one of several columns of labels"
    assert reasons_of(data) == [None] * 5 + [reason] * 2 + [None]
    assert data.columns == {"text": "text", "label": "sky, sea, sun"}
    with pytest.raises(BadSamplesError, match="row 6 .*, column 'sky, sea, sun', '2': column 'sea' must hold 0 or 1"):
        check_splits(data, policy="error")
    trained = load_data(path, label_column=["sea", "sky", "sun"], label_names=["sun", "sky", "sea"])
    assert trained.id2label == {0: "sun", 1: "sky", 2: "sea"} and labels_of(trained)[1] == [0, 1, 1]
    with pytest.raises(ValueError, match=r"several columns are one for each class, got \['sea', 'sky'\] for the"):
        load_data(path, label_column=["sea", "sky"], label_names=["sun", "sky", "sea"])
    with pytest.raises(ValueError, match=r"has no column 'snu' \(label_column\), .* Did you mean 'sun'\?"):
        load_data(path, label_column=["sea", "snu"])
    with pytest.raises(ValueError, match="label_column names a column twice"):
        load_data(path, label_column=["sea", "sea"])
    with pytest.raises(ValueError, match="several columns are for multi-label data, and problem_type is 'regression'"):
        load_data(path, label_column=["sea", "sky"], problem_type="regression")
    assert load_data(path, label_column=["sun"]).id2label == {0: "0"}  # one column is a column of names


def test_numbers_that_no_float_holds_are_names() -> None:
    big = "9" * 400
    assert infer_scheme([f"[{big}]", "[0]", "[1]"]).names == ("0", "1", big)
    assert LabelScheme("regression", ()).encode([int(big)])[0] == [None]


def test_names_are_given_once_and_not_for_regression() -> None:
    with pytest.raises(ValueError, match=r"must differ from each other, and 'a' stands twice in \['a', 'b', 'a'\]"):
        infer_scheme(["a"], names=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"label_names \['a'\] have no use with problem_type 'regression'"):
        infer_scheme(["1"], "regression", ["a"])


def test_what_is_no_text_and_no_image_is_a_bad_sample(tmp_path: Path) -> None:
    texts = ["words", 5, ["a", "b"], {"en": "words"}, None]
    lines = [json.dumps({"text": text, "label": "a"}) for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows = load_data(tmp_path / "a.jsonl").splits["train"]
    assert rows["text"][:] == ["words", "5", None, None, None]
    assert rows["faults"][2] == [
        {"column": "text", "value": "['a', 'b']", "reason": "a text must be a string, got a list"}
    ]
    assert rows["faults"][3][0]["reason"] == "a text must be a string, got a dict with ['en']"
    Dataset.from_dict({"text": [b"words"], "label": ["a"]}).to_parquet(tmp_path / "a.parquet")
    data = load_data(tmp_path / "a.parquet")
    with pytest.raises(
        BadSamplesError, match="a.parquet, row 0 .*, column 'text', .*words.*: a text must be a string"
    ):
        check_splits(data, policy="error")

    images = [{"url": "x"}, {"path": None, "bytes": None}, {"path": ""}, {"path": "a.png"}, None, "b.png"]
    lines = [json.dumps({"text": "x", "image": image, "label": "a"}) for image in images]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    rows = load_data(tmp_path / "b.jsonl").splits["train"]
    assert [image and image["path"] for image in rows["image"]] == [
        *[None] * 3, str(tmp_path / "a.png"), None, str(tmp_path / "b.png")
    ]  # fmt: skip
    start = "an image must be a path, bytes, or a dict that fills one of the two, got a "
    assert [found[0]["reason"].removeprefix(start) if found else None for found in rows["faults"]] == [
        "dict with ['url']", "dict with ['bytes', 'path']", "dict with ['path']", None, None, None
    ]  # fmt: skip


WORDS = st.text(st.characters(categories=["L"], max_codepoint=0x2FFF), min_size=2, max_size=6)


@st.composite
def contents(draw: st.DrawFn) -> tuple[list[str], list[set[str]]]:
    """Classes in an order, and the classes of each row; each row has one, as `a|b` cannot write none."""
    names = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
    rows = draw(st.lists(st.sets(st.sampled_from(names), min_size=1), min_size=1, max_size=6))
    return names, rows


def notations(names: list[str], rows: list[set[str]]) -> dict[str, list[Any]]:
    hot = [[int(name in row) for name in names] for row in rows]
    listed = [[name for name in reversed(names) if name in row] for row in rows]
    return {
        "ints": hot,
        "bools": [[bool(entry) for entry in row] for row in hot],
        "floats": [[float(entry) for entry in row] for row in hot],
        "mixed": [
            [[float, bool, int][(i + j) % 3](entry) for j, entry in enumerate(row)] for i, row in enumerate(hot)
        ],
        "cells of 0 and 1": [json.dumps(row) for row in hot],
        "cells of true and false": [f" {json.dumps([bool(entry) for entry in row])} " for row in hot],
        "names": listed,
        "cells of names": [json.dumps(row) for row in listed],
        "escaped cells of names": [json.dumps(row, ensure_ascii=False) for row in listed],
        "a|b": [" | ".join(row) for row in listed],
    }


@given(contents())
@settings(max_examples=150, deadline=None)
def test_every_notation_gives_the_same_labels(content: tuple[list[str], list[set[str]]]) -> None:
    names, rows = content
    expected = [[float(name in row) for name in names] for row in rows]
    for notation, values in notations(names, rows).items():
        scheme = infer_scheme(values, MULTI, names)
        assert (scheme.names, scheme.encode(values)) == (tuple(names), (expected, [None] * len(rows))), notation
        if notation != "a|b":
            assert infer_scheme(values).problem_type == MULTI, notation


@given(contents(), st.sampled_from(list(notations(["a"], [{"a"}]))), st.sampled_from([".jsonl", ".csv", ".parquet"]))
@settings(max_examples=25, deadline=None)
def test_every_notation_in_every_table_gives_the_same_labels(
    content: tuple[list[str], list[set[str]]], notation: str, suffix: str
) -> None:
    names, rows = content
    expected = [[float(name in row) for name in names] for row in rows]
    values = notations(names, rows)[notation]
    with TemporaryDirectory() as place:
        path = Path(place, f"a{suffix}")
        if suffix == ".csv" and isinstance(values[0], str):
            write_csv(path, [{"text": "x", "label": value} for value in values])
        elif suffix == ".parquet" and notation != "mixed":
            Dataset.from_dict({"text": ["x"] * len(rows), "label": values}).to_parquet(path)
        else:
            path = write_jsonl(Path(place, "a.jsonl"), values)
        data = load_data(path, problem_type=MULTI, label_names=names)
        assert (labels_of(data), reasons_of(data)) == (expected, [None] * len(rows))


@given(contents(), st.sampled_from([int, bool, float]))
@settings(max_examples=10, deadline=None)
def test_a_column_a_label_gives_the_same_labels(
    content: tuple[list[str], list[set[str]]], kind: Callable[[bool], Any]
) -> None:
    names, rows = [f"is {name}" for name in (*content[0], "")], content[1]
    cells = [{name: kind(name.removeprefix("is ") in row) for name in names} for row in rows]
    with TemporaryDirectory() as place:
        data = load_data(write_csv(Path(place, "a.csv"), [{"text": "x", **row} for row in cells]), label_column=names)
        assert labels_of(data) == [[float(mark) for mark in row.values()] for row in cells]
        assert list(data.id2label.values()) == names


def test_lists_of_class_labels_name_each_class_once(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["no", "yes"]))})
    Dataset.from_dict({"text": ["x", "y"], "label": [[0, 1], [0, 1, 0]]}, features=features).save_to_disk(
        tmp_path / "s"
    )
    data = load_data(tmp_path / "s")
    assert labels_of(data) == [[1, 1], None]
    assert reasons_of(data) == [None, "the class 'no' is named twice in one cell"]
