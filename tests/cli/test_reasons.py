"""Messages that end a run because rows are bad name the first three, with file, row, column and cell."""

import csv
import json
import re
from pathlib import Path

import pytest
from builders import training_data
from PIL import Image

from hf_multimodal.cli import train_aligner
from hf_multimodal.cli.arguments import SourceArguments
from hf_multimodal.cli.rows import check, load
from hf_multimodal.data.checks import check_splits
from hf_multimodal.data.loading import load_data

HEADER = "id,image,text,label\n"


def prepare(path: Path, folder: Path | None = None, **options):
    return training_data("both", folder, data=str(path), **options)


def write(path: Path, rows: list[str]) -> Path:
    path.write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_no_usable_row_names_the_first_three(tmp_path):
    path = write(tmp_path / "a.csv", [f"r{i},none{i}.png,word {i},{'ab'[i % 2]}" for i in range(20)])
    with pytest.raises(ValueError) as caught:
        prepare(path, tmp_path / "run", on_bad_sample="drop")
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: no usable row is left in the split 'train'. 14 bad samples:"
    assert len(lines) == 5 and lines[4] == "  ... and 11 more"
    for line in lines[1:4]:
        row = re.search(
            r"a.csv, row (\d+) \(id 'r(\d+)'\), column 'image', '.*none(\d+).png': image .* is missing", line
        )
        assert row is not None and len(set(row.groups())) == 1
    listing = (tmp_path / "run" / "bad_samples.csv").read_text().splitlines()
    assert (
        len(listing) == 21 and f"All are listed in {tmp_path / 'run' / 'bad_samples.csv'}." in caught.value.__notes__
    )


def test_no_usable_row_of_one_split_names_what_is_wrong_with_that_one(tmp_path):
    rows = [f"t{i},{'no' if i == 0 else 'a'}.png,x,{'ab'[i % 2]},train" for i in range(4)]
    rows += [f"v{i},no{i}.png,x,{'ab'[i % 2]},validation" for i in range(4)]
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    path = tmp_path / "a.csv"
    path.write_text("id,image,text,label,split\n" + "\n".join([*rows, "e0,a.png,x,a,test"]))
    with pytest.raises(ValueError, match="no usable row is left in the split 'validation'. 4 bad samples:") as caught:
        prepare(path, on_bad_sample="drop")
    assert "(id 't0')" not in str(caught.value) and "(id 'v0')" in str(caught.value)
    message = (
        r"in the split 'validation': none of its 4 rows has image and text. 4 bad samples:\n.*\(id 'v0'\), column"
    )
    with pytest.raises(ValueError, match=message):
        prepare(path, on_bad_sample="missing", complete_only=True)


def test_images_that_are_nowhere_are_named_with_their_rows(tmp_path):
    path = write(tmp_path / "a.csv", [f"r{i},no{i}.png,x,{'ab'[i % 2]}" for i in range(20)])
    source = SourceArguments(data=str(path), on_bad_sample="missing")
    message = (
        r"none of its 20 images was found, such as .*--image_root. 20 bad samples:\n  .*a.csv, row 0 \(id 'r0'\), "
    )
    with pytest.raises(ValueError, match=message + "column 'image'"):
        check(source, load(source), "both", None, prediction=True)


def test_predictions_without_rows_name_the_first(tmp_path):
    rows = [f"r{i},none.png,,a" for i in range(20)]
    source = SourceArguments(data=str(write(tmp_path / "a.csv", rows)), on_bad_sample="drop")
    data = load(source)
    with pytest.raises(
        ValueError, match=r"no usable row is left in the split 'train'. 20 bad samples:\n.*row 0 .*none.png"
    ):
        check(source, data, "both", None, prediction=True)


