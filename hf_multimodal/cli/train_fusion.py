"""hf-multimodal train-fusion --data controlled:unique --from_scratch --output_dir runs/unique

The recipe of a fused image+text classifier, or of one of a single modality, from flags to the folder that it leaves.
"""

from typing import Any

from transformers.utils import logging

from hf_multimodal.cli.arguments import TUNED
from hf_multimodal.cli.dry_run import dry_run
from hf_multimodal.cli.progress import add_callbacks, print_scores
from hf_multimodal.cli.rows import training_rows
from hf_multimodal.cli.training_flags import check_labels, fixed_threshold, parse_training
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.checks import BadSample
from hf_multimodal.data.collator import MultimodalCollator
from hf_multimodal.data.counts import presence
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.presence import write_presence
from hf_multimodal.evaluation.metrics import compute_metrics_for
from hf_multimodal.hub.card import write_card
from hf_multimodal.models import FusionForImageTextClassification
from hf_multimodal.training.checkpoints import checkpoint_of
from hf_multimodal.training.construction import build_model_and_processor, check_best_metric, label_config
from hf_multimodal.training.feature_cache import cache_features
from hf_multimodal.training.preparation import add_lengths
from hf_multimodal.training.run import fit, push_run, save_run, tune, write_results
from hf_multimodal.training.run_folder import claim_output_dir
from hf_multimodal.training.run_record import run_record
from hf_multimodal.training.trainer import MultimodalTrainer

logger = logging.get_logger(__name__)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        What `metrics.json` holds, or the report of a dry run; an empty dict on all ranks but the first.
    """
    flags = parse_training("train-fusion", argv)
    reads = flags.modality.modality
    with claim_output_dir(flags.training, flags.run.dry_run) as folder:
        groups = (flags.source, flags.reading, flags.run, flags.labels, flags.classes, flags.missing)
        data, bad_samples = training_rows(*groups, modality=reads, folder=folder)
        incomplete = int((~presence(data.splits["train"])).any(axis=1).sum())
        if reads == "both" and incomplete and flags.training.process_index == 0:
            logger.warning(
                "%d of %d training rows lack their image or their text. A fused classifier learns from zeros in their "
                "place and predicts badly from one side alone: train-robust-fusion trains one that is made for such "
                "rows, --complete_only leaves them out.",
                incomplete,
                len(data.splits["train"]),
            )
        if flags.run.dry_run:
            checkpoint_of(flags.training, flags.run.accept_other_processes)
            check_best_metric(flags.training, data.problem_type)
            model, processor = build(flags, data)
            collator = MultimodalCollator(processor)
            return dry_run(flags, data, bad_samples, model, collator, data.splits["train"])
        metrics = train(flags, data, bad_samples)
        push_run(flags.training)
        return metrics


def build(flags: Any, data: LoadedData) -> tuple[Any, Any]:
    """The model and its processor, for the classes and texts of the data."""
    check_labels(flags, data.problem_type)
    config = label_config(
        data,
        label_smoothing=flags.fusion.label_smoothing,
        class_weights=flags.fusion.class_weights,
        threshold=fixed_threshold(flags.fusion.threshold),
        scale_targets=not flags.fusion.no_target_scaling,
    )
    return build_model_and_processor(
        FusionForImageTextClassification,
        data.splits["train"]["text"],
        reads=flags.modality.modality,
        fusion=flags.fusion.fusion,
        hidden_size=flags.fusion.hidden_size,
        dropout=flags.fusion.dropout,
        max_length=flags.reading.max_length,
        whole_images=flags.reading.whole_images,
        image_value_range=flags.reading.image_value_range,
        seed=flags.training.seed,
        **vars(flags.model),
        **config,
    )


def train(flags: Any, data: LoadedData, bad_samples: list[BadSample]) -> dict[str, Any]:
    """Train on rows that are loaded, choose the best checkpoint, evaluate it, and write the run's folder.

    Args:
        flags: From `parse_training`.
        data: Checked splits.
        bad_samples: What the checks let pass.

    Returns:
        What `metrics.json` holds; an empty dict on all ranks but the first.
    """
    args, reading = flags.training, flags.reading
    checkpoint = checkpoint_of(args, flags.run.accept_other_processes)
    model, processor = build(flags, data)
    check_best_metric(args, data.problem_type)
    splits = add_lengths(data.splits, processor.tokenizer)
    augment = ImageAugmentation(args.seed) if reading.augment else None
    cache = cache_features(reading.feature_cache, model, processor, splits, augment, reading.cached_augmentations)
    trainer = MultimodalTrainer(
        model,
        args,
        MultimodalCollator(processor, augment=augment, feature_cache=cache),
        train_dataset=splits["train"],
        eval_dataset=splits.get("validation"),
        compute_metrics=compute_metrics_for(data.problem_type, list(data.id2label.values()), model.config.thresholds),
    )
    add_callbacks(trainer, flags.run.early_stopping_patience)
    model, record = fit(trainer, checkpoint)
    if not trainer.is_world_process_zero():
        return {}
    if flags.fusion.threshold == TUNED:
        print(tune(model, processor, data.splits["validation"], args))

    folder = save_run(trainer, model, bad_samples, flags.given)
    if flags.missing.missing is not None or flags.missing.eval_missing is not None:
        write_presence(folder / "presence.csv", data.splits)
    record |= {
        "modality": flags.modality.modality,
        "fusion": model.config.fusion if flags.modality.modality == "both" else None,
        "train_rows": len(data.splits["train"]),
        "bad_samples": len(bad_samples),
        **run_record(flags.values, data),
    }
    metrics = write_results(folder, model, processor, data.splits, trainer, record)
    write_card(folder)
    print_scores(folder, metrics, f"evaluate --model {folder} --data {flags.source.data}")
    return metrics
