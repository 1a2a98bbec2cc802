"""hf-multimodal train-text-to-image --data controlled:retrieval --image_tokenizer runs/tokenizer

The recipe of a text-to-image model, from its flags to the folder that it leaves.
"""

import json
from typing import Any

from transformers.utils import logging

from hf_multimodal.cli.dry_run import dry_run
from hf_multimodal.cli.progress import add_callbacks, print_scores
from hf_multimodal.cli.rows import training_rows
from hf_multimodal.cli.training_flags import parse_training
from hf_multimodal.data.checks import first_reasons
from hf_multimodal.data.image_collators import CaptionCollator
from hf_multimodal.evaluation.image_sheet import image_sheet
from hf_multimodal.evaluation.plots import plot_history
from hf_multimodal.evaluation.report import write_json
from hf_multimodal.hub.card import write_card
from hf_multimodal.inference.likelihood import measure_likelihood
from hf_multimodal.training.checkpoints import checkpoint_of
from hf_multimodal.training.feature_cache import images_of
from hf_multimodal.training.generators import build_text_to_image
from hf_multimodal.training.preparation import keep_complete, token_lengths
from hf_multimodal.training.run import fit, push_run, save_run
from hf_multimodal.training.run_folder import claim_output_dir
from hf_multimodal.training.run_record import run_record
from hf_multimodal.training.token_cache import TokenCache
from hf_multimodal.training.trainer import MultimodalTrainer

logger = logging.get_logger(__name__)

TEXTS, IMAGES = 8, 6  # of the sheet of samples


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        What `metrics.json` holds, or the report of a dry run; an empty dict on all ranks but the first.

    Raises:
        ValueError: If no image tokenizer is named, or a split has no image with a caption.
    """
    flags = parse_training("train-text-to-image", argv)
    args = flags.training
    if flags.text_to_image.image_tokenizer is None:
        raise ValueError(
            "image_tokenizer is needed, the folder or Hub name of one: `hf-multimodal train-image-tokenizer` makes it."
        )
    with claim_output_dir(args, flags.run.dry_run) as claimed:
        data, bad_samples = training_rows(flags.source, flags.reading, flags.run, folder=claimed, pairs=True)
        rows, incomplete = keep_complete(data.splits)
        for split, kept in rows.items():
            if not len(kept):
                reasons = first_reasons(bad_samples, data.splits[split], data.sources.get(str(split)))
                raise ValueError(
                    f"{flags.source.data}: the split {str(split)!r} has no image with a caption.{reasons}"
                )
        checkpoint = checkpoint_of(args, flags.run.accept_other_processes)
        value_range = flags.reading.image_value_range
        model, processor = build_text_to_image(
            rows=rows["train"],
            seed=args.seed,
            image_value_range=value_range,
            **vars(flags.text_to_image),
            **vars(flags.decoder),
        )
        processor.tokenizer.model_max_length = processor.prompt_length
        lengths = {str(name): token_lengths(kept, processor.tokenizer) for name, kept in rows.items()}
        cut = {name: int((found > processor.prompt_length).sum()) for name, found in lengths.items()}
        if any(cut.values()):
            logger.warning("texts that are cut to %d tokens: %s", processor.prompt_length, json.dumps(cut))
        if flags.run.dry_run:
            report = dry_run(flags, data, bad_samples, model, CaptionCollator(processor), rows["train"])
            return report | {"incomplete_pairs": incomplete}

        cache = None
        if flags.reading.feature_cache is not None:
            cells = images_of(list(rows.values()))
            parts = (model.image_tokenizer, processor.image_processor)
            cache = TokenCache(flags.reading.feature_cache, *parts, cells, value_range=value_range)
        collator = CaptionCollator(processor, token_cache=cache)
        args.prediction_loss_only = True
        trainer = MultimodalTrainer(
            model, args, collator, train_dataset=rows["train"], eval_dataset=rows.get("validation")
        )
        add_callbacks(trainer, flags.run.early_stopping_patience)
        model, record = fit(trainer, checkpoint)
        if not trainer.is_world_process_zero():
            return {}
        folder = save_run(trainer, model, bad_samples, flags.given)
        metrics: dict[str, Any] = {
            split: measure_likelihood(
                model,
                collator,
                rows[split],
                batch_size=args.per_device_eval_batch_size,
                num_workers=args.dataloader_num_workers,
                show_progress=not args.disable_tqdm,
            )
            for split in ("test", "validation")
            if split in rows
        }
        metrics["run"] = record | {
            "train_rows": len(rows["train"]),
            "incomplete_pairs": incomplete,
            "texts_cut": cut,
            "bad_samples": len(bad_samples),
            **run_record(flags.values, data),
        }
        write_json(folder / "metrics.json", metrics)
        plot_history(trainer.state.log_history, folder / "history.png")
        texts = list(dict.fromkeys(rows["test"]["text"][:]))[:TEXTS]
        drawn = model.eval().generate_images(processor, texts, IMAGES, seed=args.seed, truncation=True)
        pages = [drawn[start : start + IMAGES] for start in range(0, len(drawn), IMAGES)]
        image_sheet(pages, texts, folder / "samples.png")
        write_card(folder)
        print_scores(folder, metrics, f"generate --model {folder} --text {json.dumps(texts[0], ensure_ascii=False)}")
        push_run(args)
        return metrics
