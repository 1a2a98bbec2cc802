"""Runs that were saved by the code of commit 190fc8f load, predict the same bits and resume.

`saved_by_190fc8f/*.zip` are whole folders of three runs, with the code that travelled in them: a person without the
package runs that old code, we run today's.
"""

import copy
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from conftest import make_batch
from test_without_package import ask_stranger
from transformers import AutoModel

import hf_multimodal  # noqa: F401  registers the classes

SAVED = Path(__file__).parents[1].joinpath("saved_by_190fc8f")
OUTPUT = {"fused": "logits", "robust": "logits", "aligner": "logits_per_image"}
AUTO_CLASS = {"fused": "AutoModelForSequenceClassification", "robust": "AutoModelForSequenceClassification"}


def unpack(name: str, folder: Path) -> Path:
    """The saved folder, outside the repository."""
    with ZipFile(SAVED / f"{name}.zip") as archive:
        archive.extractall(folder / name)
    return folder / name


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three folders, each with a batch and the logits that its own code gives for it."""
    folder = tmp_path_factory.mktemp("saved")
    jobs = []
    for name, output in OUTPUT.items():
        batch = make_batch()
        batch["input_ids"] = batch["input_ids"] % 40
        if name != "aligner":
            batch["modality_mask"] = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]])
        source, beside = unpack(name, folder), folder / f"{name}_batch"
        beside.mkdir()
        torch.save(batch, beside / "batch.pt")
        job = {"source": source, "auto_class": AUTO_CLASS.get(name, "AutoModel"), "output": output}
        jobs.append(
            {**job, **{file: beside / f"{file}.pt" for file in ("batch", "logits")}, "again": beside / "again"}
        )
    ask_stranger(jobs, folder)
    return folder


@pytest.mark.parametrize("name", OUTPUT)
def test_logits_are_those_of_the_old_code(name: str, predicted: Path) -> None:
    batch = torch.load(predicted / f"{name}_batch" / "batch.pt")
    old, _ = torch.load(predicted / f"{name}_batch" / "logits.pt")
    model = copy.deepcopy(AutoModel.from_pretrained(predicted / name)).eval()  # a copy lies aligned in memory
    with torch.no_grad():
        new = model(**batch)[OUTPUT[name]]
    assert torch.equal(new, old)
