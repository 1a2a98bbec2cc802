"""HF_MULTIMODAL_DATA=/path/to/data python benchmarks/ecnu.py [--split plain|grouped] [--seeds 5]

4,000 labelled tweets, three sentiments: image alone, text alone and both, over several seeds. The test set is the
plain split's 800 rows, or a fifth of the rows grouped by duplicate. Every choice, the number of epochs among them, was
made on 400 of the other 3,200; the runs here are the final fits on all 3,200. The table goes into docs/benchmarks.md.
"""

import argparse
import os
from pathlib import Path

from series import MINILM, PAGE, run_series

from hf_multimodal.evaluation.bootstrap import paired_bootstrap, seed_summary
from hf_multimodal.evaluation.predictions import read_predictions
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table

SPLITS = {"plain": ["--no_stratify"], "grouped": ["--group_duplicates"]}
RECIPE = ["--num_train_epochs", "3", "--learning_rate", "1e-4", "--label_smoothing", "0.1", "--fit_on_validation"]
# Frozen features of the tenth layer say more about these images than the twelfth's, and no less than trained ones.
VISION = ["--vision_layers", "10", "--freeze_vision_layers", "all", "--image_pooling", "cls_mean"]


def model_flags(data: Path, modality: str) -> list[str]:
    """Flags of the pretrained models of `image`, `text` or `both`."""
    flags = []
    if modality != "text":
        flags += ["--vision_model", str(data / "deit_tiny_patch16_224"), *VISION]
    if modality != "image":
        flags += ["--text_model", str(MINILM)]
    return flags


def job(data: Path, split: str, modality: str, seed: int) -> list[str]:
    """Flags of one run."""
    flags = ["--data", str(data / "ecnu"), *SPLITS[split], "--modality", modality, "--seed", str(seed)]
    return [*flags, *RECIPE, *model_flags(data, modality)]


def main() -> None:
    """Train, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=SPLITS, default="plain")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, on one core each")
    args = parser.parse_args()
    if "HF_MULTIMODAL_DATA" not in os.environ:
        parser.error("set HF_MULTIMODAL_DATA to the folder that holds ecnu/ and deit_tiny_patch16_224/.")
    data = Path(os.environ["HF_MULTIMODAL_DATA"])
    modalities = ("both", "text", "image")
    jobs = {
        f"{modality}-{seed}": job(data, args.split, modality, seed)
        for seed in range(args.seeds)
        for modality in modalities
    }
    folder = f"runs/ecnu-{args.split}"
    cache = ["--feature_cache", "runs/ecnu-features"]
    rows = run_series(
        folder, jobs, processes=args.processes, same_result=lambda name: [] if name.startswith("text") else cache
    )

    def values(modality: str, metric: str) -> list[float]:
        return [rows[f"{modality}-{seed}"]["metrics"]["test"][metric] for seed in range(args.seeds)]

    def predictions(modality: str) -> list:
        return [read_predictions(Path(folder, f"{modality}-{seed}", "predictions.csv")) for seed in range(args.seeds)]

    metrics = ("accuracy", "macro_f1", "nll", "ece")
    table = [
        [modality, *(f"{s.mean:.4f} ± {s.sd:.4f}" for s in (seed_summary(values(modality, m)) for m in metrics))]
        for modality in modalities
    ]
    table.append(["majority class", f"{values('both', 'majority_accuracy')[0]:.4f}", "", "", ""])
    best = max(("text", "image"), key=lambda modality: seed_summary(values(modality, "accuracy")).mean)
    differences = paired_bootstrap(predictions("both"), predictions(best))
    table.append(
        [
            f"both minus {best}, 95 % interval",
            *(
                f"{d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
                for d in (differences[metric] for metric in metrics[:3])
            ),
            "",
        ]
    )
    text = markdown_table(table, ["model", *metrics])
    update_region(PAGE, f"ecnu-{args.split}", text)
    print(text)


if __name__ == "__main__":
    main()
