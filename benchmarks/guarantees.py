"""[HF_MULTIMODAL_DATA=/path/to/data] python benchmarks/guarantees.py [--quick]

What the robust classifier guarantees on held-out data: each guarantee, the number and the margin. Every baseline is
trained separately on the same rows with the same settings, and given one temperature on the same validation rows. The
controlled tasks are tested on 8,000 draws that no choice was made on: the 8,000 before them were looked at when the
recipe was chosen (docs/log.md). The summary goes into docs/benchmarks.md, every line into docs/guarantees.md, those
that are not kept first; `--quick` prints what two tasks, two levels and one seed say, and writes no table.

The series takes hours, so each run's row, with the sums that paired intervals need, is written at once into
benchmarks/results/guarantees.jsonl, which is part of the repository: a call on another machine goes on where this one
stopped. A row is trained again when its flags or the defaults behind them have changed, or it has been deleted.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import ecnu
import numpy as np
import torch
from datasets import Dataset
from predicted import Predicted, paired_difference
from scipy.special import softmax
from series import PAGE, recipe_digest, run_series
from torch.nn import functional as F

from hf_multimodal import MultimodalCollator
from hf_multimodal.cli.arguments import LabelArguments, SourceArguments
from hf_multimodal.cli.rows import chosen_rows, run_arguments
from hf_multimodal.cli.train_fusion import main as train_fusion
from hf_multimodal.cli.train_robust_fusion import main as train_robust_fusion
from hf_multimodal.data import loading
from hf_multimodal.data.counts import PRESENCE_PATTERNS
from hf_multimodal.evaluation.bootstrap import Difference, seed_summary
from hf_multimodal.evaluation.predictions import Predictions, read_predictions
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.inference.missing_curve import predictions_by_presence
from hf_multimodal.inference.prediction import load_model, predict_dataset
from hf_multimodal.models.modeling_robust_fusion import KNOTS
from hf_multimodal.synthetic.classification import CONTROLLED_TASKS, ceiling, make_controlled
from hf_multimodal.training.stacking import POOLED_ROWS, SMOOTHNESS, fit_classes

FOLDER = "runs/guarantees"
ROWS = Path(__file__).parent / "results" / "guarantees.jsonl"
NUMERICS = "unique-both07-0-robust"  # the run whose model is poisoned
TASKS = ("redundant", "unique", "synergy")
LEVELS = {"complete": [], "both03": ["--missing", "both:0.3"], "both07": ["--missing", "both:0.7"]}
MANY = {"synergy": ["--max_train_samples", "53000"], "mixed": ["--max_train_samples", "53000"]}  # 16,000 complete
WARM = "mixed"  # whose joint part is not learned while most rows lack something (docs/log.md)
# Four epochs end on the way from the plateau of this task when rows lack something (docs/log.md).
LONGER = {("synergy", level): ["--num_train_epochs", "8"] for level in ("both03", "both07")}
# Default settings, but for validation rows enough for the temperature of those with both (docs/log.md), and nothing
# evaluated or saved between: the rate falls to 0, and the last step is the result.
CONTROLLED = ["--from_scratch", "--max_eval_samples", "6000"]
CONTROLLED += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
ECNU = ["--num_train_epochs", "3", "--label_smoothing", "0.1"]
Rows = dict[str, dict[str, Any]]
SEEN = 8_000  # test draws


@lru_cache(maxsize=4)  # a process trains the runs of one task one after the other, on the same examples
def fresh_draws(task: str, *, size: int, seed: int, split: str) -> Dataset:
    """`make_controlled`, but for the first `SEEN` draws of the test split."""
    if split != "test":
        return make_controlled(task, size=size, seed=seed, split=split)
    drawn = make_controlled(task, size=SEEN + size, seed=seed, split=split)
    return drawn.select(range(SEEN, SEEN + size)).flatten_indices(keep_in_memory=True)


@dataclass
class Found:
    """One line of the report: what was measured, and by how much it is better than it must be.

    Args:
        guarantee: Its number.
        where: Task, level and pattern.
        number: What was measured, in words.
        margin: By how much the mean is better than the bar.
        low: The same of the less favourable end of the 95 % interval, where there is one.
        kept: Whether the guarantee is kept; None where the margin says it.
    """

    guarantee: int
    where: str
    number: str
    margin: float
    low: float | None = None
    kept: bool | None = None

    @property
    def holds(self) -> bool:
        """Whether the guarantee is kept, in the mean."""
        return self.margin >= 0 if self.kept is None else self.kept

    def row(self) -> list[Any]:
        """Cells of the table."""
        unsure = self.holds and self.low is not None and self.low < 0
        margin = f"{self.margin:+.1e}" if self.guarantee in (5, 6) else f"{self.margin:+.4f}"
        kept = "yes, unsure" if unsure else "yes" if self.holds else "**no**"
        return [self.guarantee, self.where, self.number, margin, kept]


def train_and_predict(flags: list[str]) -> dict[str, Any]:
    """Train a robust model or a baseline, and sum up its predictions on all test rows.

    Those of a robust model pattern by pattern; those of a baseline at the temperature that its validation rows ask
    for.

    Args:
        flags: `robust`, `fusion`, or `warm` for one after the other, and the flags of that script, `--output_dir` and
            its folder last.
    """
    loading.make_controlled = fresh_draws  # in the process of a run; an import changes nothing
    family, *arguments = flags
    folder = Path(arguments[-1])
    if family != "fusion" and "--modality" in arguments:  # of the rows' flags; the robust command reads both anyway
        place = arguments.index("--modality")
        del arguments[place : place + 2]
    if family == "warm":  # plain fusion of the complete rows first; from it, the defaults of fine-tuning
        start = str(folder / "start")
        train_fusion([*arguments[:-1], start, "--complete_only"])
        arguments = [*(flag for flag in arguments if flag != "--from_scratch"), "--from_fusion", start]
    metrics = (train_fusion if family == "fusion" else train_robust_fusion)(arguments)
    model, processor = load_model(folder)
    run = run_arguments(str(folder))
    labels = LabelArguments(no_stratify=run.get("no_stratify", False))
    numbers = []
    if family != "fusion":
        rows = chosen_rows(str(folder), "test", SourceArguments(data=run["data"]), labels).splits["test"]
        found = predictions_by_presence(model, processor, rows, tuple(PRESENCE_PATTERNS), batch_size=128)
        numbers = [asdict(line) for line in numerics(folder)] if folder.name == NUMERICS else []
    else:
        least = SourceArguments(data=run["data"], max_predict_samples=run.get("max_eval_samples"))
        rows = chosen_rows(str(folder), "validation", least, labels).splits["test"]
        validation = predict_dataset(model, processor, rows, batch_size=128)
        found = {"predictions": calibrated(read_predictions(folder / "predictions.csv"), validation)}
    found = {pattern: Predicted.of(predictions).row() for pattern, predictions in found.items()}
    test = {name: value for name, value in metrics["test"].items() if isinstance(value, float)}
    return {"test": test, "answers": found, "numerics": numbers}


def calibrated(predictions: Predictions, validation: Predictions) -> Predictions:
    """A run's predictions at the one temperature of the lowest NLL on its validation rows."""
    scale = fit_classes(np.log(validation.probabilities.clip(1e-30))[:, None], validation.labels)[0, 0]
    return replace(predictions, probabilities=softmax(scale * np.log(predictions.probabilities.clip(1e-30)), axis=1))


