"""hf-multimodal train-vision-language --data controlled:questions --from_aligner runs/aligner

The recipe of a vision-language model, from its flags to the folder that it leaves.
"""

import copy
import json
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from transformers.utils import logging

from hf_multimodal.cli.dry_run import dry_run
from hf_multimodal.cli.generator_arguments import CHATML
from hf_multimodal.cli.progress import add_callbacks, print_scores
from hf_multimodal.cli.rows import training_rows
from hf_multimodal.cli.training_flags import parse_training
from hf_multimodal.data.checks import first_reasons
from hf_multimodal.data.collator import NO_LABEL
from hf_multimodal.data.conversation_collator import ConversationCollator
from hf_multimodal.data.conversations import with_captions_as_answers, without_lost_images
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.pairs import group_pairs
from hf_multimodal.evaluation.image_sheet import image_sheet
from hf_multimodal.evaluation.plots import plot_history
from hf_multimodal.evaluation.report import write_json
from hf_multimodal.hub.card import write_card
from hf_multimodal.hub.runs import read_json
from hf_multimodal.inference.answering import (
    answer,
    measure_answers,
    measure_captions,
    most_frequent,
    question_prior,
    turns_of,
)
from hf_multimodal.models.processing_vision_language import CHAT_TEMPLATE
from hf_multimodal.training.checkpoints import checkpoint_of, checkpoints
from hf_multimodal.training.freezing import freeze_layers
from hf_multimodal.training.lora import add_lora
from hf_multimodal.training.preparation import keep_complete
from hf_multimodal.training.run import fit, push_run, save_run
from hf_multimodal.training.run_folder import claim_output_dir
from hf_multimodal.training.run_record import run_record
from hf_multimodal.training.trainer import MultimodalTrainer
from hf_multimodal.training.vision_language import build_vision_language

logger = logging.get_logger(__name__)

