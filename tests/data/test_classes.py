"""Classes that look like mistakes are named before a model is trained on them."""

import contextlib
import re
import runpy
from pathlib import Path

import pytest
import yaml
from builders import training_data
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from test_scripts import FAST, evaluate, predict, train
from test_tables import write_csv
from transformers.utils import logging

from hf_multimodal.cli.rows import training_rows
from hf_multimodal.cli.training_flags import parse_training
from hf_multimodal.data.checks import BadSamplesError
from hf_multimodal.data.classes import check_classes, writing_warnings
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.training.run_folder import claim_folder

SCRIPTS = Path(__file__).parents[2] / "scripts"
TEXT = ["--modality", "text", *FAST]


def write_labels(path: Path, labels: list[str]) -> Path:
    return write_csv(path, [{"text": f"words {i} of {label}", "label": label} for i, label in enumerate(labels)])


def mistyped(path: Path, split: str) -> Path:
    """300 rows, `positve` once, in a row that lands in the split."""
    labels = ["positive", "negative"] * 150
    for place in range(0, 300, 2):
        table = write_labels(path, [*labels[:place], "positve", *labels[place + 1 :]])
        data, _ = training_data("text", data=str(table), allow_untrained_classes=True)
        if data.id2label[2] == "positve" and 2 in data.splits[split]["label"][:]:
            return table
    raise AssertionError(split)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the training's logger says."""
    found: list[str] = []
    logger = logging.get_logger("hf_multimodal.cli.rows")
    monkeypatch.setattr(logger, "warning", lambda text, *values: found.append(text % values))
    return found


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_class_without_a_training_row_is_an_error(tmp_path: Path, split: str, warnings: list[str]) -> None:
    table = mistyped(tmp_path / "a.csv", split)
    message = (
        r"a.csv: 1 class has no training row, so that no model can learn it:\n"
        rf"  'positve': no training row, 1 in {split}. Did you mean 'positive'\?\n"
        r"Mend the labels, give more rows, or add --allow_untrained_classes."
    )
    with pytest.raises(ValueError, match=message):
        training_data("text", data=str(table))
    warnings.clear()
    data, _ = training_data("text", data=str(table), allow_untrained_classes=True)
    assert data.id2label == {0: "negative", 1: "positive", 2: "positve"} and data.refusals == ()
    assert warnings == [f"{table}: {sentence}" for sentence in data.warnings]
    assert f"'positve': no training row, 1 in {split}. Did you mean 'positive'?" in data.warnings[0]


def test_a_class_with_few_training_rows_is_warned_of(tmp_path: Path, warnings: list[str]) -> None:
    table = mistyped(tmp_path / "a.csv", "train")
    warnings.clear()
    data, _ = training_data("text", data=str(table))
    sentence = "1 class has fewer than three training rows:\n  'positve': 1 training row. Did you mean 'positive'?"
    assert data.warnings == (sentence,) and warnings == [f"{table}: {sentence}"] and data.refusals == ()


def test_a_dry_run_says_whether_the_run_would_start(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = mistyped(tmp_path / "a.csv", "test")
    flags = ["--data", str(table), "--output_dir", str(tmp_path / "run"), *TEXT]
    report = train([*flags, "--dry_run", "--class_weights", "balanced"])
    assert len(report["refusals"]) == 1 and "'positve': no training row, 1 in test" in report["refusals"][0]
    printed = capsys.readouterr().out
    assert printed.endswith(f"\nThe run would not start:\n{report['refusals'][0]}\n")
    with pytest.raises(ValueError, match="1 class has no training row"):
        train(flags)
    report = train([*flags, "--dry_run", "--allow_untrained_classes"])
    assert report["refusals"] == [] and "1 class has no training row" in report["warnings"][0]
    printed = capsys.readouterr().out
    assert "warning: 1 class has no training row" in printed and printed.endswith("\nThe run would start.\n")
    assert not (tmp_path / "run").exists()

    for more, status in (([], 2), (["--allow_untrained_classes"], 0)):
        monkeypatch.setattr("sys.argv", ["train_fusion.py", *flags, "--dry_run", *more])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / "train_fusion.py"), run_name="__main__")
        assert ended.value.code == status


