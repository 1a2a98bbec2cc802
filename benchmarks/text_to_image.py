"""python benchmarks/text_to_image.py

Image tokenizers and text-to-image models on generated captioned images, read by a network that reads real ones without
error: three seeds, 400 test captions a row. The table goes into docs/benchmarks.md; sheets into runs/text_to_image/.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attribute_reader import ATTRIBUTES, controlled, load_reader, read
from PIL import Image
from series import PAGE, run_series

from hf_multimodal.cli.train_aligner import main as train_aligner
from hf_multimodal.cli.train_image_tokenizer import main as train_image_tokenizer
from hf_multimodal.cli.train_text_to_image import main as train_text_to_image
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.inference.reranking import rank_images
from hf_multimodal.models.processing_text_to_image import to_images

FOLDER = Path("runs/text_to_image")
SEEDS = (1, 2, 3)
SEEN, HELD_OUT = "controlled:retrieval", "controlled:retrieval_held_out"
QUANTIZERS = {
    "fsq": ["--quantizer", "fsq"],
    "vq": ["--quantizer", "vq"],
    "tutorial": ["--quantizer", "vq_grad", "--codebook_dim", "64"],
}
SHOWN = {"psnr": 2, "codes_in_use": 0, "perplexity": 0}  # digits
STEPS = 750
CAPTIONS, CANDIDATES = 400, 16
IMAGES = 500  # that are read back
PLAIN = {"guidance_scale": 1.0, "top_k": 0}
GUIDED = {"guidance_scale": 3.0, "top_k": 50}
RERANKED = {"guidance_scale": 2.0, "top_k": 50}
RECIPE = "1"  # to be changed with the defaults of the commands


def tokenizer_job(data: str, seed: int, *more: str, side: int = 32, steps: int = 800) -> list[str]:
    """Flags of a tokenizer's training."""
    sizes = ["--image_size", str(side), "--max_steps", str(steps), "--max_eval_samples", "500"]
    return ["--data", data, "--seed", str(seed), *sizes, "--max_predict_samples", str(IMAGES), *more]


def decoder_job(data: str, seed: int, tokenizer: str, steps: int = STEPS) -> list[str]:
    """Flags of a text-to-image model's training."""
    sizes = ["--max_steps", str(steps), "--max_eval_samples", "500", "--max_predict_samples", str(IMAGES)]
    cache = ["--feature_cache", str(FOLDER / "tokens"), "--image_tokenizer", str(FOLDER / tokenizer)]
    cache += ["--dataloader_num_workers", "0"]  # tokens are read from the cache
    return ["--data", data, "--seed", str(seed), *sizes, *cache]


def series(name: str, jobs: dict[str, list[str]], run: Any) -> dict[str, dict[str, Any]]:
    """Train what has no row yet."""
    return run_series(
        str(FOLDER), jobs, run, leaves="model.safetensors", recipe=RECIPE, rows_file=FOLDER / f"{name}.jsonl"
    )


def kept(name: str, compute: Any) -> dict[str, Any]:
    """A result that is computed once."""
    file = FOLDER / "results" / f"{name}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        found = compute()
        file.write_text(json.dumps({**found, "seconds": round(time.perf_counter() - start)}), encoding="utf-8")
        print(name, found, flush=True)
    return json.loads(file.read_text(encoding="utf-8"))


@torch.inference_mode()
def read_back(reader: Any, folder: Path) -> dict[str, float]:
    """What is read off the reconstructions of test images."""
    model, processor = load_model(folder)
    images, attributes, _ = controlled(IMAGES, "test")
    found: list[Image.Image] = []
    for start in range(0, len(images), 100):
        pixels = processor(images[start : start + 100], return_tensors="pt").pixel_values
        found += to_images(model(pixels).reconstruction, processor)
    return {name: float(right.float().mean()) for name, right in read(reader, found, attributes).items()}


def captions_of(held_out: bool | None) -> tuple[list[str], dict[str, torch.Tensor]]:
    """The first test captions; those of held-out combinations, of the others, or of all (None)."""
    _, attributes, texts = controlled(CAPTIONS * 6, "test")
    chosen = torch.ones(len(texts), dtype=torch.bool)
    if held_out is not None:
        chosen = (attributes["shape"] == attributes["colour"]) == held_out
    rows = chosen.nonzero()[:CAPTIONS, 0]
    return [texts[row] for row in rows.tolist()], {name: value[rows] for name, value in attributes.items()}


