"""One training run from its arguments to the folder that it leaves."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainingArguments
from transformers.utils import logging

from hf_multimodal.cli.dry_run import dry_run
from hf_multimodal.cli.training_arguments import TUNED, DataArguments, ModelArguments
from hf_multimodal.cli.training_command_line import parse_training_arguments
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.checks import BadSample, write_bad_samples
from hf_multimodal.data.collator import MultimodalCollator
from hf_multimodal.data.counts import presence
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.presence import write_presence
from hf_multimodal.evaluation.bootstrap import bootstrap_intervals
from hf_multimodal.evaluation.metrics import compute_metrics_for
from hf_multimodal.evaluation.report import write_run
from hf_multimodal.evaluation.thresholds import tune_thresholds
from hf_multimodal.hub.card import write_card
from hf_multimodal.hub.eval_results import EVAL_RESULTS
from hf_multimodal.hub.storage import replaced_files, write_text
from hf_multimodal.hub.upload import push_folder
from hf_multimodal.inference.prediction import predict_dataset
from hf_multimodal.models import MultimodalProcessor
from hf_multimodal.training.checkpoints import (
    checkpoint_of,
    remove_earlier_checkpoints,
    set_checkpoints_aside,
    step_of,
)
from hf_multimodal.training.construction import build_for_data, check_best_metric, parameter_counts
from hf_multimodal.training.feature_cache import FeatureCache, images_of, reading_states
from hf_multimodal.training.preparation import add_lengths, prepare_training_data
from hf_multimodal.training.run_folder import claim_output_dir
from hf_multimodal.training.run_record import run_facts
from hf_multimodal.training.stacking import fit_stack, set_prior
from hf_multimodal.training.trainer import MultimodalTrainer

logger = logging.get_logger(__name__)


EARLIER_RESULTS = ("metrics.json", "README.md", "predictions.csv", "presence.csv", EVAL_RESULTS)


def train(argv: list[str] | None = None, description: str | None = None) -> dict[str, Any]:
    """Do what `scripts/train_fusion.py` does.

    Args:
        argv: Its flags; None means those of the process.
        description: Docstring of the script, shown by `--help`.

    Returns:
        What `metrics.json` holds, or the report of a dry run; an empty dict on all ranks but the first.
    """
    model_args, data_args, training_args, given = parse_training_arguments(argv, description)
    with claim_output_dir(training_args, data_args.dry_run) as folder:
        data, bad_samples = prepare_training_data(data_args, model_args.modality, folder)
        if model_args.modality == "both" and training_args.process_index == 0:
            warn_of_incomplete_rows(data.splits["train"])
        if data_args.dry_run:
            return dry_run(model_args, data_args, training_args, data, bad_samples)
        metrics = run_training(model_args, data_args, training_args, data, bad_samples, given)
        push_run(training_args)
        return metrics


def warn_of_incomplete_rows(rows: Dataset) -> None:
    """Say before the training of a plain fused classifier that a robust one is made for rows such as these.

    Args:
        rows: The training rows.
    """
    incomplete = int((~presence(rows)).any(axis=1).sum())
    if incomplete:
        logger.warning(
            "%d of %d training rows lack their image or their text. A fused classifier learns from zeros in their "
            "place and answers badly from one side alone: scripts/train_robust_fusion.py trains one that is made for "
            "such rows, --complete_only leaves them out.",
            incomplete,
            len(rows),
        )


def build_trainer(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    data: LoadedData,
    model: PreTrainedModel,
    processor: MultimodalProcessor,
) -> MultimodalTrainer:
    """Build the trainer of a run.

    Args:
        model_args: Learning rate of the head, oversampling, early stopping.
        data_args: Augmentation.
        training_args: As transformers has them.
        data: Its splits `train` and `validation` are used.
        model: From `build_for_data`.
        processor: From `build_for_data`.

    Returns:
        The trainer, ready for `train()`.

    Raises:
        ValueError: If the best model is to be chosen by a metric that there is not.
    """
    check_best_metric(training_args, data.problem_type)
    splits = add_lengths(data.splits, processor.tokenizer)
    options = trainer_options(model_args, data_args, training_args, splits, model, processor)
    return MultimodalTrainer(
        **options,
        eval_collator=MultimodalCollator(processor, on_empty="keep", states=options["data_collator"].states),
        compute_metrics=compute_metrics_for(data.problem_type, list(data.id2label.values()), model.config.thresholds),
        oversample=model_args.oversample,
    )


def trainer_options(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    splits: Mapping[Any, Dataset],
    model: PreTrainedModel,
    processor: MultimodalProcessor,
) -> dict[str, Any]:
    """What the trainers of classifiers and of aligners are given alike.

    Args:
        model_args: Learning rate of the head, average of the weights, early stopping.
        data_args: Augmentation, states of frozen layers.
        training_args: As transformers has them.
        splits: `train` and `validation` are used.
        model: From `build_for_data`.
        processor: From `build_for_data`.
    """
    callbacks = []
    if model_args.early_stopping_patience and training_args.load_best_model_at_end:
        callbacks.append(EarlyStoppingCallback(model_args.early_stopping_patience))
    augment = ImageAugmentation(training_args.seed) if data_args.augment else None
    states = None
    if data_args.feature_cache is not None:
        taught, measured = (images_of([splits[name]]) if name in splits else [] for name in ("train", "validation"))
        kept: dict[str, Any] = {"images": taught + measured}
        if augment is not None:  # versions that do not depend on the seed, for all runs
            versions = data_args.cached_augmentations
            kept = {"images": measured, "augmented": taught, "augment": ImageAugmentation(0), "versions": versions}
        kept["value_range"] = processor.image_value_range
        states = FeatureCache(data_args.feature_cache, model, processor.image_processor, **kept)
    assert model_args.head_learning_rate is not None
    drawn = {"seed": training_args.seed, "augment": augment, "states": states}
    return {
        "model": model,
        "args": training_args,
        "data_collator": model_args.collator(processor, splits["train"], **drawn),
        "train_dataset": splits["train"],
        "eval_dataset": splits.get("validation"),
        "callbacks": callbacks,
        "head_learning_rate": model_args.head_learning_rate,
        "ema_decay": model_args.ema_decay,
    }


def run_training(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    data: LoadedData,
    bad_samples: list[BadSample],
    given: dict[str, Any],
) -> dict[str, Any]:
    """Train, choose the best checkpoint, evaluate it on validation and test, and write the run's folder.

    Args:
        model_args: Choices of the model.
        data_args: Choices of the data.
        training_args: As transformers has them.
        data: Checked splits.
        bad_samples: What the checks let pass.
        given: The arguments that differ from their defaults; `run.yaml` repeats the run with `--config`.

    Returns:
        What `metrics.json` holds; an empty dict on all ranks but the first.
    """
    checkpoint = checkpoint_of(training_args, model_args.accept_other_processes)
    model, processor = build_for_data(model_args, data_args, data, training_args.seed)
    trainer = build_trainer(model_args, data_args, training_args, data, model, processor)
    model, run = fit(trainer, checkpoint, model_args)
    if model_args.fits_stack:
        run["untrained_heads"] = fit_stack(
            model,
            processor,
            data.splits["validation"],
            data.splits["train"]["label"][:],
            batch_size=training_args.per_device_eval_batch_size,
            num_workers=training_args.dataloader_num_workers,
        )
    elif hasattr(model, "stack"):
        set_prior(model, data.splits["train"]["label"][:])
    if not trainer.is_world_process_zero():
        return {}
    if model_args.threshold == TUNED:
        tune(model, processor, data.splits["validation"], training_args)

    folder = save_run(trainer, model, bad_samples, given)
    if data_args.missing is not None or data_args.eval_missing is not None:
        write_presence(folder / "presence.csv", data.splits)
    predictions = {
        split: predict_dataset(
            model,
            processor,
            data.splits[split],
            batch_size=training_args.per_device_eval_batch_size,
            num_workers=training_args.dataloader_num_workers,
            show_progress=not training_args.disable_tqdm,
        )
        for split in ("test", "validation")
        if split in data.splits
    }
    run |= {
        "modality": model_args.modality,
        "fusion": model.config.fusion if model_args.modality == "both" else None,
        "train_rows": len(data.splits["train"]),
        "bad_samples": len(bad_samples),
        **run_facts(model_args, data_args, training_args, data),
    }
    intervals = {split: bootstrap_intervals(found) for split, found in predictions.items() if found.labelled.any()}
    extra = {"run": run, "intervals": intervals}
    metrics = write_run(folder, predictions, log_history=trainer.state.log_history, extra=extra)
    finish_run(folder, metrics)
    return metrics


def tune(model: Any, processor: MultimodalProcessor, rows: Dataset, training_args: TrainingArguments) -> None:
    """Write into the configuration from which probability on each label holds, as the validation rows have it best.

    Args:
        model: The trained model, its stack fitted where it has one.
        processor: Its processor.
        rows: The validation rows; those without labels are left out.
        training_args: Batch size and workers.
    """
    sizes = {"batch_size": training_args.per_device_eval_batch_size}
    found = predict_dataset(model, processor, rows, num_workers=training_args.dataloader_num_workers, **sizes)
    known = found.labelled
    model.config.thresholds = tune_thresholds(found.probabilities[known], found.labels[known])
    chosen = zip(found.class_names, model.config.thresholds, strict=True)
    print(f"thresholds, tuned on {known.sum()} validation rows: {', '.join(f'{name} {t:.3f}' for name, t in chosen)}")


def fit(trainer: MultimodalTrainer, checkpoint: str | None, model_args: ModelArguments) -> tuple[Any, dict[str, Any]]:
    """Train, from a checkpoint where there is one.

    Args:
        trainer: Its collator's states are read in place of images.
        checkpoint: From `find_checkpoint`; without one the checkpoints of an earlier run are set aside.
        model_args: Whether there are LoRA matrices to merge.

    Returns:
        The model in full precision, and what `metrics.json` tells of every run.
    """
    args, states = trainer.args, trainer.data_collator.states
    if checkpoint is None and args.process_index == 0:
        set_checkpoints_aside(str(args.output_dir))  # only now: a start that fails leaves them
    elif checkpoint is not None and args.process_index == 0:
        logger.warning("Training goes on from the checkpoint %s, after step %d.", checkpoint, step_of(checkpoint))
    resumed_from = None if checkpoint is None else step_of(checkpoint)  # it may be removed on the way
    vision_model = trainer.model.vision_model
    with contextlib.nullcontext() if states is None else reading_states(vision_model, states.layers):
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
    return (model.merge_and_unload() if model_args.lora_rank else model), run


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


def finish_run(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write the card of a run and say what it found and where.

    Args:
        folder: Of the run.
        metrics: What its `metrics.json` holds.
    """
    write_card(folder)
    for split in ("test", "validation"):
        if split in metrics:
            scores = ", ".join(
                f"{name} {value:.4f}" for name, value in metrics[split].items() if isinstance(value, float)
            )
            print(f"{split}: {scores}")
    print(f"{folder} holds the model, its card README.md and all numbers in metrics.json.")


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
