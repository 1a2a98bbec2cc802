"""python benchmarks/bench_gradient_cache.py [--batches 256 512 1024 2048 4096 8192] [--chunk 32]

Memory and time of one step of an aligner with and without gradient caching, at growing batches. Models of the sizes of
DeiT-tiny and MiniLM-L6 with random weights, images of 64 pixels. Each step runs in a process of its own, whose
highest memory is read: that of the accelerator where there is one, else of the process, less what it held before the
step. A direct step that would need more than `--limit` GB, going by the smaller ones, is left out; one that the system
kills, as for memory, stands there as killed. The table goes into docs/benchmarks.md, anew after each row.
"""

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import psutil
import torch
from series import PAGE
from transformers import BertConfig, ViTConfig

from hf_multimodal import AlignerConfig, AlignerModel
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.training.gradient_cache import backward_in_chunks

VISION = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
TEXT = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def step(batch: int, chunk: int | None, image_size: int) -> tuple[float, float]:
    """One step; gigabytes that it took beyond model and inputs, and seconds."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    torch.manual_seed(0)
    vision = ViTConfig(**VISION, image_size=image_size)
    model = AlignerModel(AlignerConfig(vision_config=vision, text_config=BertConfig(**TEXT))).to(device).train()
    inputs = {
        "pixel_values": torch.randn(batch, 3, image_size, image_size, device=device),
        "input_ids": torch.randint(1000, 30000, (batch, 16), device=device),
    }
    warm_up = {name: value[:2] for name, value in inputs.items()}
    backward_in_chunks(model, warm_up, 2)  # gradients, kernels and their workspaces are there
    before, start = held(device), time.perf_counter()
    if chunk is None:
        model(**inputs, return_loss=True).loss.backward()
    else:
        backward_in_chunks(model, inputs, chunk)
    return peak(device) - before, time.perf_counter() - start


def held(device: torch.device) -> float:
    """Memory held now, in gigabytes; an accelerator's highest is counted anew from here."""
    if device.type != "cuda":
        return psutil.Process().memory_info().rss / 1e9
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 1e9


def peak(device: torch.device) -> float:
    """Highest memory so far, in gigabytes."""
    if device.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e9


def apart(*arguments: Any) -> tuple[float, float] | None:
    """A step in a fresh process; None where that was killed."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(step, *arguments).result()
        except BrokenProcessPool:
            return None


def cells(found: tuple[float, float] | None) -> list[str]:
    """What the table shows of a step."""
    return ["killed", ""] if found is None else [f"{found[0]:.2f}", f"{found[1]:.1f}"]


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--image_size", type=int, default=64, help="so that 8,192 images take minutes on a CPU")
    parser.add_argument("--limit", type=float, default=8, help="gigabytes")
    parser.add_argument("--print_only", action="store_true", help="leave docs/benchmarks.md as it is, as for a trial")
    args = parser.parse_args()
    table: list[list[Any]] = []
    columns = ["batch", "GB, direct", "seconds", f"GB, chunks of {args.chunk}", "seconds, in chunks"]
    expected, killed = 0.0, False
    for number, batch in enumerate(args.batches):
        measured = ["not run" if killed else f"about {expected:.0f}, not run", ""]
        if not killed and expected < args.limit:
            direct = apart(batch, None, args.image_size)
            measured, killed = cells(direct), direct is None
            expected = expected if direct is None else direct[0]
        table.append([batch, *measured, *cells(apart(batch, args.chunk, args.image_size))])
        if not args.print_only:
            update_region(PAGE, "gradient-cache", markdown_table(table, columns))
        print(table[-1], flush=True)
        following = args.batches[number + 1] if number + 1 < len(args.batches) else batch
        expected *= following / batch
    print(markdown_table(table, columns))


if __name__ == "__main__":
    main()
