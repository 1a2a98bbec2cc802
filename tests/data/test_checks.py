"""Bad samples: every one found, named, and dealt with by policy."""

import csv
import io

import datasets
import numpy as np
import pytest
from datasets import Dataset, Features, Value
from PIL import Image

from hf_multimodal.data.checks import (
    BadSample,
    BadSamplesError,
    check_rows,
    check_splits,
    summarize_bad_samples,
    write_bad_samples,
)
from hf_multimodal.data.counts import count_rows
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.presence import hide


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    (tmp_path / "empty.png").touch()
    return tmp_path


def load(folder, rows, **options):
    lines = ["guid,image,words,tag", *(",".join(row) for row in rows)]
    (folder / "a.csv").write_text("\n".join(lines))
    names = {"image_column": "image", "text_column": "words", "label_column": "tag"}
    return load_data(folder / "a.csv", **names, **options)


BAD_IMAGES = [
    ("a", "good.png", "one", "yes"),
    ("b", "cut.png", "two", "no"),
    ("c", "none.png", "three", "yes"),
    ("d", "empty.png", "", "no"),
    ("e", "http://x.org/a.png", "five", "no"),
    ("f", "../out.png", "six", "no"),
    ("g", "", "seven", "no"),
]


def test_error_names_file_row_column_and_value(folder):
    data = load(folder, BAD_IMAGES)
    with pytest.raises(BadSamplesError) as caught:
        check_splits(data, policy="error")
    at = str(folder)
    found = [
        ("b", f"{at}/cut.png", "truncated: its content is cut off or broken (image file is truncated)"),
        ("c", f"{at}/none.png", "missing: there is no such file"),
        ("d", f"{at}/empty.png", "empty: it holds zero bytes"),
    ]
    lines = [
        f"  {at}/a.csv, row {row} (id {name!r}), column 'image', {value!r}: image {value!r} is {reason}"
        for row, (name, value, reason) in enumerate(found, start=1)
    ]
    start = f"  {at}/a.csv, row"
    assert str(caught.value).splitlines() == [
        "5 bad samples (on_bad_sample='error'; 'drop' leaves such rows out, 'missing' empties bad cells):",
        *lines,
        f"{start} 4 (id 'e'), column 'image', 'http://x.org/a.png': a URL is not fetched: download the image and "
        "give its path",
        f"{start} 5 (id 'f'), column 'image', '../out.png': the path leaves the data folder '{at}'",
    ]
    assert [sample.action for sample in caught.value.samples] == ["error"] * 5


def test_first_ten_are_named(folder):
    with pytest.raises(BadSamplesError, match="12 bad samples") as caught:
        check_splits(load(folder, [(str(i), "no.png", "x", "yes") for i in range(12)]), policy="error")
    assert len(str(caught.value).splitlines()) == 12
    assert str(caught.value).endswith("... and 2 more")
    assert len(caught.value.samples) == 12


def test_missing_empties_the_image_and_training_refuses_what_is_left_with_nothing(folder):
    data = load(folder, BAD_IMAGES)
    with pytest.raises(BadSamplesError, match="row 3 .*: the example has neither image nor text") as caught:
        check_splits(data, policy="missing")
    assert "1 bad sample (on_bad_sample='missing'; 'drop' leaves such rows out)" in str(caught.value)
    rows = [row for row in BAD_IMAGES if row[0] != "d"]
    checked, samples = check_splits(load(folder, rows), policy="missing")
    train = checked.splits["train"]
    assert [image is not None for image in train["image"]] == [True, *[False] * 5]
    assert train["text"][:] == [row[2] for row in rows]
    assert [(sample.id, sample.action) for sample in samples] == [(name, "missing") for name in "bcef"]
    assert "faults" not in train.column_names