def drawn(reader: Any, folder: Path, options: dict[str, Any], held_out: bool | None, best_of: str | None) -> dict:
    """What is read off images that were drawn for captions; the best of several by an aligner where one is named."""
    model, processor = load_model(folder)
    texts, attributes = captions_of(held_out)
    each = 1 if best_of is None else CANDIDATES
    images: Sequence[Image.Image] = model.generate_images(processor, texts, each, seed=0, batch_size=200, **options)
    if best_of is not None:
        rows = [images[start : start + each] for start in range(0, len(images), each)]
        order, _ = rank_images(*load_model(best_of), texts, rows, batch_size=200)
        images = [own[places[0]] for own, places in zip(rows, order, strict=True)]
    right = read(reader, images, attributes)
    return {name: float(value.float().mean()) for name, value in right.items()} | {"captions": len(texts)}


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def main() -> None:
    """Train, draw, read, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="*",
        help="Stages: fsq, vq, tutorial, plain, held_out, aligners, large, and, only if asked for, flickr8k.",
    )
    asked = parser.parse_args().only
    torch.set_num_threads(1)

    def due(stage: str) -> bool:
        return not asked or stage in asked

    reader = load_reader(FOLDER / "reader.pt")
    images, attributes, _ = controlled(2000, "test", seed=7)

    def reader_check() -> dict[str, float]:
        shrunk = [image.resize((32, 32), Image.Resampling.BICUBIC) for image in images]
        pairs = {"as drawn": images, "shrunk to 32": shrunk}
        return {name: float(read(reader, shown, attributes)["all"].float().mean()) for name, shown in pairs.items()}

    print("reader", kept("reader", reader_check))
    table = []
    for name, flags in QUANTIZERS.items():
        if not due(name):
            continue
        jobs = {f"{name}-{seed}": tokenizer_job(SEEN, seed, *flags) for seed in SEEDS}
        runs = [row["metrics"] for row in series(name, jobs, train_image_tokenizer).values()]
        back = [kept(f"back-{job}", partial(read_back, reader, FOLDER / job))["all"] for job in jobs]
        found = [spread([run["test"][key] for run in runs], digits) for key, digits in SHOWN.items()]
        table.append([name, f"{runs[0]['run']['parameters']:,}", *found, spread(back)])
    if table:
        columns = ["PSNR, dB", "codes in use of 512", "perplexity", "all read back"]
        text = markdown_table(table, ["quantizer", "parameters", *columns])
        print(text)
        if len(table) == len(QUANTIZERS):
            write("image-tokenizers", text)
    if due("aligners"):
        jobs = {
            f"aligner-{name}": ["--data", data, "--from_scratch", "--seed", "1"]
            for name, data in (("seen", SEEN), ("held_out", HELD_OUT))
        }
        series("aligners", jobs, train_aligner)
    table = []
    for stage, data in (("plain", SEEN), ("held_out", HELD_OUT)):
        if not due(stage):
            continue
        part = "held" if stage == "held_out" else "fsq"
        if stage == "held_out":
            jobs = {f"held-{seed}": tokenizer_job(HELD_OUT, seed) for seed in SEEDS}
            series("held", jobs, train_image_tokenizer)
        jobs = {f"{stage}-{seed}": decoder_job(data, seed, f"{part}-{seed}") for seed in SEEDS}
        series(stage, jobs, train_text_to_image)
        aligner = str(FOLDER / f"aligner-{'held_out' if stage == 'held_out' else 'seen'}")
        ways = {"plain": (PLAIN, None), "guidance 3, top-k 50": (GUIDED, None)}
        ways |= {f"best of {CANDIDATES} by our aligner, guidance 2, top-k 50": (RERANKED, aligner)}
        for which in (True, False) if stage == "held_out" else (None,):
            for way, (options, best_of) in ways.items():
                if best_of is not None and which is False:
                    continue
                found = [
                    kept(
                        f"drawn-{stage}-{seed}-{which}-{way.partition(' ')[0]}",
                        lambda s=seed, o=options, w=which, b=best_of, st=stage: drawn(
                            reader, FOLDER / f"{st}-{s}", o, w, b
                        ),
                    )
                    for seed in SEEDS
                ]
                shown = {True: "held-out combinations", False: "seen combinations", None: "all"}[which]
                scores = [spread([run[name] for run in found]) for name in (*ATTRIBUTES, "all")]
                table.append([data.removeprefix("controlled:"), shown, way, *scores])
    if table:
        text = markdown_table(table, ["trained on", "captions", "drawn", *ATTRIBUTES, "all"])
        print(text)
        if due("plain") and due("held_out"):
            write("text-to-image", text)
    if due("large"):
        large(reader)
    if asked and "flickr8k" in asked:
        flickr8k(Path(os.environ["HF_MULTIMODAL_DATA"], "flickr8k"))


def flickr8k(folder: Path) -> None:
    """Photos of 64 × 64 with 16 × 16 tokens, one seed, whatever comes of it: the cards show it."""
    data = str(folder / "captions.csv")
    photos = ["--image_root", str(folder / "images"), "--whole_images"]
    rows = series("photos", {"photos": [*tokenizer_job(data, 1, side=64, steps=400), *photos]}, train_image_tokenizer)
    job = [*decoder_job(data, 1, "photos", 150), *photos[:2], "--prompt_length", "24"]
    decoders = series("photos-drawn", {"photos-drawn": job}, train_text_to_image)
    print(
        {name: rows["photos"]["metrics"]["test"][name] for name in SHOWN}, decoders["photos-drawn"]["metrics"]["test"]
    )


def large(reader: Any) -> None:
    """Images of 64 × 64 with 16 × 16 tokens, one seed."""
    rows = series("large", {"large": tokenizer_job(SEEN, 1, side=64, steps=1500)}, train_image_tokenizer)
    back = kept("back-large", lambda: read_back(reader, FOLDER / "large"))
    decoders = series("large-drawn", {"large-drawn": decoder_job(SEEN, 1, "large")}, train_text_to_image)
    found = kept("drawn-large", lambda: drawn(reader, FOLDER / "large-drawn", GUIDED, None, None))
    test = rows["large"]["metrics"]["test"]
    minutes = (rows["large"]["seconds"] + decoders["large-drawn"]["seconds"]) / 60
    table = [
        [
            f"{test['psnr']:.2f}",
            test["codes_in_use"],
            f"{back['all']:.3f}",
            *(f"{found[name]:.3f}" for name in (*ATTRIBUTES, "all")),
            round(minutes),
        ]
    ]
    names = [f"drawn, {name}" for name in (*ATTRIBUTES, "all")]
    text = markdown_table(table, ["PSNR, dB", "codes in use of 512", "all read back", *names, "minutes of training"])
    print(text)
    write("text-to-image-64", text)


def write(region: str, text: str) -> None:
    """Put a table into the page, where the page has a place for it."""
    if f"<!-- {region}:start -->" in PAGE.read_text(encoding="utf-8"):
        update_region(PAGE, region, text)


if __name__ == "__main__":
    main()
