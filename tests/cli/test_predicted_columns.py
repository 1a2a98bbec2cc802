"""The table that predict writes holds the columns of the user's own table too."""

import csv
import datetime
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from test_scripts import script
from transformers import ViTImageProcessor

from hf_multimodal import FusionConfig, FusionForImageTextClassification, MultimodalProcessor
from hf_multimodal.evaluation.predictions import read_predictions
from hf_multimodal.training.from_scratch import train_tokenizer

predict = script("predict")
SINGLE, MULTI = "single_label_classification", "multi_label_classification"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """An untrained model for each problem type: what is predicted does not matter here."""
    tokenizer = train_tokenizer(["a blue thing", "a red one"])
    text = TEXT_CONFIGS["bert"]()
    text.vocab_size = len(tokenizer)
    folders = {}
    for problem_type in (SINGLE, MULTI):
        folders[problem_type] = tmp_path_factory.mktemp("model")
        fields = {"vision_config": VISION_CONFIGS["vit"](), "text_config": text, "hidden_size": 16}
        config = FusionConfig(**fields, id2label={0: "sea", 1: "sun"}, problem_type=problem_type)
        FusionForImageTextClassification(config).save_pretrained(folders[problem_type])
        image_processor = ViTImageProcessor(size={"height": 32, "width": 32})
        MultimodalProcessor(image_processor, tokenizer).save_pretrained(folders[problem_type])
    return folders


@pytest.fixture
def folder_of_images(tmp_path) -> Path:
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def read(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as stream:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in stream]
        return list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))


