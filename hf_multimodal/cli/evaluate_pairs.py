"""Evaluation of models without classes: on pairs, on images, on conversations."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from hf_multimodal.cli.arguments import EvaluationArguments, SourceArguments
from hf_multimodal.cli.generator_arguments import ConversationReadingArguments
from hf_multimodal.cli.rows import check, chosen_rows, run_arguments
from hf_multimodal.data.checks import (
    BadSample,
    describe_bad_samples,
    first_reasons,
    missing_columns,
    write_bad_samples,
)
from hf_multimodal.data.conversation_collator import ConversationCollator
from hf_multimodal.data.conversations import without_lost_images
from hf_multimodal.data.image_collators import CaptionCollator
from hf_multimodal.data.images import value_range_of
from hf_multimodal.data.pairs import group_pairs, unique_images
from hf_multimodal.evaluation.report import write_json
from hf_multimodal.hub.runs import with_label_accuracy
from hf_multimodal.hub.storage import make_folder
from hf_multimodal.hub.tables import markdown_table, retrieval_table
from hf_multimodal.inference.answering import measure_answers, measure_captions
from hf_multimodal.inference.likelihood import measure_likelihood
from hf_multimodal.inference.reconstruction import measure_reconstruction
from hf_multimodal.inference.retrieval_measures import measure_retrieval
from hf_multimodal.models import ImageTokenizerConfig
from hf_multimodal.training.preparation import keep_complete
from hf_multimodal.training.run_folder import refuse_folder

ABOUT_TEST = ("difference", "missing_curve", "baselines")  # entries of metrics.json that go with its `test`
CLASSIFIERS_ONLY = ("against", "missing", "missing_curve", "curve_models")


def make_output_folder(output_dir: str) -> Path:
    """The folder that the files go into.

    Args:
        output_dir: Its name.

    Raises:
        OSError: If it cannot be made, or a run writes into it.
    """
    folder = make_folder(output_dir, "--output_dir")
    refuse_folder(folder)
    return folder


def kept_metrics(folder: Path, test: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder's `metrics.json` tells of anything but the test rows, such as the run itself.

    Args:
        folder: The folder.
        test: The new metrics; with the same as before, what else was found on the test rows is kept too.
    """
    file = folder / "metrics.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if "label_accuracy" in test:
        found = with_label_accuracy(found)
    before = found.get("test")  # of an older run it may lack what is measured today
    same = before is not None and all(test.get(name) == value for name, value in before.items())
    outdated = () if same else ABOUT_TEST
    return {name: entry for name, entry in found.items() if name not in ("test", *outdated)}


def pairs_to_measure(
    args: EvaluationArguments,
    source: SourceArguments,
    model: PreTrainedModel,
    processor: Any,
    modality: str = "both",
    **options: Any,
) -> tuple[Dataset, list[BadSample], Path | None]:
    """The rows that a model without classes is measured on.

    Args:
        args: What is evaluated.
        source: The data.
        model: The model.
        processor: Its processor.
        modality: `both`, or `image` where no caption is read.
        options: Further arguments of `load_data`; by default the rows are pairs.

    Returns:
        The rows, the bad samples that the policy let pass, and the folder that is written into, if any.

    Raises:
        ValueError: On an argument that is for classifiers, a column that is not there, or a bad sample that the
            policy does not allow.
    """
    for name in CLASSIFIERS_ONLY:
        if getattr(args, name):
            raise ValueError(f"{name} is for classifiers, and {args.model!r} is a {model.config.model_type}.")
    columns = options or {"pairs": True, "image_id_column": args.image_id_column}
    chosen = chosen_rows(args.model, args.split, source, **columns, group_column=args.group_by)
    missing = missing_columns(chosen, modality, labels=False)
    if missing:
        raise ValueError(f"{source.data}: {' Also, '.join(missing)}")
    folder = None if args.output_dir is None else make_output_folder(args.output_dir)
    listing = None if folder is None else folder / "bad_samples.csv"
    checks: dict[str, Any] = {"prediction": True, "image_value_range": value_range_of(processor)}
    chosen, bad_samples = check(source, chosen, modality, listing, **checks)
    return chosen.splits["test"], bad_samples, folder


def grouped(rows: Dataset, source: SourceArguments, bad_samples: list[BadSample]) -> tuple[Dataset, int]:
    """What `group_pairs` gives, refused where there is no pair."""
    images, incomplete = group_pairs(rows)
    if not len(images):
        raise ValueError(f"{source.data} has no pair of an image and a caption.{first_reasons(bad_samples)}")
    return images, incomplete