STAGE_1 = "stage_1"  # folder of the first stage within that of the run
SHOWN = 8  # answers of the card


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        What `metrics.json` holds, or the report of a dry run; an empty dict on all ranks but the first.

    Raises:
        ValueError: If a split has no conversation that can be learned from or scored.
    """
    flags = parse_training("train-vision-language", argv)
    args, chosen, captions = flags.training, flags.vision_language, flags.reading.task == "caption"
    args.prediction_loss_only = True
    if chosen.stage == "projector":
        args = first_stage(args, chosen)
    with claim_output_dir(args, flags.run.dry_run) as claimed:
        columns: dict[str, Any] = {"pairs": True}
        if not captions:
            columns = {"conversations": True, "answer_column": flags.columns.answer_column}
        data, bad_samples = training_rows(
            flags.source,
            flags.reading,
            flags.run,
            folder=claimed,
            group_column=flags.columns.group_by,
            **columns,
        )
        rows, incomplete = conversations_of(data.splits, flags.reading)
        model, processor = build(flags, rows["train"], chosen.from_run)
        collator = ConversationCollator(processor)
        rows, lengths = fitting(collator, rows)
        for split, kept in rows.items():
            if not len(kept):
                reasons = first_reasons(bad_samples, data.splits[split], data.sources.get(str(split)))
                raise ValueError(f"{flags.source.data}: the split {str(split)!r} has no conversation left.{reasons}")
        if flags.run.dry_run:
            prepare(flags, model, processor, chosen.stage)
            report = dry_run(flags, data, bad_samples, model, collator, rows["train"], lengths["rows_cut"])
            if args.process_index == 0:
                print(f"\n{marked(collator, rows['train'][0])}")
            return report | {"incomplete_pairs": incomplete, **lengths}

        stage_1 = None
        if chosen.stage == "both":
            stage_1 = learn_projector(flags, model, processor, collator, rows)
            model, processor = build(flags, rows["train"], str(Path(str(args.output_dir), STAGE_1)))
            collator = ConversationCollator(processor)
        begun = stage_1 is None or checkpoints(str(args.output_dir))
        checkpoint = checkpoint_of(args, flags.run.accept_other_processes) if begun else None
        model = prepare(flags, model, processor, "projector" if chosen.stage == "projector" else "decoder")
        trainer = make_trainer(model, args, collator, rows, flags)
        model, record = fit(trainer, checkpoint)
        if not trainer.is_world_process_zero():
            return {}
        folder = save_run(trainer, model, bad_samples, flags.given)
        model.eval()
        metrics: dict[str, Any] = {
            split: measure(flags, model, collator, rows, data, split)
            for split in ("test", "validation")
            if split in rows
        }
        metrics["run"] = record | {
            "train_rows": len(rows["train"]),
            "stage": chosen.stage,
            "task": flags.reading.task,
            "incomplete_pairs": incomplete,
            **lengths,
            "bad_samples": len(bad_samples),
            **run_record(flags.values, data),
        }
        if stage_1 is not None:
            metrics["run"]["stage_1"] = stage_1
            shutil.rmtree(folder / STAGE_1)
        metrics["samples"] = write_samples(model, collator, rows["test"], folder / "answers.png")
        write_json(folder / "metrics.json", metrics)
        plot_history(trainer.state.log_history, folder / "history.png")
        write_card(folder)
        print_scores(
            folder, metrics, f"ask --model {folder} --image FILE {json.dumps(metrics['samples'][0]['question'])}"
        )
        push_run(args)
        return metrics


def conversations_of(splits: DatasetDict, reading: Any) -> tuple[DatasetDict, dict[str, int]]:
    """The rows with `messages`, and how many of each split have nothing to learn or score."""
    if reading.task == "caption":
        kept, incomplete = keep_complete(splits)
        return DatasetDict({s: with_captions_as_answers(rows, reading.prompt) for s, rows in kept.items()}), incomplete
    found = DatasetDict({split: without_lost_images(rows) for split, rows in splits.items()})
    lost = {str(split): len(splits[split]) - len(rows) for split, rows in found.items()}
    if any(lost.values()):
        logger.warning("rows without a conversation that can be read are left out: %s", json.dumps(lost))
    return found, lost


def build(flags: Any, rows: Dataset, from_run: str | None) -> tuple[Any, Any]:
    """The model and its processor, before anything is frozen."""
    chosen = flags.vision_language
    parts = {name: getattr(chosen, name) for name in ("vision_model", "from_aligner", "text_model")}
    if chosen.chat_template is not None:
        file = Path(chosen.chat_template)
        chatml = chosen.chat_template == CHATML
        parts["chat_template"] = CHAT_TEMPLATE if chatml else file.read_text(encoding="utf-8")
    return build_vision_language(
        rows["text"][:],
        **(parts if from_run is None else {}),
        from_run=from_run,
        **vars(flags.decoder),
        max_length=flags.reading.max_length,
        whole_images=flags.reading.whole_images,
        seed=flags.training.seed,
    )


def prepare(flags: Any, model: Any, processor: Any, stage: str) -> Any:
    """Freeze what does not learn in a stage; with LoRA the decoder's stage gets its matrices."""
    if stage != "decoder" or flags.vision_language.freeze_vision:
        freeze_layers(model, "vision", "all")
    if stage != "decoder":
        freeze_layers(model, "text", "all")
    elif flags.vision_language.lora_rank:
        new = [token for token in processor.added_tokens if token != processor.image_token_id]
        return add_lora(model, flags.vision_language.lora_rank, new)
    return model


def first_stage(args: Any, chosen: Any) -> Any:
    """The training arguments of the stage in which the projector learns alone."""
    args = copy.copy(args)
    args.num_train_epochs, args.head_learning_rate = chosen.projector_epochs, chosen.projector_learning_rate
    args.max_steps = -1
    return args


def make_trainer(model: Any, args: Any, collator: Any, rows: DatasetDict, flags: Any) -> MultimodalTrainer:
    """The trainer of a stage."""
    trainer = MultimodalTrainer(
        model, args, collator, train_dataset=rows["train"], eval_dataset=rows.get("validation")
    )
    add_callbacks(trainer, flags.run.early_stopping_patience)
    return trainer


