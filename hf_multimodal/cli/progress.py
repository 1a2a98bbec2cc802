"""What a training shows of itself: one line an evaluation, and at the end the scores and the next command."""

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.training.trainer import MultimodalTrainer

# The scores that are shown of an evaluation, the first three of them that it has.
SHOWN: tuple[str, ...] = (
    "nll",
    "accuracy",
    "subset_accuracy",
    "macro_f1",
    "mse",
    "mae",
    "r2",
    "rsum",
    "image_to_text_recall_at_1",
)
SHOWN += ("text_to_image_recall_at_1", "psnr", "codes_in_use")
# The scores that stand in the table at the end, those that there are; each beside its baseline.
TABLE: tuple[str, ...] = (
    "accuracy",
    "majority_accuracy",
    "subset_accuracy",
    "majority_subset_accuracy",
    "macro_f1",
    "majority_macro_f1",
)
TABLE += ("mse", "mean_baseline_mse", "mae", "r2", "nll", "ece", "rsum", "image_to_text_recall_at_1")
TABLE += ("text_to_image_recall_at_1", "text_to_image_pool", "psnr", "codes_in_use", "nll_per_token")
TABLE += ("exact_match", "baseline_exact_match", "token_f1", "bleu_4", "most_frequent_bleu_4", "cider")
TABLE += ("most_frequent_cider",)


class EvaluationLines(TrainerCallback):
    """Prints one line an evaluation: epoch, training loss, a few scores, the best so far."""

    def __init__(self) -> None:
        self.train_loss: float | None = None
        self.best: tuple[float, float] | None = None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the training loss for the next line; print it where nothing is evaluated."""
        logs = kwargs.get("logs") or {}
        if "loss" in logs:
            self.train_loss = logs["loss"]
            if state.is_world_process_zero and args.eval_strategy == "no":
                tqdm.write(f"{_epoch(state)}  train loss {self.train_loss:.4f}")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print the line."""
        metrics = kwargs["metrics"]
        chosen = str(args.metric_for_best_model).removeprefix("eval_")
        value = metrics.get(f"eval_{chosen}")
        if value is not None and (self.best is None or (value > self.best[0]) == bool(args.greater_is_better)):
            self.best = (value, state.epoch or 0.0)
        if state.is_world_process_zero:
            names = [name for name in (chosen, *SHOWN) if f"eval_{name}" in metrics]
            scores = [f"{name} {metrics[f'eval_{name}']:.4f}" for name in dict.fromkeys(names)][:3]
            parts = [
                _epoch(state),
                *([] if self.train_loss is None else [f"train loss {self.train_loss:.4f}"]),
                *scores,
            ]
            if self.best is not None:
                parts.append(f"best {chosen} {self.best[0]:.4f} (epoch {self.best[1]:g})")
            tqdm.write("  ".join(parts))


def _flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by name; those of an aligner with their direction before them."""
    nested = {
        f"{way}_{name}": value for way, part in found.items() if isinstance(part, dict) for name, value in part.items()
    }
    return {**found, **nested}


def _epoch(state: TrainerState) -> str:
    return f"epoch {state.epoch or 0:g}/{state.num_train_epochs:g}"


class LoadReports(logging.Filter):
    """Turns transformers' report on a checkpoint into one line: its heads are left behind on purpose.

    Weights that a model lacks, or has in other sizes, are an error of ours, which names them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten a report; all else passes as it is."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", record.getMessage())
        found = re.match(r"(\w+) LOAD REPORT from: (\S+)", text)
        if found:
            unused, new = (len(re.findall(rf"\|\s*{kind}\b", text)) for kind in ("UNEXPECTED", "MISSING"))
            if not unused and not new:  # of weights of other sizes, which an error names as well
                return False
            left = f"{unused} entries of the checkpoint, as of its heads, are not used"
            made = f", and {new} of the model start anew" if new else ""
            record.msg, record.args = f"{found[1]} from {found[2]}: {left}{made}.", ()
        return True


@contextlib.contextmanager
def plain_messages() -> Iterator[None]:
    """Within, a load report is one line, and a warning is its message without the line of code that raised it."""
    reports, logger = LoadReports(), logging.getLogger("transformers.modeling_utils")
    usual, warnings.formatwarning = warnings.formatwarning, lambda message, *_: f"warning: {message}\n"  # type: ignore
    logger.addFilter(reports)
    try:
        yield
    finally:
        logger.removeFilter(reports)
        warnings.formatwarning = usual


class Bar(ProgressCallback):
    """The progress bar of transformers, without the dictionaries."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Leave it to `EvaluationLines`."""


def add_callbacks(trainer: MultimodalTrainer, patience: int) -> None:
    """Let a trainer stop early, and show lines in place of dictionaries.

    Args:
        trainer: The trainer.
        patience: Evaluations without a better one after which it stops; 0 never stops it.
    """
    if patience and trainer.args.load_best_model_at_end:
        trainer.add_callback(EarlyStoppingCallback(patience))
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(Bar())
    trainer.add_callback(EvaluationLines())


def print_scores(folder: Path, metrics: Mapping[str, Any], following: str) -> None:
    """Say what a run found, what its folder holds, and what to do next.

    Args:
        folder: Of the run.
        metrics: What its `metrics.json` holds.
        following: The next command.
    """
    splits = [split for split in ("test", "validation") if split in metrics]
    flat = {split: _flat(metrics[split]) for split in splits}
    columns = [name for name in TABLE if any(name in found for found in flat.values())]
    rows = [[split, *(flat[split].get(name, "") for name in columns)] for split in splits]
    if rows:
        print("\n" + markdown_table(rows, ["split", *columns]))
    what = "predictions.csv, " if (folder / "predictions.csv").is_file() else ""
    print(f"\n{folder} holds the model, its card README.md, {what}history.png and all numbers in metrics.json.")
    print(f"Next: hf-multimodal {following}")
