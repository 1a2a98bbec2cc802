"""Run by `torchrun` in test_image_tokenizer.py: steps of quantizers that two processes train, half of the vectors a
rank."""

import sys
from pathlib import Path

import torch

from hf_multimodal import ImageTokenizerConfig
from hf_multimodal.models.modeling_image_tokenizer import FiniteScalarQuantizer, MovingAverageQuantizer

ROWS, WIDTH, STEPS = 96, 4, 12
CASES = {"halves": 48, "uneven": 17, "one rank alone": 0, "more codes than vectors": 48}  # vectors of rank 0


class Watched(MovingAverageQuantizer):
    """Counts the codes that are put back on data."""

    revived = 0

    def _follow(self, vectors: torch.Tensor, ids: torch.Tensor) -> None:
        self.revived -= self.size * (not self.updates)  # those of the start, which `_draw` adds
        super()._follow(vectors, ids)

    def _draw(self, vectors: torch.Tensor, number: int) -> torch.Tensor:
        self.revived += number
        return super()._draw(vectors, number)


def train_codebook(case: str, rank: int | None) -> dict[str, torch.Tensor]:
    """The codebook after some steps over vectors that wander; `rank` None sees all of them in one process."""
    codes = 150 if case.startswith("more") else 12
    config = ImageTokenizerConfig(quantizer="vq", codebook_size=codes, codebook_dim=WIDTH, codebook_decay=0.8)
    quantizer = Watched(config).train()
    draw = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        vectors = torch.randn(ROWS, WIDTH, generator=draw) + step
        rows = {None: slice(None), 0: slice(0, CASES[case]), 1: slice(CASES[case], None)}[rank]
        quantizer(vectors[rows])
    return {**quantizer.state_dict(), "revived": torch.tensor(quantizer.revived)}


def train_scalars(case: str, rank: int | None) -> dict[str, torch.Tensor]:
    """Codes, gradients and statistics of `fsq` after steps over vectors that wander, as in `train_codebook`."""
    quantizer = FiniteScalarQuantizer(ImageTokenizerConfig(levels=[5] * WIDTH)).train()
    draw = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        vectors = torch.randn(ROWS, WIDTH, generator=draw) * (1 + step) + step
        weights = torch.randn(ROWS, WIDTH, generator=draw)
        rows = {None: slice(None), 0: slice(0, CASES[case]), 1: slice(CASES[case], None)}[rank]
        own = vectors[rows].clone().requires_grad_()
        quantized = quantizer(own)
        (quantized.vectors * weights[rows]).sum().backward()
    return {**quantizer.state_dict(), "ids": quantized.ids, "gradient": own.grad}


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    own = torch.distributed.get_rank()
    for name in CASES:
        torch.save(train_codebook(name, own), Path(sys.argv[1], f"{name}-{own}.pt"))
        torch.save(train_scalars(name, own), Path(sys.argv[1], f"{name}-{own}-fsq.pt"))
    torch.distributed.destroy_process_group()
