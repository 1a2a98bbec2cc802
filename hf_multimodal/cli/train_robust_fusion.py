"""hf-multimodal train-robust-fusion --data controlled:unique --from_scratch --missing both:0.7

The recipe of an image+text classifier that stays right when an example lacks its image or its text.
"""

from typing import Any

from hf_multimodal.cli.arguments import TUNED
from hf_multimodal.cli.baselines import baseline_rows, compare_with_baselines, parse_baselines
from hf_multimodal.cli.dry_run import dry_run
from hf_multimodal.cli.progress import add_callbacks, print_scores
from hf_multimodal.cli.rows import training_rows
from hf_multimodal.cli.training_flags import check_labels, fixed_threshold, parse_training
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.checks import BadSample
from hf_multimodal.data.collator import MultimodalCollator
from hf_multimodal.data.images import value_range_of
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.presence import SHARES, write_presence
from hf_multimodal.evaluation.metrics import compute_metrics_for
from hf_multimodal.hub.card import write_card
from hf_multimodal.models import MultimodalProcessor, RobustFusionForImageTextClassification
from hf_multimodal.training.checkpoints import checkpoint_of
from hf_multimodal.training.construction import build_model_and_processor, check_best_metric, label_config
from hf_multimodal.training.feature_cache import cache_features
from hf_multimodal.training.preparation import add_lengths
from hf_multimodal.training.robust import dropout_of
from hf_multimodal.training.run import fit, push_run, save_run, tune, write_results
from hf_multimodal.training.run_folder import claim_output_dir
from hf_multimodal.training.run_record import run_record
from hf_multimodal.training.trainer import MultimodalTrainer


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        What `metrics.json` holds, with `--baselines` also `baselines`, or the report of a dry run; an empty dict on
        all ranks but the first.
    """
    flags = parse_training("train-robust-fusion", argv)
    output_dir = str(flags.training.output_dir)
    if flags.training.modality_dropout is None:
        flags.training.modality_dropout = flags.values["modality_dropout"] = list(SHARES)
    if flags.robust.from_fusion is not None:  # which brings its processor, by whose range the images are checked
        brought = MultimodalProcessor.from_pretrained(flags.robust.from_fusion, trust_remote_code=False)
        value_range = value_range_of(brought)
        flags.reading.image_value_range = None if value_range is None else list(value_range)
    baselines = parse_baselines(flags.given, output_dir) if flags.robust.baselines else {}
    with claim_output_dir(flags.training, flags.run.dry_run) as folder:
        groups = (flags.source, flags.reading, flags.run, flags.labels, flags.classes, flags.missing)
        data, bad_samples = training_rows(*groups, folder=folder)
        rows = baseline_rows(data, bad_samples) if baselines else {}
        if flags.run.dry_run:
            checkpoint_of(flags.training, flags.run.accept_other_processes)
            check_best_metric(flags.training, data.problem_type)
            model, processor = build(flags, data)
            dropout = dropout_of(data.splits["train"], flags.training.seed, flags.training.modality_dropout)
            collator = MultimodalCollator(processor, modality_dropout=dropout)
            return dry_run(flags, data, bad_samples, model, collator, data.splits["train"])
        metrics = train(flags, data, bad_samples)
        if baselines:
            metrics = metrics | compare_with_baselines(baselines, rows, bad_samples, output_dir)
            if metrics:
                write_card(output_dir)
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
        RobustFusionForImageTextClassification,
        data.splits["train"]["text"],
        from_fusion=flags.robust.from_fusion,
        unimodal_loss_weight=flags.robust.unimodal_loss_weight,
        missing_embeddings=not flags.robust.no_missing_embeddings,
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
    trainer = MultimodalTrainer(  # which hides modalities from the joint branch, and fits the stack at the end
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
        "modality": "both",
        "fusion": model.config.fusion,
        "train_rows": len(data.splits["train"]),
        "bad_samples": len(bad_samples),
        **run_record(flags.values, data),
    }
    metrics = write_results(folder, model, processor, data.splits, trainer, record)
    write_card(folder)
    print_scores(folder, metrics, f"evaluate --model {folder} --data {flags.source.data}")
    return metrics
