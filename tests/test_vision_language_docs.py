"""The Python blocks of docs/vision_language.md run as they stand, with a small tokenizer."""

import re
from pathlib import Path

from hf_multimodal.training.from_scratch import train_decoder_tokenizer

PAGE = Path(__file__).parents[1] / "docs" / "vision_language.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_decoder_tokenizer(["what colour is it?", "red"]).save_pretrained("words")
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(block.replace("HuggingFaceTB/SmolLM2-135M", str(tmp_path / "words")), names)
    assert len(blocks) == 2 and isinstance(names["answer"], str)
    assert names["model"].config.image_seq_length == 64
    assert names["found"][0]["generated_text"][-1]["role"] == "assistant"
