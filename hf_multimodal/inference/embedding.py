"""Images and texts to embeddings, by any model with the methods of `transformers.CLIPModel`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_multimodal.data.collator import ON_BAD_IMAGE
from hf_multimodal.data.images import BadImageError, open_rgb, value_range_of
from hf_multimodal.models import AlignerModel
from hf_multimodal.models.processing_multimodal import padding_of
from hf_multimodal.validation import check_choice


def is_single(given: Any) -> bool:
    """Whether this is one text, image or id and not several; text and paths could be gone through by letters."""
    kinds = (str, bytes, Path, dict, Image.Image)
    return given is None or isinstance(given, kinds) or len(getattr(given, "shape", ())) in (2, 3)


def several(what: str, given: Iterable[Any]) -> Sequence[Any]:
    """A sequence from whatever can be gone through once; one stays as it is, as a column that decodes when asked.

    Args:
        what: Its name, for the error.
        given: Texts, images or ids: a list, a column of a data set, a generator, an array.

    Raises:
        TypeError: If it is one text, image or id, or nothing that can be gone through.

    Example:

    >>> several("texts", (word for word in ["dog", "cat"]))
    ['dog', 'cat']
    >>> several("texts", "dog")
    Traceback (most recent call last):
    ...
    TypeError: texts must be several, such as a list, got 'dog' alone: put it into a list.
    """
    if is_single(given):
        raise TypeError(f"{what} must be several, such as a list, got {given!r:.80} alone: put it into a list.")
    if not isinstance(given, Iterable):
        raise TypeError(f"{what} must be several, such as a list, got {given!r:.80}.")
    return given if isinstance(given, Sequence) else list(given)


@torch.no_grad()
def embed_texts(
    model: PreTrainedModel, processor: Any, texts: Iterable[str], *, batch_size: int = 64, show_progress: bool = False
) -> Tensor:
    """Embed texts; those of like length share a batch, so that little is spent on padding.

    Args:
        model: A `CLIPModel`, a `SiglipModel`, or one that has their `get_text_features`; it is put into eval mode.
        processor: Its processor.
        texts: One or more texts; longer ones than the tokenizer's limit are cut.
        batch_size: Texts a forward pass.
        show_progress: Whether to show a progress bar.

    Returns:
        (texts, width) of length 1 each, float32, on the CPU, in the order of the texts.

    Raises:
        TypeError: If it is one text.
        ValueError: If an embedding is not finite.
    """
    texts = list(several("texts", texts))
    model.eval()
    padding: dict[str, Any] = {"padding": padding_of(model.config.text_config)}
    if padding["padding"] == "max_length":  # which not every tokenizer knows
        padding["max_length"] = model.config.text_config.max_position_embeddings
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    parts = []
    for start in tqdm(range(0, len(order), batch_size), desc="Texts", disable=not show_progress):
        chosen = [texts[row] for row in order[start : start + batch_size]]
        tokens = dict(processor(text=chosen, truncation=True, return_tensors="pt", **padding))
        tokens.pop("modality_mask", None)
        features = model.get_text_features(**{name: tensor.to(model.device) for name, tensor in tokens.items()})
        parts.append(_normalized(features.pooler_output, [f"text {text!r:.80}" for text in chosen]))
    return torch.cat(parts)[torch.tensor(order).argsort()] if parts else torch.empty(0, 0)


@torch.no_grad()
def embed_images(
    model: PreTrainedModel,
    processor: Any,
    images: Iterable[Any],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    on_bad_image: str = "error",
    feature_cache: Any = None,
    show_progress: bool = False,
) -> tuple[Tensor, list[int], dict[int, BadImageError]]:
    """Embed images, brought upright and into three channels of 8 bits as everywhere in this package.

    Args:
        model: As for `embed_texts`, with `get_image_features`.
        processor: Its processor.
        images: Images of Pillow, or what `open_image` opens: paths, bytes, `{"bytes", "path"}` dicts; None where
            there is none.
        batch_size: Images a forward pass.
        num_workers: Processes that decode.
        on_bad_image: `"error"` raises on an image that cannot be read; `"missing"` leaves it out.
        feature_cache: As for `MultimodalCollator`, for a model that reads the output of frozen layers and not images.
        show_progress: Whether to show a progress bar.

    Returns:
        (readable images, width) of length 1 each, float32, on the CPU; the rows that they come from, rising; and by
        row what is wrong with an unreadable one.

    Raises:
        BadImageError: On an unreadable image under `"error"`; names the row.
        TypeError: If it is one image.
        ValueError: If an embedding is not finite, or on an unknown `on_bad_image`.
    """
    check_choice("on_bad_image", on_bad_image, ON_BAD_IMAGE)
    images = several("images", images)
    model.eval()
    collate: Any = _ImageBatch(processor, images) if feature_cache is None else _CachedBatch(feature_cache, images)
    rows_of_all: Any = range(len(images))
    loader: DataLoader = DataLoader(rows_of_all, batch_size, collate_fn=collate, num_workers=num_workers)
    parts: list[Tensor] = []
    embedded: list[int] = []
    bad: dict[int, BadImageError] = {}
    for rows, pixels, errors in tqdm(loader, desc="Images", disable=not show_progress):
        for row, error in errors.items():
            bad[row] = BadImageError(error.reason, f"{error.name} (row {row})", error.detail)
            if on_bad_image == "error":
                raise bad[row]
        if rows:
            features = model.get_image_features(pixel_values=pixels.to(model.device))
            parts.append(_normalized(features.pooler_output, [f"image {row}" for row in rows]))
            embedded += rows
    return torch.cat(parts) if parts else torch.empty(0, 0), embedded, bad


def check_embeds(model: Any) -> None:
    """Raise early where a model embeds no images and texts apart from each other.

    Args:
        model: What was given as one that does.

    Raises:
        TypeError: If it lacks `get_image_features` or `get_text_features`.
    """
    lacking = [name for name in ("get_image_features", "get_text_features") if not hasattr(model, name)]
    if model is not None and lacking:
        raise TypeError(
            f"a {type(model).__name__} has no {' and no '.join(lacking)}: give an AlignerModel, a CLIPModel or a "
            "SiglipModel."
        )


def pair_logits(model: PreTrainedModel, similarity: Tensor) -> Tensor:
    """Scale cosines as the model does: by its `logit_scale`, and shifted by `logit_bias` where it has one.

    Args:
        model: The model that made the embeddings.
        similarity: Cosines, of any shape.

    Returns:
        What the model gives as `logits_per_image` for these pairs.
    """
    if isinstance(model, AlignerModel):
        logits = model.scaling(similarity.to(model.logit_scale.device))  # whose scale is at most 100
        return logits.detach().to(similarity.device)
    logits = similarity * model.logit_scale.detach().exp().to(similarity)
    bias = getattr(model, "logit_bias", None)
    return logits if bias is None else logits + bias.detach().to(similarity)


class _ImageBatch:
    """Open and process the images of some rows, in the process that decodes."""

    def __init__(self, processor: Any, images: Sequence[Any]) -> None:
        self.processor = processor
        self.images = images

    def __call__(self, rows: list[int]) -> tuple[list[int], Tensor | None, dict[int, BadImageError]]:
        opened: dict[int, Any] = {}
        errors = {}
        for row in rows:
            image = self.images[row]
            if image is None:
                continue
            try:
                opened[row] = open_rgb(image, value_range_of(self.processor))
            except BadImageError as error:
                errors[row] = error
        if not opened:
            return [], None, errors
        batch = self.processor(images=list(opened.values()), return_tensors="pt")
        return list(opened), batch["pixel_values"], errors


class _CachedBatch:
    """Read the cached features of the images of some rows."""

    def __init__(self, feature_cache: Any, images: Sequence[Any]) -> None:
        self.feature_cache = feature_cache
        self.images = images

    def __call__(self, rows: list[int]) -> tuple[list[int], Tensor, dict[int, BadImageError]]:
        return rows, self.feature_cache.batch([self.images[row] for row in rows]), {}


def _normalized(features: Tensor, names: list[str]) -> Tensor:
    broken = (~features.isfinite().all(dim=1)).nonzero()[:, 0].tolist()
    if broken:
        raise ValueError(f"the model gives an embedding that is not finite for {names[broken[0]]}.")
    return F.normalize(features.float(), dim=-1).cpu()
