"""A training run around `Trainer.train`: its checkpoints before it, and the folder that it leaves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments
from transformers.utils import logging

from hf_multimodal.data.checks import BadSample, write_bad_samples
from hf_multimodal.evaluation.bootstrap import bootstrap_intervals
from hf_multimodal.evaluation.report import write_run
from hf_multimodal.evaluation.thresholds import tune_thresholds
from hf_multimodal.hub.eval_results import EVAL_RESULTS
from hf_multimodal.hub.storage import replaced_files, write_text
from hf_multimodal.hub.upload import push_folder
from hf_multimodal.inference.prediction import predict_dataset
from hf_multimodal.training.checkpoints import remove_earlier_checkpoints, set_checkpoints_aside, step_of
from hf_multimodal.training.construction import parameter_counts
from hf_multimodal.training.trainer import MultimodalTrainer

logger = logging.get_logger(__name__)

EARLIER_RESULTS = ("metrics.json", "README.md", "predictions.csv", "presence.csv", EVAL_RESULTS)


def fit(trainer: MultimodalTrainer, checkpoint: str | None) -> tuple[Any, dict[str, Any]]:
    """Train, from a checkpoint where there is one.

    Args:
        trainer: Of the run; a peft model in it is merged afterwards.
        checkpoint: From `find_checkpoint`; without one the checkpoints of an earlier run are set aside.

    Returns:
        The model in full precision, and what `metrics.json` tells of every run.
    """
    args = trainer.args
    if checkpoint is None and args.process_index == 0:
        set_checkpoints_aside(str(args.output_dir))  # only now: a start that fails leaves them
    elif checkpoint is not None and args.process_index == 0:
        logger.warning("Training goes on from the checkpoint %s, after step %d.", checkpoint, step_of(checkpoint))
    resumed_from = None if checkpoint is None else step_of(checkpoint)  # it may be removed on the way
    output = trainer.train(resume_from_checkpoint=checkpoint)
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    state = trainer.state
    patience = stopped_early(trainer)
    if patience and args.process_index == 0:
        logger.warning(
            "Early stopping: %d evaluations without a better validation %s, so that training ended after step %d of "
            "%d. The model is that of step %s.",
            patience,
            args.metric_for_best_model,
            output.global_step,
            state.max_steps,
            state.best_global_step,
        )
    run = {
        "repo_id": trainer.hub_model_id,
        "seed": args.seed,
        "world_size": args.world_size,
        "examples_per_step": args.train_batch_size * args.world_size * args.gradient_accumulation_steps,
        "steps": output.global_step,
        "planned_steps": state.max_steps,
        "stopped_early": bool(patience),
        "resumed_from_step": resumed_from,
        "best_step": state.best_global_step,
        "epochs": state.epoch,
        "train_seconds": round(output.metrics["train_runtime"], 2),
        **parameter_counts(model),
    }
    if trainer.robust and trainer.args.fit_stack and trainer.eval_dataset is not None:
        run["untrained_heads"] = trainer.untrained_heads
    return (model.merge_and_unload() if hasattr(model, "merge_and_unload") else model), run


def stopped_early(trainer: MultimodalTrainer) -> int:
    """After how many evaluations without a better one a training ended before its last step; 0 where it did not."""
    if trainer.state.global_step >= trainer.state.max_steps:
        return 0
    stoppers = [each for each in trainer.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
    waited = [each.early_stopping_patience_counter for each in stoppers]
    return max((n for n, each in zip(waited, stoppers, strict=True) if n >= each.early_stopping_patience), default=0)


def save_run(
    trainer: MultimodalTrainer, model: PreTrainedModel, bad_samples: list[BadSample], given: dict[str, Any]
) -> Path:
    """Write what every run leaves whatever its task: model, processor, bad samples and `run.yaml`.

    Args:
        trainer: Of the run.
        model: The trained model.
        bad_samples: What the checks let pass.
        given: The arguments that differ from their defaults.

    Returns:
        The run's folder.
    """
    folder = Path(str(trainer.args.output_dir))
    with replaced_files(folder, last="config.json") as new:
        model.save_pretrained(new)
        trainer.data_collator.processor.save_pretrained(new)
    for name in EARLIER_RESULTS:  # they are not this model's
        (folder / name).unlink(missing_ok=True)
    remove_earlier_checkpoints(str(folder))
    write_bad_samples(folder / "bad_samples.csv", bad_samples)
    write_text(folder / "run.yaml", yaml.safe_dump(given, sort_keys=False, allow_unicode=True))
    return folder


def push_run(args: TrainingArguments) -> None:
    """Push the folder of a finished run, where `--push_to_hub` asks for it.

    Args:
        args: Say whether, where and as whom.
    """
    if args.push_to_hub and args.process_index == 0:
        folder = Path(str(args.output_dir)).absolute()
        commit = push_folder(
            folder,
            args.hub_model_id or folder.name,
            private=args.hub_private_repo,
            token=args.hub_token,
            revision=args.hub_revision,
            commit_message="End of training",
        )
        logger.info("pushed to %s", commit.commit_url)


def tune(model: Any, processor: Any, rows: Dataset, args: TrainingArguments) -> str:
    """Write into the configuration from which probability on each label holds, as the validation rows have it best.

    Args:
        model: The trained model, its stack fitted where it has one.
        processor: Its processor.
        rows: The validation rows; those without labels are left out.
        args: Batch size and workers.

    Returns:
        The thresholds in a sentence.
    """
    sizes = {"batch_size": args.per_device_eval_batch_size, "num_workers": args.dataloader_num_workers}
    found = predict_dataset(model, processor, rows, **sizes)
    known = found.labelled
    model.config.thresholds = tune_thresholds(found.probabilities[known], found.labels[known])
    chosen = zip(found.class_names, model.config.thresholds, strict=True)
    return f"thresholds, tuned on {known.sum()} validation rows: {', '.join(f'{name} {t:.3f}' for name, t in chosen)}"


def write_results(
    folder: Path,
    model: Any,
    processor: Any,
    splits: Mapping[Any, Dataset],
    trainer: MultimodalTrainer,
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """Predict the test and the validation rows, and write metrics, predictions and plots.

    Args:
        folder: Of the run.
        model: The trained classifier.
        processor: Its processor.
        splits: The rows.
        trainer: Of the run.
        record: What `metrics.json` tells of the run.

    Returns:
        What `metrics.json` holds.
    """
    predictions = {
        split: predict_dataset(
            model,
            processor,
            splits[split],
            batch_size=trainer.args.per_device_eval_batch_size,
            num_workers=trainer.args.dataloader_num_workers,
            show_progress=not trainer.args.disable_tqdm,
        )
        for split in ("test", "validation")
        if split in splits
    }
    intervals = {split: bootstrap_intervals(found) for split, found in predictions.items() if found.labelled.any()}
    extra = {"run": dict(record), "intervals": intervals}
    return write_run(folder, predictions, log_history=trainer.state.log_history, extra=extra)
