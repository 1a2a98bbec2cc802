"""hf-multimodal train-aligner --data controlled:retrieval --from_scratch --output_dir runs/aligner

The recipe of an aligner of images and captions, from its flags to the folder that it leaves.
"""

from typing import Any

from datasets import Dataset
from transformers.utils import logging

from hf_multimodal.cli.dry_run import dry_run
from hf_multimodal.cli.progress import add_callbacks, print_scores
from hf_multimodal.cli.rows import training_rows
from hf_multimodal.cli.training_flags import parse_training
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.checks import first_reasons
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.pair_collator import PairCollator
from hf_multimodal.data.pairs import group_pairs
from hf_multimodal.evaluation.plots import plot_history
from hf_multimodal.evaluation.report import write_json
from hf_multimodal.hub.card import write_card
from hf_multimodal.inference.retrieval_measures import measure_retrieval
from hf_multimodal.models import AlignerModel
from hf_multimodal.training.aligner_trainer import AlignerTrainer
from hf_multimodal.training.checkpoints import checkpoint_of
from hf_multimodal.training.construction import build_model_and_processor, check_best_metric
from hf_multimodal.training.feature_cache import cache_features
from hf_multimodal.training.run import fit, push_run, save_run
from hf_multimodal.training.run_folder import claim_output_dir
from hf_multimodal.training.run_record import pool_ceiling, run_record

logger = logging.get_logger(__name__)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        What `metrics.json` holds, or the report of a dry run; an empty dict on all ranks but the first.

    Raises:
        ValueError: If a split has no pair of an image and a caption.
    """
    flags = parse_training("train-aligner", argv)
    args, reading = flags.training, flags.reading
    if args.world_size > 1:
        args.dataloader_drop_last = True  # negatives are gathered from batches of one size
    with claim_output_dir(args, flags.run.dry_run) as claimed:
        columns = {"image_id_column": flags.pairs.image_id_column, "group_column": flags.pairs.group_by}
        data, bad_samples = training_rows(flags.source, reading, flags.run, folder=claimed, pairs=True, **columns)
        images: dict[str, Dataset] = {}
        incomplete: dict[str, int] = {}
        for name, rows in data.splits.items():
            split = str(name)
            images[split], incomplete[split] = group_pairs(rows)
            if incomplete[split]:
                logger.warning(
                    "%s: %d rows lack their image or their caption and are left out.", split, incomplete[split]
                )
            if not len(images[split]):
                reasons = first_reasons(bad_samples, rows, data.sources.get(split))
                raise ValueError(
                    f"{flags.source.data}: the split {split!r} has no pair of an image and a caption.{reasons}"
                )
        checkpoint = checkpoint_of(args, flags.run.accept_other_processes)
        check_best_metric(args, None)
        model, processor = build(flags, data)
        if flags.run.dry_run:
            collator = PairCollator(processor, captions_per_image=flags.aligner.captions_per_image, seed=args.seed)
            report = dry_run(flags, data, bad_samples, model, collator, images["train"])
            return report | {"incomplete_pairs": incomplete}

        augment = ImageAugmentation(args.seed) if reading.augment else None
        cache = cache_features(reading.feature_cache, model, processor, images, augment, reading.cached_augmentations)
        drawn = {"captions_per_image": flags.aligner.captions_per_image, "seed": args.seed}
        trainer = AlignerTrainer(
            model,
            args,
            PairCollator(processor, augment=augment, feature_cache=cache, **drawn),
            train_dataset=images["train"],
            eval_dataset=images.get("validation"),
        )
        add_callbacks(trainer, flags.run.early_stopping_patience)
        model, record = fit(trainer, checkpoint)
        if not trainer.is_world_process_zero():
            return {}
        folder = save_run(trainer, model, bad_samples, flags.given)
        metrics: dict[str, Any] = {
            split: measure_retrieval(
                model,
                processor,
                images[split],
                batch_size=args.per_device_eval_batch_size,
                num_workers=args.dataloader_num_workers,
                show_progress=not args.disable_tqdm,
            )
            for split in ("test", "validation")
            if split in images
        }
        metrics["run"] = record | {
            "train_rows": len(data.splits["train"]),
            "train_images": len(images["train"]),
            "incomplete_pairs": incomplete,
            "bad_samples": len(bad_samples),
            **run_record(flags.values, data),
        }
        bound = pool_ceiling(data.splits["test"], images["test"])
        if bound is not None:
            metrics["run"]["data"]["ceiling"] = bound
        write_json(folder / "metrics.json", metrics)
        plot_history(trainer.state.log_history, folder / "history.png")
        write_card(folder)
        print_scores(folder, metrics, f"evaluate --model {folder} --data {flags.source.data}")
        push_run(args)
        return metrics


def build(flags: Any, data: LoadedData) -> tuple[Any, Any]:
    """The model and its processor, for the texts of the data."""
    names = ("projection", "projection_dim", "loss", "margin", "triplet_mining", "logit_scale_init_value")
    return build_model_and_processor(
        AlignerModel,
        data.splits["train"]["text"],
        max_length=flags.reading.max_length,
        whole_images=flags.reading.whole_images,
        image_value_range=flags.reading.image_value_range,
        seed=flags.training.seed,
        **vars(flags.model),
        **{name: getattr(flags.aligner, name) for name in names},
    )