def learn_projector(flags: Any, model: Any, processor: Any, collator: Any, rows: DatasetDict) -> dict[str, Any]:
    """The first stage, in a folder of its own, from which the second starts; of a resumed run only what lacks of it.

    Returns:
        What the stage tells of itself: steps, seconds, parameters.
    """
    args = first_stage(flags.training, flags.vision_language)
    folder = Path(str(args.output_dir), STAGE_1)
    told = folder / "metrics.json"
    resumed = args.resume_from_checkpoint is not None
    if resumed and told.is_file():
        return read_json(told)["run"]
    args.output_dir = str(folder)
    args.resume_from_checkpoint = "true" if resumed and checkpoints(str(folder)) else None
    prepare(flags, model, processor, "projector")
    trainer = make_trainer(model, args, collator, rows, flags)
    model, record = fit(trainer, checkpoint_of(args, flags.run.accept_other_processes))
    if trainer.is_world_process_zero():
        save_run(trainer, model, [], {})
        write_json(told, {"run": record})
    trainer.accelerator.wait_for_everyone()
    return record


def measure(flags: Any, model: Any, collator: Any, rows: DatasetDict, data: LoadedData, split: str) -> dict[str, Any]:
    """Scores of a split, beside what needs no image."""
    options = {
        "batch_size": flags.training.per_device_eval_batch_size,
        "show_progress": not flags.training.disable_tqdm,
    }
    if flags.reading.task == "caption":
        images, _ = group_pairs(data.splits[split])
        frequent = most_frequent(rows["train"]["text"][:])
        return measure_captions(model, collator, images, flags.reading.prompt, frequent=frequent, **options)
    return measure_answers(model, collator, rows[split], prior=question_prior(rows["train"]), **options)


def write_samples(model: Any, collator: Any, rows: Dataset, path: Path) -> list[dict[str, str]]:
    """The first questions about the first test rows, what the model says, and what is right; and their images."""
    first: dict[int, dict[str, Any]] = {}
    for turn in turns_of(collator, rows.select(range(min(SHOWN, len(rows))))):
        first.setdefault(turn["row"], turn)
    turns = list(first.values())
    said = answer(model, collator.processor, [turn["conversation"] for turn in turns])
    samples = [
        {"question": turn["question"], "answer": text, "reference": turn["reference"]}
        for turn, text in zip(turns, said, strict=True)
    ]
    shown = [
        ([part["image"]], f"{sample['question']} → {sample['answer']}")
        for turn, sample in zip(turns, samples, strict=True)
        for part in [part for message in turn["conversation"] for part in message["content"]]
        if part["type"] == "image"
    ]
    if shown:
        image_sheet([images for images, _ in shown], [caption for _, caption in shown], path)
    return samples


def marked(collator: ConversationCollator, row: dict[str, Any]) -> str:
    """A conversation as the model reads it, what is learned of it in double brackets."""
    batch = collator([row])
    tokenizer, parts = collator.processor.tokenizer, []
    ids, learned = batch["input_ids"][0].tolist(), (batch["labels"][0] != NO_LABEL).tolist()
    image = collator.processor.image_token_id
    for (is_learned, is_image), group in groupby(
        zip(ids, learned, strict=True), lambda pair: (pair[1], pair[0] == image)
    ):
        tokens = [token for token, _ in group]
        text = f"<image> × {len(tokens)}" if is_image else tokenizer.decode(tokens)
        parts.append(f"[[{text}]]" if is_learned else text)
    return f"The first row, of which what stands in [[ ]] is learned and all else is masked:\n{''.join(parts)}"


def fitting(collator: ConversationCollator, rows: DatasetDict) -> tuple[DatasetDict, dict[str, Any]]:
    """Leave out rows that a cut at the decoder's length would spoil, and count them and those that are cut."""
    longest = collator.processor.tokenizer.model_max_length
    kept: dict[Any, Dataset] = {}
    told: dict[str, dict[str, int]] = {"rows_cut": {}, "rows_too_long": {}}
    for split, part in rows.items():
        whole, needed = collator.lengths(part) if len(part) else (np.zeros(0), np.zeros(0))
        fits = needed <= longest
        told["rows_cut"][str(split)] = int((fits & (whole > longest)).sum())
        told["rows_too_long"][str(split)] = int((~fits).sum())
        kept[split] = part if fits.all() else part.select(np.flatnonzero(fits))
    for name, what in (("rows_cut", "are cut"), ("rows_too_long", "cannot be cut, and are left out")):
        if any(told[name].values()):
            logger.warning("conversations of more than %d tokens that %s: %s", longest, what, json.dumps(told[name]))
    return DatasetDict(kept), told
