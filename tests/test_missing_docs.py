"""The blocks of docs/missing.md run as they stand, on tiny models."""

from pathlib import Path

import torch
from test_readme import python_blocks, run_here  # noqa: F401  a fixture
from test_scripts import make_rows, write_table
from transformers import AutoModel, AutoProcessor

PAGE = Path(__file__).parents[1] / "docs" / "missing.md"


def test_the_page_runs(run_here, tmp_path):  # noqa: F811
    write_table(tmp_path / "table.csv", make_rows(tmp_path))
    names: dict = {}
    blocks = python_blocks(PAGE)
    for block, folder in zip(blocks, ("runs/robust", "runs/plain"), strict=True):
        run_here(block, names)
        assert names["trainer"].state.epoch == 3
        model = AutoModel.from_pretrained(folder)
        assert not torch.equal(model.stack.temperatures, torch.ones_like(model.stack.temperatures))
        assert AutoProcessor.from_pretrained(folder).tokenizer is not None
