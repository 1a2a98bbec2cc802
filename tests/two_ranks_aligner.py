"""Run by `torchrun` in test_distributed.py: one step of the aligner, of which each rank has half the batch."""

import sys
from pathlib import Path

import torch
from conftest import make_batch, without_dropout
from test_aligner_model import build
from torch.nn.parallel import DistributedDataParallel

from hf_multimodal.models.losses import LOSSES
from hf_multimodal.training import gradient_cache
from hf_multimodal.training.gradient_cache import backward_in_chunks

gradient_cache.CELLS = 24  # three rows of the similarities at a time

MASK = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 1], [1, 1], [0, 1], [0, 1], [0, 1]])
IDS = torch.tensor([0, 1, 2, 3, 1, 5, 6, 7])  # the second and the fifth, which is on the other rank, show one image
CASES = [(loss, chunk_size) for loss in LOSSES for chunk_size in (None, 3)]


def step(loss: str, chunk_size: int | None, rank: int | None) -> dict[str, torch.Tensor]:
    """Loss, count of incomplete pairs and averaged gradients; `rank` None sees the whole batch in one process."""
    model = without_dropout(build(loss=loss)).double().train()
    batch = {**make_batch(rows=8), "modality_mask": MASK, "image_ids": IDS}
    batch["pixel_values"] = batch["pixel_values"].double()
    if rank is not None:
        batch = {name: value[4 * rank : 4 * rank + 4] for name, value in batch.items()}
    parallel = model if rank is None else DistributedDataParallel(model)
    if chunk_size is None:
        output = parallel(**batch, return_loss=True)
        output.loss.backward()
    else:
        output = backward_in_chunks(parallel, batch, chunk_size)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return {"loss": output.loss.detach(), "incomplete_pairs": output.incomplete_pairs, **gradients}


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    assert torch.distributed.get_world_size() == 2
    results = {case: step(*case, rank) for case in CASES}
    torch.save(results, Path(sys.argv[1], f"{rank}.pt"))
    torch.distributed.destroy_process_group()
