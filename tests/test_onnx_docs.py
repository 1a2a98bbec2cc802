"""The blocks of docs/onnx.md run as they stand, on a tiny model, and onnxruntime gives torch's logits."""

from pathlib import Path

import pytest
import torch
from test_pipeline import save
from test_processor import pil_image
from test_readme import python_blocks

PAGE = Path(__file__).parents[1] / "docs" / "onnx.md"


@pytest.mark.filterwarnings("ignore")  # of the exporter, about names of axes and about its own future
def test_the_page_runs(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "runs" / "mine")
    pil_image().save("dog.jpg")
    names: dict = {}
    for block in python_blocks(PAGE):
        exec(block, names)
    session = names["session"]
    assert [(each.name, each.shape[0]) for each in session.get_inputs()] == [(name, "rows") for name in names["NAMES"]]
    assert [each.name for each in session.get_outputs()] == ["logits"]
    for images, texts in (([pil_image()], ["a red dog"]), ([None] * 5, ["cat", None, "a", "dog red a cat", None])):
        batch = names["processor"](images=images, text=texts, return_tensors="pt")
        (logits,) = session.run(["logits"], {name: batch[name].numpy() for name in names["NAMES"]})
        with torch.no_grad():
            expected = names["model"](**batch).logits
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-5, rtol=0)
