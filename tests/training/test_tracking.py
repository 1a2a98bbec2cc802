"""`--report_to` sends the log of a training to a tracker, offline."""

from pathlib import Path

import pytest
from test_scripts import FAST, make_rows, train, write_table


def run(folder: Path, tracker: str) -> Path:
    table = write_table(folder / "table.csv", make_rows(folder))
    output = folder / "run"
    train(["--data", str(table), "--output_dir", str(output), *FAST, "--report_to", tracker])
    return output


def test_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    output = run(tmp_path, "tensorboard")
    (file,) = (output / "runs").rglob("events.out.tfevents.*")  # docs/tracking.md: --logdir runs/mine/runs
    events = accumulator.EventAccumulator(str(file.parent))
    events.Reload()
    assert {"train/loss", "train/learning_rate", "eval/nll", "eval/accuracy"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("eval/nll")) == 1


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "tracked"))  # which it reads when it is imported
    pytest.importorskip("trackio")
    run(tmp_path, "trackio")
    assert list((tmp_path / "tracked").rglob("*.db"))


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wundb is not supported, only"):
        run(tmp_path, "wundb")