def test_an_aligner_without_pairs_names_the_first_rows(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = ["r0,a.png,,a", *(f"r{i},no{i}.png,x{i},a" for i in range(1, 20))]
    path = write(tmp_path / "a.csv", rows)
    flags = ["--data", str(path), "--on_bad_sample", "missing", "--from_scratch", "--use_cpu", "--dry_run"]
    message = r"has no pair of an image and a caption. \d+ bad samples:\n  .*a.csv, row \d+ \(id .*no\d+.png"
    with pytest.raises(ValueError, match=message):
        train_aligner.main([*flags, "--output_dir", str(tmp_path / "run")])


def test_cells_of_several_images_are_bad_samples(tmp_path):
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    cells = [
        "a.png;b.png",
        "a.png, b.png",
        "a.png|b.png",
        '["a.png", "b.png"]',
        ["a.png", "b.png"],
        ["a.png"],
        [],
        "a.png",
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"image": cell, "text": "x"}) for cell in cells))
    data = load_data(tmp_path / "a.jsonl")
    images = data.splits["train"]["image"][:]
    assert [image and Path(image["path"]).name for image in images] == [*[None] * 5, "a.png", None, "a.png"]
    checked, samples = check_splits(data, policy="missing", prediction=True)
    assert len(samples) == 5 and len(checked.splits["train"]) == 8
    reason = "the cell holds 2 images, and an example has one: make a row of each, or keep one"
    assert {sample.reason for sample in samples} == {reason}
    (tmp_path / "a.png;b.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert load_data(tmp_path / "a.jsonl").splits["train"]["image"][0]["path"].endswith("a.png;b.png")


def test_one_class_is_refused_before_a_model_is_built(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    path = write(tmp_path / "a.csv", [f"r{i},a.png,x,good" for i in range(20)])
    message = r"a.csv: all rows have one class, 'good', in column 'label', and a classifier needs two"
    with pytest.raises(ValueError, match=message):
        prepare(path)
    assert len(prepare(path, problem_type="multi_label_classification")[0].splits["train"]) == 14


@pytest.mark.parametrize("written", ["{0};{1}", '["{0}", "{1}"]', "['{0}', '{1}']"])
@pytest.mark.parametrize("policy", ["error", "drop", "missing"])
def test_a_table_whose_image_cells_hold_two_paths_says_so(tmp_path, written, policy):
    for name in "ab":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    rows = [[f"r{i}", written.format("a.png", "b.png"), "ab"[i % 2]] for i in range(60)]
    with (tmp_path / "t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "image", "label"], *rows])
    source = SourceArguments(data=str(tmp_path / "t.csv"), on_bad_sample=policy)
    reason = "the cell holds 2 images, and an example has one: make a row of each, or keep one"
    with pytest.raises(ValueError) as caught:
        check(source, load(source), "image", tmp_path / "bad.csv")
    lines = str(caught.value).splitlines()
    first = {
        "error": "60 bad samples (on_bad_sample='error'; 'drop' leaves such rows out, 'missing' empties bad cells):",
        "drop": f"{source.data}: no usable row is left in the split 'train'. 60 bad samples:",
        "missing": "60 bad samples (on_bad_sample='missing'; 'drop' leaves such rows out):",
    }
    assert lines[0] == first[policy]
    if policy == "missing":  # the cells are emptied, which leaves nothing to train on
        assert lines[1].endswith(f"{written.format('a.png', 'b.png')!r}: {reason}")
        assert "row 0 (id 'r0'), column 'image', '': the example has no image, " in lines[1]
    else:
        assert "t.csv, row 0 (id 'r0'), column 'image'" in lines[1] and lines[1].endswith(reason)
    assert (tmp_path / "bad.csv").read_text().count("the cell holds 2 images") == (120 if policy == "missing" else 60)


def test_a_class_without_training_rows_names_the_rows_that_were_dropped(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    rows = [f"r{i},{'gone' if i % 2 else 'a'}.png,x,{'sun' if i % 2 else 'sea'}" for i in range(40)]
    path = write(tmp_path / "a.csv", rows)
    message = (
        r"(?s)1 class has no training row.*allow_untrained_classes. 20 bad samples:\n.*column 'image', '.*gone.png'"
    )
    with pytest.raises(ValueError, match=message):
        prepare(path, on_bad_sample="drop")