def run(model: Path, data: Path, output: Path, *flags: str) -> list[dict]:
    predict(["--model", str(model), "--data", str(data), "--output", str(output), *flags])
    return read(output)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_predict_keeps_the_columns_of_a_table_in_every_format(models, folder_of_images, tmp_path, suffix, capsys):
    lines = ["id,image,text,label,price,predicted,prob_sea,note"]
    lines += [
        f'{name},{n}.png,a blue thing,{label},{n}.50,mine,,"NaN, =1"'
        for n, (name, label) in enumerate([("b", "sea"), ("a", "sun"), ("d", "moon"), ("c", "")])
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    found = run(models[SINGLE], tmp_path / "t.csv", tmp_path / "out" / f"p{suffix}")
    assert [row["id"] for row in found] == ["b", "a", "d", "c"]
    assert [row["price"] for row in found] == ["0.50", "1.50", "2.50", "3.50"]
    assert {row["note"] for row in found} == {"NaN, =1"}
    assert [row["image"] for row in found] == ["0.png", "1.png", "2.png", "3.png"]
    assert [row["label"] or "" for row in found] == ["sea", "sun", "", ""]  # those that the model knows
    assert [row["given_label"] for row in found] == ["sea", "sun", "moon", ""]
    assert {row["given_predicted"] for row in found} == {"mine"} and {row["given_prob_sea"] for row in found} == {""}
    assert {row["predicted"] for row in found} <= {"sea", "sun"} and "given_id" not in found[0]
    printed = capsys.readouterr().out
    assert "label as given_label, predicted as given_predicted, prob_sea as given_prob_sea" in printed
    if suffix == ".csv":
        again = read_predictions(tmp_path / "out" / "p.csv")
        assert again.ids == ["b", "a", "d", "c"] and again.class_names == ["sea", "sun"]


def test_predicted_columns_follow_the_rows_of_a_split_and_those_that_are_dropped(models, folder_of_images, tmp_path):
    lines = ["image,text,split,city"]
    lines += [f"{n % 4}.png,a red one,{'test' if n % 2 else 'train'},town {n}" for n in range(10)]
    lines[4] = "gone.png,a red one,test,town 3"
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    found = run(models[SINGLE], tmp_path / "t.csv", tmp_path / "p.jsonl", "--on_bad_sample", "drop")
    assert [row["city"] for row in found] == ["town 1", "town 5", "town 7", "town 9"]
    assert [row["id"] for row in found] == ["1", "5", "7", "9"] and {row["split"] for row in found} == {"test"}
    found = run(
        models[SINGLE], tmp_path / "t.csv", tmp_path / "p.jsonl", "--on_bad_sample", "missing", "--split", "all"
    )
    assert [row["city"] for row in found] == [f"town {n}" for n in range(10)] and not found[3]["has_image"]
    flags = ("--on_bad_sample", "drop", "--split", "test", "--max_predict_samples", "3")
    assert [row["city"] for row in run(models[SINGLE], tmp_path / "t.csv", tmp_path / "p.jsonl", *flags)] == [
        "town 1",
        "town 5",
    ]


def test_predicted_columns_of_several_labels(models, folder_of_images, tmp_path):
    rows = [
        {"image": "0.png", "text": "a blue thing", "label": ["sea", "sun"], "size": [3, 4], "about": {"by": "me"}},
        {"image": "1.png", "text": None, "label": [], "size": [5], "about": None},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run(models[MULTI], tmp_path / "t.jsonl", tmp_path / "p.jsonl")
    assert [row["label"] for row in found] == ["sea|sun", "|"]
    assert [row["given_label"] for row in found] == [["sea", "sun"], []]
    assert [row["size"] for row in found] == [[3, 4], [5]] and [row["about"] for row in found] == [{"by": "me"}, None]
    found = run(models[MULTI], tmp_path / "t.jsonl", tmp_path / "p.csv")
    assert [row["given_label"] for row in found] == ['["sea", "sun"]', "[]"]
    assert [row["about"] for row in found] == ['{"by": "me"}', ""]
    assert read_predictions(tmp_path / "p.csv").labels.tolist() == [[1, 1], [0, 0]]
    lines = ["image,text,sea,sun", "0.png,a,1,0", "1.png,b,0,1"]
    (tmp_path / "columns.csv").write_text("\n".join(lines))
    found = run(models[MULTI], tmp_path / "columns.csv", tmp_path / "p.jsonl", "--label_column", "sea", "sun")
    assert [(row["label"], row["sea"], row["sun"]) for row in found] == [("sea", "1", "0"), ("sun", "0", "1")]


def test_predicted_columns_of_a_folder_saved_by_datasets_without_the_bytes_of_its_images(
    models, folder_of_images, tmp_path
):
    features = {"image": ImageFeature(), "text": Value("string"), "label": ClassLabel(names=["sun", "sea"])}
    features |= {"id": Value("int32"), "taken": Value("date32"), "raw": Value("binary"), "tags": List(Value("int8"))}
    image = {"bytes": (tmp_path / "1.png").read_bytes(), "path": "on the way.png"}
    columns = {
        "image": [image, None],
        "text": ["a blue thing", "a red one"],
        "label": [1, -1],
        "id": [7, 8],
        "taken": [datetime.date(2024, 5, 6), None],
        "raw": [b"\0", b"\1"],
        "tags": [[1], None],
    }
    rows = Dataset.from_dict(columns, features=Features(features))
    DatasetDict(train=rows, test=rows.select([1, 0])).save_to_disk(tmp_path / "saved")
    found = run(models[SINGLE], tmp_path / "saved", tmp_path / "p.parquet")
    assert [row["id"] for row in found] == ["8", "7"] and "given_id" not in found[0] and "raw" not in found[0]
    assert [row["image"] for row in found] == [None, "on the way.png"]
    assert [row["given_label"] for row in found] == [None, "sea"]
    assert [row["taken"] for row in found] == [None, datetime.date(2024, 5, 6)]
    schema = pq.read_schema(tmp_path / "p.parquet")
    assert str(schema.field("taken").type) == "date32[day]" and "int8" in str(schema.field("tags").type)
    found = run(models[SINGLE], tmp_path / "saved", tmp_path / "p.csv")
    assert [row["taken"] for row in found] == ["", "2024-05-06"] and [row["tags"] for row in found] == ["", "[1]"]


def test_predicted_columns_of_images_and_tables_held_as_bytes(models, folder_of_images, tmp_path):
    images = [(tmp_path / f"{n}.png").read_bytes() for n in range(3)]
    columns = {"image": images, "text": ["a", "b", "c"], "mixed": ["null", None, "x"], "id": ["x", "y", "z"]}
    Dataset.from_dict(columns).to_parquet(tmp_path / "t.parquet")
    found = run(models[SINGLE], tmp_path / "t.parquet", tmp_path / "p.jsonl")
    assert [row["mixed"] for row in found] == ["null", None, "x"] and "image" not in found[0]
    assert [row["has_image"] for row in found] == [1, 1, 1]
