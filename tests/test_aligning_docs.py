"""The blocks of docs/aligning.md run as they stand, on tiny models."""

import re
from pathlib import Path

from conftest import TEXT_CONFIGS, VISION_CONFIGS
from test_fusion_model import make_model
from test_processor import make_tokenizer
from test_scripts import write_table
from test_train_aligner import make_rows
from transformers import AutoModel, CLIPImageProcessor

PAGE = Path(__file__).parents[1] / "docs" / "aligning.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AutoModel.from_config(VISION_CONFIGS["vit"]()).save_pretrained("vision")
    CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained("vision")
    AutoModel.from_config(TEXT_CONFIGS["bert"]()).save_pretrained("text")
    make_tokenizer().save_pretrained("text")
    make_model().save_pretrained("runs/fusion")
    write_table(tmp_path / "captions.csv", make_rows(tmp_path))
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        block = block.replace("facebook/deit-tiny-patch16-224", str(tmp_path / "vision"))
        exec(block.replace("sentence-transformers/all-MiniLM-L6-v2", str(tmp_path / "text")), names)
    assert len(blocks) == 2 and names["trainer"].state.epoch == 3 and names["incomplete"] == 2
    assert not names["processor"].image_processor.do_center_crop
    assert names["classifier"].config.fusion == "gated" and names["aligner"].config.loss == "sigmoid"
