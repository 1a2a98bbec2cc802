"""scripts/retrieve.py, run in this process over a folder of images and over a table with several captions each."""

import csv
from pathlib import Path

import datasets
import pytest
from PIL import Image
from test_embedding import COLOURS, WORDS, make_pair, pil_images

from hf_multimodal import Retriever
from hf_multimodal.cli.main import main as console
from hf_multimodal.cli.retrieve import index, search

NAMES = ["red", "green", "blue", "yellow", "purple", "black"]


SCRIPT = (Path(__file__).parents[2] / "scripts" / "retrieve.py").read_text(encoding="utf-8")
assert SCRIPT.startswith('"""python scripts/retrieve.py index --')


def main(flags):
    return {"index": index, "search": search}[flags[0]](flags[1:])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    for part in make_pair("clip"):
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, image in zip(NAMES, pil_images(), strict=True):
        image.save(folder / f"{name}.png")
    return folder


def test_a_folder_of_images_is_indexed_and_searched(model, folder, tmp_path, capsys):
    index = str(tmp_path / "index")
    (folder / "broken.png").write_bytes(b"")
    counts = main(["index", "--model", model, "--data", str(folder), "--index_dir", index])
    (folder / "broken.png").unlink()
    assert counts == {"images": 6, "texts": 0, "bad_samples": 2}  # unreadable, and so nothing is left of its row
    assert f"6 images and 0 texts in {index}; 2 bad samples." in capsys.readouterr().out
    assert "broken.png" in (tmp_path / "index" / "bad_samples.csv").read_text()
    common = ["search", "--model", model, "--index_dir", index]
    sheet = tmp_path / "sheets" / "found.png"
    found = main([*common, "--text", "a red dog", "--k", "4", "--sheet", str(sheet)])
    retriever = Retriever.load(index, *make_pair("clip"), show_progress=False)
    assert found["ids"] == retriever.search_images("a red dog", k=4).ids and found["pool"] == 6
    assert Image.open(sheet).width > 500
    printed = capsys.readouterr().out
    assert "the first 4 of 6 images" in printed and f"| 1 | {found['scores'][0]:.4f} | {found['ids'][0]} |" in printed
    assert main([*common, "--image", str(folder / "blue.png"), "--k", "1"])["ids"] == ["blue.png"]
    with pytest.raises(ValueError, match="k must be from 1 to 6"):
        main([*common, "--text", "dog", "--k", "10"])
    assert len(main([*common, "--text", "dog"])["ids"]) == 6  # ten unless there are fewer
    assert "the first 6 of 6 images" in capsys.readouterr().out
    with pytest.raises(ValueError, match="there are no texts in the index"):
        main([*common, "--image", str(folder / "blue.png"), "--find", "texts"])


def test_a_table_with_several_captions_a_image(model, folder, tmp_path):
    table = folder / "captions.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "caption", "id"])
        writer.writerows([f"{NAMES[row // 2]}.png", WORDS[row % 5], f"c{row}"] for row in range(8))
        writer.writerow(["", "cat cat", "c8"])
    index = str(tmp_path / "index")
    flags = ["index", "--model", model, "--data", str(table), "--index_dir", index]
    flags += ["--image_column", "photo", "--text_column", "caption"]
    assert main(flags) == {"images": 4, "texts": 9, "bad_samples": 0}
    retriever = Retriever.load(index, *make_pair("clip"), show_progress=False)
    assert retriever.images.ids == ["c0", "c2", "c4", "c6"] and retriever.texts.ids == [f"c{row}" for row in range(9)]
    search = ["search", "--model", model, "--index_dir", index, "--image", str(folder / "red.png"), "--find", "texts"]
    found = main([*search, "--k", "3"])
    assert found["payload"][0]["text"] in [*WORDS, "cat cat"] and found["pool"] == 9
    assert main([*flags, "--modality", "text"]) == {"images": 0, "texts": 9, "bad_samples": 0}
    table.unlink()


