"""[HF_MULTIMODAL_DATA=/path/to/data] python benchmarks/promises.py [--quick]

What the robust classifier promises on held-out data: each promise, the number and the margin. Every rival is trained
separately on the same rows with the same settings. The tables go into the README and into docs/missing.md; `--quick`
prints what two levels and one seed say, and writes nothing.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ecnu
from series import README, run_series

from hf_multimodal.data.arguments import SourceArguments
from hf_multimodal.data.controlled import CONTROLLED_TASKS, ceiling
from hf_multimodal.evaluation.bootstrap import paired_bootstrap, seed_summary
from hf_multimodal.evaluation.calibration import ece_band
from hf_multimodal.evaluation.predictions import Predictions, read_predictions, write_predictions
from hf_multimodal.evaluation.report import markdown_table, update_region
from hf_multimodal.inference.choosing import load_rows, run_arguments
from hf_multimodal.inference.missing_curve import SHOWN, answers_by_presence
from hf_multimodal.inference.predicting import load_model
from hf_multimodal.training.robust import train_robust
from hf_multimodal.training.running import train

FOLDER = "runs/promises"
TASKS = ("redundant", "unique", "synergy")
LEVELS = {"complete": [], "both03": ["--missing", "both:0.3"], "both07": ["--missing", "both:0.7"]}
MANY = {"synergy": ["--max_train_samples", "53000"], "mixed": ["--max_train_samples", "53000"]}  # 16,000 complete
ECNU = ["--num_train_epochs", "3", "--label_smoothing", "0.1"]
FROZEN = {"image": ["--freeze_vision_layers", "all"], "text": ["--freeze_text_layers", "all"]}


@dataclass
class Found:
    """One line of the report: what was measured, what it must be, and by how much it is better than that."""

    promise: int
    where: str
    number: str
    margin: float


def train_and_answer(flags: list[str]) -> dict[str, Any]:
    """Train a robust model or a rival; of a robust one also write its answers on all test rows, pattern by pattern.

    Args:
        flags: `robust` or `fusion`, and the flags of that script, `--output_dir` and its folder last.
    """
    family, *arguments = flags
    if family == "fusion":
        return train(arguments)
    metrics = train_robust(arguments)
    folder = Path(arguments[-1])
    model, processor = load_model(folder)
    run = run_arguments(str(folder))
    source = SourceArguments(data=run["data"], no_stratify=run.get("no_stratify", False))
    rows = load_rows(str(folder), "test", source).splits["test"]
    for pattern, answers in answers_by_presence(model, processor, rows, tuple(SHOWN), batch_size=128).items():
        write_predictions(folder / f"{pattern}.csv", answers)
    return metrics


def jobs_of(task: str, level: str, seed: int, data: Path | None) -> dict[str, list[str]]:
    """The robust run and its rivals at one level of missing modalities, by name."""

    def flags(modality: str) -> list[str]:
        if data is None:
            common = ["--data", f"controlled:{task}", "--from_scratch"]
        else:
            common = ["--data", str(data / "ecnu"), "--no_stratify", *ECNU]
            sides = ("image", "text") if modality == "both" else (modality,)
            common += [flag for side in sides for flag in (*ecnu.model_flags(data, side), *FROZEN[side])]
        return [*common, "--modality", modality, "--seed", str(seed), *LEVELS[level]]

    jobs = {f"{task}-{level}-{seed}-robust": ["robust", *flags("both")]}
    rivals = {"image": "image", "text": "text", **({"fusion": "both"} if level == "complete" else {})}
    return jobs | {f"{task}-{level}-{seed}-{name}": ["fusion", *flags(side)] for name, side in rivals.items()}


def answers_of(name: str, pattern: str = "predictions") -> Predictions:
    """A run's answers on the test rows."""
    return read_predictions(Path(FOLDER, name, f"{pattern}.csv"))


