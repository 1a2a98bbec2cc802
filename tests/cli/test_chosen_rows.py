"""Which rows evaluate.py and predict.py take, and what they know of the run that left the model."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_multimodal.cli.arguments import SourceArguments
from hf_multimodal.cli.rows import check, chosen_rows, load, parse_for_model
from hf_multimodal.validation import check_folder


def rows(prefix: str, count: int) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    columns = {"text": [f"{prefix}{i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
    return Dataset.from_dict(columns, features=features)


@pytest.fixture
def saved(tmp_path: Path) -> SourceArguments:
    DatasetDict(train=rows("train", 40), test=rows("test", 6)).save_to_disk(tmp_path / "saved")
    return SourceArguments(data=str(tmp_path / "saved"))


def test_a_labelled_test_split_is_predicted_by_default(saved: SourceArguments, capsys: pytest.CaptureFixture) -> None:
    chosen = chosen_rows("none", None, saved, prediction=True)
    assert chosen.splits["predict"]["text"][:] == [f"test{i}" for i in range(6)]
    assert f"{saved.data}: the split 'test', 6 rows" in capsys.readouterr().out
    assert (
        len(chosen_rows("none", "train", saved, prediction=True).splits["predict"]) == 35
    )  # less the validation rows
    assert f"{saved.data}: the split 'train', made as in training, 35 rows" in capsys.readouterr().out
    assert len(chosen_rows("none", "validation", saved).splits["test"]) == 5
    assert "the split 'validation', made as in training, 5 rows" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"split must be one of \['test', 'train', 'validation'\], .* got 'predict'"):
        chosen_rows("none", "predict", saved, prediction=True)
    with pytest.raises(ValueError, match="the data come from several sources, .* or a split"):
        chosen_rows("none", "all", saved, prediction=True)


def test_a_controlled_task_is_predicted() -> None:
    source = SourceArguments(data="controlled:unique", max_predict_samples=5)
    for split in (None, "train"):
        chosen = chosen_rows("none", split, source, prediction=True)
        assert chosen.splits["predict"]["id"][:] == [f"{split or 'test'}-{i}" for i in range(5)]


def test_columns_and_splits_are_as_in_the_run(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("text,caption,kind\n" + "".join(f"x,{i},{'ab'[i % 2]}\n" for i in range(40)))
    (tmp_path / "run.yaml").write_text(f"data: {table}\ntext_column: caption\nlabel_column: kind\nsplit_seed: 7\n")
    flags = ["--model", str(tmp_path), "--data", str(table)]
    given = parse_for_model("evaluate", flags)
    args, source = given.evaluation, given.source
    assert (
        source.split_seed == 7 and parse_for_model("evaluate", [*flags, "--split_seed", "42"]).source.split_seed == 42
    )
    chosen = chosen_rows(args.model, None, source)
    assert chosen.columns == {"text": "caption", "label": "kind"} and len(chosen.splits["test"]) == 8
    other = chosen_rows(args.model, "test", SourceArguments(data=str(table)))
    assert set(other.splits["test"]["text"][:]) != set(chosen.splits["test"]["text"][:])
    assert len(chosen_rows(args.model, None, source, prediction=True).splits["predict"]) == 40
    assert len(chosen_rows(args.model, "train", source).splits["test"]) == 28


def test_a_test_split_without_a_label_column_is_to_be_predicted(tmp_path: Path) -> None:
    unlabelled = rows("test", 6).remove_columns("label")
    DatasetDict(test=unlabelled, train=rows("train", 40)).save_to_disk(tmp_path / "saved")
    source = SourceArguments(data=str(tmp_path / "saved"))
    assert load(source).columns == {"text": "text", "label": "label"}
    chosen = chosen_rows("none", None, source, prediction=True)
    assert chosen.splits["predict"]["text"][:] == [f"test{i}" for i in range(6)]
    assert len(chosen_rows("none", None, source).splits["test"]) == 40


def test_the_runs_data_are_known_however_their_path_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "table.csv").write_text("text,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)))
    (tmp_path / "run.yaml").write_text("data: table.csv\n")
    monkeypatch.chdir(tmp_path)
    for name in ("table.csv", "./table.csv", "sub/../table.csv", str(tmp_path / "table.csv")):
        assert len(chosen_rows(str(tmp_path), None, SourceArguments(data=name)).splits["test"]) == 8
    (tmp_path / "other.csv").write_text((tmp_path / "table.csv").read_text())
    assert len(chosen_rows(str(tmp_path), None, SourceArguments(data="other.csv")).splits["test"]) == 40


def test_own_data_are_read_as_in_the_run_and_lost_images_name_the_flag(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,text,label\n" + "".join(f"{i}.png,{i},{'ab'[i % 2]}\n" for i in range(4)))
    (tmp_path / "images").mkdir()
    (tmp_path / "run.yaml").write_text(f"data: {table}\nimage_root: {tmp_path / 'images'}\nencoding: latin-1\n")
    flags = ["--model", str(tmp_path), "--on_bad_sample", "missing", "--data"]
    source = parse_for_model("evaluate", [*flags, str(table)]).source
    assert source.image_root == str(tmp_path / "images") and source.encoding == "latin-1"
    other = parse_for_model("evaluate", [*flags, "other.csv"]).source
    assert other.image_root is None and other.encoding is None
    with pytest.raises(ValueError, match=r"none of its 4 images was found, such as '.*0.png': .* with --image_root"):
        check(source, chosen_rows(str(tmp_path), "all", source), "both", None)


def test_a_mistyped_run_beside_others_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="there is no folder 'runs/mien'. Did you mean 'mine'?"):
        check_folder("model", "runs/mien")
    assert check_folder("model", "facebook/mine") == "facebook/mine"


def test_a_table_with_another_delimiter_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "semi.csv").write_text("image;text;label\na.png;b;c\n")
    with pytest.raises(ValueError, match="looks delimited by ';'; save it with commas"):
        chosen_rows("none", None, SourceArguments(data=str(tmp_path / "semi.csv")))
