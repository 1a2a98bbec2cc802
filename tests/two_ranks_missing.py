"""Run by `torchrun` in test_distributed.py: SGD steps of a robust classifier of which rank 1 sees no image at all."""

import sys
from pathlib import Path

import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS, make_batch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from hf_multimodal import RobustFusionConfig, RobustFusionForImageTextClassification

LABELS = torch.tensor([0, 1, 2, 0])
MASK = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 1]])  # the second half, which is rank 1's, has texts only
FUSION_MASK = torch.tensor([[0, 1], [1, 1], [1, 1], [1, 1]])


def step_weights(vision: str, checkpointing: bool, rank: int | None) -> dict[str, torch.Tensor]:
    """Weights after three steps in float64; `rank` None sees the whole batch in one process."""
    torch.manual_seed(0)
    config = RobustFusionConfig(
        vision_config=VISION_CONFIGS[vision](),
        text_config=TEXT_CONFIGS["bert"](),
        hidden_size=16,
        num_labels=3,
        problem_type="single_label_classification",
    )
    model = RobustFusionForImageTextClassification(config).double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parallel = model if rank is None else DistributedDataParallel(model)
    rows = slice(None) if rank is None else slice(2 * rank, 2 * rank + 2)
    batch = {**make_batch(), "modality_mask": MASK, "fusion_mask": FUSION_MASK, "labels": LABELS}
    batch["pixel_values"] = batch["pixel_values"].double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        parallel(**{name: value[rows] for name, value in batch.items()}).loss.backward()
        optimizer.step()
    return model.state_dict()


def evaluate_sharded(rank: int) -> torch.Tensor:
    """Logits of a model that FSDP spread over both ranks, of which rank 1 has no image: they must gather together."""
    torch.manual_seed(0)
    config = RobustFusionConfig(vision_config=VISION_CONFIGS["vit"](), text_config=TEXT_CONFIGS["bert"]())
    model = RobustFusionForImageTextClassification(config).eval()
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    for part in (model.vision_model, model.text_model, model):
        fully_shard(part, mesh=mesh)
    rows = slice(2 * rank, 2 * rank + 2)
    with torch.no_grad():
        return model(**{name: value[rows] for name, value in {**make_batch(), "modality_mask": MASK}.items()}).logits


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    assert evaluate_sharded(rank).isfinite().all()
    assert torch.distributed.get_world_size() == 2
    for vision, checkpointing in (("vit", False), ("vit", True), ("resnet", False)):
        torch.save(step_weights(vision, checkpointing, rank), Path(sys.argv[1], f"{vision}-{checkpointing}-{rank}.pt"))
    torch.distributed.destroy_process_group()
