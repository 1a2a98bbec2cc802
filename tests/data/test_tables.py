"""Tables: cells as they stand, columns by name, paths within their folder."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_multimodal.data.labels import infer_scheme
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.tables import read_table

ROWS = [
    {"image": "a.jpg", "text": "NaN", "label": "good"},
    {"image": "", "text": "None", "label": "bad"},
    {"image": "sub/b.jpg", "text": "", "label": "good"},
    {"image": "c.jpg", "text": "null", "label": ""},
    {"image": "d.jpg", "text": "  \t", "label": "bad"},
    {"image": "d.jpg", "text": 'NA, "quoted"\nand broken', "label": "bad"},
]


def write_csv(path: Path, rows, delimiter=","):
    import csv

    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_table(path: Path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({k: v or None for k, v in row.items()}) for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{k: v or None for k, v in row.items()} for row in rows]), path)
    else:
        write_csv(path, rows, "\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_table_gives_the_same_rows(tmp_path, suffix):
    data = load_data(write_table(tmp_path / f"table{suffix}", ROWS))
    rows = data.splits["train"]
    assert rows["text"][:] == ["NaN", "None", None, "null", None, 'NA, "quoted"\nand broken']
    assert rows["image"][:] == [
        {"bytes": None, "path": str(tmp_path / "a.jpg")},
        None,
        {"bytes": None, "path": str(tmp_path / "sub" / "b.jpg")},
        {"bytes": None, "path": str(tmp_path / "c.jpg")},
        {"bytes": None, "path": str(tmp_path / "d.jpg")},
        {"bytes": None, "path": str(tmp_path / "d.jpg")},
    ]
    assert rows["label"][:] == [1, 0, 1, None, 0, 0]
    assert rows["id"][:] == ["0", "1", "2", "3", "4", "5"]
    assert rows["index"][:] == [0, 1, 2, 3, 4, 5]
    assert rows["faults"][:] == [[]] * 6
    assert rows.features["label"] == ClassLabel(names=["bad", "good"])
    assert rows.features["image"] == Image(decode=False)
    assert data.id2label == {0: "bad", 1: "good"}
    assert data.problem_type == "single_label_classification"
    assert data.sources == {"train": str(tmp_path / f"table{suffix}")}


def test_unknown_column_names_the_columns_there_are(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"photo": "a.jpg", "caption": "x", "tag": "y"}])
    message = r"a.csv has no column 'captoin' \(text_column\), its columns are \['photo', 'caption', 'tag'\]."
    with pytest.raises(ValueError, match=message + r" Did you mean 'caption'\?"):
        load_data(path, text_column="captoin")
    with pytest.raises(ValueError, match="neither an image nor a text column under the usual names, its columns are"):
        load_data(path)
    data = load_data(path, image_column="photo", text_column="caption", label_column="tag")
    assert data.columns == {"image": "photo", "text": "caption", "label": "tag"}
    assert data.splits["train"]["text"][:] == ["x"]


def test_paths_that_leave_the_folder_and_urls_are_faults(tmp_path):
    images = [
        "../a.jpg",
        "x/../../a.jpg",
        "/etc/passwd",
        "http://x.org/a.jpg",
        str(tmp_path / "in" / "b.jpg"),
        "x/../c",
    ]
    (tmp_path / "in").mkdir()
    path = write_csv(tmp_path / "in" / "a.csv", [{"image": image, "text": "x"} for image in images])
    rows = load_data(path).splits["train"]
    reasons = [[fault["reason"] for fault in faults] for faults in rows["faults"]]
    outside = [f"the path leaves the data folder '{tmp_path / 'in'}'"]
    assert reasons == [outside] * 3 + [["a URL is not fetched: download the image and give its path"], [], []]
    assert [image and image["path"] for image in rows["image"]] == [
        *[None] * 4, str(tmp_path / "in" / "b.jpg"), str(tmp_path / "in" / "c")
    ]  # fmt: skip


def test_image_root_takes_the_place_of_the_tables_folder(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"image": "a.jpg", "text": "x"}])
    rows = load_data(path, image_root=tmp_path / "images").splits["train"]
    assert rows[0]["image"]["path"] == str(tmp_path / "images" / "a.jpg")


def test_ids_must_be_unique_and_filled(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"guid": guid, "text": "x"} for guid in ("7", "8", "7", "")])
    rows = load_data(path).splits["train"]
    assert rows["id"][:] == ["7", "8", "7", ""]
    assert rows["faults"][2] == [{"column": "id", "value": "7", "reason": "a duplicate id, first in row 0"}]
    assert rows["faults"][3] == [{"column": "id", "value": "", "reason": "an empty id"}]


def test_split_column(tmp_path):
    splits = ["dev", "train", "test", "Train", "valid", "validation"]
    path = write_csv(tmp_path / "a.csv", [{"text": str(i), "split": split} for i, split in enumerate(splits)])
    data = load_data(path)
    assert {name: rows["index"][:] for name, rows in data.splits.items()} == {
        "train": [1, 3],
        "validation": [0, 4, 5],
        "test": [2],
    }
    assert data.all_rows()["text"][:] == ["0", "1", "2", "3", "4", "5"]
    path = write_csv(tmp_path / "b.csv", [{"text": "x", "split": "tset"}])
    with pytest.raises(ValueError, match="b.csv, row 0, column 'split' must be one of .* got 'tset'. Did you mean"):
        load_data(path)


def test_integer_labels_are_in_numeric_order(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"text": "x", "label": label} for label in ("10", "9", "-2", "10")])
    data = load_data(path)
    assert data.id2label == {0: "-2", 1: "9", 2: "10"}
    assert data.splits["train"]["label"][:] == [2, 1, 0, 2]


def test_integers_with_gaps_and_mixed_kinds_in_jsonl(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 5, "label": 2.0}\n\n{"text": "x", "label": null}\n{"label": 1}\n')
    data = load_data(tmp_path / "a.jsonl")
    assert data.splits["train"]["text"][:] == ["5", "x", None]
    assert data.id2label == {0: "1", 1: "2"}
    assert data.splits["train"]["label"][:] == [1, None, 0]


def test_fractions_need_regression(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"text": "x", "label": label} for label in ("0.5", "2", "", "high", "nan")])
    data = load_data(path, problem_type="regression")
    assert data.splits["train"]["label"][:] == [0.5, 2.0, None, None, None]
    assert [[fault["reason"] for fault in faults] for faults in data.splits["train"]["faults"]] == [
        [], [], [], ["label 'high' is not a number, as regression needs"], ["label 'nan' is not finite"]
    ]  # fmt: skip
    assert data.id2label == {}
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 0.5}')
    with pytest.raises(ValueError, match="the label 0.5 is a fraction: for such labels problem_type is 'regression'"):
        load_data(tmp_path / "a.jsonl")


def test_multi_label_from_joined_strings_and_lists(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"text": "x", "label": label} for label in ("b|a", "c", "", "a | c")])
    data = load_data(path, problem_type="multi_label_classification")
    assert data.splits["train"]["label"][:] == [[1, 1, 0], [0, 0, 1], None, [1, 0, 1]]
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": ["b", "a"]}\n{"text": "x", "label": []}')
    data = load_data(tmp_path / "a.jsonl")
    assert data.problem_type == "multi_label_classification"
    assert data.splits["train"]["label"][:] == [[1, 1], [0, 0]]
    with pytest.raises(ValueError, match="is a list: problem_type must be 'multi_label_classification'"):
        load_data(tmp_path / "a.jsonl", problem_type="single_label_classification")
    scheme = infer_scheme([[0.0, 1.0, 1.0]], names=["x", "y", "z"])
    assert scheme.encode([[0.0, 1.0, 1.0], [1.0]]) == (
        [[0.0, 1.0, 1.0], None],
        [None, "a multi-hot label of length 1 for 3 classes"],
    )


def test_label_names_of_a_trained_model_keep_their_order(tmp_path):
    path = write_csv(tmp_path / "a.csv", [{"text": "x", "label": label} for label in ("b", "a", "bb")])
    data = load_data(path, label_names=["b", "a"])
    assert data.id2label == {0: "b", 1: "a"}
    assert data.splits["train"]["label"][:] == [0, 1, None]
    reason = "unknown label 'bb', the classes are ['b', 'a']. Did you mean 'b'?"
    assert data.splits["train"][2]["faults"] == [{"column": "label", "value": "bb", "reason": reason}]


def test_unknown_problem_type():
    with pytest.raises(ValueError, match="problem_type must be one of .* got 'regresion'. Did you mean 'regression'"):
        infer_scheme(["a"], "regresion")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "a,b\n1\n", r"a.csv, line 2: 1 cells under 2 columns \['a', 'b'\]"),
        ("a.csv", "a,a\n1,2\n", "a.csv: a column name stands twice"),
        ("a.csv", 'text\n"open\nrest\n', "a.csv, line 3: unexpected end of data"),
        ("a.csv", "text\n", "a.csv has no rows"),
        ("a.csv", "", "a.csv has no rows"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl, line 1: a JSON object is expected, got"),
        ("a.parquet", "text", "a.parquet: not a readable Parquet file"),
        ("a.cvs", "text", "the table's suffix must be one of .* got '.cvs'. Did you mean '.csv'"),
    ],
)
def test_malformed_tables(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path / name)


def test_long_cells_blank_lines_and_other_encodings(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "x" * 200_000 + "\n\nlast\n")
    assert [len(text) for text in load_data(path).splits["train"]["text"]] == [200_000, 4]
    path.write_bytes("text,label\n今天的天气真好,好\n手机又坏了,坏\n".encode("gb18030"))
    data = load_data(path)
    assert data.splits["train"]["text"][:] == ["今天的天气真好", "手机又坏了"]
    assert data.report["encodings"] == {"gb18030": 1}


def test_parquet_with_images_inside(tmp_path):
    images = [{"bytes": b"one", "path": "1.png"}, None, {"bytes": None, "path": "2.png"}]
    features = Features({"image": Image(), "text": Value("string")})
    rows = Dataset.from_dict({"image": images, "text": ["a", "b", "c"]}, features=features)
    pq.write_table(rows.data.table, tmp_path / "a.parquet")
    read, encoding, bad_cells = read_table(tmp_path / "a.parquet")
    assert (read.features, encoding, bad_cells) == (features, None, [])
    assert load_data(tmp_path / "a.parquet").splits["train"]["image"][:] == [
        {"bytes": b"one", "path": "1.png"}, None, {"bytes": None, "path": str(tmp_path / "2.png")}
    ]  # fmt: skip


def test_nan_in_jsonl_is_a_missing_cell_and_the_word_is_text(tmp_path):
    lines = ['{"image": "a.jpg", "text": "NaN", "label": "yes"}', '{"image": NaN, "text": NaN, "label": NaN}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    data = load_data(tmp_path / "a.jsonl")
    rows = data.splits["train"]
    assert data.id2label == {0: "yes"} and rows["label"][:] == [0, None]
    assert rows["text"][:] == ["NaN", None]
    assert rows["image"][:] == [{"bytes": None, "path": str(tmp_path / "a.jpg")}, None]


def test_fractions_written_as_words_need_regression_too(tmp_path):
    rows = [{"text": "x", "score": label} for label in ("0.0", "", "0.142", "1e-3")]
    path = write_csv(tmp_path / "a.csv", rows)
    message = r"a.csv, row 2, column 'score': the label '0.142' is a fraction: .* problem_type is 'regression'"
    with pytest.raises(ValueError, match=message):
        load_data(path, label_column="score")
    named = load_data(path, label_column="score", problem_type="single_label_classification")
    assert set(named.id2label.values()) == {"0.0", "0.142", "1e-3"}
    write_csv(tmp_path / "b.csv", [{**row, "split": "train" if row["score"] else "test"} for row in rows])
    with pytest.raises(ValueError, match="b.csv, row 2, column 'score': the label '0.142' is a fraction"):
        load_data(tmp_path / "b.csv", label_column="score")
    Dataset.from_dict({"text": ["x", "y"], "label": [1.0, 0.5]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet, row 1, column 'label': the label 0.5 is a fraction"):
        load_data(tmp_path / "a.parquet")
    for names in (["1", "2"], ["1.0", "2.0"], ["0.5", "half"]):
        assert infer_scheme(names).names == tuple(names)
