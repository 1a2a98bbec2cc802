"""`train_robust_fusion.py` and the curve of `evaluate.py`, end to end in this process."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_scripts import FAST, evaluate, make_rows, train, train_robust, write_table

from hf_multimodal.cli.arguments import SourceArguments
from hf_multimodal.cli.rows import chosen_rows
from hf_multimodal.data.presence import hide
from hf_multimodal.evaluation.predictions import read_predictions
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.training.stacking import fit_stack


@pytest.fixture(scope="module")
def robust_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A robust run with its baselines on a table of which half the rows lack something."""
    folder = tmp_path_factory.mktemp("robust")
    table = write_table(folder / "table.csv", make_rows(folder, 60))
    flags = ["--missing", "both:0.5", "--eval_missing", "image:0.5", "--baselines", *FAST]
    metrics = train_robust(["--data", str(table), "--output_dir", str(folder / "run"), *flags])
    return folder / "run", table, metrics


def test_a_robust_run_fits_its_stack_and_saves_who_lacks_what(robust_run: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, metrics = robust_run
    model, _ = load_model(folder)
    assert type(model).__name__ == "RobustFusionForImageTextClassification"
    assert not torch.equal(model.stack.temperatures, torch.ones_like(model.stack.temperatures))
    assert model.stack.prior.exp().sum().item() == pytest.approx(1, abs=1e-5)
    with open(folder / "presence.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    count = {split: [row for row in rows if row["split"] == split] for split in ("train", "validation", "test")}
    assert sum(row["has_image"] != row["has_text"] for row in count["train"]) in (21, 22, 23)  # two came incomplete
    assert sum(row["has_image"] == "0" for row in count["test"]) in (6, 7)
    answers = read_predictions(folder / "predictions.csv")
    assert (~answers.has_image).sum() == sum(row["has_image"] == "0" for row in count["test"])
    assert metrics["test"]["count"] == 12 and metrics["run"]["untrained_heads"] == []
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert (
        "| plain fusion | " in card
        and "| `modality_dropout` | 0.7 0.15 0.15 |" in card
        and "Either may be missing." in card
    )
    assert "they were calibrated on the validation rows" in card and "no gradient" not in card


def test_the_stack_is_that_of_the_validation_rows(robust_run: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, table, _ = robust_run
    with open(folder / "presence.csv", newline="", encoding="utf-8") as stream:
        shown = list(csv.DictReader(stream))
    labels = chosen_rows(str(folder), "train", SourceArguments(data=str(table))).splits["test"]["label"][:]
    refitted = {}
    for split in ("train", "validation"):
        model, processor = load_model(folder)
        rows = chosen_rows(str(folder), split, SourceArguments(data=str(table))).splits["test"]
        by_id = {row["id"]: [row[f"has_{name}"] == "1" for name in ("image", "text")] for row in shown}
        rows = hide(rows, np.array([by_id[row] for row in rows["id"]]))
        fitted = {name: buffer.clone() for name, buffer in model.stack.named_buffers()}
        fit_stack(model, processor, rows, labels)
        again = dict(model.stack.named_buffers())
        refitted[split] = all(torch.allclose(again[name], fitted[name], rtol=1e-3, atol=1e-5) for name in fitted)
    assert refitted == {"train": False, "validation": True}


def test_the_baselines_are_trained_on_the_same_rows(robust_run: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, _, metrics = robust_run
    found = metrics["baselines"]
    names = ["image alone", "text alone", "plain fusion", "zero-filled fusion", "dispatch", "averaged", "summed logs"]
    assert list(found) == names
    assert json.loads((folder / "metrics.json").read_text())["baselines"] == found
    runs = {
        name: json.loads((folder / "baselines" / name / "metrics.json").read_text())
        for name in ("image_alone", "text_alone", "plain_fusion", "zero-filled_fusion")
    }
    rows = {name: run["run"]["train_rows"] for name, run in runs.items()}
    assert rows["zero-filled_fusion"] == 42 > rows["image_alone"] > rows["plain_fusion"]
    for entry in found.values():
        assert entry["count"] == 12 and entry["difference"]["nll"]["low"] <= entry["difference"]["nll"]["high"]
    robust = read_predictions(folder / "predictions.csv")
    dispatched = read_predictions(folder / "baselines" / "dispatch" / "predictions.csv")
    text = read_predictions(folder / "baselines" / "text_alone" / "predictions.csv")
    only_text = robust.has_text & ~robust.has_image
    assert only_text.any()
    assert dispatched.probabilities[only_text] == pytest.approx(text.probabilities[only_text])


def test_the_missing_curve(robust_run: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: Any) -> None:
    folder, table, _ = robust_run
    flags = ["--model", str(folder), "--data", str(table), "--split", "all", "--on_bad_sample", "missing"]
    result = evaluate([*flags, "--missing_curve", "--curve_models", str(folder), "--output_dir", str(tmp_path)])
    points = {(point["missing"], point["rate"]): point for point in result["missing_curve"]}
    assert len(points) == 21 and (tmp_path / "missing_curve.png").is_file()
    assert json.loads((tmp_path / "metrics.json").read_text())["missing_curve"] == result["missing_curve"]
    for which in ("image", "text", "both"):
        assert points[which, 0.0]["nll"]["mean"] == pytest.approx(result["test"]["nll"])
        assert points[which, 0.0]["nll"]["sd"] == pytest.approx(0)
        assert (points[which, 0.0]["count"], points[which, 0.0]["over"]) == (2, "runs")
    assert points["image", 0.5]["nll"]["sd"] == pytest.approx(0)  # twice the same model
    alone = {(p["missing"], p["rate"]): p for p in evaluate([*flags, "--missing_curve"])["missing_curve"]}
    assert (alone["image", 0.5]["count"], alone["image", 0.5]["over"]) == (5, "draws")
    assert alone["image", 0.5]["nll"]["sd"] > 0
    assert alone["image", 0.5]["nll"]["mean"] == pytest.approx(points["image", 0.5]["nll"]["mean"])
    assert alone["image", 1.0]["nll"]["sd"] == pytest.approx(0)
    assert "| image | 50 % |" in capsys.readouterr().out


def test_a_run_with_missing_test_rows_is_evaluated_again(robust_run: tuple[Path, Path, dict[str, Any]]) -> None:
    folder, table, metrics = robust_run
    flags = ["--model", str(folder), "--data", str(table), "--missing", "image:0.5", "--output_dir", str(folder)]
    result = evaluate(flags)
    assert result["test"]["nll"] == pytest.approx(metrics["test"]["nll"])
    assert json.loads((folder / "metrics.json").read_text())["run"] == metrics["run"]  # nothing of the run is lost


def test_a_robust_run_starts_from_a_trained_fusion(tmp_path: Path) -> None:
    folder, table = tmp_path / "fusion", write_table(tmp_path / "table.csv", make_rows(tmp_path))
    train(["--data", str(table), "--output_dir", str(folder), *FAST])
    flags = [flag for flag in FAST if flag not in ("--from_scratch", "--hidden_size", "16")]
    flags = ["--data", str(table), "--from_fusion", str(folder), "--output_dir", str(tmp_path / "robust"), *flags]
    metrics = train_robust([*flags, "--learning_rate", "0", "--head_learning_rate", "0", "--no_fit_stack"])
    fusion, robust = load_model(folder)[0], load_model(tmp_path / "robust")[0]
    state = robust.state_dict()  # of which training has moved nothing but the statistics of BatchNorm
    assert all(torch.equal(value, state[name]) for name, value in fusion.named_parameters())
    assert metrics["run"]["steps"] == 4
    assert robust.stack.prior.exp().sum().item() == pytest.approx(1)  # without a stack, too
    with pytest.raises(ValueError, match="from_fusion brings its own text_model: leave it out"):
        train_robust([*flags, "--text_model", "bert"])
    with pytest.raises(ValueError, match=r"was trained with id2label \{.*\}, but the data have \{0: 'class_0', 1:"):
        train_robust([*flags, "--overwrite_output_dir", "--data", "controlled:unique", "--max_train_samples", "8"])


def test_the_card_names_heads_that_were_not_trained(tmp_path: Path) -> None:
    few = ["--max_train_samples", "16", "--max_eval_samples", "16", "--max_predict_samples", "16"]
    flags = ["--data", "controlled:unique", *few, *FAST, "--unimodal_loss_weight", "0"]
    metrics = train_robust([*flags, "--output_dir", str(tmp_path / "run")])
    assert metrics["run"]["untrained_heads"] == ["image", "text"]
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    for head in ("image", "text"):
        assert f"- The {head} head got no gradient in training, so it has no weight in the prediction." in card


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--modality", "image"], "modality 'image' has no use: a robust classifier reads both"),
        (["--missing", "both"], "as in 'both:0.7', got 'both'"),
        (["--modality_dropout", "0.5", "0.6", "0.1"], "three numbers from 0 that sum to 1"),
        (["--fit_on_validation"], "fit_on_validation leaves no rows to fit the stack on: add --no_fit_stack"),
        (["--ema_decay", "1"], r"ema_decay must lie in \[0, 1\), got 1.0"),
    ],
)
def test_a_robust_choice_that_makes_no_sense_is_refused(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train_robust(["--data", "controlled:unique", "--output_dir", str(tmp_path), *FAST, *flags])