def test_drop_leaves_rows_out_with_a_line_each(folder):
    rows = [*BAD_IMAGES, ("h", "", "", "yes"), ("a", "", "again", "yes"), ("j", "", "x", "")]
    checked, samples = check_splits(load(folder, rows), policy="drop")
    assert checked.splits["train"]["id"][:] == ["a", "g"]
    assert checked.splits["train"]["index"][:] == [0, 6]
    assert {sample.action for sample in samples} == {"dropped"}
    assert [(s.row, s.column, s.reason) for s in samples[-3:]] == [
        (7, "image", "the example has neither image nor text"),
        (8, "guid", "a duplicate id, first in row 0"),
        (9, "tag", "an empty label, which training needs"),
    ]
    assert summarize_bad_samples(samples) == "6 dropped (column 'image'), 1 dropped (column 'guid'), 1 dropped " \
        "(column 'tag')"  # fmt: skip


@pytest.mark.parametrize("policy", ["error", "missing"])
def test_labels_and_ids_cannot_be_emptied(folder, policy):
    rows = [("a", "", "x", "yes"), ("a", "", "x", "no"), ("c", "", "x", "")]
    with pytest.raises(BadSamplesError, match="2 bad samples") as caught:
        check_splits(load(folder, rows), policy=policy)
    assert "row 1 (id 'a'), column 'guid', 'a': a duplicate id, first in row 0" in str(caught.value)
    assert "row 2 (id 'c'), column 'tag', '': an empty label, which training needs" in str(caught.value)


def test_unknown_label_at_evaluation_but_not_at_prediction(folder):
    data = load(folder, [("a", "", "x", "yes"), ("b", "", "x", "yse")], label_names=["no", "yes"])
    rows = data.splits["train"]
    with pytest.raises(BadSamplesError, match=r"column 'tag', 'yse': unknown label 'yse', .* Did you mean 'yes'\?"):
        check_rows(rows, policy="error", source="a.csv", purpose="evaluation", columns=data.columns)
    kept, samples = check_rows(rows, policy="drop", source="a.csv", purpose="evaluation")
    assert (kept["id"][:], len(samples)) == (["a"], 1)
    kept, samples = check_rows(rows, policy="error", source="a.csv", purpose="prediction")
    assert (kept["id"][:], samples) == (["a", "b"], [])


@pytest.mark.parametrize("policy", ["error", "missing", "drop"])
@pytest.mark.parametrize("purpose", ["evaluation", "prediction"])
def test_neither_modality_is_kept_and_flagged_outside_training(folder, policy, purpose):
    rows = load(folder, [("a", "", "", "yes"), ("b", "", "x", "no")]).splits["train"]
    kept, samples = check_rows(rows, policy=policy, source="a.csv", purpose=purpose)
    assert kept["id"][:] == ["a", "b"]
    assert samples == [BadSample("a.csv", 0, "a", "image", "", "the example has neither image nor text", "kept")]


def test_faults_of_an_unused_modality_do_not_matter(folder):
    data = load(folder, [("a", "no.png", "x", "yes"), ("b", "good.png", "", "no")])
    with pytest.raises(BadSamplesError, match="1 bad sample .*\n.*row 1 .*'b'.*: the example has no text"):
        check_splits(data, policy="error", modality="text")
    kept, samples = check_splits(data, policy="drop", modality="image")
    assert (kept.splits["train"]["id"][:], [sample.row for sample in samples]) == (["b"], [0])


def test_header_check_alone_passes_a_truncated_image(folder):
    data = load(folder, [("a", "cut.png", "x", "yes"), ("b", "good.png", "x", "no")])
    assert check_splits(data, policy="error", decode=False)[1] == []
    with pytest.raises(BadSamplesError, match="8 x 8 pixels are more than 63"):
        check_splits(data, policy="error", decode=False, max_pixels=63)
    with pytest.raises(BadSamplesError, match="is truncated"):
        check_splits(data, policy="error")


def test_all_splits_are_collected_in_one_error(folder):
    (folder / "train.csv").write_text("image,text,label\nno.png,x,a\ngood.png,y,b\n")
    (folder / "test.csv").write_text("image,text,label\ngood.png,x,c\n")
    with pytest.raises(BadSamplesError, match="2 bad samples") as caught:
        check_splits(load_data(folder), policy="error")
    assert [(sample.source, sample.row) for sample in caught.value.samples] == [
        (str(folder / "train.csv"), 0),
        (str(folder / "test.csv"), 0),
    ]
    assert caught.value.samples[1].reason == "unknown label 'c', the classes are ['a', 'b']."


