"""The README's blocks that train and predict, and the quickstart's pipeline, run as they stand, on tiny models."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from datasets import Dataset
from PIL import Image
from test_processor import make_image_processor, make_tokenizer
from test_scripts import make_rows, write_table
from transformers import AutoModel

from hf_multimodal.inference.prediction import load_model, predict_dataset

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def python_blocks(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def make_image_processor_for(size: int):
    processor = make_image_processor()
    processor.size = {"height": size, "width": size}
    return processor


@pytest.fixture
def run_here(tmp_path, monkeypatch):
    """Run a block in a folder with a tiny vision and a tiny text model in place of the Hub's."""
    monkeypatch.chdir(tmp_path)
    AutoModel.from_config(VISION_CONFIGS["vit"]()).save_pretrained("vision")
    make_image_processor_for(32).save_pretrained("vision")
    AutoModel.from_config(TEXT_CONFIGS["bert"]()).save_pretrained("text")
    make_tokenizer().save_pretrained("text")

    def run(block: str, names: dict) -> None:
        block = block.replace("facebook/deit-tiny-patch16-224", "vision")
        exec(block.replace("sentence-transformers/all-MiniLM-L6-v2", "text"), names)

    return run


def test_training_and_predicting_as_the_readme_says(run_here):
    training, _, predicting = python_blocks(README)
    (piping,) = python_blocks(ROOT / "docs" / "quickstart.md")
    assert all(10 <= len(block.strip().splitlines()) <= 12 for block in (training, predicting))
    Image.new("RGB", (40, 30)).save("dog.jpg")
    images = [Image.new("RGB", (10, 6), (20 * i, 10, 10)) for i in range(6)] + [None, None]
    rows = {
        "image": images,
        "text": ["a dog", "a cat", None, "red", "a dog", "a cat", "blue", "red"],
        "label": [0, 1, 2, 3] * 2,
    }
    names: dict = {"train_dataset": Dataset.from_dict(rows)}
    run_here(training, names)
    assert names["trainer"].state.epoch == 3
    run_here(predicting, names)
    assert names["probabilities"].shape == (2, 4)
    torch.testing.assert_close(names["probabilities"].sum(-1), torch.ones(2))
    assert names["inputs"]["modality_mask"].tolist() == [[1, 1], [0, 1]]
    shutil.copytree("runs/mine", "runs/quickstart")
    run_here(piping, names)
    (best,) = predict_dataset(*load_model("runs/quickstart"), names["rows"].select([0])).probabilities.max(axis=-1)
    assert names["prediction"]["score"] == pytest.approx(best, abs=1e-5)
    assert [len(scores) for scores in names["predictions"]] == [4, 4]


def test_the_robust_recipe_of_the_readme(run_here, tmp_path):
    recipe = python_blocks(README)[1]
    assert len(recipe.strip().splitlines()) <= 14
    write_table(tmp_path / "table.csv", make_rows(tmp_path))
    names: dict = {}
    run_here(recipe, names)
    assert names["trainer"].state.epoch == 3
    model = AutoModel.from_pretrained("runs/robust")
    assert not torch.equal(model.stack.temperatures, torch.ones_like(model.stack.temperatures))
