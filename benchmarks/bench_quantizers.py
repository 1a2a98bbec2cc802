"""python benchmarks/bench_quantizers.py

The quantizer `vq` beside one as tutorials have it (a full matrix of distances, a one-hot matrix times the codebook),
the quantizer alone, forward and backward, in turn, each in a process of its own. Prints times and peak memory.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from torch import nn
from torch.nn import functional

from hf_multimodal import ImageTokenizerConfig
from hf_multimodal.models.modeling_image_tokenizer import MovingAverageQuantizer

WIDTH, CODES = 512, 8192
VECTORS = 64 * 16 * 16


class TutorialQuantizer(nn.Module):
    """As the first paper's tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.codebook = nn.Embedding(CODES, WIDTH)
        self.codebook.weight.data.uniform_(-1 / CODES, 1 / CODES)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(vectors, width) to codes and loss."""
        weight = self.codebook.weight
        distances = features.square().sum(1, keepdim=True) + weight.square().sum(1) - 2 * features @ weight.T
        one_hot = torch.zeros_like(distances).scatter_(1, distances.argmin(1, keepdim=True), 1)
        codes = one_hot @ weight
        loss = functional.mse_loss(codes, features.detach()) + 0.25 * functional.mse_loss(features, codes.detach())
        return features + (codes - features).detach(), loss


def measure(name: str, repeats: int) -> dict[str, float]:
    """Seconds a step, and what the steps add to the peak memory of the process, in MiB."""
    torch.manual_seed(0)
    config = ImageTokenizerConfig(quantizer="vq", codebook_size=CODES, codebook_dim=WIDTH)
    quantizer = TutorialQuantizer() if name == "tutorial" else MovingAverageQuantizer(config)
    features = torch.randn(VECTORS, WIDTH, requires_grad=True)
    if name == "vq":  # k-means, once in a training, is not what is measured
        start = torch.randn(CODES, WIDTH)
        quantizer.codebook.copy_(start)
        quantizer.sums.copy_(start)
        quantizer.counts.fill_(1.0)
        quantizer.updates += 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        found = quantizer(features)
        vectors, loss = (found.vectors, found.loss) if name == "vq" else found
        (vectors.sum() + loss).backward()
        seconds.append(time.perf_counter() - begun)
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": statistics.median(seconds), "MiB": added / 1024}


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", choices=("vq", "tutorial"), help="Measure this one and print JSON.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.repeats)))
        return
    found: dict[str, list[dict[str, float]]] = {"tutorial": [], "vq": []}
    for _ in range(args.rounds):
        for name, rows in found.items():
            command = [sys.executable, __file__, "--one", name, "--repeats", str(args.repeats)]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    middle = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()
    }
    for name, row in middle.items():
        print(f"{name}: {row['seconds']:.2f} s a step, {row['MiB']:,.0f} MiB")
    ratios = {key: middle["vq"][key] / middle["tutorial"][key] for key in middle["vq"]}
    print(f"vq / tutorial: {ratios['seconds']:.2f} of the time, {ratios['MiB']:.2f} of the memory")


if __name__ == "__main__":
    main()
