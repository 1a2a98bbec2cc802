"""Tables that cannot be held as they stand: a bad sample, or one error with file and row."""

import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_multimodal.data.charsets import check_encoding, decode_file, decode_texts
from hf_multimodal.data.checks import check_splits
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.tables import find_columns
from hf_multimodal.validation import did_you_mean

ROWS = [{"text": f"word {i}", "label": "ab"[i % 2], "id": i} for i in range(6)]


def write(path, rows, *lines):
    path.write_text("\n".join([*map(json.dumps, rows), *lines]), encoding="utf-8")
    return path


def test_damaged_parquet_is_one_error(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    whole = path.read_bytes()
    assert load_data(path).splits["train"]["id"][:] == list("012345")
    for content in (whole[:4] + whole[60:], whole[:40] + b"\xff" + whole[41:], whole[:-20], b"PAR1", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.parquet: not a readable Parquet file") as caught:
            load_data(path)
        assert type(caught.value) is ValueError


def test_parquet_of_words_that_are_not_utf8_is_one_error(tmp_path):
    offsets, letters = pa.array([0, 2, 4], pa.int32()).buffers()[1], pa.py_buffer(b"ab\xff\xfe")
    words = pa.Array.from_buffers(pa.string(), 2, [None, offsets, letters])
    pq.write_table(pa.table({"text": words}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="not a readable Parquet file .*Invalid UTF8 sequence at string index 1"):
        load_data(tmp_path / "a.parquet")


@pytest.mark.parametrize("features", [b"{", b"[]", b'{"info": {"features": {"text": {"_type": "Nope"}}}}', b"\xff"])
def test_parquet_with_damaged_features_is_one_error(tmp_path, features):
    table = pa.Table.from_pylist(ROWS).replace_schema_metadata({b"huggingface": features})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet: not a readable Parquet file"):
        load_data(tmp_path / "a.parquet")


def test_parquet_with_a_name_twice_or_with_nul(tmp_path):
    twice = pa.Table.from_arrays([pa.array(["x"])] * 2, names=["text", "text"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: a column name stands twice in \['text', 'text'\]"):
        load_data(tmp_path / "a.parquet")


@pytest.mark.parametrize("nested", [False, True], ids=["one", "list"])
def test_class_numbers_beyond_the_names_are_named(tmp_path, nested):
    names = [f"c{i}" for i in range(26)]
    labels = [[i, 0] if nested else i for i in range(26)]
    feature = ClassLabel(names=names)
    features = Features({"text": Value("string"), "label": List(feature) if nested else feature})
    Dataset.from_dict({"text": names, "label": labels}, features=features).to_parquet(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert len(load_data(tmp_path / "a.parquet").id2label) == 26
    info = json.loads(table.schema.metadata[b"huggingface"])
    label = info["info"]["features"]["label"]
    (label["feature"] if nested else label)["names"] = names[:25]
    cut = table.replace_schema_metadata({b"huggingface": json.dumps(info).encode()})
    pq.write_table(cut, tmp_path / "a.parquet")
    message = "a.parquet, row 25, column 'label': class number 25, but the data set names 25 classes"
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path / "a.parquet")
    cut_set = Dataset(cut)
    cut_set.save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"saved \(train\), row 25, column 'label': class number 25"):
        load_data(tmp_path / "saved")


def test_half_a_character_is_a_bad_sample(tmp_path):
    lines = [
        r'{"text": "x \ud83d", "label": "a", "id": 7}',
        r'{"text": "y", "label": "\udc00", "id": 8}',
        r'{"text": "z", "label": "b", "id": "\uD800"}',
        r'{"text": "z", "label": "b", "id": "\uD801"}',
        r'{"text": "\ud83d\ude00", "label": "b", "id": 10, "unread": "\ud800"}',
    ]
    path = write(tmp_path / "a.jsonl", ROWS, *lines)
    data, samples = check_splits(load_data(path), policy="drop")
    assert data.splits["train"]["text"][:] == [*(row["text"] for row in ROWS), "😀"]
    assert data.id2label == {0: "a", 1: "b"}
    start, reason = f"{path}, row ", "half a character (a lone surrogate) is in it"
    assert list(map(str, samples)) == [
        rf"""{start}6 (id '7'), column 'text', '"x \\ud83d"': {reason}""",
        rf"""{start}7 (id '8'), column 'label', '"\\udc00"': {reason}""",
        rf"""{start}8 (id ''), column 'id', '"\\ud800"': {reason}""",
        rf"""{start}9 (id ''), column 'id', '"\\ud801"': {reason}""",
    ]
    kept, samples = check_splits(load_data(path), policy="missing", prediction=True, refuse=False)
    assert kept.splits["train"]["text"][6] is None and samples[0].action == "missing"
    with pytest.raises(ValueError, match=r"""a.jsonl, row 7, column 'label', "\\udc00": half a character"""):
        load_data(path, group_column="label")
    marks = [r'{"text": "x", "red": 1, "sea": "\ud800"}', '{"text": "y", "red": 0, "sea": 1}']
    data = load_data(write(tmp_path / "c.jsonl", [], *marks), label_column=["red", "sea"])
    assert data.splits["train"][0]["faults"][0]["reason"] == reason
    with pytest.raises(ValueError, match=r"b.jsonl, line 7: the column name 'te\\ud800xt' holds half a character"):
        load_data(write(tmp_path / "b.jsonl", ROWS, r'{"te\ud800xt": 1}'))


def test_integers_beyond_64_bits_stay_as_they_are_written(tmp_path):
    digits = ["9" * 5000, str(2**70), str(2**63), str(-(2**63) - 1), "5"]
    lines = [f'{{"text": {n}, "id": {n}, "label": {n}, "list": [{n}]}}' for n in digits]
    data = load_data(write(tmp_path / "a.jsonl", [], *lines), problem_type="single_label_classification")
    assert data.splits["train"]["id"][:] == data.splits["train"]["text"][:] == digits
    assert sorted(data.id2label.values()) == sorted(digits)
    lines = ['{"text": "x", "label": 0.5}', f'{{"text": "x", "label": {2**63 + 1}}}']
    data = load_data(write(tmp_path / "b.jsonl", [], *lines), problem_type="regression")
    assert data.splits["train"]["label"][:] == [0.5, 2.0**63]


@pytest.mark.parametrize("depth", [33, 500, 5_000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", '{"a":}'], ids=["lists", "objects"])
def test_what_is_nested_too_deeply_is_named_with_its_line(tmp_path, depth, brackets):
    value = brackets[:-1] * depth + "1" + brackets[-1] * depth
    path = write(tmp_path / "a.jsonl", ROWS, f'{{"text": "x", "label": "a", "more": {value}}}')
    with pytest.raises(ValueError, match="a.jsonl, line 7.*: lists and objects are nested (too deeply|more than 32)"):
        load_data(path)


def test_columns_of_unlike_kinds_are_kept(tmp_path):
    more = [1, "x", [1, "y"], {"k\0": 1}, None, [[1], ["z"]]]
    path = write(tmp_path / "a.jsonl", [{**row, "more": value} for row, value in zip(ROWS, more, strict=True)])
    assert load_data(path).splits["train"]["text"][:] == [row["text"] for row in ROWS]


@pytest.mark.parametrize("content", ["te\0xt,label\nx,a\n", "text,\0\nx,a\n"])
def test_nul_in_a_column_name_is_named(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=r"a.csv: the column name '.*\\x00.*' holds a NUL character"):
        load_data(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"a.jsonl: the column name 'a\\x00b' holds a NUL character"):
        load_data(write(tmp_path / "a.jsonl", [{"text": "x", "a\0b": 1}]))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("word", ["word", "今天天气很好", "Ⅷ"])
def test_utf16_without_a_mark_is_read(tmp_path, encoding, word):
    content = "text,label\n" + "".join(f"{word} {i},{'ab'[i % 2]}\n" for i in range(6))
    (tmp_path / "a.csv").write_bytes(content.encode(encoding))
    data = load_data(tmp_path / "a.csv")
    assert data.splits["train"]["text"][:] == [f"{word} {i}" for i in range(6)]
    assert data.report["encodings"] == {encoding: 1}
    assert decode_texts([b"plain", content.encode(encoding)]).texts == ["plain", content]


def test_what_is_no_text_in_any_encoding(tmp_path):
    nul = ("text,label\n" + "x,a\n" * 40 + "n\0l,b\n").encode()
    assert decode_file(nul, "a.csv") == (nul.decode(), "utf-8")
    with pytest.raises(ValueError, match="a.csv, line 2: not readable as utf-16"):
        decode_file("text\nword".encode("utf-16") + b"\0", "a.csv")
    with pytest.raises(ValueError, match="a.csv, line 1: not readable as utf-7"):
        decode_file(b"\xff+2AA-", "a.csv", "utf-7")
    with pytest.raises(ValueError, match="encoding 'hex' is not known"):
        check_encoding("hex")


def test_column_names_match_in_any_normal_form(tmp_path):
    composed, parts = (unicodedata.normalize(form, "données é") for form in ("NFC", "NFD"))
    assert composed != parts
    for given, asked in ((composed, parts), (parts, composed)):
        (tmp_path / "a.csv").write_text(f"{given},label\nx,a\n", encoding="utf-8")
        data = load_data(tmp_path / "a.csv", text_column=asked)
        assert data.columns["text"] == given and data.splits["train"]["text"][:] == ["x"]
        usual = load_data(tmp_path / "a.csv", usual_columns={"text": asked})
        assert usual.splits["train"]["text"][:] == ["x"]
    with pytest.raises(ValueError, match=r"a.csv: the columns 'donn\\xe9es \\xe9', 'donne\\u0301es .* rename one"):
        find_columns([composed, parts], {"text": composed}, "a.csv")
    assert did_you_mean(composed, [parts]) == (
        f" Did you mean {ascii(parts)}, the same word in another Unicode normal form?"
    )
