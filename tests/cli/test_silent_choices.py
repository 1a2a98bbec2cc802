"""What was once chosen or replaced without a word: now it is refused, or said in the log and in the card."""

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from test_pipeline import warned  # noqa: F401  the fixture
from test_scripts import FAST, evaluate, make_rows, predict, script, train, train_robust, write_table

from hf_multimodal.cli import train_fusion, train_robust_fusion
from hf_multimodal.cli.baselines import combine, parse_baselines
from hf_multimodal.cli.rows import training_rows
from hf_multimodal.cli.training_flags import parse_training
from hf_multimodal.data.checks import BadSamplesError
from hf_multimodal.evaluation.predictions import Predictions, read_predictions
from hf_multimodal.evaluation.thresholds import tune_thresholds
from hf_multimodal.hub.card import write_card
from hf_multimodal.hub.runs import with_label_accuracy
from hf_multimodal.inference.prediction import load_model

NO_TEXT = r"no column 'text', their columns are \['id', 'image'\]: name the one that is meant with --text_column"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with the runs `fused` and `robust`, and the table they were trained on, two of whose rows lack one."""
    folder = tmp_path_factory.mktemp("runs")
    table = write_table(folder / "table.csv", make_rows(folder))
    train(["--data", str(table), "--output_dir", str(folder / "fused"), *FAST])
    train_robust(["--data", str(table), "--output_dir", str(folder / "robust"), *FAST])
    return folder, table


def without(table: Path, column: str, name: str) -> Path:
    rows = [
        {key: cell for key, cell in row.items() if key not in (column, "label")}
        for row in csv.DictReader(table.open())
    ]
    return write_table(table.parent / name, rows)


def test_a_finished_run_is_not_replaced_without_a_word(runs: tuple[Path, Path], tmp_path: Path) -> None:
    folder, table = runs
    shutil.copytree(folder / "fused", tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    flags = ["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST]
    message = (
        r"output_dir '.*run' holds config.json, model.safetensors, metrics.json, README.md of an earlier run, .*: "
        r"name another output_dir, or add --overwrite_output_dir. --resume_from_checkpoint goes on from that run"
    )
    for main in (train, train_robust):
        with pytest.raises(FileExistsError, match=message):
            main(flags)
    with pytest.raises(FileExistsError, match=message):  # it resumes another run
        train([*flags, "--resume_from_checkpoint", str(next((folder / "fused").glob("checkpoint-*")))])
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}


def test_what_may_be_written_into_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scratch = ["--data", "controlled:unique", "--from_scratch", "--output_dir", str(tmp_path)]
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "bad_samples.csv").write_text("")
    parse_training(
        "train-fusion", scratch
    )  # an unfinished run: its checkpoints go, and the log says so (test_scripts.py)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(FileExistsError, match="holds metrics.json of an earlier run"):
        parse_training("train-fusion", scratch)
    with pytest.raises(FileExistsError, match="holds metrics.json of an earlier run"):
        parse_training("train-fusion", [*scratch, "--resume_from_checkpoint", "false"])
    parse_training("train-fusion", [*scratch, "--resume_from_checkpoint"])
    parse_training("train-fusion", [*scratch, "--resume_from_checkpoint", str(tmp_path / "checkpoint-7")])
    given = parse_training("train-fusion", [*scratch, "--overwrite_output_dir"]).given
    assert "overwrite_output_dir" not in given
    baselines = tmp_path / "baselines" / "image_alone"
    baselines.mkdir(parents=True)
    (baselines / "metrics.json").write_text("{}")
    parse_baselines(given, str(tmp_path))  # part of the run, which may be replaced


def test_early_stopping_and_the_checkpoint_are_said(
    runs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, table = runs
    # A rate of 0 changes nothing, so that no evaluation is better than the first.
    flags = ["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST, "--learning_rate", "0"]
    flags += ["--early_stopping_patience", "1", "--save_total_limit", "3", "--num_train_epochs"]
    facts = train([*flags, "5", "--complete_only"])["run"]
    assert (facts["steps"], facts["planned_steps"], facts["stopped_early"]) == (8, 20, True)
    assert facts["resumed_from_step"] is None
    stopped = [record.getMessage() for record in caplog.records if "Early stopping" in record.getMessage()]
    assert stopped == [
        "Early stopping: 1 evaluations without a better validation nll, so that training ended after step 8 of 20. "
        "The model is that of step 4."
    ]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "seed 42; training stopped early, of 20 steps that were planned; that of step 4 was kept, the best" in card

    caplog.clear()
    facts = train(
        [*flags, "1", "--complete_only", "--resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-4")]
    )["run"]
    assert (facts["resumed_from_step"], facts["stopped_early"]) == (4, False)
    assert f"goes on from the checkpoint {tmp_path / 'run' / 'checkpoint-4'}, after step 4." in caplog.text
    card = (tmp_path / "run" / "README.md").read_text()
    assert "resumed after step 4, the seconds being those since; " in card and str(tmp_path) not in card
    assert "stopped early" not in card


def test_a_fused_model_needs_both_columns(runs: tuple[Path, Path], tmp_path: Path) -> None:
    folder, table = runs
    data = without(table, "text", "images.csv")
    flags = ["--data", str(data), "--output", str(tmp_path / "answers.csv"), "--on_bad_sample", "missing"]
    with pytest.raises(ValueError, match=f"images.csv: the data have {NO_TEXT}. Only a robust classifier predicts"):
        predict(["--model", str(folder / "fused"), *flags])
    assert not (tmp_path / "answers.csv").exists()
    with pytest.warns(UserWarning, match=f"{NO_TEXT}. All rows are predicted from their image alone"):
        assert predict(["--model", str(folder / "robust"), *flags])["rows"] == 40
    labelled = [{"image": row["image"], "label": row["label"]} for row in csv.DictReader(table.open())]
    other = write_table(table.parent / "labelled.csv", labelled)
    with pytest.raises(ValueError, match="labelled.csv: the data have no column 'text'.* Only a robust classifier"):
        evaluate(["--model", str(folder / "fused"), "--data", str(other)])
    with pytest.warns(UserWarning, match="All rows are predicted from their image alone"):
        assert evaluate(["--model", str(folder / "robust"), "--data", str(other)])["test"]["count"] == 40


def test_a_fused_model_that_answers_from_one_side_warns_once(
    runs: tuple[Path, Path],
    tmp_path: Path,
    warned: Any,  # noqa: F811
) -> None:
    folder, table = runs
    flags = ["--data", str(table), "--output", str(tmp_path / "answers.csv"), "--split", "all"]
    predict(["--model", str(folder / "robust"), *flags])
    assert not warned("trained on both modalities")
    for _ in range(2):
        predict(["--model", str(folder / "fused"), *flags])
        evaluate(["--model", str(folder / "fused"), "--data", str(table), "--split", "all"])
    for name in ("image", "text"):
        assert warned(f"{name} is None: this classifier was trained on both modalities") == 1


def test_a_fused_training_on_incomplete_rows_names_the_robust_one(
    runs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, table = runs
    flags = ["--data", str(table), "--output_dir", str(tmp_path), *FAST, "--dry_run", "--missing", "image:0.5"]
    train_robust(flags)
    train([*flags, "--complete_only"])
    assert "train-robust-fusion" not in caplog.text
    train(flags)
    (said,) = [record.getMessage() for record in caplog.records if "train-robust-fusion" in record.getMessage()]
    assert said.startswith("15 of 28 training rows lack their image or their text.") and "--complete_only" in said


def test_labels_that_the_model_does_not_know_are_named(runs: tuple[Path, Path]) -> None:
    folder, table = runs
    rows = list(csv.DictReader(table.open()))
    for number in (5, 6, 7):
        rows[number]["label"] = "mild" if number < 7 else "wram"
    flags = ["--model", str(folder / "fused"), "--data", str(write_table(table.parent / "classes.csv", rows))]
    sentence = (
        r"3 of 40 rows have a label that is none of the model's classes: 'mild' \(2 rows\), 'wram' \(1 row\). Its "
        r"classes are \['cold', 'warm'\]."
    )
    with pytest.raises(BadSamplesError, match="unknown label 'mild'") as raised:
        evaluate([*flags, "--split", "all"])
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(raised.value.__notes__[0])
    with pytest.warns(UserWarning, match=f"{sentence} They are left out"):
        assert evaluate([*flags, "--split", "all", "--on_bad_sample", "drop"])["test"]["count"] == 37


def multilabel_table(folder: Path) -> Path:
    rows = make_rows(folder, 60)
    for number, row in enumerate(rows):
        row["label"] = "|".join(["sea", *(["sun"] if number % 2 else []), *(["fog"] if number % 5 == 0 else [])])
    return write_table(folder / "table.csv", rows)


def test_thresholds_are_tuned_on_validation_and_used_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table, folder = multilabel_table(tmp_path), tmp_path / "run"
    flags = ["--data", str(table), "--problem_type", "multi_label_classification", *FAST]
    metrics = train_robust([*flags, "--output_dir", str(folder), "--threshold", "tuned"])
    assert "thresholds, tuned on 6 validation rows: fog " in capsys.readouterr().out
    model, _ = load_model(folder)
    limits = model.config.thresholds
    assert len(limits) == 3 and all(0 < limit < 1 for limit in limits) and limits != [0.5] * 3
    answers = read_predictions(folder / "predictions.csv")
    assert (answers.predicted == (answers.probabilities >= limits)).all()
    assert answers.metrics() == metrics["test"]
    found = evaluate(["--model", str(folder), "--data", str(table)])["test"]
    assert found["subset_accuracy"] == metrics["test"]["subset_accuracy"] and "accuracy" not in found
    evaluation = ["--split", "validation", "--output_dir", str(tmp_path / "validation")]
    found = evaluate(["--model", str(folder), "--data", str(table), *evaluation])["test"]
    assert found["macro_f1"] == metrics["validation"]["macro_f1"]
    measured = read_predictions(tmp_path / "validation" / "predictions.csv")
    assert tune_thresholds(measured.probabilities, measured.labels) == pytest.approx(limits)
    one = predict(["--model", str(folder), "--text", "a blue thing", "--show", str(tmp_path / "show.png")])
    assert one["predicted"] == [
        name for (name, p), limit in zip(one["probabilities"].items(), limits, strict=True) if p >= limit
    ]
    card = (folder / "README.md").read_text()
    assert "its own, that of the best F1 on the validation rows." in card and "| `threshold` | tuned |" in card
    assert "p >= t for p, t in zip(row, thresholds)" in card and "| rows | threshold |" in card
    assert f"| {limits[0]:.4f} |" in card and "| label accuracy |" in card and "| subset accuracy |" in card
    assert {result.metric_name for result in ModelCard(card).data.eval_results} >= {
        "label accuracy",
        "subset accuracy",
    }


def test_one_threshold_for_all_labels(tmp_path: Path) -> None:
    table, folder = multilabel_table(tmp_path), tmp_path / "run"
    flags = ["--data", str(table), "--output_dir", str(folder), *FAST, "--threshold", "0.3"]
    with pytest.raises(
        ValueError, match="threshold is for labels of which several may hold, but problem_type is 'sing"
    ):
        train(flags)
    flags += ["--problem_type", "multi_label_classification"]
    train([*flags, "--metric_for_best_model", "subset_accuracy"])
    assert load_model(folder)[0].config.thresholds == [0.3] * 3
    assert "A label is said to hold from the probability 0.3 on." in (folder / "README.md").read_text()
    last = json.loads((next(folder.glob("checkpoint-*")) / "trainer_state.json").read_text())["log_history"][-1]
    answers = json.loads((folder / "metrics.json").read_text())["validation"]
    assert last["eval_subset_accuracy"] == pytest.approx(answers["subset_accuracy"])  # chosen by what is reported
    with pytest.raises(ValueError, match=r"metric_for_best_model must be .* got 'accuracy'. Did you mean 'label_acc"):
        train([*flags, "--overwrite_output_dir", "--metric_for_best_model", "accuracy"])
    robust = ["--data", str(table), "--problem_type", "multi_label_classification", "--from_fusion", str(folder)]
    for more, expected in (([], None), (["--threshold", "0.4"], [0.4] * 3)):  # the run's own, not the fused one's
        given = parse_training("train-robust-fusion", [*robust, *more])
        data, _ = training_rows(given.source, given.reading, given.run, given.labels, given.classes, given.missing)
        assert train_robust_fusion.build(given, data)[0].config.thresholds == expected


def test_baselines_keep_their_thresholds() -> None:
    kind, names = "multi_label_classification", ["x", "y"]
    given = {"data": "controlled:unique", "from_scratch": True, "threshold": "tuned"}
    assert {own.fusion.threshold for own in parse_baselines(given, "no/such").values()} == {"tuned"}

    def run(table: list[list[float]], **presence: Any) -> Predictions:
        return Predictions.from_outputs(kind, "abc", table, names, labels=[[1, 0]] * 3, **presence)

    robust = run([[0.5, 0.5]] * 3, has_image=[True, True, False], has_text=[True, False, True])
    answers = {
        "image alone": run([[0.3, 0.6]] * 3),
        "text alone": run([[0.7, 0.7]] * 3),
        "plain fusion": run([[0.6, 0.4]] * 3),
    }
    usual = combine(answers, robust)
    assert usual["averaged"].predicted.tolist() == [[1, 1], [0, 1], [1, 1]]
    own = combine(answers, robust, {"image alone": [0.2, 0.7], "text alone": [0.6, 0.8], "plain fusion": None})
    assert own["averaged"].predicted.tolist() == [[1, 0], [1, 0], [1, 0]]
    assert own["dispatch"].predicted.tolist() == [[1, 0], [1, 0], [1, 0]]
    assert (own["averaged"].probabilities == usual["averaged"].probabilities).all()


def test_an_older_multilabel_run_is_still_read(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Its `accuracy` is that of each label. It is trained over a finished run, as the flag allows."""
    table, folder = multilabel_table(tmp_path), tmp_path / "run"
    shutil.copytree(runs[0] / "fused", folder)
    flags = ["--data", str(table), "--problem_type", "multi_label_classification", *FAST]
    metrics = train([*flags, "--output_dir", str(folder), "--overwrite_output_dir"])
    assert load_model(folder)[0].config.problem_type == "multi_label_classification"
    assert "overwrite_output_dir" not in (folder / "run.yaml").read_text()
    old = json.loads(json.dumps(metrics))
    names = {"label_accuracy": "accuracy", "majority_label_accuracy": "majority_accuracy"}
    unknown = ("subset_accuracy", "majority_subset_accuracy")
    for entry in (old["test"], old["validation"], *old["intervals"].values()):
        for name in unknown:
            entry.pop(name, None)
        for name in set(names) & set(entry):
            entry[names[name]] = entry.pop(name)
    old["baselines"] = {
        "image alone": {"accuracy": 0.25, "difference": {"accuracy": {"difference": 0.1, "low": 0, "high": 1}}}
    }
    (folder / "metrics.json").write_text(json.dumps(old))
    config = json.loads((folder / "config.json").read_text())
    del config["thresholds"]
    (folder / "config.json").write_text(json.dumps(config))
    card = write_card(folder).read_text()
    value, interval = metrics["test"]["label_accuracy"], metrics["intervals"]["test"]["label_accuracy"]
    assert f"| label accuracy | {value:.4f} | {interval['low']:.4f} to {interval['high']:.4f} |" in card
    assert "| baseline | label accuracy |" in card and "subset accuracy" not in card
    evaluate(["--model", str(folder), "--data", str(table), "--output_dir", str(folder)])
    after = json.loads((folder / "metrics.json").read_text())
    assert after["test"] == metrics["test"] and "accuracy" not in after["intervals"]["validation"]
    assert after["baselines"]["image alone"]["label_accuracy"] == 0.25  # the rows are the same, so this stays
    assert with_label_accuracy(after) == after


def test_the_demo_trains_into_the_folder_that_it_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    main = script("demo")
    given: list[list[str]] = []

    def stop(flags: list[str]) -> None:
        given.append(flags)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_fusion, "main", stop)
    for more in ([], ["--overwrite_output_dir"]):
        with pytest.raises(KeyboardInterrupt):
            main(["--output_dir", str(tmp_path / "demo"), *more])
        assert given[-1][-2:] == ["--output_dir", str(tmp_path / "demo" / "image")]
        assert ("--overwrite_output_dir" in given[-1]) is bool(more)


def test_logging_of_a_run_reaches_the_terminal() -> None:
    """Early stopping and the checkpoint are told at a level that is shown without any setting."""
    assert logging.getLogger("hf_multimodal.cli.train_fusion").isEnabledFor(logging.WARNING)