def score_table(scores: Mapping[str, Any]) -> str:
    """A line a score."""
    return markdown_table([[name, value] for name, value in scores.items()], ["metric", "value"])


def write_measured(
    folder: Path | None, result: dict[str, Any], bad_samples: list[BadSample], table: str
) -> dict[str, Any]:
    """Print what was found, and write it where a folder is given."""
    if folder is not None:
        write_json(folder / "metrics.json", kept_metrics(folder, result["test"]) | result)
        write_bad_samples(folder / "bad_samples.csv", bad_samples)
    print(table)
    if bad_samples:
        print(describe_bad_samples(bad_samples))
    return result


def evaluate_aligner(
    args: EvaluationArguments, source: SourceArguments, model: PreTrainedModel, processor: Any
) -> dict[str, Any]:
    """Evaluate an aligner, print a table of recalls, and write what was asked for.

    Args:
        args: What is evaluated.
        source: The data.
        model: The aligner.
        processor: Its processor.

    Returns:
        `test`: the metrics, with `incomplete_pairs`, the number of rows without image or caption.

    Raises:
        ValueError: As `pairs_to_measure`, or if there is no pair.
    """
    rows, bad_samples, folder = pairs_to_measure(args, source, model, processor)
    images, incomplete = grouped(rows, source, bad_samples)
    options = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    found = measure_retrieval(model, processor, images, **options, show_progress=True)
    table = f"{retrieval_table(found)}\n{incomplete} rows lack their image or their caption"
    return write_measured(folder, {"test": {**found, "incomplete_pairs": incomplete}}, bad_samples, table)


def evaluate_generator(
    args: EvaluationArguments, source: SourceArguments, model: PreTrainedModel, processor: Any
) -> dict[str, Any]:
    """Evaluate an image tokenizer by what it gives back, or a text-to-image model by the likelihood of images.

    Args:
        args: What is evaluated.
        source: The data.
        model: The model.
        processor: Its processor.

    Returns:
        `test`: the metrics.

    Raises:
        ValueError: As `pairs_to_measure`, on an argument that is for aligners, or if there is nothing to measure.
    """
    for name in ("group_by", "image_id_column"):
        if getattr(args, name) is not None:
            raise ValueError(f"{name} is for aligners, and {args.model!r} is a {model.config.model_type}.")
    options: dict[str, Any] = {"batch_size": args.batch_size, "num_workers": args.num_workers, "show_progress": True}
    if model.config.model_type == ImageTokenizerConfig.model_type:
        rows, bad_samples, folder = pairs_to_measure(args, source, model, processor, "image")
        found = measure_reconstruction(model, processor, unique_images(rows), **options)
    else:
        rows, bad_samples, folder = pairs_to_measure(args, source, model, processor)
        kept, incomplete = keep_complete(DatasetDict({"test": rows}))
        found = measure_likelihood(model, CaptionCollator(processor), kept["test"], **options)
        found["incomplete_pairs"] = incomplete["test"]
    return write_measured(folder, {"test": found}, bad_samples, score_table(found))


def evaluate_answers(
    args: EvaluationArguments, source: SourceArguments, model: PreTrainedModel, processor: Any
) -> dict[str, Any]:
    """Evaluate a vision-language model: answers to questions, or captions, whichever its run learned.

    Args:
        args: What is evaluated; `group_by` names the column of the kinds of questions.
        source: The data.
        model: The model.
        processor: Its processor.

    Returns:
        `test`: the metrics.

    Raises:
        ValueError: As `pairs_to_measure`, or if there is nothing to measure.
    """
    run = run_arguments(args.model)
    collator = ConversationCollator(processor)
    options: dict[str, Any] = {"batch_size": args.batch_size, "show_progress": True}
    if run.get("task") == "caption":
        rows, bad_samples, folder = pairs_to_measure(args, source, model, processor)
        images, _ = grouped(rows, source, bad_samples)
        found = measure_captions(
            model, collator, images, run.get("prompt", ConversationReadingArguments.prompt), **options
        )
    else:
        columns: dict[str, Any] = {"conversations": True, "answer_column": run.get("answer_column")}
        rows, bad_samples, folder = pairs_to_measure(args, source, model, processor, **columns)
        kept = without_lost_images(rows)
        if not len(kept):
            raise ValueError(f"{source.data} has no conversation.{first_reasons(bad_samples)}")
        found = measure_answers(model, collator, kept, **options)
    scores = {name: value for name, value in found.items() if name != "by_kind"}
    for kind, part in found.get("by_kind", {}).items():
        scores |= {f"{kind}: {name}": value for name, value in part.items()}
    return write_measured(folder, {"test": found}, bad_samples, score_table(scores))
