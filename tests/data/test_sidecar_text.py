"""The lab layout: two lists, numbered images and texts, unknown encodings."""

import pytest
from PIL import Image

from hf_multimodal.data.checks import BadSamplesError, check_splits
from hf_multimodal.data.counts import count_rows
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.sidecar_text import write_guid_tag_list

CHINESE = "今天的天气真好，适合出去玩"


@pytest.fixture
def lab(tmp_path):
    (tmp_path / "data").mkdir()
    texts = {"30": b"NaN", "4": CHINESE.encode("gb18030"), "17": "café".encode(), "8": b" \n", "99": b"in no list"}
    for number, (guid, content) in enumerate(texts.items()):
        (tmp_path / "data" / f"{guid}.txt").write_bytes(content)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "data" / f"{guid}.jpg")
    (tmp_path / "train.txt").write_text("guid,tag\n30,positive\n4,negative\n17,neutral\n")
    (tmp_path / "test_without_label.txt").write_text("guid,tag\n8,null\n")
    return tmp_path


def test_rows_are_in_the_order_of_the_lists(lab):
    data = load_data(lab)
    train, predict = data.splits["train"], data.splits["predict"]
    assert train["id"][:] == ["30", "4", "17"]
    assert train["text"][:] == ["NaN", CHINESE, "café"]
    assert train["image"][1] == {"bytes": None, "path": str(lab / "data" / "4.jpg")}
    assert data.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert train["label"][:] == [2, 0, 1]
    assert (predict["id"][:], predict["text"][:], predict["label"][:]) == (["8"], [None], [None])
    assert data.report == {"kind": "lab", "encodings": {"utf-8": 3, "gb18030": 1}, "unlisted": 1}
    assert data.sources == {
        "train": str(lab / "train.txt"),
        "predict": str(lab / "test_without_label.txt"),
    }
    check_splits(data, policy="error")


def test_one_of_the_two_lists_is_enough(lab):
    (lab / "test_without_label.txt").unlink()
    assert list(load_data(lab).splits) == ["train"]
    (lab / "test_without_label.txt").write_text("guid,tag\n8,null\n")
    (lab / "train.txt").unlink()
    data = load_data(lab, label_names=["a", "b"])
    assert (list(data.splits), data.id2label) == (["predict"], {0: "a", 1: "b"})


def test_encoding_override(lab):
    data = load_data(lab, encoding="cp1251")
    assert data.splits["train"]["text"][1] == CHINESE.encode("gb18030").decode("cp1251")
    assert data.report["encodings"] == {"utf-8": 3, "cp1251": 1}


def test_missing_unreadable_and_straying_files_are_bad_samples(lab):
    (lab / "data" / "30.txt").unlink()
    (lab / "data" / "4.txt").write_bytes(b"\xff\xff")
    (lab / "data" / "17.jpg").unlink()
    (lab / "train.txt").write_text("guid,tag\n30,positive\n4,negative\n17,neutral\n30,null\n")
    with pytest.raises(BadSamplesError) as caught:
        check_splits(load_data(lab, encoding="ascii"), policy="error")
    text = "not UTF-8, nor in the encoding that fits the other texts"
    outside = f"the path leaves the data folder '{lab}'"
    inside = str(lab / "data" / "17.jpg")
    found = [(sample.row, sample.column, sample.value, sample.reason) for sample in caught.value.samples]
    assert found[:4] == [
        (0, "guid", "data/30.txt", "there is no such file"),
        (1, "guid", "data/4.txt", text),
        (2, "guid", inside, f"image {inside!r} is missing: there is no such file"),
        (3, "guid", "data/30.txt", "there is no such file"),
    ]
    assert found[4:] == [
        (3, "guid", "30", "a duplicate id, first in row 0"),
        (3, "tag", "", "an empty label, which training needs"),
    ]
    assert f"{lab / 'train.txt'}, row 0 (id '30'), column 'guid', 'data/30.txt': there is no" in str(caught.value)
    (lab / "train.txt").write_text("guid,tag\n30,positive\n../../x,positive\n")
    rows = load_data(lab).splits["train"]
    assert [fault["reason"] for fault in rows["faults"][1]] == [outside, outside]
    assert rows["image"][1] is None


@pytest.mark.parametrize(
    "content, message",
    [
        ("30,positive\n", "train.txt must begin with the line 'guid,tag', got '30,positive'"),
        ("guid,tag\n", "train.txt has no rows"),
        ("guid,tag\n30\n", "train.txt, line 2: 'guid,tag' is expected, got '30'"),
    ],
)
def test_malformed_lists(lab, content, message):
    (lab / "train.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_data(lab)


def test_predictions_are_written_in_order(tmp_path):
    write_guid_tag_list(tmp_path / "out.txt", ["8", "1576", "3"], ["positive", "neutral", "positive"])
    assert (tmp_path / "out.txt").read_bytes() == b"guid,tag\n8,positive\n1576,neutral\n3,positive\n"
    with pytest.raises(ValueError, match="ids and tags must be of one length, got 1 and 0"):
        write_guid_tag_list(tmp_path / "out.txt", ["8"], [])


def test_real_lab_folder(real_data):
    data = load_data(real_data / "ecnu")
    assert data.report == {"kind": "lab", "encodings": {"utf-8": 3450, "gb18030": 1061}, "unlisted": 358}
    counts = count_rows(data.splits, data.id2label)
    assert counts["train"]["classes"] == {"negative": 1193, "neutral": 419, "positive": 2388}
    assert counts["train"]["presence"] == {"both": 4000, "image": 0, "text": 0, "neither": 0}
    assert counts["predict"]["classes"] == {"negative": 0, "neutral": 0, "positive": 0, "(none)": 511}
    assert data.splits["train"]["id"][:3] == ["4597", "26", "4383"]
    checked, samples = check_splits(data, policy="error", decode=False)
    assert (samples, len(checked.splits["train"])) == ([], 4000)
