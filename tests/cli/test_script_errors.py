"""What the scripts say of a mistake, and when: before the work, not after it."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXT
from datasets import Dataset, Features, Value
from datasets import Image as DatasetImage
from PIL import Image
from test_scripts import FAST, evaluate, make_rows, predict, train, train_robust, write_table
from transformers import AutoModel, BertConfig, BertModel

from hf_multimodal.cli.main import main
from hf_multimodal.data.images import BadImageError
from hf_multimodal.data.tables import read_table
from hf_multimodal.models.inner_models import load_model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A trained run, the table it was trained on, and what the script returned."""
    folder = tmp_path_factory.mktemp("run")
    table = write_table(folder / "table.csv", make_rows(folder))
    metrics = train(["--data", str(table), "--output_dir", str(folder / "run"), *FAST])
    return folder / "run", table, metrics


def test_a_bad_image_of_one_example_goes_by_the_policy(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, _, _ = run
    (tmp_path / "bad.png").write_bytes(b"no image")
    given = ["--model", str(folder), "--image", str(tmp_path / "bad.png")]
    flags = [*given, "--on_bad_sample", "missing"]
    alone = predict(["--model", str(folder), "--text", "a blue thing"])
    show = tmp_path / "deep" / "show.png"
    with pytest.warns(UserWarning, match="bad.png.* is not an image: .* as one without an image"):
        assert predict([*flags, "--text", "a blue thing", "--show", str(show)]) == alone
    assert Image.open(show).size[0] > 500
    with pytest.warns(UserWarning, match="nothing is left of the example"):
        assert predict(flags)["predicted"] in ("cold", "warm")
    with pytest.raises(BadImageError, match="bad.png.* is not an image"):
        predict([*given, "--text", "a blue thing"])


def test_answers_are_written_as_their_file_is_named(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, table, _ = run
    flags = ["--model", str(folder), "--data", str(table), "--output"]
    with pytest.raises(ValueError, match=r"the suffix of output must be one of \['.csv', .*\], got '.xlsx'"):
        predict([*flags, str(tmp_path / "answers.xlsx")])
    listed = tmp_path / "deep" / "listed.txt"
    predict([*flags, str(tmp_path / "answers.parquet"), "--guid_tag_output", str(listed)])
    answers, *_ = read_table(tmp_path / "answers.parquet")
    assert answers["id"][:3] == ["r0", "r1", "r2"] and answers["has_image"][4] == 0
    assert [line.split(",")[1] for line in listed.read_text().splitlines()] == ["tag", *answers["predicted"]]


def test_what_is_not_there_is_known_before_the_work(
    run: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, table, _ = run
    flags = ["--model", str(folder), "--data", str(table)]
    with pytest.raises(FileNotFoundError, match="there is no table of predictions '.*gone.csv'"):
        evaluate([*flags, "--against", str(tmp_path / "gone.csv")])
    assert capsys.readouterr().out == ""  # the data were not even loaded
    with pytest.raises(FileNotFoundError, match="curve_models: there is no folder '/no/such'"):
        evaluate([*flags, "--missing_curve", "--curve_models", "/no/such"])
    with pytest.raises(FileNotFoundError, match="model: there is no folder '/no/such'"):
        evaluate(["--model", "/no/such", "--data", str(table)])
    with pytest.raises(FileNotFoundError, match="from_fusion: there is no folder '/no/such'"):
        train_robust(["--data", str(table), "--from_fusion", "/no/such", "--output_dir", str(tmp_path)])
    shutil.copytree(folder, tmp_path / "pickled")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"pickled holds pickled weights, .*: \['pytorch_model.bin'\]"):
        flags = ["--data", str(table), "--from_fusion", str(tmp_path / "pickled")]
        train_robust([*flags, "--output_dir", str(tmp_path / "robust")])


def test_evaluate_names_what_it_left_out(
    run: tuple[Path, Path, dict[str, Any]], capsys: pytest.CaptureFixture
) -> None:
    folder, table, _ = run
    rows = list(csv.DictReader(table.open()))
    for row in rows[5:30]:
        row["image"] = "gone.png"
    data = write_table(table.parent / "gone.csv", rows)
    evaluate(["--model", str(folder), "--data", str(data), "--on_bad_sample", "drop"])
    printed = capsys.readouterr().out
    assert "25 bad samples: 25 dropped (column 'image')" in printed
    assert "gone.csv, row 24 (id 'r24')" in printed and "row 25" not in printed and "... and 5 more" in printed


def test_new_numbers_do_not_stand_beside_what_goes_with_the_old(
    run: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, table, metrics = run
    flags = ["--model", str(folder), "--data", str(table), "--output_dir", str(tmp_path)]
    (tmp_path / "metrics.json").write_text(json.dumps({**metrics, "difference": {}, "baselines": {}}))
    evaluate(flags)
    assert set(json.loads((tmp_path / "metrics.json").read_text())) == {*metrics, "difference", "baselines"}
    evaluate([*flags, "--split", "all"])
    assert set(json.loads((tmp_path / "metrics.json").read_text())) == {"test", "validation", "run", "intervals"}


@pytest.mark.parametrize(
    ("kind", "metric", "message"),
    [
        ("single_label_classification", "acuracy", r"\['loss', 'accuracy', .*'acuracy'. Did you mean 'accuracy'\?"),
        ("regression", "accuracy", r"\['loss', 'mse', 'mae', 'r2', 'pearson'\], got 'accuracy'"),
    ],
)
def test_a_metric_that_there_is_not_is_known_before_training(
    tmp_path: Path, kind: str, metric: str, message: str
) -> None:
    rows = make_rows(tmp_path)
    if kind == "regression":
        rows = [{**row, "label": str(number / 7)} for number, row in enumerate(rows)]
    flags = ["--data", str(write_table(tmp_path / "table.csv", rows)), "--problem_type", kind, *FAST]
    with pytest.raises(ValueError, match=f"metric_for_best_model must be one of {message}"):
        train([*flags, "--output_dir", str(tmp_path / "run"), "--metric_for_best_model", metric])
    assert not (tmp_path / "run").exists()


def test_a_dry_run_reports_what_a_run_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = make_rows(tmp_path)
    rows[5]["label"], rows[6]["id"] = "", "r0"
    (tmp_path / "8.png").write_bytes(b"")
    flags = ["--data", str(write_table(tmp_path / "table.csv", rows)), "--output_dir", str(tmp_path / "run"), *FAST]
    found = sorted(train([*flags, "--dry_run", "--on_bad_sample", "missing"])["bad_samples"])
    assert "row 5 (id 'r5'), column 'label', '': an empty label" in found[0] and found[0].endswith("[error]")
    assert "row 6 (id 'r0'), column 'id', 'r0': a duplicate id" in found[1] and found[1].endswith("[error]")
    assert "8.png" in found[2] and found[2].endswith("[missing]")
    assert "bad samples: 3; on_bad_sample='missing'" in capsys.readouterr().out
    assert all(sample.endswith("[error]") for sample in train([*flags, "--dry_run"])["bad_samples"])


@pytest.mark.parametrize("dry", [[], ["--dry_run"]], ids=["run", "dry"])
def test_a_baseline_without_rows_is_known_before_the_robust_run(tmp_path: Path, dry: list[str]) -> None:
    table = write_table(tmp_path / "table.csv", make_rows(tmp_path))
    flags = ["--data", str(table), "--output_dir", str(tmp_path / "run"), "--baselines", *FAST, *dry]
    message = "baselines: 'plain fusion' has no row in the split 'train': every one lacks image or text"
    with pytest.raises(ValueError, match=message):
        train_robust([*flags, "--missing", "both:1.0"])
    with pytest.raises(ValueError, match="'image alone' has no row in the split 'train': every one lacks image"):
        train_robust([*flags, "--missing", "image:1.0"])
    assert not (tmp_path / "run").exists()


def test_data_saved_by_datasets_are_left_as_they_are(run: tuple[Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, table, _ = run
    rows = list(csv.DictReader(table.open()))
    images = [
        {"bytes": (table.parent / row["image"]).read_bytes(), "path": None} if row["image"] else None for row in rows
    ]
    images[7] = {"bytes": b"no image", "path": None}
    features = Features({"photo": DatasetImage(), "text": Value("string"), "label": Value("string")})
    columns = {"photo": images, "text": [row["text"] for row in rows], "label": [row["label"] for row in rows]}
    Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    flags = ["--data", str(tmp_path / "saved"), "--image_column", "photo", "--on_bad_sample", "missing"]
    output = ["--output_dir", str(table.parent / "other")]
    train([*flags, "--missing", "both:0.5", "--eval_missing", "image:0.5", "--dry_run", *output, *FAST])
    train([*flags, *output, *FAST])
    evaluate(["--model", str(folder), *flags, "--missing", "both:0.5", "--missing_curve"])
    assert sorted(tmp_path.rglob("*")) == before


def edited(folder: Path, to: Path, change: dict[str, Any]) -> str:
    """A copy of a run whose `config.json` says something else than its weights."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | change))
    return str(to)


def test_weights_that_do_not_fit_the_configuration_end_in_a_message(
    run: tuple[Path, Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, table, _ = run
    config = json.loads((folder / "config.json").read_text())
    wide = config["text_config"] | {"intermediate_size": 48}
    broken = edited(folder, tmp_path / "broken", {"text_config": wide})
    old = config["text_config"]["intermediate_size"]
    name = "encoder.layer.0.intermediate.dense.bias"
    sizes = rf"{name} is \({old},\) and should be \(48,\)"
    data = ["--data", str(table)]
    calls = {
        "evaluate": ["evaluate", "--model", broken, *data],
        "predict": ["predict", "--model", broken, "--text", "a blue thing"],
        "retrieve": ["retrieve", "index", "--model", broken, *data, "--index_dir", str(tmp_path / "index")],
        "push": ["push", "--model", broken, "--repo_id", "me/mine"],
        "side": ["train-fusion", *data, "--vision_model", broken, "--text_model", broken, "--output_dir", "side"],
        "whole": ["train-robust-fusion", *data, "--from_fusion", broken, "--output_dir", "whole"],
    }
    for call in calls.values():
        assert main(call) == 2
        said = capsys.readouterr().err
        assert re.search(rf"^error: {broken} does not fit .*{sizes}.*Undo what was changed in config.json", said, re.M)
        assert "damaged" not in said and "CrossEncoder" not in said

    def other(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(AutoModel, "from_pretrained", other)  # no mistake of the user: a traceback, as ever
    with pytest.raises(RuntimeError, match="^CUDA error$"):
        main(calls["push"])


def test_a_model_of_transformers_that_does_not_fit_is_named(tmp_path: Path) -> None:
    BertModel(BertConfig(**TEXT)).save_pretrained(tmp_path / "bert")
    broken = edited(tmp_path / "bert", tmp_path / "broken", {"intermediate_size": 48})
    with pytest.raises(ValueError, match=rf"^{broken} does not fit .*dense.bias is \(\d+,\) and should be \(48,\)"):
        load_model(broken, "text_config")


def test_run_ends_quietly_when_nobody_reads_on(tmp_path):
    """`hf-multimodal ... | head -1` is no mistake: no message, and the status of a command that SIGPIPE ended."""
    program = (
        "import sys\nfrom hf_multimodal.cli import main, predict\n"
        "def shout(flags):\n    for number in range(10**6):\n        print('row', number)\n"
        "predict.main = shout\nsys.exit(main.run('predict', []))"
    )
    command = f"{sys.executable} -c {shlex.quote(program)} | head -1; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert found.stdout.splitlines() == ["row 0", "141"]
    assert "error" not in found.stderr and "Traceback" not in found.stderr