def test_warning_counts_what_was_done(folder, caplog):
    check_splits(load(folder, [("a", "no.png", "x", "yes")]), policy="missing", prediction=True)
    assert "1 bad samples: 1 missing (column 'image')." in caplog.text


def test_bad_samples_file(tmp_path):
    sample = BadSample("a.csv", 3, "7", "image", 'x,"y".jpg', "there is no such file", "dropped")
    write_bad_samples(tmp_path / "bad_samples.csv", [sample])
    with open(tmp_path / "bad_samples.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"source": "a.csv", "row": "3", "id": "7", "column": "image", "value": 'x,"y".jpg',
             "reason": "there is no such file", "action": "dropped"}
        ]  # fmt: skip
    write_bad_samples(tmp_path / "none.csv", [])
    assert (tmp_path / "none.csv").read_text().strip() == "source,row,id,column,value,reason,action"


@pytest.mark.parametrize("choice", [{"policy": "drpo"}, {"purpose": "drpo"}, {"modality": "drpo"}])
def test_typos_in_choices(folder, choice):
    rows = load(folder, [("a", "", "x", "yes")]).splits["train"]
    with pytest.raises(ValueError, match=rf"{next(iter(choice))} must be one of \[.*\], got 'drpo'"):
        check_rows(rows, **{"policy": "error", "source": "a.csv", **choice})


def test_counts_by_class_and_presence(folder):
    rows = [("a", "cut.png", "x", "yes"), ("b", "no.png", "", "no"), ("c", "", "x", "no"), ("d", "", "", "")]
    data = load(folder, rows)
    assert count_rows(data.splits, data.id2label) == {
        "train": {
            "rows": 4,
            "classes": {"no": 2, "yes": 1, "(none)": 1},
            "presence": {"both": 1, "image": 1, "text": 1, "neither": 1},
        }
    }
    data = load(folder, [("a", "", "x", "b|a"), ("b", "", "x", "b")], problem_type="multi_label_classification")
    assert count_rows(data.splits, data.id2label)["train"]["classes"] == {"a": 1, "b": 2}
    data = load(folder, [("a", "", "x", "1.5"), ("b", "", "x", "")], problem_type="regression")
    assert count_rows(data.splits, data.id2label)["train"]["classes"] == {"(none)": 1}


@pytest.mark.parametrize("policy", ["error", "missing"])
def test_what_is_not_refused_is_marked_and_left_out(folder, policy):
    rows = [("a", "cut.png", "x", "yes"), ("a", "", "x", "no"), ("c", "", "x", ""), ("d", "", "", "no")]
    checked, samples = check_splits(load(folder, [*rows, ("e", "", "x", "no")]), policy=policy, refuse=False)
    first = "error" if policy == "error" else "missing"
    assert [(sample.row, sample.action) for sample in samples] == [(0, first), *((row, "error") for row in (1, 2, 3))]
    assert checked.splits["train"]["id"][:] == (["e"] if policy == "error" else ["a", "e"])


def test_a_folder_saved_by_datasets_is_left_as_it_is(tmp_path):
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    images = [{"bytes": content, "path": None} for content in [png.getvalue()] * 7 + [b"broken"]]
    features = Features({"photo": datasets.Image(), "text": Value("string"), "label": Value("string")})
    columns = {"photo": images, "text": list("abcdefgh"), "label": list("xyxyxyxy")}
    Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    before = sorted(tmp_path.rglob("*"))
    rows = load_data(tmp_path / "saved", image_column="photo").splits["train"].select([7, 5, 3, 0])
    kept, samples = check_rows(rows, policy="missing", source="saved")
    assert [image is None for image in kept["image"]] == [True, False, False, False]
    assert (kept["text"][:], len(samples)) == (["h", "f", "d", "a"], 1)
    hidden = hide(kept, np.array([[True, False]] * 4))
    assert hidden["text"][:] == [None] * 4 and hidden["image"][1:] == kept["image"][1:]
    assert sorted(tmp_path.rglob("*")) == before
