"""The block of docs/missing.md runs as it stands, on tiny models."""

import re
from pathlib import Path

import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from test_processor import make_tokenizer
from test_readme import make_image_processor_for
from test_scripts import make_rows, write_table
from transformers import AutoModel, AutoProcessor

PAGE = Path(__file__).parents[1] / "docs" / "missing.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AutoModel.from_config(VISION_CONFIGS["vit"]()).save_pretrained("vision")
    make_image_processor_for(32).save_pretrained("vision")
    AutoModel.from_config(TEXT_CONFIGS["bert"]()).save_pretrained("text")
    make_tokenizer().save_pretrained("text")
    write_table(tmp_path / "table.csv", make_rows(tmp_path))
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    block = block.replace("facebook/deit-tiny-patch16-224", "vision")
    names: dict = {}
    exec(block.replace("sentence-transformers/all-MiniLM-L6-v2", "text"), names)
    assert names["trainer"].state.epoch == 3
    model = AutoModel.from_pretrained("runs/robust")
    assert not torch.equal(model.stack.temperatures, torch.ones_like(model.stack.temperatures))
    assert AutoProcessor.from_pretrained("runs/robust").tokenizer is not None
