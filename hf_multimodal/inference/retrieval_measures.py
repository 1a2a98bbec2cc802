"""How well an aligner finds images by their captions and captions by their images."""

from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_multimodal.cli.chosen_rows import load_rows
from hf_multimodal.cli.evaluation_arguments import EvaluationArguments
from hf_multimodal.cli.source_arguments import SourceArguments
from hf_multimodal.data.checks import describe_bad_samples, first_reasons, missing_columns, write_bad_samples
from hf_multimodal.data.images import value_range_of
from hf_multimodal.data.pairs import group_pairs
from hf_multimodal.evaluation.report import write_json
from hf_multimodal.evaluation.retrieval import retrieval_metrics
from hf_multimodal.hub.tables import retrieval_table
from hf_multimodal.inference.embedding import embed_images, embed_texts

CLASSIFIERS_ONLY = ("against", "missing", "missing_curve", "curve_models")


def measure_retrieval(
    model: PreTrainedModel,
    processor: Any,
    images: Dataset,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    feature_cache: Any = None,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Search all captions by each image and all images by each caption.

    Args:
        model: An aligner, or any model that answers as `CLIPModel` does; it is put into eval mode.
        processor: Its processor.
        images: Rows of `group_pairs`; with the column `group` the metrics are also told by group.
        batch_size: Images or captions a forward pass.
        num_workers: Processes that decode.
        feature_cache: As for `embed_images`.
        show_progress: Whether to show progress bars.

    Returns:
        As `retrieval_metrics`.

    Raises:
        BadImageError: On an image that cannot be read.
        ValueError: If there are no images.
    """
    if not len(images):
        raise ValueError("there is no pair of an image and a caption to measure.")
    captions = images["texts"][:]
    image_embeds, _, _ = embed_images(
        model,
        processor,
        images.select_columns(["image"])[:]["image"],
        batch_size=batch_size,
        num_workers=num_workers,
        feature_cache=feature_cache,
        show_progress=show_progress,
    )
    texts = [text for own in captions for text in own]
    text_embeds = embed_texts(model, processor, texts, batch_size=batch_size, show_progress=show_progress)
    owners = torch.arange(len(captions)).repeat_interleave(torch.tensor([len(own) for own in captions]))
    groups = images["group"][:] if "group" in images.column_names else None
    return retrieval_metrics(image_embeds, text_embeds, owners, image_groups=groups)


def evaluate_aligner(
    args: EvaluationArguments, source: SourceArguments, model: PreTrainedModel, processor: Any
) -> dict[str, Any]:
    """Do what `scripts/evaluate.py` does for an aligner: print a table of recalls, and write what was asked for.

    Args:
        args: What is evaluated.
        source: The data.
        model: The aligner.
        processor: Its processor.

    Returns:
        `test`: the metrics, with `incomplete_pairs`, the number of rows without image or caption.

    Raises:
        ValueError: On an argument that is for classifiers, a column that is not there, or a bad sample that the
            policy does not allow.
    """
    for name in CLASSIFIERS_ONLY:
        if getattr(args, name):
            raise ValueError(f"{name} is for classifiers, and {args.model!r} is an aligner.")
    chosen = load_rows(
        args.model,
        args.split,
        source,
        pairs=True,
        image_id_column=args.image_id_column,
        group_column=args.group_by,
    )
    missing = missing_columns(chosen, "both", labels=False)
    if missing:
        raise ValueError(f"{source.data}: {' Also, '.join(missing)}")
    folder = args.make_folder()
    listing = None if folder is None else folder / "bad_samples.csv"
    checks: dict[str, Any] = {"prediction": True, "image_value_range": value_range_of(processor)}
    chosen, bad_samples = source.check(chosen, "both", listing, **checks)
    images, incomplete = group_pairs(chosen.splits["test"])
    if not len(images):
        raise ValueError(f"{source.data} has no pair of an image and a caption.{first_reasons(bad_samples)}")
    options = {"batch_size": args.batch_size, "num_workers": args.num_workers}
    found = measure_retrieval(model, processor, images, **options, show_progress=True)
    result = {"test": {**found, "incomplete_pairs": incomplete}}
    if folder is not None:
        write_json(folder / "metrics.json", args.kept_metrics(result["test"]) | result)
        write_bad_samples(folder / "bad_samples.csv", bad_samples)
    print(f"{retrieval_table(found)}\n{incomplete} rows lack their image or their caption")
    if bad_samples:
        print(describe_bad_samples(bad_samples))
    return result
