"""Classes by their names alone: an image belongs to the class whose description lies nearest to it."""

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_multimodal.evaluation.metrics import outputs_from_logits
from hf_multimodal.evaluation.predictions import Predictions
from hf_multimodal.inference.embedding import check_embeds, embed_images, embed_texts, pair_logits, several
from hf_multimodal.validation import check_choice

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")


class ZeroShotClassifier:
    """Classify images by class names that the model was never trained on.

    A class is the mean of the embeddings of all templates with its name, brought back to length 1
    ([Radford et al., 2021](https://arxiv.org/abs/2103.00020), section 3.1.4). The logits are the model's own for these
    pairs. Their softmax is the probability of each class where one holds; for a model trained with the sigmoid loss
    ([Zhai et al., 2023](https://arxiv.org/abs/2303.15343)) it is exactly that given that one and only one class holds,
    and `problem_type="multi_label_classification"` gives the sigmoid of each class alone, so that none may hold.

    Args:
        model: A `CLIPModel`, a `SiglipModel`, or one with the same methods.
        processor: Its processor.
        class_names: At least two, different from each other.
        templates: One or more sentences with `{}` for the class name.
        problem_type: `single_label_classification` or `multi_label_classification`.
        batch_size: Texts or images a forward pass.

    Raises:
        TypeError: A class name or a template that is not a text, one class name alone, or a model that embeds no
            images and texts.
        ValueError: Fewer than two classes, a class that stands there twice or is empty, classes that are one text
            to the model, no template or one without `{}`, or a sigmoid asked of a model that was not trained for it.

    Example:

    >>> ZeroShotClassifier(None, None, ["cat", "dog"], ["a photo of a pet."])
    Traceback (most recent call last):
    ...
    ValueError: every template needs a {} for the class name, 'a photo of a pet.' has none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        class_names: Iterable[str],
        templates: str | Iterable[str],
        *,
        problem_type: str = "single_label_classification",
        batch_size: int = 64,
    ) -> None:
        templates = (
            list(templates) if isinstance(templates, Iterable) and not isinstance(templates, str) else [templates]
        )
        class_names = list(several("class_names", class_names))
        _check(class_names, templates)
        check_embeds(model)
        self.problem_type = check_choice("problem_type", problem_type, PROBLEM_TYPES)
        if problem_type == "multi_label_classification" and getattr(model, "logit_bias", None) is None:
            raise ValueError(f"{problem_type} needs a model with a logit_bias, {type(model).__name__} has none.")
        self.model = model
        self.processor = processor
        self.class_names = class_names
        self.batch_size = batch_size
        texts = [template.replace("{}", name) for name in class_names for template in templates]
        embeds = embed_texts(model, processor, texts, batch_size=batch_size)
        self.class_embeds = F.normalize(embeds.view(len(class_names), len(templates), -1).mean(dim=1), dim=-1)
        for number, name in enumerate(class_names):
            for other in (self.class_embeds[:number] == self.class_embeds[number]).all(dim=1).nonzero().flatten():
                raise ValueError(f"class_names {class_names[other]!r} and {name!r} are one text to this model.")

    def predict(
        self,
        images: Iterable[Any],
        *,
        ids: Iterable[str] | None = None,
        labels: Sequence[int | None] | None = None,
        on_bad_image: str = "error",
        num_workers: int = 0,
        show_progress: bool = False,
    ) -> Predictions:
        """Classify images.

        An example without an image gets a prediction too, as if it were equally far from all classes, and flagged in
        `has_image`.

        Args:
            images: Images of Pillow, paths, bytes, `{"bytes", "path"}` dicts, or None where there is none.
            ids: Names of the images; by default they are numbered.
            labels: Class numbers (multi-hot lists for several labels) where they are known.
            on_bad_image: `"error"` raises on an image that cannot be read; `"missing"` warns and treats it as None.
            num_workers: Processes that decode.
            show_progress: Whether to show a progress bar.

        Returns:
            Probabilities by class; its `metrics()` need `labels`.

        Raises:
            TypeError: If it is one image.
            ValueError: If there are no images.
            BadImageError: On an unreadable image under `"error"`; names the row.
        """
        images = several("images", images)
        if not len(images):
            raise ValueError("there are no images to classify.")
        embeds, rows, bad = embed_images(
            self.model,
            self.processor,
            images,
            batch_size=self.batch_size,
            num_workers=num_workers,
            on_bad_image=on_bad_image,
            show_progress=show_progress,
        )
        for error in bad.values():
            warnings.warn(f"{error}: it is treated as missing.", stacklevel=2)
        names = [str(row) for row in range(len(images))] if ids is None else list(several("ids", ids))
        similarity = torch.zeros(len(images), len(self.class_names))
        if rows:
            similarity[rows] = embeds @ self.class_embeds.T
        has_image = np.zeros(len(images), dtype=bool)
        has_image[rows] = True
        return Predictions.from_outputs(
            self.problem_type,
            names,
            outputs_from_logits(self.problem_type, pair_logits(self.model, similarity).numpy(), names),
            self.class_names,
            labels=labels,
            has_image=has_image,
            has_text=np.zeros(len(images), dtype=bool),
        )


def _check(class_names: Sequence[str], templates: Sequence[str]) -> None:
    for name in class_names:
        if not isinstance(name, str):
            raise TypeError(f"class_names must be texts, got {name!r}, a {type(name).__name__}.")
    names = [name.strip() for name in class_names]
    if len(names) < 2:
        raise ValueError(f"class_names must be at least two, got {names}.")
    if "" in names:
        raise ValueError(f"class_names must not be empty, got {list(class_names)}.")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        times = "twice" if count == 2 else f"{count} times"
        raise ValueError(f"class_names must differ from each other, {name!r} stands there {times}.")
    if not templates:
        raise ValueError("templates must be at least one, such as 'a photo of a {}.'.")
    for template in templates:
        if not isinstance(template, str):
            raise TypeError(f"templates must be texts, got {template!r}, a {type(template).__name__}.")
        if "{}" not in template:
            raise ValueError(f"every template needs a {{}} for the class name, {template!r} has none.")
