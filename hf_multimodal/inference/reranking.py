"""Order what was drawn for a text by how well an aligner finds that it fits."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from hf_multimodal.inference.embedding import embed_images, embed_texts


def rank_images(
    model: Any, processor: Any, texts: Sequence[str], images: Sequence[Sequence[Image.Image]], batch_size: int = 64
) -> tuple[list[list[int]], list[list[float]]]:
    """Order the images of each text, best first.

    Args:
        model: An aligner, or any model with the methods of `CLIPModel`.
        processor: Its processor.
        texts: The texts.
        images: Those of each text.
        batch_size: Images a forward pass.

    Returns:
        The places of each text's images, and their cosines with it, both best first.

    Raises:
        ValueError: If the model is no aligner, or has image and text embeddings of different widths.
    """
    if not hasattr(model, "get_image_features"):
        raise ValueError(f"an aligner or a CLIP orders images, got a {model.config.model_type!r}.")
    flat = [image for own in images for image in own]
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress": False}
    image_embeds = embed_images(model, processor, flat, **options)[0]
    text_embeds = embed_texts(model, processor, list(texts), **options)
    if image_embeds.shape[1] != text_embeds.shape[1]:
        raise ValueError(
            f"an aligner has one space, and this {model.config.model_type!r} has images of width "
            f"{image_embeds.shape[1]} and texts of width {text_embeds.shape[1]}."
        )
    order, cosines, start = [], [], 0
    for text, own in zip(text_embeds, images, strict=True):
        found = torch.as_tensor(image_embeds[start : start + len(own)]) @ torch.as_tensor(text)
        start += len(own)
        values, places = found.sort(descending=True, stable=True)
        order.append(places.tolist())
        cosines.append(values.tolist())
    return order, cosines