def jobs_of(task: str, level: str, seed: int, data: Path | None) -> dict[str, list[str]]:
    """The robust run and its baselines at one level of missing modalities, by name."""

    def flags(modality: str) -> list[str]:
        if data is None:
            common = ["--data", f"controlled:{task}", *CONTROLLED]
        else:
            common = ["--data", str(data / "ecnu"), "--no_stratify", *ECNU, *ecnu.model_flags(data, modality)]
            common += [] if modality == "image" else ["--freeze_text_layers", "all"]
        return [*common, "--modality", modality, "--seed", str(seed), *LEVELS[level], *LONGER.get((task, level), [])]

    jobs = {f"{task}-{level}-{seed}-robust": ["robust", *flags("both")]}
    baselines = {"image": "image", "text": "text", **({"fusion": "both"} if level == "complete" else {})}
    return jobs | {f"{task}-{level}-{seed}-{name}": ["fusion", *flags(side)] for name, side in baselines.items()}


def predictions_of(rows: Rows, name: str, pattern: str = "predictions") -> Predicted:
    """A run's predictions on the test rows."""
    return Predicted(**rows[name]["metrics"]["answers"][pattern])


def against(ours: list[Predicted], theirs: list[Predicted], metric: str) -> tuple[Difference, str]:
    """The difference with its paired 95 % interval, and in words with the mean and spread over seeds of both."""
    sides = [seed_summary([getattr(run, metric) for run in runs]) for runs in (ours, theirs)]
    d = paired_difference(ours, theirs, metric)
    means = " against ".join(f"{side.mean:.4f} ± {side.sd:.4f}" for side in sides)
    return d, f"{means}, {d.difference:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"


