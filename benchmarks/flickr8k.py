"""HF_MULTIMODAL_DATA=/path/to/data python benchmarks/flickr8k.py [--seeds 3] [-- more flags of train_aligner.py]

Captions and images of flickr8k, DeiT-tiny and MiniLM-L6, on the standard split: 6,000 images train, 1,000 chose
the recipe, and 1,000 with their 5,000 captions test. Each seed's row is written at once, and a second call continues.
The output of the frozen layers is stored (4 GB with four augmented versions of each image), unless the flags
freeze no layer. The table goes into docs/benchmarks.md.
"""

import argparse
import os
import re
from pathlib import Path

from series import MINILM, PAGE, aligner_digest, run_series

from hf_multimodal.cli.train_aligner import main as train_aligner
from hf_multimodal.evaluation.bootstrap import seed_summary
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.evaluation.retrieval import DIRECTIONS, RECALL_AT
from hf_multimodal.hub.tables import markdown_table

# Chosen on the validation images (docs/log.md). The average of the last weights is kept, at a rate that falls to 0;
# the validation images are looked at once on the way, and at the end.
RECIPE = ["--freeze_vision_layers", "9", "--image_pooling", "cls_mean", "--whole_images", "--augment"]
RECIPE += ["--captions_per_image", "2", "--per_device_train_batch_size", "128", "--num_train_epochs", "10"]
RECIPE += ["--learning_rate", "3e-4", "--logit_scale_init_value", "3.2", "--ema_decay", "0.99", "--bf16", "true"]
RECIPE += ["--eval_strategy", "steps", "--eval_steps", "0.5"]
RECIPE += ["--save_strategy", "no", "--load_best_model_at_end", "false"]


def job(data: Path, seed: int) -> list[str]:
    """Flags of one run."""
    flickr = data / "flickr8k"
    flags = ["--data", str(flickr / "captions.csv"), "--image_root", str(flickr / "images"), "--seed", str(seed)]
    flags += ["--vision_model", str(data / "deit_tiny_patch16_224")]
    return [*flags, "--text_model", str(MINILM), *RECIPE]


def storing(more: list[str]) -> list[str]:
    """Flags that store the output of frozen layers, where the recipe with these flags has any to store."""
    none_frozen = re.search(r"--freeze_vision_layers[ =]0\b", " ".join(more))
    return [] if none_frozen else ["--feature_cache", "runs/flickr8k-features"]


def main() -> None:
    """Train, summarise, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, on one core each if several")
    parser.add_argument("--folder", default="runs/flickr8k", help="where the rows are kept; another for a trial")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="what the table shows")
    parser.add_argument("--print_only", action="store_true", help="leave docs/benchmarks.md as it is, as for a trial")
    parser.add_argument("more", nargs="*", help="flags that replace those of the recipe, after --")
    args = parser.parse_args()
    if "HF_MULTIMODAL_DATA" not in os.environ:
        parser.error("set HF_MULTIMODAL_DATA to the folder that holds flickr8k/ and deit_tiny_patch16_224/.")
    data = Path(os.environ["HF_MULTIMODAL_DATA"])
    rows = run_series(
        args.folder,
        {f"seed-{seed}": [*job(data, seed), *args.more] for seed in range(args.seeds)},
        run=train_aligner,
        processes=args.processes,
        same_result=lambda name: storing(args.more),
        recipe=aligner_digest(),
        leaves="metrics.json",
        shows=args.split,
    )
    found = [row["metrics"][args.split] for row in rows.values()]

    def summary(way: str, name: str, scale: float = 1) -> str:
        values = seed_summary([scale * entry[way][name] for entry in found])
        return f"{values.mean:.1f} ± {values.sd:.1f}"

    table = [
        [words, found[0][way]["queries"], found[0][way]["pool"]]
        + [summary(way, f"recall_at_{k}", scale=100) for k in RECALL_AT]
        + [summary(way, "median_rank")]
        for way, words in DIRECTIONS.items()
    ]
    columns = ["queries", "number", "pool", *(f"R@{k}, %" for k in RECALL_AT), "median rank"]
    rsum = seed_summary([entry["rsum"] for entry in found])
    spread = f"rsum {rsum.mean:.1f} ± {rsum.sd:.1f} of 600, {args.split} split"
    text = f"{markdown_table(table, columns)}\n\n{spread}, {len(found)} seeds, mean ± standard deviation."
    if not args.print_only:
        update_region(PAGE, "flickr8k", text)
    print(text)


if __name__ == "__main__":
    main()
