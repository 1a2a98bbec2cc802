"""One training run of an aligner, from its flags to the folder that it leaves."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import logging

from hf_multimodal.cli.aligner_arguments import AlignerDataArguments, AlignerModelArguments
from hf_multimodal.cli.dry_run import dry_run
from hf_multimodal.cli.train_fusion import finish_run, fit, push_run, save_run, trainer_options
from hf_multimodal.cli.training_arguments import DataArguments
from hf_multimodal.cli.training_command_line import parse_training_arguments
from hf_multimodal.data.checks import first_reasons
from hf_multimodal.data.pairs import group_pairs
from hf_multimodal.evaluation.plots import plot_history
from hf_multimodal.evaluation.report import write_json
from hf_multimodal.inference.retrieval_measures import measure_retrieval
from hf_multimodal.models import MultimodalProcessor
from hf_multimodal.training.aligner_trainer import AlignerTrainer
from hf_multimodal.training.checkpoints import checkpoint_of
from hf_multimodal.training.construction import build_for_data, check_best_metric
from hf_multimodal.training.preparation import prepare_training_data
from hf_multimodal.training.run_folder import claim_output_dir
from hf_multimodal.training.run_record import pool_ceiling, run_facts

logger = logging.get_logger(__name__)


def train_aligner(argv: list[str] | None = None, description: str | None = None) -> dict[str, Any]:
    """Do what `scripts/train_aligner.py` does.

    Args:
        argv: Its flags; None means those of the process.
        description: Docstring of the script, shown by `--help`.

    Returns:
        What `metrics.json` holds, or the report of a dry run; an empty dict on all ranks but the first.

    Raises:
        ValueError: If a split has no pair of an image and a caption.
    """
    model_args, data_args, training_args, given = parse_training_arguments(
        argv, description, AlignerModelArguments, AlignerDataArguments
    )
    assert isinstance(model_args, AlignerModelArguments)
    if training_args.world_size > 1:
        training_args.dataloader_drop_last = True  # negatives are gathered from batches of one size
    with claim_output_dir(training_args, data_args.dry_run) as folder:
        return _train(model_args, data_args, training_args, given, folder)


def _train(
    model_args: AlignerModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    given: dict[str, Any],
    folder: Path | None,
) -> dict[str, Any]:
    data, bad_samples = prepare_training_data(data_args, "both", folder, labelled=False)
    images: dict[str, Dataset] = {}
    incomplete: dict[str, int] = {}
    for name, rows in data.splits.items():
        split = str(name)
        images[split], incomplete[split] = group_pairs(rows)
        if incomplete[split]:
            logger.warning("%s: %d rows lack their image or their caption and are left out.", split, incomplete[split])
        if not len(images[split]):
            reasons = first_reasons(bad_samples, rows, data.sources.get(split))
            raise ValueError(f"{data_args.data}: the split {split!r} has no pair of an image and a caption.{reasons}")
    if data_args.dry_run:
        report = dry_run(model_args, data_args, training_args, data, bad_samples, images["train"])
        return report | {"incomplete_pairs": incomplete}

    checkpoint = checkpoint_of(training_args, model_args.accept_other_processes)
    model, processor = build_for_data(model_args, data_args, data, training_args.seed)
    trainer = build_trainer(model_args, data_args, training_args, images, model, processor)
    model, run = fit(trainer, checkpoint, model_args)
    if not trainer.is_world_process_zero():
        return {}
    folder = save_run(trainer, model, bad_samples, given)
    found: dict[str, Any] = {
        split: measure_retrieval(
            model,
            processor,
            images[split],
            batch_size=training_args.per_device_eval_batch_size,
            num_workers=training_args.dataloader_num_workers,
            show_progress=not training_args.disable_tqdm,
        )
        for split in ("test", "validation")
        if split in images
    }
    found["run"] = run | {
        "train_rows": len(data.splits["train"]),
        "train_images": len(images["train"]),
        "incomplete_pairs": incomplete,
        "bad_samples": len(bad_samples),
        **run_facts(model_args, data_args, training_args, data),
    }
    bound = pool_ceiling(data.splits["test"], images["test"])
    if bound is not None:
        found["run"]["data"]["ceiling"] = bound
    write_json(folder / "metrics.json", found)
    plot_history(trainer.state.log_history, folder / "history.png")
    finish_run(folder, found)
    push_run(training_args)
    return found


def build_trainer(
    model_args: AlignerModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    images: dict[str, Dataset],
    model: PreTrainedModel,
    processor: MultimodalProcessor,
) -> AlignerTrainer:
    """Build the trainer of a run.

    Args:
        model_args: Learning rate of the head, captions, gradient caching, early stopping.
        data_args: Augmentation, feature cache.
        training_args: As transformers has them.
        images: By split, from `group_pairs`; `train` and `validation` are used.
        model: From `build_for_data`.
        processor: From `build_for_data`.

    Returns:
        The trainer, ready for `train()`.

    Raises:
        ValueError: If the best model is to be chosen by a metric that there is not.
    """
    check_best_metric(training_args, None)
    options = trainer_options(model_args, data_args, training_args, images, model, processor)
    return AlignerTrainer(**options, cache_chunk_size=model_args.cache_chunk_size)