def compare(task: str, level: str, seeds: int) -> list[Found]:
    """Promises 1 to 4 for one task and one level."""

    def all_seeds(model: str, pattern: str = "predictions") -> list[Predictions]:
        return [answers_of(f"{task}-{level}-{seed}-{model}", pattern) for seed in range(seeds)]

    where, found = f"`{task}`, {level}", []
    robust = {pattern: all_seeds("robust", pattern) for pattern in SHOWN}
    rivals = {name: all_seeds(name) for name in ("image", "text")}
    if level == "complete":
        d = paired_bootstrap(robust["both"], all_seeds("fusion"))["accuracy"]
        number = f"{d.a:.4f} against {d.b:.4f}, {d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
        found.append(Found(1, where, number, d.difference + 0.005))
    for name, theirs in rivals.items():
        d = paired_bootstrap(robust[name], theirs)["accuracy"]
        number = f"{d.a:.4f} against {d.b:.4f}, {d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
        found.append(Found(2, f"{where}, {name} only", number, d.difference + 0.01))
    best = min(rivals.values(), key=lambda runs: seed_summary([run.metrics()["nll"] for run in runs]).mean)
    d = paired_bootstrap(robust["both"], best)["nll"]
    found.append(Found(3, where, f"{d.a:.4f} against {d.b:.4f}, [{d.low:+.4f}, {d.high:+.4f}]", -d.low))
    for pattern, runs in robust.items():
        error = seed_summary([run.metrics()["ece"] for run in runs]).mean
        if task == "ecnu":
            bar = seed_summary([ece_band(run.probabilities.max(axis=1))[1] for run in runs]).mean
        else:
            bar = 0.03
        found.append(Found(4, f"{where}, {pattern}", f"ECE {error:.4f}, at most {bar:.4f}", bar - error))
    return found


def against_ceilings(task: str, name: str) -> list[Found]:
    """Promise 7 for one run at both:0.7."""
    found = []
    for pattern in SHOWN:
        accuracy, bound = answers_of(name, pattern).metrics()["accuracy"], ceiling(task, pattern).accuracy
        found.append(
            Found(7, f"`{task}`, {pattern}", f"{accuracy:.4f}, ceiling {bound:.4f}", accuracy - bound + 0.015)
        )
    return found


def main() -> None:
    """Train what has no row yet, check every promise, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, two levels, no tweets: some 15 minutes")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, on one core each")
    args = parser.parse_args()
    data = Path(os.environ["HF_MULTIMODAL_DATA"]) if "HF_MULTIMODAL_DATA" in os.environ else None
    levels = [level for level in LEVELS if not (args.quick and level == "both03")]
    grid = [(task, level, 1 if args.quick else 5, None) for task in TASKS for level in levels]
    if not args.quick:
        if data is None:
            parser.error("set HF_MULTIMODAL_DATA to the folder that holds ecnu/ and deit_tiny_patch16_224/.")
        grid += [("ecnu", level, 3, data) for level in LEVELS]
    jobs = {}
    for task, level, seeds, folder in grid:
        for seed in range(seeds):
            jobs |= jobs_of(task, level, seed, folder)
    many = (
        {} if args.quick else {task: f"{task}-many" for task in CONTROLLED_TASKS if task in MANY or task not in TASKS}
    )
    for task, name in many.items():
        robust = ["robust", "--data", f"controlled:{task}", "--from_scratch", *LEVELS["both07"]]
        jobs[name] = [*robust, *MANY.get(task, [])]
    run_series(FOLDER, jobs, run=train_and_answer, processes=args.processes)

    found = [line for task, level, seeds, _ in grid for line in compare(task, level, seeds)]
    for task in CONTROLLED_TASKS:
        name = many.get(task, f"{task}-both07-0-robust")
        if name in jobs:
            found += against_ceilings(task, name)
    found.sort(key=lambda line: line.promise)
    rows = [[f.promise, f.where, f.number, f"{f.margin:+.4f}", "yes" if f.margin >= 0 else "**no**"] for f in found]
    whole = markdown_table(rows, ["promise", "where", "number", "margin", "kept"])
    print(whole)
    if args.quick:
        return
    summary = []
    for promise in sorted({line.promise for line in found}):
        own = [line for line in found if line.promise == promise]
        worst = min(own, key=lambda line: line.margin)
        kept = sum(line.margin >= 0 for line in own)
        summary.append([promise, f"{kept} of {len(own)}", worst.where, worst.number, f"{worst.margin:+.4f}"])
    update_region(README, "promises", markdown_table(summary, ["promise", "kept", "closest", "number", "margin"]))
    update_region(README.parent / "docs" / "missing.md", "promises", whole)


if __name__ == "__main__":
    main()
