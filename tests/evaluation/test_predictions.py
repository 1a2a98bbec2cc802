"""`predictions.csv` gives back what was written, whatever the names."""

import math

import numpy as np
import pyarrow as pa
import pytest

from hf_multimodal.data.tables import read_table
from hf_multimodal.evaluation.predictions import Predictions, read_predictions, write_predictions

SINGLE, SEVERAL = "single_label_classification", "multi_label_classification"
AWKWARD = ["NaN", 'a "b", c', "two\nlines", "积极", "x|y", "back\\slash", "None", " spaced ", "1"]


def assert_equal(a, b):
    assert (a.problem_type, a.ids, a.class_names) == (b.problem_type, b.ids, b.class_names)
    for name in ("labels", "predicted", "probabilities", "has_image", "has_text"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype and left.shape == right.shape, name
        assert np.array_equal(left, right, equal_nan=left.dtype.kind == "f"), name


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.fixture
def single():
    generator = np.random.default_rng(0)
    probabilities = softmax(generator.normal(size=(10, 9)) * 3)
    ids = ["NaN", "", "a,b", 'q"', "line\nbreak", "编号", "007", "null", "=1+1", "\r"]
    labels = [*range(9), None]
    return Predictions.from_outputs(
        SINGLE, ids, probabilities, AWKWARD, labels=labels, has_image=[True, False] * 5, has_text=[False] + [True] * 9
    )


def test_single_label_round_trip(single, tmp_path):
    write_predictions(tmp_path / "predictions.csv", single)
    again = read_predictions(tmp_path / "predictions.csv")
    assert_equal(again, single)
    assert again.metrics() == single.metrics()  # to the last digit
    assert again.labels[-1] == -100 and again.metrics()["count"] == 9


def test_the_file_holds_the_agreed_columns(tmp_path):
    run = Predictions.from_outputs(SINGLE, ["7"], [[0.25, 0.75]], ["no", "yes"], labels=[0], has_image=[False])
    write_predictions(tmp_path / "p.csv", run)
    assert (tmp_path / "p.csv").read_text(encoding="utf-8") == (
        'id,label,predicted,has_image,has_text,prob_no,prob_yes,row_count\n"7","no","yes",0,1,0.25,0.75,1\n'
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_multilabel_round_trip(dtype, tmp_path):
    probabilities = np.random.default_rng(1).uniform(size=(6, 9)).astype(dtype)
    probabilities[0] = 0.1  # no label is predicted
    labels = [np.zeros(9), np.ones(9), None, *np.eye(9)[:3]]
    run = Predictions.from_outputs(SEVERAL, list("abcdef"), probabilities, AWKWARD, labels=labels)
    write_predictions(tmp_path / "p.csv", run)
    again = read_predictions(tmp_path / "p.csv")
    assert_equal(again, run)
    assert again.labelled.tolist() == [True, True, False, True, True, True]
    assert again.metrics() == run.metrics()


def test_multilabel_cells(tmp_path):
    run = Predictions.from_outputs(SEVERAL, "ab", [[0.9, 0.8], [0.1, 0.2]], ["x|y", "z"], labels=[[0, 0], None])
    write_predictions(tmp_path / "p.csv", run)
    lines = (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ['"a","|","x\\|y|z",1,1,0.9,0.8,2', '"b","","|",1,1,0.1,0.2,2']


def test_thresholds_decide_and_are_measured_by(tmp_path):
    run = Predictions.from_outputs(
        SEVERAL, "ab", [[0.9, 0.2], [0.6, 0.1]], ["x", "y"], labels=[[1, 1], [0, 0]], thresholds=[0.7, 0.2]
    )
    assert run.predicted.tolist() == [[1, 1], [0, 0]] and run.metrics()["subset_accuracy"] == 1.0
    write_predictions(tmp_path / "p.csv", run)  # the file tells what was said, and needs no threshold
    assert read_predictions(tmp_path / "p.csv").metrics() == run.metrics()
    usual = Predictions.from_outputs(SEVERAL, "ab", run.probabilities, ["x", "y"], labels=run.labels)
    assert usual.metrics()["label_accuracy"] == 0.5


def test_regression_round_trip(tmp_path):
    run = Predictions.from_outputs("regression", "abc", [[0.1], [2.0], [-1e-9]], labels=[0.3, None, 1])
    write_predictions(tmp_path / "p.csv", run)
    again = read_predictions(tmp_path / "p.csv")
    assert_equal(again, run)
    assert again.probabilities.shape == (3, 0) and again.metrics()["count"] == 2
    header = (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "id,label,predicted,has_image,has_text,row_count"


def test_the_problem_type_may_be_told(tmp_path):
    run = Predictions.from_outputs(SEVERAL, ["a"], [[0.6, 0.4]], ["x", "y"], labels=[[1, 0]])
    write_predictions(tmp_path / "p.csv", run)  # looks like one class of two
    assert read_predictions(tmp_path / "p.csv").problem_type == SINGLE
    assert_equal(read_predictions(tmp_path / "p.csv", SEVERAL), run)


def test_take_keeps_rows_together(single):
    some = single.take([3, 1])
    assert some.ids == ['q"', ""]
    assert some.labels.tolist() == [3, 1] and some.has_image.tolist() == [False, False]
    assert np.array_equal(some.probabilities, single.probabilities[[3, 1]])
    assert single.take(single.labelled).ids == single.ids[:9]


GOOD = "id,label,predicted,has_image,has_text,prob_x,prob_y\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"p.csv: predictions need the columns .* missing \['id', 'label'"),
        ("id,label,prob_x\n", r"missing \['predicted', 'has_image', 'has_text'\]"),
        (GOOD + "1,x,x,1,1,.5\n", r"p.csv, row 2: 7 cells expected, got 6"),
        (GOOD + "1,x,x,1,1,.5,.5\n2,x,x,1,1,.5,half\n", r"p.csv, row 3, column 'prob_y': 'half' is not a number"),
        (GOOD + "1,z,x,1,1,.5,.5\n", r"p.csv, row 2, column 'label': 'z' is none of the classes \['x', 'y'\]"),
        (GOOD + "1,x,,1,1,.5,.5\n", r"p.csv, row 2, column 'predicted': the cell is empty"),
        (GOOD + "1,x,x,yes,1,.5,.5\n", r"p.csv, row 2, column 'has_image': must be 0 or 1, got 'yes'"),
        (GOOD + "1,x,x,1,1,.5,.5\n1,y,x,1,1,.5,.5\n", r"p.csv: row 1: id '1' stands in row 0 already"),
    ],
)
def test_bad_files_are_named(text, message, tmp_path):
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ids": ["a", "a"]}, "row 1: id 'a' stands in row 0 already; ids must be unique"),
        ({"labels": [0, 2]}, r"row 1: label must be in 0..1, got 2"),
        ({"labels": [0]}, r"labels must have shape \(2,\), got \(1,\)"),
        ({"outputs": [0.5, 0.5]}, r"probabilities must have shape \(2, 2\), got \(2,\)"),
        ({"class_names": ["x", ""]}, "class names must differ and not be empty"),
        ({"problem_type": "single"}, r"problem_type must be one of .*, got 'single'"),
        ({"has_text": [True]}, r"has_text must have shape \(2,\), got \(1,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    good = {"problem_type": SINGLE, "ids": ["a", "b"], "outputs": [[0.5, 0.5]] * 2, "class_names": ["x", "y"]}
    with pytest.raises(ValueError, match=message):
        Predictions.from_outputs(**{**good, **arguments})


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("kind", [SINGLE, "regression"])
def test_the_suffix_says_what_is_written(tmp_path, suffix, kind):
    outputs = [[0.75, 0.25], [0.5, 0.5]] if kind == SINGLE else [[0.1], [2.0]]
    names = ["x", "y"] if kind == SINGLE else []
    run = Predictions.from_outputs(kind, ["1", "NaN"], outputs, names, labels=[0, None])
    write_predictions(tmp_path / f"p{suffix}", run)
    table, *_ = read_table(tmp_path / f"p{suffix}")
    assert table["id"][:] == ["1", "NaN"]
    label, predicted = ("x", ["x", "x"]) if kind == SINGLE else (0.0, [0.1, 2.0])
    words = suffix in (".csv", ".tsv")
    assert table["predicted"][:] == [str(cell) if words else cell for cell in predicted]
    assert table["label"][:] == ([str(label), ""] if words else [label, None])
    assert table["has_text"][:] == (["1", "1"] if words else [1, 1])
    if kind == SINGLE:
        assert list(map(float, table["prob_y"][:])) == [0.25, 0.5]


def test_another_suffix_is_refused(tmp_path):
    run = Predictions.from_outputs(SINGLE, ["1"], [[0.75, 0.25]], ["x", "y"])
    with pytest.raises(ValueError, match=r"the suffix of predictions must be one of \['.csv', .*\], got '.xlsx'"):
        write_predictions(tmp_path / "p.xlsx", run)
    write_predictions(tmp_path / "p.parquet", run)
    with pytest.raises(ValueError, match=r"the suffix of '.*p.parquet' must be one of \['.csv'\], got '.parquet'"):
        read_predictions(tmp_path / "p.parquet")
    with pytest.raises(FileNotFoundError, match="there is no table of predictions '.*gone.csv'"):
        read_predictions(tmp_path / "gone.csv")


def test_further_columns_are_written_under_names_that_differ(tmp_path):
    run = Predictions.from_outputs(SINGLE, ["1", "2"], [[0.75, 0.25], [0.5, 0.5]], ["x", "y"])
    own = pa.table(
        {
            "id": [1, 2],
            "label": [0.5, math.nan],
            "given_label": ["a", "b"],
            "row_count": [7, 8],
            "prob_z": [1, 2],
            "=1+1": ["=2", "'3"],
        }
    )
    renamed = write_predictions(tmp_path / "p.csv", run, own)
    assert renamed == {"label": "given_given_label", "row_count": "given_row_count", "prob_z": "given_prob_z"}
    text = (tmp_path / "p.csv").read_text()
    assert '"given_given_label","given_label","given_row_count","given_prob_z","\'=1+1"\n' in text
    assert text.endswith('"y",1,1,0.5,0.5,2,"","b",8,2,"\'\'3"\n') or text.endswith(',2,"","b",8,2,"\'\'3"\n')
    again = read_predictions(tmp_path / "p.csv")
    assert again.ids == ["1", "2"] and again.class_names == ["x", "y"]
    assert (again.probabilities == run.probabilities).all()
    assert write_predictions(tmp_path / "p.csv", run, own.rename_columns({"id": "key"}).select(["key"])) == {}
    other = own.set_column(0, "id", [["b", "a"]])
    assert write_predictions(tmp_path / "p.jsonl", run, other)["id"] == "given_id"
    with pytest.raises(ValueError, match="further columns must have a row for each of the 2 predictions, got 1"):
        write_predictions(tmp_path / "p.csv", run, own.slice(1))
