"""python benchmarks/bench_retrieval.py [--sizes 10000 100000] [--queries 200] [--items 128] [--repeats 5]

Search in 10,000 and 100,000 vectors of 512: exact beside faiss where it is installed, with latency of one query and of
a batch, recall@10 against the exact search, build time and memory. Each kind runs in a process of its own; its memory
is what the index takes beyond the vectors, which the exact search shares and faiss copies. Vectors lie around 1,000
random centres, as embeddings lie in clusters and not evenly on the sphere. Then the retriever of tutorials, which
embeds one item at a time and compares one vector at a time, beside ours: items a second with a CLIP of the sizes of
DeiT-tiny and MiniLM-L6 with random weights, in turn in one process.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import Any

import psutil
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from hf_multimodal import Retriever
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.inference.index import KINDS, EmbeddingIndex

WIDTH, K = 512, 10
VISION = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
VISION |= {"image_size": 224, "patch_size": 16}
TEXT = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
TEXT |= {"vocab_size": 1000, "max_position_embeddings": 77, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, the first left out."""
    measured = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        measured.append(time.perf_counter() - start)
    return statistics.median(measured[1:])


def draw(count: int, seed: int) -> torch.Tensor:
    """Vectors of length 1 around the same 1,000 centres."""
    centres = torch.randn(1000, WIDTH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    chosen = centres[torch.randint(len(centres), (count,), generator=generator)]
    return F.normalize(chosen + torch.randn(count, WIDTH, generator=generator), dim=-1)


def measure_index(kind: str, size: int, queries: int, repeats: int) -> tuple[list[Any], list[list[str]]]:
    """Seconds to build, milliseconds of one query and of one in a batch, megabytes; and what each query found."""
    vectors, asked = draw(size, seed=1), draw(queries, seed=2)
    index = EmbeddingIndex("vectors", kind)
    index.add([str(row) for row in range(size)], vectors, [{}] * size)
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    index.build()
    built, memory = time.perf_counter() - start, psutil.Process().memory_info().rss - before
    batch = seconds(lambda: index.search(asked, K), repeats)
    one = seconds(lambda: index.search(asked[:1], K), repeats)
    found = [hits.ids for hits in index.search(asked, K)]
    return [built, 1000 * one, 1000 * batch / queries, round(memory / 2**20)], found


def compare_indexes(size: int, queries: int, repeats: int) -> list[list[Any]]:
    """One row for each kind of index that can be built here."""
    rows: list[list[Any]] = []
    nearest: list[list[str]] = []
    for kind in KINDS if find_spec("faiss") else KINDS[:1]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            measured, found = pool.submit(measure_index, kind, size, queries, repeats).result()
        nearest = nearest or found  # the first kind is exact
        hit = sum(len({*a} & {*b}) for a, b in zip(found, nearest, strict=True)) / (K * queries)
        rows.append([size, kind, *measured, hit])
    return rows


def make_pair(words: list[str]) -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP with random weights and a tokenizer of whole words."""
    torch.manual_seed(0)
    vocabulary = {word: row for row, word in enumerate(["[PAD]", "[BOS]", "[EOS]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[EOS]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=77,
        pad_token="[PAD]",
        eos_token="[EOS]",
        model_input_names=["input_ids", "attention_mask"],
    )
    config = CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=WIDTH)
    return CLIPModel(config).eval(), CLIPProcessor(CLIPImageProcessor(), fast)


@torch.no_grad()
def one_at_a_time(model: CLIPModel, processor: CLIPProcessor, images: list, texts: list[str]) -> list[list[int]]:
    """What tutorials do: a forward pass an item, texts padded to the full length, a cosine a pair."""
    embeds: dict[str, list[torch.Tensor]] = {"images": [], "texts": []}
    for image in images:
        pixels = processor(images=image, return_tensors="pt")
        embeds["images"].append(model.get_image_features(**pixels).pooler_output[0])
    for text in texts:
        tokens = processor(text=text, padding="max_length", truncation=True, return_tensors="pt")
        embeds["texts"].append(model.get_text_features(**tokens).pooler_output[0])
    found = []
    for text in embeds["texts"]:
        scores = [float(F.cosine_similarity(text, image, dim=0)) for image in embeds["images"]]
        found.append(sorted(range(len(scores)), key=lambda row: -scores[row])[:K])
    return found


def batched(model: CLIPModel, processor: CLIPProcessor, images: list, texts: list[str]) -> list[list[int]]:
    """The same with the retriever."""
    retriever = Retriever(model, processor, show_progress=False)
    retriever.add_images(images)
    hits = retriever.search_images(texts, min(K, len(images)))
    assert isinstance(hits, list)
    return [[int(name) for name in found.ids] for found in hits]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = [row for size in args.sizes for row in compare_indexes(size, args.queries, args.repeats)]
    columns = ["vectors", "index", "build s", "one query ms", "of a batch ms", "memory MB", f"recall@{K}"]
    print(markdown_table(rows, columns))
    if find_spec("faiss") is None:
        print("faiss is not installed: pip install 'hf_multimodal[retrieval]'")

    words = [f"w{row}" for row in range(900)]
    draws = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, 20, (args.items,), generator=draws).tolist()
    texts = [" ".join(words[k] for k in torch.randint(900, (n,), generator=draws)) for n in lengths]
    pixels = torch.randint(256, (args.items, 240, 320, 3), generator=draws, dtype=torch.uint8)
    images = [Image.fromarray(image.numpy()) for image in pixels]
    pair = make_pair(words)
    measured: dict[str, list[float]] = {"one at a time": [], "retriever": []}
    for repeat in range(args.repeats + 1):
        for name, work in (("one at a time", one_at_a_time), ("retriever", batched)):
            start = time.perf_counter()
            work(*pair, images, texts)
            if repeat:  # the first warms up
                measured[name].append(2 * args.items / (time.perf_counter() - start))
    ratios = [ours / theirs for theirs, ours in zip(*measured.values(), strict=True)]
    print(f"\n{args.items} images of 320 x 240 indexed, {args.items} texts of 4 to 19 words searched")
    for name, rates in measured.items():
        print(f"{name}: {statistics.median(rates):.1f} items a second")
    print(f"ratio: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
