"""The files of a run hold what was measured."""

import json

import numpy as np
import pytest
from PIL import Image

from hf_multimodal.evaluation.predictions import Predictions, read_predictions
from hf_multimodal.evaluation.report import update_region, write_json, write_run
from hf_multimodal.hub.tables import markdown_table

SINGLE = "single_label_classification"


def make(labels, probabilities=((0.9, 0.1), (0.4, 0.6), (0.8, 0.2))):
    return Predictions.from_outputs(SINGLE, ["a", "b", "c"], probabilities, ["no", "yes"], labels=labels)


def test_a_run_leaves_its_files(tmp_path, monkeypatch):
    from hf_multimodal.evaluation import report

    drawn = {}
    monkeypatch.setattr(
        report, "plot_confusion", lambda matrix, names, path: drawn.update({path.name: (matrix, names)})
    )
    test, validation = make([0, 1, 1]), make([0, 1, 0])
    found = write_run(tmp_path / "run", {"test": test, "validation": validation}, extra={"seed": np.int64(3)})
    assert found["test"]["accuracy"] == pytest.approx(2 / 3) and found["validation"]["accuracy"] == 1.0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8")) == {
        "seed": 3,
        "test": test.metrics(),
        "validation": validation.metrics(),
    }
    assert read_predictions(tmp_path / "run" / "predictions.csv").metrics() == test.metrics()
    matrix, names = drawn["confusion.png"]
    assert matrix.tolist() == [[1, 0], [1, 1]] and names == ["no", "yes"]
    assert not (tmp_path / "run" / "history.png").exists()


def test_images_are_written(tmp_path):
    write_run(tmp_path, {"test": make([0, None, 1])}, log_history=[{"loss": 1.0, "epoch": 1.0}])
    for name in ("confusion.png", "history.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"


def test_without_labels_there_are_predictions_only(tmp_path):
    assert write_run(tmp_path, {"predict": make(None)}) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "predictions.csv"]


def test_other_problem_types_have_no_confusion_matrix(tmp_path):
    run = Predictions.from_outputs("regression", "ab", [1.0, 2.0], labels=[1.0, 3.0])
    assert write_run(tmp_path, {"test": run})["test"]["mse"] == 0.5
    assert not (tmp_path / "confusion.png").exists()


def test_write_run_refuses(tmp_path):
    with pytest.raises(ValueError, match="at least one split"):
        write_run(tmp_path, {})
    with pytest.raises(ValueError, match=r"must not be named like a split, got \['test'\]"):
        write_run(tmp_path, {"test": make([0, 0, 0])}, extra={"test": 1})


def test_json_is_sorted_and_finite(tmp_path):
    write_json(tmp_path / "m.json", {"b": {"y": np.float32(0.5), "x": [1, True, None, "积"]}, "a": (np.int64(2),)})
    text = (tmp_path / "m.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [2], "b": {"x": [1, True, None, "积"], "y": 0.5}}
    assert text.index('"a"') < text.index('"b"') < text.index('"x"') < text.index('"y"') and "积" in text
    with pytest.raises(ValueError, match=r"test.scores\[1\] must be finite, got nan"):
        write_json(tmp_path / "m.json", {"test": {"scores": [1.0, float("nan")]}})
    assert json.loads(text) == json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))


def test_markdown_table():
    assert markdown_table([["a|b", 0.5], ["c", np.float32(0.25)]], ["name", "score"]) == (
        "| name | score |\n|---|---:|\n| a\\|b | 0.5000 |\n| c | 0.2500 |"
    )
    with pytest.raises(ValueError, match="row 1: 2 cells expected, got 1"):
        markdown_table([["a", 1], ["b"]], ["name", "score"])


def test_update_region(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(
        "# T\n<!-- t:start -->\nold\n<!-- t:end -->\nrest\n<!-- u:start --><!-- u:end -->\n", encoding="utf-8"
    )
    for _ in range(2):  # again changes nothing
        update_region(page, "t", "\nnew 积\n")
        update_region(page, "u", "x")
        assert page.read_text(encoding="utf-8") == (
            "# T\n<!-- t:start -->\nnew 积\n<!-- t:end -->\nrest\n<!-- u:start -->\nx\n<!-- u:end -->\n"
        )


@pytest.mark.parametrize(
    "text",
    ["", "<!-- t:start -->", "<!-- t:end --><!-- t:start -->", "<!-- t:start --><!-- t:start --><!-- t:end -->"],
)
def test_update_region_needs_its_markers(text, tmp_path):
    page = tmp_path / "README.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"README.md: needs one <!-- t:start --> and, after it, one <!-- t:end -->"):
        update_region(page, "t", "new")
    assert page.read_text(encoding="utf-8") == text
