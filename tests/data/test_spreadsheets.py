"""Cells that a spreadsheet would run are neutralised, and read back exactly as they were."""

import csv
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_multimodal.data.checks import BadSample, write_bad_samples
from hf_multimodal.data.spreadsheets import from_cell, neutralised, write_csv
from hf_multimodal.evaluation.predictions import Predictions, read_predictions, write_predictions

ATTACKS = ['=HYPERLINK("https://x.org")', "@SUM(1)", "+cmd|' /C calc'!A0", "-2+3+cmd|x", "\t=1", "\r=1", "\n=1"]
ATTACKS += [" =1", "=1+1", "＝1", "＋1+1", "－1+1", "＠SUM(1)"]
STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(ATTACKS)
TEXTS |= st.builds(str.__add__, st.sampled_from(["'", "''", *STARTS]), st.text("1.e+'\"=;,\r\n ", max_size=6))


def is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


@given(TEXTS)
def test_no_cell_is_a_formula_and_all_come_back(text: str) -> None:
    cell = neutralised(text)
    assert from_cell(cell) == text
    assert not cell.lstrip(" ").startswith(STARTS) or is_number(cell)
    if text[:1].isalnum():
        assert cell == text


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks_are_quoted(text: str) -> None:
    assert neutralised(text) == f"'{text}" and from_cell(f"'{text}") == text


@pytest.mark.parametrize("text", ["-1", "+1.5", "-.5e-3", "1", "", "a=b", "积极", "a'"])
def test_numbers_and_common_words_stay_as_they_are(text: str) -> None:
    assert neutralised(text) == text


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(["single_label_classification", "multi_label_classification", "regression"]))
def test_predictions_come_back_exactly(data: st.DataObject, kind: str) -> None:
    ids = data.draw(st.lists(TEXTS, unique=True, min_size=1, max_size=4))
    names = (
        [] if kind == "regression" else data.draw(st.lists(TEXTS.filter(bool), unique=True, min_size=2, max_size=3))
    )
    numbers = st.floats(0, 1) if names else st.floats(-1e9, 1e9)
    outputs = data.draw(
        st.lists(
            st.lists(numbers, min_size=len(names) or 1, max_size=len(names) or 1), min_size=len(ids), max_size=len(ids)
        )
    )
    label = {"regression": st.floats(-9, 9), "single_label_classification": st.integers(0, len(names) - 1)}.get(
        kind, st.lists(st.integers(0, 1), min_size=len(names), max_size=len(names))
    )
    labels = data.draw(st.lists(st.none() | label, min_size=len(ids), max_size=len(ids)))
    answers = Predictions.from_outputs(kind, ids, outputs, names, labels=labels)
    with TemporaryDirectory() as folder:
        path = Path(folder, "p.csv")
        write_predictions(path, answers)
        again = read_predictions(path, kind)
        cells = [cell for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")) for cell in row]
    assert (again.ids, again.class_names) == (answers.ids, answers.class_names)
    for name in ("labels", "predicted", "probabilities", "has_image"):
        assert np.array_equal(getattr(again, name), getattr(answers, name), equal_nan=name == "labels"), name
    assert [cell for cell in cells if cell.startswith(STARTS) and not is_number(cell)] == []


def test_numbers_are_numbers_to_pandas(tmp_path: Path) -> None:
    run = Predictions.from_outputs("regression", ["=1+1", "b"], [[-1.5], [2.0]], labels=[-0.5, None])
    write_predictions(tmp_path / "p.csv", run)
    table = pd.read_csv(tmp_path / "p.csv")
    assert table["predicted"].tolist() == [-1.5, 2.0] and table["label"].tolist()[0] == -0.5
    assert table["id"].tolist() == ["'=1+1", "b"] and table["row_count"].tolist() == [2, 2]


def test_bad_samples_are_neutralised_in_every_column(tmp_path: Path) -> None:
    sample = BadSample("=a.csv", 3, "@SUM(1)", "+text", "-2+3+cmd|x", "x;=1+1", "dropped")
    write_bad_samples(tmp_path / "bad.csv", [sample])
    text = (tmp_path / "bad.csv").read_text(encoding="utf-8")
    assert text.splitlines()[1] == '"\'=a.csv",3,"\'@SUM(1)","\'+text","\'-2+3+cmd|x","x;=1+1","dropped"'
    (row,) = csv.DictReader(io.StringIO(text))
    assert [from_cell(cell) for cell in row.values()] == [str(value) for value in vars(sample).values()]


def test_a_reader_of_rows_that_are_cut_off_says_so(tmp_path: Path) -> None:
    names, path = ["x", "y"], tmp_path / "p.csv"
    run = Predictions.from_outputs("single_label_classification", "abc", [[0.5, 0.5]] * 3, names, labels=[0, 1, 0])
    write_predictions(path, run)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    for kept in range(1, 4):
        path.write_text("".join(lines[:kept]), encoding="utf-8")
        which = "the" if kept == 1 else "the 3"
        with pytest.raises(ValueError, match=rf"p.csv holds {kept - 1} of {which} rows that were written: it was cut"):
            read_predictions(path)
    path.write_text("".join(lines[:2]).replace(",3\n", ",1\n"), encoding="utf-8")  # a choice that says so
    assert read_predictions(path).ids == ["a"]


def test_old_tables_are_read_as_before(tmp_path: Path) -> None:
    old = "id,label,predicted,has_image,has_text,prob_'x,prob_y\n\"'a\",'x,y,1,1,.25,.75\n"
    (tmp_path / "p.csv").write_text(old, encoding="utf-8")
    found = read_predictions(tmp_path / "p.csv")
    assert found.ids == ["'a"] and found.class_names == ["'x", "y"] and found.labels.tolist() == [0]


def test_a_csv_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["id"], [["1"]])
    with pytest.raises(UnicodeEncodeError):
        write_csv(tmp_path / "a.csv", ["id"], [["2"], ["\ud800"]])
    assert [path.read_text() for path in tmp_path.iterdir()] == ['id\n"1"\n']