def compare(rows: Rows, task: str, level: str, seeds: int) -> list[Found]:
    """Guarantees 1 to 4 for one task and one level."""

    def all_seeds(model: str, pattern: str = "predictions") -> list[Predicted]:
        return [predictions_of(rows, f"{task}-{level}-{seed}-{model}", pattern) for seed in range(seeds)]

    where, found = f"`{task}`, {level}", []
    robust = {pattern: all_seeds("robust", pattern) for pattern in PRESENCE_PATTERNS}
    baselines = {name: all_seeds(name) for name in ("image", "text")}
    if level == "complete":
        d, number = against(robust["both"], all_seeds("fusion"), "accuracy")
        found.append(Found(1, where, number, d.difference + 0.005, d.low + 0.005))
    for name, theirs in baselines.items():
        d, number = against(robust[name], theirs, "accuracy")
        found.append(Found(2, f"{where}, {name} only", number, d.difference + 0.01, d.low + 0.01))
    best = min(baselines.values(), key=lambda runs: seed_summary([run.nll for run in runs]).mean)
    d, number = against(robust["both"], best, "nll")
    found.append(Found(3, where, number, -d.difference, -d.high, kept=d.low <= 0))
    for pattern, runs in robust.items():
        error = seed_summary([run.ece for run in runs])
        bars = [run.ece_high if task == "ecnu" else 0.03 for run in runs]
        inside = sum(run.ece <= bar for run, bar in zip(runs, bars, strict=True))
        bar = seed_summary(bars).mean
        number = f"ECE {error.mean:.4f} ± {error.sd:.4f}, at most {bar:.4f}; {inside} of {len(runs)} runs"
        found.append(Found(4, f"{where}, {pattern}", number, bar - error.mean))
    return found


def against_ceilings(rows: Rows, task: str, names: list[str]) -> list[Found]:
    """Guarantee 7 for the seeds of one task at both:0.7."""
    found = []
    for pattern in PRESENCE_PATTERNS:
        bound = ceiling(task, pattern).accuracy
        score = seed_summary([predictions_of(rows, name, pattern).accuracy for name in names])
        number = f"{score.mean:.4f} ± {score.sd:.4f}, ceiling {bound:.4f}"
        found.append(Found(7, f"`{task}`, {pattern}", number, score.mean - bound + 0.015))
    return found


