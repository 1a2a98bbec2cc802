"""Texts beside images: folders, tables, and two lists of numbered images and texts; unknown encodings."""

import shutil
import zipfile

import pytest
from PIL import Image

from hf_multimodal.data.checks import BadSamplesError, check_splits
from hf_multimodal.data.counts import count_rows
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.pairs import group_pairs
from hf_multimodal.data.sidecar_text import write_guid_tag_list

CHINESE = "今天的天气真好，适合出去玩"


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "data").mkdir()
    texts = {"30": b"NaN", "4": CHINESE.encode("gb18030"), "17": "café".encode(), "8": b" \n", "99": b"in no list"}
    for number, (guid, content) in enumerate(texts.items()):
        (tmp_path / "data" / f"{guid}.txt").write_bytes(content)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "data" / f"{guid}.jpg")
    (tmp_path / "train.txt").write_text("guid,tag\n30,positive\n4,negative\n17,neutral\n")
    (tmp_path / "test_without_label.txt").write_text("guid,tag\n8,null\n")
    return tmp_path


def test_rows_are_in_the_order_of_the_lists(lists):
    data = load_data(lists)
    train, predict = data.splits["train"], data.splits["predict"]
    assert train["id"][:] == ["30", "4", "17"]
    assert train["text"][:] == ["NaN", CHINESE, "café"]
    assert train["image"][1] == {"bytes": None, "path": str(lists / "data" / "4.jpg")}
    assert data.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert train["label"][:] == [2, 0, 1]
    assert (predict["id"][:], predict["text"][:], predict["label"][:]) == (["8"], [None], [None])
    assert data.report == {"kind": "sidecar-text", "encodings": {"utf-8": 3, "gb18030": 1}, "unlisted": 1}
    assert data.sources == {
        "train": str(lists / "train.txt"),
        "predict": str(lists / "test_without_label.txt"),
    }
    check_splits(data, policy="error")


def test_one_of_the_two_lists_is_enough(lists):
    (lists / "test_without_label.txt").unlink()
    assert list(load_data(lists).splits) == ["train"]
    (lists / "test_without_label.txt").write_text("guid,tag\n8,null\n")
    (lists / "train.txt").unlink()
    data = load_data(lists, label_names=["a", "b"])
    assert (list(data.splits), data.id2label) == (["predict"], {0: "a", 1: "b"})


def test_encoding_override(lists):
    data = load_data(lists, encoding="cp1251")
    assert data.splits["train"]["text"][1] == CHINESE.encode("gb18030").decode("cp1251")
    assert data.report["encodings"] == {"utf-8": 3, "cp1251": 1}


