"""The blocks of docs/sentence_transformers.md run as they stand, on a tiny aligner; MTEB with its mock task."""

from pathlib import Path

import pytest
import torch
from test_pipeline import save
from test_processor import pil_image
from test_readme import python_blocks

from hf_multimodal import AlignerModel

PAGE = Path(__file__).parents[1] / "docs" / "sentence_transformers.md"


@pytest.fixture
def names(tmp_path, monkeypatch, capsys) -> dict:
    """What the first block leaves."""
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "runs" / "aligner", AlignerModel)
    pil_image().save("dog.jpg")
    found: dict = {}
    exec(python_blocks(PAGE)[0], found)
    return found


def test_an_aligner_encodes_texts_and_images(names, capsys):
    assert names["texts"].shape[0] == 2 and names["images"].shape[0] == 1
    similarity = names["encoder"].similarity(names["images"], names["texts"])
    torch.testing.assert_close(similarity, torch.from_numpy(names["images"] @ names["texts"].T), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")  # of mteb, about sentence-transformers
def test_mteb_runs_an_aligner(names, monkeypatch):
    mteb = pytest.importorskip("mteb")
    mock_tasks = pytest.importorskip("mteb.mocks.mock_tasks")
    monkeypatch.setattr(mteb, "get_task", lambda name: mock_tasks.MockAny2AnyRetrievalT2ITask())
    exec(python_blocks(PAGE)[1], names)
    assert 0 <= names["results"].task_results[0].get_score() <= 1
