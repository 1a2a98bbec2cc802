"""What runs and commands leave survives a kill at any step and a full disk: it is the old or the new, whole."""

import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_fusion_model import make_model
from test_retrieve_script import main as retrieve_main
from test_retriever import WORDS, filled, make_pair
from test_saved_before import unpack
from test_scripts import evaluate, make_rows, predict, write_table
from test_sharing import make_processor
from test_storage import in_child, killed_at, room_for

from hf_multimodal import Retriever
from hf_multimodal.cli import predict as predict_command
from hf_multimodal.evaluation.predictions import Predictions, read_predictions, write_predictions
from hf_multimodal.evaluation.report import write_run
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.training.run import save_run

ROOM = r"what was there before is as it was: allow larger files \(ulimit -f\), or name another disk"
SINGLE = "single_label_classification"


def answers(rows: int, first: float) -> Predictions:
    table = np.tile([first, 1 - first], (rows, 1))
    return Predictions.from_outputs(SINGLE, [f"r{row}" for row in range(rows)], table, ["x", "y"], labels=[0] * rows)


def test_a_run_that_is_saved_over_another_is_one_of_them(tmp_path: Path) -> None:
    models = []
    for number in range(2):
        torch.manual_seed(number)
        model = make_model(num_labels=2, id2label={0: f"a{number}", 1: f"b{number}"})
        with torch.no_grad():
            model.classifier.bias.fill_(float(number))
        models.append(model)
    collator = SimpleNamespace(processor=make_processor())

    def save(number: int, folder: Path) -> None:
        trainer: Any = SimpleNamespace(args=SimpleNamespace(output_dir=folder), data_collator=collator)
        save_run(trainer, models[number], [], {"seed": number})

    found = []
    for step in (0, 1, 2, 3, *range(6, 90, 7)):
        folder = tmp_path / str(step)
        save(0, folder)
        killed = killed_at(step, lambda folder=folder: save(1, folder))
        model, processor = load_model(folder)
        number = int(model.classifier.bias[0])
        assert model.config.id2label == {0: f"a{number}", 1: f"b{number}"}
        expected = models[number].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
        assert processor.tokenizer is not None
        assert [path.name for path in folder.iterdir() if path.name.startswith(".ready")] == []
        found.append(number)
        if not killed:
            break
    assert not killed and found == sorted(found) and set(found) == {0, 1}


def test_an_index_that_is_saved_over_another_is_one_of_them(tmp_path: Path) -> None:
    pair, old, new = make_pair("clip"), filled(), filled()
    new.add_texts(["cat dog"])
    found = []
    for step in range(20):
        folder = tmp_path / str(step)
        old.save(folder)
        killed = killed_at(step, lambda folder=folder: new.save(folder))
        loaded = Retriever.load(folder, *pair, show_progress=False)
        found.append(len(loaded.texts) - len(WORDS))
        if not killed:
            break
    assert not killed and found == sorted(found) and set(found) == {0, 1}


def test_a_table_that_is_written_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    draw, path, tables = random.Random(0), tmp_path / "p.csv", (answers(600, 0.25), answers(400, 0.75))
    write_predictions(path, tables[0])

    def write_until_killed(seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)  # nothing handles its signal: the process is gone at once
        while True:
            for table in tables[::-1]:
                write_predictions(path, table)

    for _ in range(20):
        instant = draw.uniform(0.001, 0.05)
        _, status = os.waitpid(in_child(lambda instant=instant: write_until_killed(instant)), 0)
        assert os.WTERMSIG(status) == signal.SIGALRM
        found = read_predictions(path)
        assert len(found.ids) == (600 if found.probabilities[0, 0] == 0.25 else 400)
    write_predictions(path, tables[1])
    assert [file.name for file in tmp_path.iterdir()] == ["p.csv"]


def test_all_that_a_run_reports_stays_on_a_full_disk(tmp_path: Path) -> None:
    write_run(tmp_path, {"test": answers(40, 0.75)}, log_history=[{"loss": 1.0, "epoch": 1.0}])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"metrics.json", "predictions.csv", "confusion.png", "history.png"}
    for room in (0, 400, 1500):
        with room_for(room), pytest.raises(OSError, match="what was there before is as it was"):
            write_run(tmp_path, {"test": answers(90, 0.25)}, log_history=[{"loss": 2.0, "epoch": 1.0}])
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert after.keys() == before.keys() and after["predictions.csv"] == before["predictions.csv"]


def test_predict_on_a_full_disk_and_a_table_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, fused = write_table(tmp_path / "t.csv", make_rows(tmp_path, 16)), unpack("fused", tmp_path)
    output = tmp_path / "out" / "answers.csv"
    flags = ["--model", str(fused), "--data", str(table), "--output", str(output)]
    predict(flags)
    before = output.read_bytes()

    def write_where_there_is_no_room(*args: Any) -> None:
        with room_for(300):
            write_predictions(*args)

    monkeypatch.setattr(predict_command, "write_predictions", write_where_there_is_no_room)
    with pytest.raises(OSError, match=rf"{ROOM}: '.*answers.csv'"):
        predict(flags)
    assert output.read_bytes() == before and len(read_predictions(output).ids) == 16
    assert sorted(path.name for path in output.parent.iterdir()) == ["answers.bad_samples.csv", "answers.csv"]
    output.write_bytes(b"".join(before.splitlines(keepends=True)[:9]))
    with pytest.raises(ValueError, match=r"answers.csv holds 8 of the 16 rows that were written: it was cut"):
        evaluate(["--model", str(fused), "--data", str(table), "--against", str(output)])


def test_a_folder_that_cannot_be_made_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, table = unpack("fused", tmp_path), write_table(tmp_path / "table.csv", make_rows(tmp_path))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr(predict_command, "predict_dataset", None)  # nothing is predicted
    given = ["--model", str(folder), "--data", str(table)]
    inside = str(tmp_path / "file" / "a.csv")
    with pytest.raises(OSError, match=r"file' cannot be made, it is a file: name a folder with --output$"):
        predict([*given, "--output", inside])
    with pytest.raises(IsADirectoryError, match=r"is a folder: name a file with --output, such as"):
        predict([*given, "--output", str(tmp_path / "folder.csv")])
    with pytest.raises(OSError, match=r"file' cannot be made, it is a file: name a folder with --output_dir$"):
        evaluate([*given, "--output_dir", str(tmp_path / "file")])
    with pytest.raises(OSError, match=r"run' cannot be made, Not a directory: name a folder with --output_dir$"):
        evaluate([*given, "--output_dir", str(tmp_path / "file" / "run")])
    retrieve = ["index", *given, "--index_dir", str(tmp_path / "file")]
    with pytest.raises(OSError, match=r"file' cannot be made, it is a file: name a folder with --index_dir$"):
        retrieve_main(retrieve)
    assert (tmp_path / "file").read_text() == "mine"