def test_a_dry_run_would_not_start_on_bad_samples(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write_labels(tmp_path / "a.csv", ["a", "b"] * 20 + ["", "a|a"])
    flags = ["--data", str(table), "--output_dir", str(tmp_path / "run"), *TEXT, "--dry_run"]
    flags += ["--problem_type", "multi_label_classification"]
    report = train(flags)
    assert report["refusals"] == ["2 bad samples are refused (on_bad_sample='error')."]
    assert "the class 'a' is named twice in one cell [error]" in capsys.readouterr().out
    assert train([*flags, "--on_bad_sample", "drop"])["refusals"] == []


def refused_before_training(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Flags that the run itself refuses, and what it says."""
    single = write_labels(folder / "single.csv", ["a", "b"] * 20)
    several = write_csv(
        folder / "several.csv", [{"text": f"x {i}", "label": "a|b" if i % 2 else "b"} for i in range(40)]
    )
    one = write_labels(folder / "one.csv", ["a"] * 20)
    (folder / "file").write_text("mine")
    (folder / "finished").mkdir()
    (folder / "finished" / "metrics.json").write_text("{}")
    (folder / "taken").mkdir()
    data = ["--data", str(single)]
    return {
        "oversample": (
            ["--data", str(several), "--problem_type", "multi_label_classification", "--oversample"],
            "oversample needs one class an example",
        ),
        "metric": ([*data, "--metric_for_best_model", "acuracy"], "metric_for_best_model must be one of"),
        "scaling": ([*data, "--no_target_scaling"], "no_target_scaling is for regression"),
        "threshold": ([*data, "--threshold", "0.7"], "threshold is for labels of which several may hold"),
        "file": ([*data, "--output_dir", str(folder / "file")], "is a file: name a folder"),
        "finished": ([*data, "--output_dir", str(folder / "finished")], "add --overwrite_output_dir"),
        "taken": ([*data, "--output_dir", str(folder / "taken")], "is in use by process"),
        "resume": ([*data, "--resume_from_checkpoint"], "no whole checkpoint in"),
        "one class": (["--data", str(one)], "all rows have one class, 'a'"),
    }


@pytest.mark.parametrize(
    "name", ["oversample", "metric", "scaling", "threshold", "file", "finished", "taken", "resume", "one class"]
)
def test_a_dry_run_says_what_the_run_would_refuse(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags, said = refused_before_training(tmp_path)[name]
    if "--output_dir" not in flags:
        flags = [*flags, "--output_dir", str(tmp_path / "run")]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr("sys.argv", ["train_fusion.py", *flags, *TEXT, "--dry_run"])
    with claim_folder(tmp_path / "taken") if name == "taken" else contextlib.nullcontext():
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPTS / "train_fusion.py"), run_name="__main__")
        assert ended.value.code == 2
    output = capsys.readouterr().out
    assert "The run would not start:" in output and said in output
    if name != "taken":
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == files
    monkeypatch.setattr("sys.argv", ["train_fusion.py"])
    taken = claim_folder(tmp_path / "taken") if name == "taken" else contextlib.nullcontext()
    with taken, pytest.raises((ValueError, OSError), match=re.escape(said)):
        train([*flags, *TEXT])


def test_a_class_that_a_limit_cuts_off_is_warned_of(tmp_path: Path, warnings: list[str]) -> None:
    splits = ["train"] * 30 + ["validation"] * 6 + ["test"] * 6
    rows = [{"text": f"x {i}", "label": "cab"[i // 10 % 3], "split": split} for i, split in enumerate(splits)]
    table = write_csv(tmp_path / "a.csv", rows)
    data, _ = training_data("text", data=str(table), max_train_samples=20)
    assert data.warnings == (
        "1 class has no training row among the first, which alone are used:\n  'b': no training row.",
    )


def test_declared_classes_need_training_rows_but_no_others(tmp_path: Path) -> None:
    label = ClassLabel(names=["no", "maybe", "yes"])
    features = Features({"text": Value("string"), "label": label})
    columns = {"text": [f"words {i}" for i in range(60)], "label": [0, 2] * 30}
    DatasetDict(train=Dataset.from_dict(columns, features=features)).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="'maybe': no training row."):
        training_data("text", data=str(tmp_path / "saved"))
    flags = ["--data", str(tmp_path / "saved"), "--output_dir", str(tmp_path / "run"), *TEXT]
    train([*flags, "--allow_untrained_classes"])
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["allow_untrained_classes"] is True
    table = write_csv(tmp_path / "b.csv", [{"text": f"words {i}", "label": "no"} for i in range(6)])
    assert evaluate(["--model", str(tmp_path / "run"), "--data", str(table)])["test"]["count"] == 6
    output = ["--output", str(tmp_path / "p.csv")]
    assert predict(["--model", str(tmp_path / "run"), "--data", str(table), *output])["rows"] == 6


def test_a_label_of_the_test_split_alone_passes_by_the_same_flag(tmp_path: Path) -> None:
    rows = [{"text": f"x {i}", "label": "ab"[i % 2], "split": ["train", "validation"][i // 10]} for i in range(20)]
    rows += [{"text": "x", "label": label, "split": "test"} for label in ("a", "c")]
    table = str(write_csv(tmp_path / "a.csv", rows))
    with pytest.raises(BadSamplesError, match=r"row 21 .*'c': unknown label 'c', the classes are \['a', 'b'\]"):
        training_data("text", data=table)
    data, _ = training_data("text", data=table, allow_untrained_classes=True)
    assert data.id2label == {0: "a", 1: "b", 2: "c"} and data.splits["test"]["label"][:] == [0, 2]
    assert "'c': no training row, 1 in test." in data.warnings[0]


def test_generated_rows_are_not_checked() -> None:
    limits = {"max_train_samples": 2, "max_eval_samples": 4, "max_predict_samples": 4}
    data, _ = training_data("both", data="controlled:unique", **limits)
    assert data.warnings == () and data.refusals == ()


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"X": 5, "x": 1}, "'X' (5 rows), 'x' (1 row)"),
        ({"01": 2, "1": 3, "1.0": 1, "+1": 1, "2": 4}, "'1' (3 rows), '01' (2 rows), '1.0' (1 row), '+1' (1 row)"),
        ({"True": 2, "1": 3, "False": 1}, "'1' (3 rows), 'True' (2 rows)"),
        ({"sea side": 2, "sea  side": 1, "seaside": 1}, "'sea side' (2 rows), 'sea  side' (1 row), 'seaside' (1 row)"),
        ({"caf\u00e9": 2, "cafe\u0301": 1}, "'caf\u00e9' (2 rows), 'cafe\u0301' (1 row)"),
        ({"a": 2, "a\u200b": 1}, "'a' (2 rows), 'a\\u200b' (1 row)"),
        ({"\uff11": 2, "1": 3}, "'1' (3 rows), '\uff11' (2 rows)"),
        ({"stra\u00dfe": 2, "STRASSE": 1}, "'stra\u00dfe' (2 rows), 'STRASSE' (1 row)"),
    ],
)
def test_classes_that_differ_by_writing_are_named(counts: dict[str, int], said: str) -> None:
    assert writing_warnings(counts) == [f"classes that differ only by their writing are told apart:\n  {said}"]


def test_classes_that_differ_by_more_than_writing_are_not_named() -> None:
    different = ["a", "b", "1", "2", "10", "1.5", "-1", "a.b", "true", "0", "1e99999999999999999999", "", "none"]
    (sentence,) = writing_warnings(dict.fromkeys(different, 1))
    assert sentence.endswith("are told apart:\n  '1' (1 row), 'true' (1 row)")
    assert writing_warnings({"NaN": 3, "a": 1, "None": 1}) == [
        "classes that read like a missing label, for which the cell is empty: 'NaN' (3 rows), 'None' (1 row)"
    ]


def test_writing_is_warned_of_before_training_with_counts(tmp_path: Path, warnings: list[str]) -> None:
    labels = ["X"] * 20 + ["x"] * 12 + [" x"] * 8 + ["NaN"] * 20
    data, _ = training_data("text", data=str(write_labels(tmp_path / "a.csv", labels)))
    assert data.id2label == {0: "NaN", 1: "X", 2: "x"}  # white space around a label was never part of it
    assert data.warnings == (
        "classes that differ only by their writing are told apart:\n  'X' (20 rows), 'x' (20 rows)",
        "classes that read like a missing label, for which the cell is empty: 'NaN' (20 rows)",
    )
    assert len(warnings) == 2
    lines = ['{"text": "t", "label": true}', '{"text": "t", "label": 1}', '{"text": "t", "label": "1.0"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines * 20))
    data, _ = training_data("text", data=str(tmp_path / "a.jsonl"))
    assert data.warnings == (
        "classes that differ only by their writing are told apart:\n"
        "  '1' (20 rows), '1.0' (20 rows), 'True' (20 rows)",
    )


def test_a_class_of_all_rows_and_a_class_of_each_row_are_named() -> None:
    names = {0: "a", 1: "b"}
    both = Dataset.from_dict({"label": [[1.0, 0.0], [1.0, 1.0]] * 4})
    assert check_classes({"train": both}, names)[0] == [
        "all 8 training rows have the class 'a': nothing tells a model when it does not hold."
    ]
    one = Dataset.from_dict({"label": [0] * 8})
    assert check_classes({"train": one}, {0: "a"})[0][0].startswith("all 8 training rows have the class 'a'")
    said = "10 rows have 10 classes, nearly each its own: is the column of labels the one that is meant?"
    own = {"train": Dataset.from_dict({"label": list(range(8))}), "test": Dataset.from_dict({"label": [8, 9]})}
    found, refusals = check_classes(own, {i: f"text {i}" for i in range(10)})
    assert found[0] == said and "'text 8': no training row, 1 in test.\n" in refusals[0]
    hot = {
        "train": Dataset.from_dict({"label": [[float(i in (2 * j, 2 * j + 1)) for i in range(10)] for j in range(5)]})
    }
    found, _ = check_classes(hot, {i: str(i) for i in range(10)})
    assert found[0] == "5 rows have 10 classes, nearly each its own: is the column of labels the one that is meant?"


def test_numbered_classes_are_no_slips_of_each_other() -> None:
    rows = Dataset.from_dict({"label": [0] * 5 + [1]})
    found, _ = check_classes({"train": rows}, {0: "class_1", 1: "class_2"})
    assert found[-1] == "1 class has fewer than three training rows:\n  'class_2': 1 training row."


def test_unlabelled_rows_are_not_counted() -> None:
    rows = Dataset.from_dict({"label": [None] * 8}, features=Features({"label": Value("int64")}))
    assert check_classes({"train": rows}, {}) == ([], [])


def test_names_and_several_label_columns_run_and_are_read_from_the_run(tmp_path: Path) -> None:
    rows = [{"text": f"words {i}", "sea": i % 2, "sky": i % 3 // 2, "sun": i % 5 // 4} for i in range(120)]
    table = write_csv(tmp_path / "a.csv", rows)
    run = tmp_path / "run"
    flags = ["--data", str(table), *TEXT, "--output_dir"]
    metrics = train([*flags, str(run), "--label_column", "sky", "sea", "sun"])
    assert load_model(run)[0].config.id2label == {0: "sky", 1: "sea", 2: "sun"}
    assert load_model(run)[0].config.problem_type == "multi_label_classification"
    assert yaml.safe_load((run / "run.yaml").read_text())["label_column"] == ["sky", "sea", "sun"]
    assert evaluate(["--model", str(run), "--data", str(table)])["test"] == metrics["test"]
    other = ["--label_column", "sun", "sea", "sky"]  # classes are known by their names, in any order
    assert evaluate(["--model", str(run), "--data", str(table), *other])["test"] == metrics["test"]
    unlabelled = write_csv(tmp_path / "b.csv", [{"text": "words"}])
    assert predict(["--model", str(run), "--data", str(unlabelled), "--output", str(tmp_path / "p.csv")])["rows"] == 1
    again = parse_training("train-fusion", ["--config", str(run / "run.yaml"), "--overwrite_output_dir"])
    groups = (again.source, again.reading, again.run, again.labels, again.classes)
    expected, _ = training_rows(*groups, modality="text")
    assert again.labels.label_column == ["sky", "sea", "sun"] and again.training.label_names == ["labels"]

    hot = [{"text": row["text"], "label": str([row[name] for name in ("sky", "sea", "sun")])} for row in rows]
    table = write_csv(tmp_path / "hot.csv", hot)
    named = ["--data", str(table), *TEXT, "--label_names", "sky", "sea", "sun"]
    flags = parse_training("train-fusion", named)
    assert flags.given["label_names"] == ["sky", "sea", "sun"] and flags.training.label_names == ["labels"]
    data, _ = training_rows(flags.source, flags.reading, flags.run, flags.labels, flags.classes, modality="text")
    assert data.id2label == {0: "sky", 1: "sea", 2: "sun"}
    assert {split: rows["label"][:] for split, rows in data.splits.items()} == {
        split: rows["label"][:] for split, rows in expected.splits.items()
    }
    assert evaluate(["--model", str(run), "--data", str(table), "--split", "test"])["test"] == metrics["test"]
    with pytest.raises(ValueError, match=r"label_names \['a'\] have no use: an aligner reads no labels"):
        parse_training("train-aligner", [*FAST[:1], "--data", "x", "--label_names", "a"])
