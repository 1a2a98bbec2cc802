"""hf-multimodal train-image-tokenizer --data controlled:retrieval --image_size 32 --output_dir runs/tokenizer

The recipe of an image tokenizer, from its flags to the folder that it leaves.
"""

from typing import Any

import torch
from transformers.utils import logging

from hf_multimodal.cli.dry_run import dry_run
from hf_multimodal.cli.progress import add_callbacks, print_scores
from hf_multimodal.cli.rows import training_rows
from hf_multimodal.cli.training_flags import parse_training
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.checks import first_reasons
from hf_multimodal.data.image_collators import ImageCollator
from hf_multimodal.data.pairs import unique_images
from hf_multimodal.evaluation.image_sheet import image_sheet
from hf_multimodal.evaluation.plots import plot_history
from hf_multimodal.evaluation.report import write_json
from hf_multimodal.hub.card import write_card
from hf_multimodal.inference.reconstruction import measure_reconstruction
from hf_multimodal.models.processing_text_to_image import to_images
from hf_multimodal.training.checkpoints import checkpoint_of
from hf_multimodal.training.generators import build_image_tokenizer
from hf_multimodal.training.image_tokenizer_trainer import ImageTokenizerTrainer
from hf_multimodal.training.run import fit, push_run, save_run
from hf_multimodal.training.run_folder import claim_output_dir
from hf_multimodal.training.run_record import run_record

logger = logging.get_logger(__name__)

SHOWN = 10  # images of the sheet


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        What `metrics.json` holds, or the report of a dry run; an empty dict on all ranks but the first.

    Raises:
        ValueError: If a split has no image.
    """
    flags = parse_training("train-image-tokenizer", argv)
    args, reading = flags.training, flags.reading
    with claim_output_dir(args, flags.run.dry_run) as claimed:
        data, bad_samples = training_rows(
            flags.source, reading, flags.run, folder=claimed, pairs=True, modality="image"
        )
        images = {}
        for name, rows in data.splits.items():
            images[str(name)] = unique_images(rows)
            if not len(images[str(name)]):
                reasons = first_reasons(bad_samples, rows, data.sources.get(str(name)))
                raise ValueError(f"{flags.source.data}: the split {str(name)!r} has no image.{reasons}")
        checkpoint = checkpoint_of(args, flags.run.accept_other_processes)
        model, processor = build_image_tokenizer(args.seed, reading.whole_images, **vars(flags.tokenizer))
        augment = ImageAugmentation(args.seed) if reading.augment else None
        collator = ImageCollator(processor, augment=augment)
        if flags.run.dry_run:
            return dry_run(flags, data, bad_samples, model, collator, images["train"])

        trainer = ImageTokenizerTrainer(
            model, args, collator, train_dataset=images["train"], eval_dataset=images.get("validation")
        )
        add_callbacks(trainer, flags.run.early_stopping_patience)
        model, record = fit(trainer, checkpoint)
        if not trainer.is_world_process_zero():
            return {}
        folder = save_run(trainer, model, bad_samples, flags.given)
        metrics: dict[str, Any] = {
            split: measure_reconstruction(
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
            "train_images": len(images["train"]),
            "bad_samples": len(bad_samples),
            **run_record(flags.values, data),
        }
        write_json(folder / "metrics.json", metrics)
        plot_history(trainer.state.log_history, folder / "history.png")
        shown = images["test"].select(range(min(SHOWN, len(images["test"]))))
        pixels = ImageCollator(processor)(list(shown))["pixel_values"]
        with torch.inference_mode():
            reconstruction = model(pixels.to(model.device)).reconstruction
        pages = [to_images(pixels, processor), to_images(reconstruction, processor)]
        image_sheet(pages, ["image", "reconstruction"], folder / "reconstructions.png")
        write_card(folder)
        following = f"train-text-to-image --data {flags.source.data} --image_tokenizer {folder}"
        print_scores(folder, metrics, following)
        push_run(args)
        return metrics