def distance(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    """The largest difference; infinite where a number is not finite."""
    apart = torch.stack([(a - b).abs().max().double() for a, b in zip(ours, theirs, strict=True)]).max()
    return float(apart.detach().nan_to_num(torch.inf))


def numerics(folder: Path) -> list[Found]:
    """Guarantees 5 and 6 on a trained model; two processes against one are in tests/training/test_distributed.py."""
    model, processor = load_model(folder)
    rows = make_controlled(folder.name.split("-")[0], size=8, seed=1)
    mask = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]] * 2, device=model.device)
    labels = torch.tensor(rows["label"][:], device=model.device)
    found = []
    for dtype, bar in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        model.to(dtype)
        batch = {key: value.to(model.device) for key, value in MultimodalCollator(processor)(list(rows)).items()}
        batch = {**batch, "pixel_values": batch["pixel_values"].to(dtype), "modality_mask": mask}
        batch.pop("labels")

        def logits_and_gradients(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            model.zero_grad()
            output = model(**inputs, labels=labels[: len(inputs["modality_mask"])])
            output.loss.backward()
            gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            return output.logits.detach(), torch.cat(gradients)

        plain = logits_and_gradients(batch)
        leak = 0.0
        noise = torch.randn(batch["pixel_values"][mask[:, 0] == 0].shape, generator=torch.Generator().manual_seed(0))
        for poison in (0.0, torch.nan, torch.inf, noise.to(dtype)):
            poisoned = {
                **batch,
                "pixel_values": batch["pixel_values"].clone(),
                "input_ids": batch["input_ids"].clone(),
            }
            poisoned["pixel_values"][mask[:, 0] == 0] = poison
            poisoned["input_ids"][mask[:, 1] == 0] = 5
            leak = max(leak, distance(plain, logits_and_gradients(poisoned)))
        slots = "zeros, noise, NaN, infinities, other words in missing slots"
        found.append(Found(5, f"{dtype}, {slots}", f"{leak:.1e}, must be 0", 0.0 - leak))
        alone = torch.cat([model(**{key: value[r : r + 1] for key, value in batch.items()}).logits for r in range(8)])
        padding = {"input_ids": processor.tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": 0}
        longer = {key: F.pad(batch[key], (0, 7), value=padding[key]) for key in padding if key in batch}
        padded = logits_and_gradients({**batch, **longer})[0]
        away = distance([alone, padded], [plain[0], plain[0]])
        found.append(Found(5, f"{dtype}, one row a batch, more padding", f"{away:.1e}, at most {bar:.0e}", bar - away))
        with mock.patch("torch.compiler.is_compiling", return_value=True):  # every row is computed, with blanks
            away = distance(plain, logits_and_gradients(batch))
        found.append(Found(6, f"{dtype}, skipping against all rows", f"{away:.1e}, at most {bar:.0e}", bar - away))
    return found


def two_ranks() -> Found:
    """Guarantee 6 in two processes, of which one sees no image: weights after three steps against those of one."""
    program = PAGE.parents[1] / "tests" / "two_ranks_missing.py"
    sys.path.insert(0, str(program.parent))
    from two_ranks_missing import step_weights

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    away = 0.0
    with TemporaryDirectory() as folder:
        subprocess.run([*command, folder], check=True)
        for vision, checkpointing in (("vit", False), ("vit", True), ("resnet", False)):
            expected = list(step_weights(vision, checkpointing, rank=None).values())
            for rank in range(2):
                weights = torch.load(Path(folder, f"{vision}-{checkpointing}-{rank}.pt")).values()
                away = max(away, distance(list(weights), expected))
    where = "torch.float64, two processes against one, plain and with gradient checkpointing"
    return Found(6, where, f"{away:.1e}, at most 1e-12", 1e-12 - away)


def summary(found: list[Found]) -> list[list[Any]]:
    """One row a guarantee: how many of its lines are kept, and the closest of them; one that is not kept stands first.

    Args:
        found: All lines.
    """
    rows = []
    for guarantee in sorted({line.guarantee for line in found}):
        own = [line for line in found if line.guarantee == guarantee]
        kept = sum(line.holds for line in own)
        worst = min(own, key=lambda line: line.margin)
        rows.append((kept == len(own), [guarantee, f"{kept} of {len(own)}", *worst.row()[1:4]]))
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


def main() -> None:
    """Train what has no row yet, check every guarantee, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two tasks, two levels, one seed, no tweets")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, on one core each")
    args = parser.parse_args()
    data = Path(os.environ["HF_MULTIMODAL_DATA"]) if "HF_MULTIMODAL_DATA" in os.environ else None
    levels = [level for level in LEVELS if not (args.quick and level == "both03")]
    tasks = TASKS[:2] if args.quick else TASKS
    grid: list[tuple[str, str, int, Path | None]]
    grid = [(task, level, 1 if args.quick else 5, None) for task in tasks for level in levels]
    if not args.quick:
        if data is None:
            parser.error("set HF_MULTIMODAL_DATA to the folder that holds ecnu/ and deit_tiny_patch16_224/.")
        grid += [("ecnu", level, 3, data) for level in LEVELS]
    ceilings = {task: [f"{task}-both07-{seed}-robust" for seed in range(5)] for task in TASKS if task not in MANY}
    ceilings |= {
        task: [f"{task}-many-{seed}" for seed in range(5 if task in TASKS else 1)]
        for task in CONTROLLED_TASKS
        if task not in ceilings
    }
    if args.quick:
        ceilings = {task: names[:1] for task, names in ceilings.items() if task in TASKS and task not in MANY}
    jobs: dict[str, list[str]] = {}
    for seed in range(5):
        for task, level, seeds, folder in reversed(grid):  # the tweets, of which most can be learned, first
            jobs |= jobs_of(task, level, seed, folder) if seed < seeds else {}
        robust = [*CONTROLLED, "--seed", str(seed), *LEVELS["both07"]]
        for task, names in ceilings.items():
            if seed < len(names) and names[seed] not in jobs:
                family = "warm" if task == WARM else "robust"
                jobs[names[seed]] = [family, *robust, "--data", f"controlled:{task}", *MANY.get(task, [])]
    alone = ["--dataloader_num_workers", "0"]  # a run has one core, which loading would only share
    cached = [*alone, "--feature_cache", f"{FOLDER}/features"]
    rows = run_series(
        FOLDER,
        jobs,
        run=train_and_predict,
        processes=args.processes,
        recipe=f"{recipe_digest()}, stack {KNOTS} {POOLED_ROWS:g} {SMOOTHNESS:g}",
        leaves=None,
        rows_file=ROWS,
        same_result=lambda name: cached if name.startswith("ecnu") and not name.endswith("text") else alone,
    )

    found = [line for task, level, seeds, _ in grid for line in compare(rows, task, level, seeds)]
    found += [Found(**line) for line in rows[NUMERICS]["metrics"]["numerics"]] + [two_ranks()]
    for task, names in ceilings.items():
        found += against_ceilings(rows, task, names)
    found.sort(key=lambda line: (line.holds, line.guarantee))  # what is not kept stands first
    whole = markdown_table([line.row() for line in found], ["guarantee", "where", "number", "margin", "kept"])
    print(whole)
    if args.quick:
        return
    table = markdown_table(summary(found), ["guarantee", "kept", "closest", "number", "margin"])
    update_region(PAGE, "guarantees", table)
    update_region(PAGE.with_name("guarantees.md"), "guarantees", whole)


if __name__ == "__main__":
    main()
