"""The blocks of docs/retrieval.md run as they stand, on a tiny model."""

import re
from pathlib import Path

from PIL import Image
from test_embedding import make_pair

PAGE = Path(__file__).parents[1] / "docs" / "retrieval.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    model, processor = make_pair("clip")
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name, colour in {"dog": (200, 90, 20), "sea": (20, 90, 200), "cat": (90, 90, 90)}.items():
        Image.new("RGB", (40, 30), colour).save(f"images/{name}.jpg")
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        block = block.replace("{}.", "{} .")  # the tiny tokenizer knows "dog" and no "dog."
        exec(block.replace("openai/clip-vit-base-patch32", str(tmp_path / "clip")), names)
    assert len(blocks) == 5 and len(names["hits"].ids) == 2 and Path("found.png").is_file()
    assert names["predictions"].has_image.tolist() == [True, True, False]
    printed = capsys.readouterr().out
    assert "| text to image | animal | 2 | 2 |" in printed and "RetrievalCeiling(" in printed