def write(table, columns, rows):
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return str(table)


def test_captions_are_found_and_images_named_as_for_training(model, folder, tmp_path):
    rows = [[f"{NAMES[row // 2]}.png", WORDS[row % 5], NAMES[row // 2].upper()] for row in range(8)]
    table = write(tmp_path / "captions.csv", ["image", "caption", "id"], rows)
    flags = ["index", "--model", model, "--data", table, "--image_root", str(folder)]
    flags += ["--index_dir", str(tmp_path / "index"), "--image_id_column", "id"]
    assert main(flags) == {"images": 4, "texts": 8, "bad_samples": 0}
    retriever = Retriever.load(tmp_path / "index", *make_pair("clip"), show_progress=False)
    assert retriever.images.ids == ["RED", "GREEN", "BLUE", "YELLOW"]
    assert retriever.texts.ids == [str(row) for row in range(8)]
    assert retriever.texts.payload[1] == {"text": WORDS[1]}


def test_a_image_without_a_file_is_indexed_once(model, folder, tmp_path):
    content = [(folder / f"{NAMES[row // 3]}.png").read_bytes() for row in range(6)]
    rows = {"image": [{"bytes": one, "path": None} for one in content], "caption": [*WORDS, "cat cat"]}
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "data")
    flags = ["index", "--model", model, "--data", str(tmp_path / "data"), "--index_dir", str(tmp_path / "index")]
    assert main(flags) == {"images": 2, "texts": 6, "bad_samples": 0}
    assert Retriever.load(tmp_path / "index", *make_pair("clip"), show_progress=False).images.ids == ["0", "3"]


def test_a_table_without_texts_warns_and_is_refused_where_texts_are_wanted(model, folder, tmp_path):
    table = write(tmp_path / "titles.csv", ["image", "txet"], [["red.png", "red"]])
    flags = ["index", "--model", model, "--data", table, "--image_root", str(folder), "--index_dir", str(tmp_path)]
    message = r"titles.csv: the data have no column 'text', .*--text_column. Did you mean 'txet'\?"
    with pytest.warns(UserWarning, match=message):
        assert main(flags) == {"images": 1, "texts": 0, "bad_samples": 0}
    with pytest.raises(ValueError, match=message):
        main([*flags, "--modality", "text"])
    assert main([*flags, "--modality", "image"])["images"] == 1


def test_generated_images_are_indexed_from_memory(model, tmp_path):
    flags = ["index", "--model", model, "--data", "controlled:retrieval", "--max_predict_samples", "5"]
    assert main([*flags, "--index_dir", str(tmp_path)]) == {"images": 5, "texts": 5, "bad_samples": 0}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "a search needs --text or --image"),
        (["--text", "dog", "--image", "a.png"], "one of the two"),
        (["--text", "dog", "--find", "texts"], "texts are found by --image"),
        (["--image", "a.png", "--find", "texts", "--sheet", "a.png"], "sheet shows images"),
        (["--text", "dog", "--find", "text"], r"find must be one of \['images', 'texts'\], got 'text'"),
        (["--text", " "], "the query is empty"),
        (["--text", "dog", "--kk", "3"], "unknown argument 'kk'"),
    ],
)
def test_what_cannot_be_searched_is_named(flags, message, model, tmp_path):
    retriever = Retriever(*make_pair("clip"), show_progress=False)
    retriever.add_images(pil_images())
    retriever.save(tmp_path)
    with pytest.raises(ValueError, match=message):
        main(["search", "--model", model, "--index_dir", str(tmp_path), *flags])


def test_help_is_printed(capsys):
    for flags, expected in ((["--help"], "retrieve search"), (["retrieve", "index", "--help"], "--modality")):
        assert console(flags) == 0
        assert expected in capsys.readouterr().out
    assert console(["retrieve"]) == 2
    assert "there is no command 'retrieve'. Did you mean 'retrieve index'?" in capsys.readouterr().err
    assert len(COLOURS) == len(NAMES)
