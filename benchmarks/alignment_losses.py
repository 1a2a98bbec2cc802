"""python benchmarks/alignment_losses.py [--pools 20] [-- more flags of train_aligner.py]

The five losses, each trained with default settings on the same 16,000 images with captions. R@1 is the mean over
pools of 144 fresh images; its ceiling follows from the duplicates in the same pools. zero_shot.py goes on from the
InfoNCE run: give both the same flags. The table goes into docs/benchmarks.md.
"""

import argparse

import numpy as np
from series import PAGE, aligner_digest, run_series

from hf_multimodal.cli.train_aligner import main as train_aligner
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.pairs import group_pairs
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.evaluation.retrieval import DIRECTIONS
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.inference.retrieval_measures import measure_retrieval
from hf_multimodal.models.losses import LOSSES
from hf_multimodal.synthetic.retrieval import make_retrieval, retrieval_ceiling

POOL = 144  # as many images as there are combinations of what they show
FOLDER = "runs/controlled-retrieval"


def job(task: str, loss: str) -> list[str]:
    """Flags of one run; the epoch is chosen by a pool of the size that is reported."""
    sizes = ["--max_eval_samples", str(POOL), "--max_predict_samples", str(POOL)]
    return ["--data", f"controlled:{task}", "--from_scratch", "--loss", loss, *sizes]


def pools(count: int) -> list[range]:
    """Rows of each pool in the test draws."""
    return [range(number * POOL, (number + 1) * POOL) for number in range(count)]


def recalls(loss: str, count: int) -> list[float]:
    """R@1 both ways, the mean over the pools."""
    model, processor = load_model(f"{FOLDER}/{loss}")
    rows = load_data("controlled:retrieval", pairs=True, splits=["test"], test_size=count * POOL).splits["test"]
    found = [measure_retrieval(model, processor, group_pairs(rows.select(pool))[0]) for pool in pools(count)]
    return [float(np.mean([entry[way]["recall_at_1"] for entry in found])) for way in DIRECTIONS]


def ceilings(count: int) -> list[float]:
    """The best possible R@1 both ways, the mean over the pools."""
    rows = make_retrieval(count * POOL, split="test").select_columns(["shape", "colour", "place"])
    shown = np.stack([rows[name][:] for name in rows.column_names], axis=1)
    found = [retrieval_ceiling(shown[pool.start : pool.stop]) for pool in pools(count)]
    return [float(np.mean([getattr(entry, way) for entry in found])) for way in DIRECTIONS]


def main() -> None:
    """Train, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, on one core each")
    parser.add_argument("--print_only", action="store_true", help="leave docs/benchmarks.md as it is, as for a trial")
    parser.add_argument("more", nargs="*", help="flags that replace the defaults, after --")
    args = parser.parse_args()
    jobs = {loss: [*job("retrieval", loss), *args.more] for loss in LOSSES}
    options = {"processes": args.processes, "recipe": aligner_digest(), "leaves": "metrics.json"}
    run_series(FOLDER, jobs, run=train_aligner, **options)
    found = {loss: recalls(loss, args.pools) for loss in LOSSES}
    table = [[f"`{loss}`", POOL, *values, sum(values) / sum(found["infonce"])] for loss, values in found.items()]
    table.append(["ceiling", POOL, *(best := ceilings(args.pools)), sum(best) / sum(found["infonce"])])
    columns = ["loss", "pool", *(f"R@1, {words}" for words in DIRECTIONS.values()), "of InfoNCE's"]
    text = markdown_table(table, columns)
    if not args.print_only:
        update_region(PAGE, "alignment-losses", text)
    print(text)


if __name__ == "__main__":
    main()
