"""The README's ten lines that train and ten that predict, and its pipeline, run as they stand, on tiny models."""

import re
from pathlib import Path

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from datasets import Dataset
from PIL import Image
from test_processor import make_image_processor, make_tokenizer
from transformers import AutoModel

README = Path(__file__).parents[1] / "README.md"


def test_training_and_predicting_as_the_readme_says(tmp_path, monkeypatch):
    training, predicting, piping = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert all(10 <= len(block.strip().splitlines()) <= 12 for block in (training, predicting))
    vision, text = tmp_path / "vision", tmp_path / "text"
    AutoModel.from_config(VISION_CONFIGS["vit"]()).save_pretrained(vision)
    make_image_processor_for(32).save_pretrained(vision)
    AutoModel.from_config(TEXT_CONFIGS["bert"]()).save_pretrained(text)
    make_tokenizer().save_pretrained(text)
    training = training.replace("facebook/deit-tiny-patch16-224", str(vision))
    training = training.replace("sentence-transformers/all-MiniLM-L6-v2", str(text))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("dog.jpg")
    images = [Image.new("RGB", (10, 6), (20 * i, 10, 10)) for i in range(6)] + [None, None]
    rows = {
        "image": images,
        "text": ["a dog", "a cat", None, "red", "a dog", "a cat", "blue", "red"],
        "label": [0, 1, 2, 3] * 2,
    }
    names: dict = {"train_dataset": Dataset.from_dict(rows)}
    exec(training, names)
    assert names["trainer"].state.epoch == 3
    exec(predicting, names)
    assert names["probabilities"].shape == (2, 4)
    torch.testing.assert_close(names["probabilities"].sum(-1), torch.ones(2))
    assert names["inputs"]["modality_mask"].tolist() == [[1, 1], [0, 1]]
    exec(piping, names)
    best = names["probabilities"][0].max().item()
    assert names["answer"]["score"] == pytest.approx(best, abs=1e-5)
    assert [len(answer) for answer in names["answers"]] == [4, 4]


def make_image_processor_for(size: int):
    processor = make_image_processor()
    processor.size = {"height": size, "width": size}
    return processor
