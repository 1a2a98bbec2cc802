"""The Python blocks of docs/text_to_image.md run as they stand, with a small tokenizer."""

import re
from pathlib import Path

from test_processor import make_tokenizer

PAGE = Path(__file__).parents[1] / "docs" / "text_to_image.md"


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_tokenizer().save_pretrained("words")
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(block.replace("sentence-transformers/all-MiniLM-L6-v2", str(tmp_path / "words")), names)
    assert len(blocks) == 3 and names["ids"].shape == (1, 8, 8)
    assert [image.size for image in names["drawn"]] == [(32, 32)] * 2
    assert names["found"][0]["generated_image"].size == (32, 32)
    assert names["likelihoods"].shape == (1, 2)
