"""How well an aligner finds images by their captions and captions by their images."""

from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from hf_multimodal.evaluation.retrieval import retrieval_metrics
from hf_multimodal.inference.embedding import embed_images, embed_texts


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
        model: An aligner, or any model with the methods of `CLIPModel`; it is put into eval mode.
        processor: Its processor.
        images: Rows of `group_pairs`; with the column `group` the metrics are also given by group.
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