def test_missing_unreadable_and_straying_files_are_bad_samples(lists):
    (lists / "data" / "30.txt").unlink()
    (lists / "data" / "4.txt").write_bytes(b"\xff\xff")
    (lists / "data" / "17.jpg").unlink()
    (lists / "train.txt").write_text("guid,tag\n30,positive\n4,negative\n17,neutral\n30,null\n")
    with pytest.raises(BadSamplesError) as caught:
        check_splits(load_data(lists, encoding="ascii"), policy="error")
    text = "not UTF-8, nor in the encoding that fits the other texts"
    outside = f"the path leaves the data folder '{lists}'"
    inside = str(lists / "data" / "17.jpg")
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
    assert f"{lists / 'train.txt'}, row 0 (id '30'), column 'guid', 'data/30.txt': there is no" in str(caught.value)
    (lists / "train.txt").write_text("guid,tag\n30,positive\n../../x,positive\n")
    rows = load_data(lists).splits["train"]
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
def test_malformed_lists(lists, content, message):
    (lists / "train.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_data(lists)


def test_predictions_are_written_in_order(tmp_path):
    write_guid_tag_list(tmp_path / "out.txt", ["8", "1576", "3"], ["positive", "neutral", "positive"])
    assert (tmp_path / "out.txt").read_bytes() == b"guid,tag\n8,positive\n1576,neutral\n3,positive\n"
    with pytest.raises(ValueError, match="ids and tags must be of one length, got 1 and 0"):
        write_guid_tag_list(tmp_path / "out.txt", ["8"], [])


def test_real_sidecar_text_folder(real_data):
    data = load_data(real_data / "ecnu")
    assert data.report == {"kind": "sidecar-text", "encodings": {"utf-8": 3450, "gb18030": 1061}, "unlisted": 358}
    counts = count_rows(data.splits, data.id2label)
    assert counts["train"]["classes"] == {"negative": 1193, "neutral": 419, "positive": 2388}
    assert counts["train"]["presence"] == {"both": 4000, "image": 0, "text": 0, "neither": 0}
    assert counts["predict"]["classes"] == {"negative": 0, "neutral": 0, "positive": 0, "(none)": 511}
    assert data.splits["train"]["id"][:3] == ["4597", "26", "4383"]
    checked, samples = check_splits(data, policy="error", decode=False)
    assert (samples, len(checked.splits["train"])) == ([], 4000)


def make_files(folder, **contents):
    """Write images (by number of their colour) and texts; two underscores in a name divide folders."""
    for name, content in contents.items():
        path = folder / f"{name.replace('__', '/')}.{'txt' if isinstance(content, (str, bytes)) else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (8, 8), (content, 0, 0)).save(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def pets(tmp_path):
    make_files(tmp_path, dog__1=1, dog__2=2, cat__1=3, cat__3=4)
    make_files(tmp_path, dog__1="a wet dog", cat__1=CHINESE.encode("gb18030"), cat__9="no image", dog__2=" \n")
    return tmp_path


def test_sub_folders_are_the_classes_and_what_an_example_lacks_is_missing(pets):
    data = load_data(pets)
    rows = data.splits["train"]
    assert list(data.splits) == ["train"] and data.id2label == {0: "cat", 1: "dog"}
    assert rows["id"][:] == ["cat/1.png", "cat/3.png", "cat/9.txt", "dog/1.png", "dog/2.png"]
    assert rows["text"][:] == [CHINESE, None, "no image", "a wet dog", None]
    assert [image and image["path"] for image in rows["image"]] == [
        None if name is None else str(pets / name)
        for name in ("cat/1.png", "cat/3.png", None, "dog/1.png", "dog/2.png")
    ]
    assert rows["label"][:] == [0, 0, 0, 1, 1]
    assert data.columns == {name: name for name in ("image", "text", "label", "id")}
    assert data.report["kind"] == "sidecar-text" and data.report["encodings"] == {"utf-8": 3, "gb18030": 1}
    assert count_rows(data.splits, data.id2label)["train"]["presence"] == {
        "both": 2,
        "image": 2,
        "text": 1,
        "neither": 0,
    }
    assert check_splits(data, policy="error")[1] == []
    assert load_data(pets, encoding="cp1251").report["encodings"] == {"utf-8": 3, "cp1251": 1}


def test_a_folder_without_classes_is_unlabelled_and_pairs_for_an_aligner(tmp_path):
    make_files(tmp_path, a=1, b=2, sub__c=3, a_="x")
    (tmp_path / "a_.txt").rename(tmp_path / "a.txt")
    data = load_data(tmp_path)
    assert (data.splits["train"]["text"][:], data.splits["train"]["label"][:]) == (["x", None, None], [None] * 3)
    assert "label" not in data.columns
    make_files(tmp_path, b="y")
    captions, incomplete = group_pairs(load_data(tmp_path, pairs=True).splits["train"])
    assert (captions["texts"][:], incomplete) == ([["x"], ["y"]], 1)


def test_folders_of_splits_hold_classes_each(pets):
    for split in ("train", "val"):
        make_files(pets / split, dog__1=1, cat__1=2, dog__1_="a dog")
        (pets / split / "dog" / "1_.txt").rename(pets / split / "dog" / "1.txt")
    with pytest.raises(
        ValueError, match=r"4 images lie outside of the folders of its splits \['train/', 'val/'\], such"
    ):
        load_data(pets)
    for name in ("dog", "cat"):
        shutil.rmtree(pets / name)
    make_files(pets / "test", x=9, y="alone")
    data = load_data(pets)
    assert list(data.splits) == ["train", "validation", "predict"]  # no label is in `test`
    assert data.splits["validation"]["label"][:] == [0, 1] and data.splits["predict"]["label"][:] == [None, None]
    assert data.splits["predict"]["id"][:] == ["test/x.png", "test/y.txt"]
    assert data.splits["predict"]["text"][:] == [None, "alone"]
    assert data.sources["validation"] == str(pets / "val")
    make_files(pets / "valid", x=9)
    with pytest.raises(ValueError, match="the split 'validation' is given twice: '.*val' and '.*valid'"):
        load_data(pets)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_table_names_the_classes_of_images_with_texts_beside_them(pets, suffix, caplog):
    rows = [("dog/1.png", "wet"), ("cat/1.png", "dry"), ("dog/2.png", "wet"), ("cat/9.png", "dry")]
    lines = {
        "csv": ["file_name,label", *(f"{name},{label}" for name, label in rows)],
        "jsonl": [f'{{"file_name": "{name}", "label": "{label}"}}' for name, label in rows],
    }
    (pets / f"metadata.{suffix}").write_text("\n".join(lines[suffix]))
    data = load_data(pets)
    assert data.splits["train"]["text"][:] == ["a wet dog", CHINESE, None, "no image"]
    assert data.splits["train"]["label"][:] == [1, 0, 1, 0] and data.id2label == {0: "dry", 1: "wet"}
    assert data.columns == {"image": "file_name", "text": "file_name", "label": "label"}
    assert data.report["text_encodings"] == {"utf-8": 3, "gb18030": 1} and data.report["unlisted"] == 0
    (pets / "cat" / "1.txt").write_bytes(b"\xff\xff")
    with pytest.raises(
        BadSamplesError, match=f"(?s)2 bad samples .*metadata.{suffix}, row 1 .*'.*1.txt': not UTF-8, nor"
    ):
        check_splits(load_data(pets, encoding="ascii"), policy="error")  # the other one is the image that is not there
    (pets / f"metadata.{suffix}").write_text(
        "file_name,text\ndog/1.png,its own\n" if suffix == "csv" else '{"file_name": "dog/1.png", "text": "its own"}'
    )
    assert load_data(pets).splits["train"]["text"][:] == ["its own"]


def test_texts_lie_beside_images_in_zip_archives_too(pets, tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for name in ("dog/1.png", "dog/1.txt", "cat/1.png"):
            archive.write(pets / name, name)
        archive.writestr("metadata.csv", "file_name\ndog/1.png\ncat/1.png\n")
    for name in ("dog", "cat"):
        shutil.rmtree(pets / name)
    data = load_data(tmp_path)
    assert data.splits["train"]["text"][:] == ["a wet dog", None]
    assert check_splits(data, policy="error", prediction=True)[1] == []


def test_files_of_one_stem_are_an_error_where_a_text_cannot_tell(pets):
    Image.new("RGB", (8, 8)).save(pets / "cat" / "3.jpg")
    assert len(load_data(pets).splits["train"]) == 6  # without a text both are images
    Image.new("RGB", (8, 8)).save(pets / "dog" / "1.jpg")
    message = "two images have one stem, 'dog/1.jpg' and 'dog/1.png', so that it is not known which .*: rename one"
    with pytest.raises(ValueError, match=message):
        load_data(pets)
    (pets / "metadata.csv").write_text("file_name,label\ndog/1.png,a\ndog/1.jpg,b\n")
    with pytest.raises(ValueError, match="two images have one stem, '.*dog/1.png' and '.*dog/1.jpg'"):
        load_data(pets)


def test_a_class_folder_without_an_image_is_an_error(pets):
    make_files(pets, bird__1="no image of a bird")
    with pytest.raises(ValueError, match="its sub-folders are classes, and 'bird' has no image: put its images there"):
        load_data(pets)
    assert len(load_data(pets, pairs=True).splits["train"]) == 6  # which asks for no classes


def test_notes_are_not_read_and_are_warned_of(pets, caplog):
    make_files(pets, README="how they were taken")
    (pets / ".cache").mkdir()
    (pets / ".cache" / "1.png").write_bytes(b"")
    assert len(load_data(pets).splits["train"]) == 5
    assert "1 texts are of no example and not read, such as 'README.txt'" in caplog.text
    for text in pets.rglob("[0-9]*.txt"):
        text.unlink()
    data = load_data(pets)
    assert data.report["kind"] == "images" and data.splits["train"]["text"][:] == [None] * 4
    assert data.id2label == {0: "cat", 1: "dog"}
