"""python benchmarks/bench_losses.py [--pairs 1024 4096 16384] [--losses infonce sigmoid] [--repeats 5] [--masked]

What the two losses over logits cost beside their plain formulas, forward and backward, on one core, with embeddings of
512. Time: both in turn in one process, so that what else the machine does meets both; seconds of the processor, the
lowest of each, and the median of the ratios of each turn. Memory: the highest of a process of its own for each, less
what it held before, inputs and libraries among it. Linux only.

The loss is taken from an aligner, so the script measures an older checkout too, by PYTHONPATH. `--masked` gives two
of the pairs one image and leaves a third incomplete. `--cells` is how many similarities are held at once, as in
gradient caching, whose value is 1048576; without it as many as is quick.
"""

import argparse
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import BertConfig, ViTConfig

from hf_multimodal import AlignerConfig, AlignerModel
from hf_multimodal.hub.tables import markdown_table

WIDTH = 512
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
Step = Callable[[], None]


def steps(loss: str, pairs: int, masked: bool, cells: int | None) -> dict[str, Step]:
    """Forward and backward of the plain formula and of the package's loss, on the same embeddings."""
    torch.manual_seed(0)
    inner = {"vision_config": ViTConfig(**SMALL), "text_config": BertConfig(vocab_size=10, **SMALL)}
    model = AlignerModel(AlignerConfig(loss=loss, **inner)).train()
    sides = [F.normalize(torch.randn(pairs, WIDTH), dim=-1).requires_grad_() for _ in range(2)]
    mask = torch.ones(pairs, 2, dtype=torch.long)
    image_ids = torch.arange(pairs)
    mask[-1, 1], image_ids[1] = 0, 0

    def formula() -> torch.Tensor:
        logits = model.logit_scale.exp() * sides[0] @ sides[1].T
        if loss == "infonce":
            match = torch.arange(pairs)
            return (F.cross_entropy(logits, match) + F.cross_entropy(logits.T, match)) / 2
        signs = 2 * torch.eye(pairs) - 1
        return -F.logsigmoid(signs * (logits + model.logit_bias)).sum(dim=1).mean()

    def ours() -> torch.Tensor:
        return model.contrastive_loss(*sides, *((mask, image_ids) if masked else (None, None)), cells)[0]

    def step(value: Callable[[], torch.Tensor]) -> None:
        for one in (*sides, *model.parameters()):
            one.grad = None
        value().backward()

    return {"formula": lambda: step(formula), "ours": lambda: step(ours)}


def gigabytes(name: str, loss: str, pairs: int, masked: bool, cells: int | None) -> float:
    """Highest memory of one step beyond what was held before it."""
    torch.set_num_threads(1)
    steps(loss, 8, masked, cells)[name]()  # kernels and their workspaces are there
    step = steps(loss, pairs, masked, cells)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the highest is counted anew from here
    before = highest()
    step()
    return highest() - before


def highest() -> float:
    """Highest memory of this process, in gigabytes."""
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(kilobytes) * 1024 / 1e9


def measure(loss: str, pairs: int, repeats: int, masked: bool, cells: int | None) -> list[str]:
    """A row of the table."""
    work, seconds = steps(loss, pairs, masked, cells), {"formula": [], "ours": []}  # type: ignore[var-annotated]
    for _ in range(repeats):
        for name, step in work.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    ratio = statistics.median(ours / formula for formula, ours in zip(*seconds.values(), strict=True))
    memory = []
    for name in work:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            memory.append(pool.submit(gigabytes, name, loss, pairs, masked, cells).result())
    lowest = [f"{min(found):.2f}" for found in seconds.values()]
    held = [f"{found:.2f}" for found in memory]
    return [loss, f"{pairs:,}", *lowest, f"{ratio:.2f}", *held, f"{memory[1] / memory[0]:.2f}"]


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--losses", nargs="+", default=["infonce", "sigmoid"], choices=["infonce", "sigmoid"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--masked", action="store_true", help="two pairs of one image, one incomplete pair")
    parser.add_argument("--cells", type=int, help="similarities held at once")
    args = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["loss", "pairs", "s, formula", "s, ours", "ratio", "GB, formula", "GB, ours", "ratio"]
    table = []
    for loss in args.losses:
        for pairs in args.pairs:
            table.append(measure(loss, pairs, args.repeats, args.masked, args.cells))
            print(table[-1], flush=True)
    print(markdown_table(table, columns))


if __name__ == "__main__":
    main()
