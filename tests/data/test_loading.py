"""`load_data` finds out what kind of data it was given."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from hf_multimodal.data import loading
from hf_multimodal.data.checks import check_splits
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.splits import complete_splits
from hf_multimodal.synthetic.classification import make_controlled


def test_controlled_task():
    data = load_data("controlled:unique", train_size=6, validation_size=2, test_size=3, seed=1)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 6, "validation": 2, "test": 3}
    assert data.id2label == {0: "class_0", 1: "class_1", 2: "class_2", 3: "class_3"}
    expected = make_controlled("unique", size=3, seed=1, split="test")
    assert data.splits["test"]["text"][:] == expected["text"][:]
    checked, samples = check_splits(data, policy="error")
    assert samples == []
    assert checked.splits["train"][0] == data.splits["train"][0]
    with pytest.raises(ValueError, match=r"controlled task must be one of \['redundant', .* Did you mean 'synergy'\?"):
        load_data("controlled:sinergy")
    with pytest.raises(ValueError, match="data 'controled:unique' is neither .* Did you mean 'controlled:unique'"):
        load_data("controled:unique")


def test_only_the_wanted_controlled_splits_are_made():
    assert list(load_data("controlled:unique", test_size=3, splits=["test"]).splits) == ["test"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("image_column", "photo"),
        ("label_column", "kind"),
        ("image_root", "x"),
        ("encoding", "gb18030"),
        ("problem_type", "regression"),
        ("label_names", ["a", "b"]),
    ],
)
def test_an_option_that_controlled_data_do_not_use_is_an_error(option, value):
    with pytest.raises(ValueError, match=f"{option} .* has no use with controlled data such as 'controlled:unique'"):
        load_data("controlled:unique", **{option: value})


def test_an_option_that_other_data_do_not_use_is_an_error(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "train.txt").write_text("guid,tag\n1,a\n")
    for option in ("text_column", "image_root"):
        with pytest.raises(ValueError, match=f"{option} 'x' has no use with sidecar-text data"):
            load_data(tmp_path, **{option: "x"})
    with pytest.raises(ValueError, match="data_config 'x' has no use with local data"):
        load_data(tmp_path, config_name="x")


def test_columns_that_were_usual_before_are_looked_for_first(tmp_path):
    (tmp_path / "table.csv").write_text("text,caption,label\nx,y,a\n")
    usual = {"text": "caption", "label": "kind"}
    data = load_data(tmp_path / "table.csv", usual_columns=usual)
    assert data.columns == {"text": "caption", "label": "label"}
    assert data.splits["train"]["text"][:] == ["y"]
    asked = load_data(tmp_path / "table.csv", usual_columns=usual, text_column="text")
    assert asked.splits["train"]["text"][:] == ["x"]


def test_image_folder_with_and_without_splits(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text,label\n1.jpg,{split},a\n2.jpg,,b\n")
    data = load_data(tmp_path)
    assert list(data.splits) == ["train", "test"]
    assert data.splits["test"]["text"][:] == ["test", None]
    assert data.splits["test"][0]["image"]["path"] == str(tmp_path / "test" / "1.jpg")
    assert data.sources["test"] == str(tmp_path / "test" / "metadata.csv")
    assert data.report["kind"] == "ImageFolder"
    with pytest.raises(ValueError, match="the data come from several sources, name one of them"):
        data.all_rows()
    single = load_data(tmp_path / "test")
    assert (list(single.splits), len(single.all_rows())) == (["train"], 2)
    (tmp_path / "test" / "metadata.csv").unlink()
    (tmp_path / "test" / "metadata.jsonl").write_text('{"file_nam": "1.jpg", "text": "x"}')
    with pytest.raises(ValueError, match=r"metadata.jsonl has no column 'file_name' \(image_column\).*'file_nam'"):
        load_data(tmp_path)


def test_folder_of_tables(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\nx,a\ny,b\n")
    (tmp_path / "dev.tsv").write_text("text\tlabel\nz\tb\n")
    data = load_data(tmp_path)
    assert {name: rows["label"][:] for name, rows in data.splits.items()} == {"train": [0, 1], "validation": [1]}
    (tmp_path / "validation.csv").write_text("text,label\nz,b\n")
    with pytest.raises(ValueError, match="the split 'validation' is given twice: .*validation.csv' and .*dev.tsv'"):
        load_data(tmp_path)


def test_unknown_places(tmp_path):
    (tmp_path / "table.csv").write_text("text\nx\n")
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*tabel.csv'. Did you mean 'table.csv'\?"):
        load_data(tmp_path / "tabel.csv")
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder 'none/at/all'."):
        load_data("none/at/all")
    with pytest.raises(ValueError, match="has no known layout. Expected are metadata.csv"):
        load_data(tmp_path)


def test_a_folder_of_images_alone(tmp_path):
    (tmp_path / "sea").mkdir()
    for name in ("b.png", "a.JPG", "sea/1.png", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    data = load_data(tmp_path)
    rows = data.splits["train"]
    assert rows["id"] == ["a.JPG", "b.png", "sea/1.png"] and rows["text"] == [None] * 3
    assert rows["image"][2] == {"bytes": None, "path": str(tmp_path / "sea/1.png")}
    assert data.report["kind"] == "images" and data.columns == {"image": "image", "id": "id"}
    with pytest.raises(ValueError, match="has no column 'caption'"):
        load_data(tmp_path, text_column="caption")
    with pytest.raises(ValueError, match="image_root 'elsewhere' has no use with image data"):
        load_data(tmp_path, image_root="elsewhere")


@pytest.fixture
def saved(tmp_path):
    features = Features(
        {
            "photo": Image(),
            "words": Value("string"),
            "sentiment": ClassLabel(names=["pos", "neg"]),
            "topics": List(ClassLabel(names=["x", "y", "z"])),
        }
    )
    columns = {
        "photo": [{"bytes": b"1", "path": None}, None],
        "words": ["NaN", " "],
        "sentiment": [1, 0],
        "topics": [[2, 0], []],
    }
    train = Dataset.from_dict(columns, features=features)
    test = Dataset.from_dict({**columns, "sentiment": [-1, -1]}, features=features)
    return DatasetDict(train=train, test=test, extra=train)


def check_saved(data):
    rows = data.splits["train"]
    assert rows.features["image"] == Image(decode=False)
    assert rows["image"][:] == [{"bytes": b"1", "path": None}, None]
    assert rows["text"][:] == ["NaN", None]
    assert rows["label"][:] == [1, 0]
    assert rows["id"][:] == ["0", "1"]
    assert data.id2label == {0: "pos", 1: "neg"}  # the data set's own order
    assert list(data.splits) == ["train", "predict"]  # a test split whose labels are kept back
    assert data.splits["predict"]["label"][:] == [None, None]
    assert data.report["ignored_splits"] == ["extra"]


MAPPING = {"image_column": "photo", "text_column": "words", "label_column": "sentiment"}


def test_saved_by_datasets(saved, tmp_path, caplog):
    saved.save_to_disk(tmp_path / "saved")
    check_saved(load_data(tmp_path / "saved", **MAPPING))
    assert "saved: the splits ['extra'] are left out, which are none of ['train', 'validation'," in caplog.text
    data = load_data(tmp_path / "saved", **{**MAPPING, "label_column": "topics"})
    assert data.problem_type == "multi_label_classification"
    assert data.splits["train"]["label"][:] == [[1, 0, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match=r"saved has no column 'phot' \(image_column\).* Did you mean 'photo'\?"):
        load_data(tmp_path / "saved", image_column="phot")
    saved["train"].save_to_disk(tmp_path / "one")
    assert list(load_data(tmp_path / "one", **MAPPING).splits) == ["train"]
    saved.rename_columns({"photo": "image", "words": "text", "sentiment": "label"}).save_to_disk(tmp_path / "usual")
    check_saved(load_data(tmp_path / "usual"))
    DatasetDict(extra=saved["extra"]).save_to_disk(tmp_path / "odd")
    with pytest.raises(ValueError, match=r"odd has none of the splits .*, it has \['extra'\]"):
        load_data(tmp_path / "odd", **MAPPING)


def test_hub_data_set(saved, monkeypatch):
    asked = []

    def give(name, config_name):
        asked.append((name, config_name))
        return saved

    monkeypatch.setattr(loading, "load_dataset", give)
    check_saved(load_data("someone/something", config_name="small", **MAPPING))
    assert asked == [("someone/something", "small")]

    def fail(name, config_name):
        raise ConnectionError("no network")

    monkeypatch.setattr(loading, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"'someone/else' is neither a file, .* that the Hub gives \(no network\)"):
        load_data("someone/else")


def test_paths_in_a_hub_data_set_need_a_root(monkeypatch):
    rows = Dataset.from_dict({"image": ["a.jpg"], "text": ["x"]})
    monkeypatch.setattr(loading, "load_dataset", lambda name, config_name: DatasetDict(train=rows))
    with pytest.raises(ValueError, match=r"column 'image' holds paths such as 'a.jpg': name their image_root"):
        load_data("someone/something")
    assert load_data("someone/something", image_root="/p").splits["train"][0]["image"]["path"] == "/p/a.jpg"


def test_labels_are_learned_from_the_training_split(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,split\nx,b,train\ny,a,train\nz,new,test\n")
    data = load_data(tmp_path / "a.csv")
    assert data.id2label == {0: "a", 1: "b"}
    assert data.splits["test"][0]["label"] is None
    assert data.splits["test"][0]["faults"][0]["reason"] == "unknown label 'new', the classes are ['a', 'b']."


def test_unlabelled_table(tmp_path):
    (tmp_path / "a.csv").write_text("text\nx\ny\n")
    data = load_data(tmp_path / "a.csv")
    assert (data.id2label, data.splits["train"]["label"][:]) == ({}, [None, None])
    checked, samples = check_splits(data, policy="missing", prediction=True)
    assert (len(checked.splits["train"]), samples) == (2, [])


def test_real_captions(real_data):
    folder = real_data / "flickr8k"
    data = load_data(folder / "captions.csv", text_column="caption", image_root=folder / "images")
    assert {name: len(rows) for name, rows in data.splits.items()} == {
        "train": 30000, "validation": 5000, "test": 5000
    }  # fmt: skip
    assert complete_splits(data.splits) == data.splits
    assert data.splits["test"][0]["image"]["path"].startswith(str(folder / "images"))
