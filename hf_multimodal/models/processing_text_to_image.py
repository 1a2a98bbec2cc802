"""Texts to prompts of a text-to-image model, images to pixels, and pixels back to images."""

from typing import Any

import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature

from .processing_multimodal import MultimodalProcessor, MultimodalProcessorKwargs

UNREAD = ("padding", "max_length", "truncation", "return_tensors", "text_kwargs", "common_kwargs")  # by images


def unit_pixels(pixel_values: torch.Tensor, image_processor: Any) -> torch.Tensor:
    """Pixel values as colours between 0 and 1, float32 on the CPU.

    Args:
        pixel_values: (batch, channels, height, width), in the scale that the image processor gives.
        image_processor: The image processor.
    """
    pixels = pixel_values.detach().float().cpu()
    if image_processor.do_normalize:
        deviation, mean = (
            torch.tensor(v)[:, None, None] for v in (image_processor.image_std, image_processor.image_mean)
        )
        pixels = pixels * deviation + mean
    if not getattr(image_processor, "do_rescale", True):
        pixels = pixels / 255
    return pixels.clamp(0, 1)


def to_images(pixel_values: torch.Tensor, image_processor: Any) -> list[Image.Image]:
    """The images of pixel values.

    Args:
        pixel_values: (batch, channels, height, width), in the scale that the image processor gives.
        image_processor: The image processor.
    """
    colours = (unit_pixels(pixel_values, image_processor) * 255).round().to(torch.uint8)
    return [Image.fromarray(image.numpy()) for image in colours.movedim(1, -1)]


class TextToImageProcessorKwargs(MultimodalProcessorKwargs, total=False):  # type: ignore[call-arg]
    _defaults = {}


class TextToImageProcessor(MultimodalProcessor):
    """Prompts of one length for [`TextToImageModel`], and images of what it gives.

    A prompt is `[padding | text | begin of image]`; a missing or empty text is padding alone. Padding is read like any
    token, so that `attention_mask` is 1 throughout.

    Args:
        image_processor: Of the image tokenizer; any of transformers that gives it its size.
        tokenizer: Of the texts.
        prompt_length: Text tokens of a prompt, as in the model's configuration.

    Raises:
        ValueError: If a part lacks, or `prompt_length` is below 1.
    """

    valid_processor_kwargs = TextToImageProcessorKwargs

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_value_range: Any = None,
        prompt_length: int = 32,
    ) -> None:
        if image_processor is None or tokenizer is None:
            raise ValueError("a text-to-image processor needs an image_processor and a tokenizer.")
        if prompt_length < 1:
            raise ValueError(f"prompt_length must be 1 or more, got {prompt_length}.")
        super().__init__(image_processor, tokenizer, chat_template, image_value_range)
        self.prompt_length = prompt_length

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare a batch.

        Args:
            images: An image or a list of them; left out, none is read.
            text: A string or a list of strings and `None`s; left out, none is read.
            kwargs: Of the image processor, and `return_tensors="pt"`. `truncation=True` cuts texts that are longer
                than a prompt. `padding` and `max_length` have no use: every prompt has the same length.

        Returns:
            `input_ids` and `attention_mask` (batch, prompt_length + 1) where text was given, `pixel_values` (batch,
            channels, height, width) where images were.

        Raises:
            ValueError: If nothing is given, or a text is longer than `prompt_length`; the message names its row. For
                images what [`MultimodalProcessor`] refuses.
            TypeError: If a text is not a string.
        """
        if images is None and text is None:
            raise ValueError("a processor needs images, text, or both; got neither.")
        asked = self._merge_kwargs(TextToImageProcessorKwargs, **kwargs)["text_kwargs"]
        tensors = asked.get("return_tensors")
        data: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if not texts:
                raise ValueError("a processor needs at least one example, got an empty list of texts.")
            data |= self._prompts(texts, bool(asked.get("truncation")))
        if images is not None:
            missing = [row for row, image in enumerate(images) if image is None] if isinstance(images, list) else []
            if missing:
                raise ValueError(f"the image of row {missing[0]} is missing, and there is no image of nothing.")
            options = {name: value for name, value in kwargs.items() if name not in UNREAD}
            pixels = super().__call__(images=images, return_tensors="pt", **options)["pixel_values"]
            data["pixel_values"] = pixels if tensors else list(pixels)
        return BatchFeature(data, tensor_type=tensors)

    def _prompts(self, texts: list[Any], truncation: bool) -> dict[str, Any]:
        """Padding, text and begin of image, which is the id behind the tokenizer's."""
        there = [self._has_text(text, row) for row, text in enumerate(texts)]
        words = [text for text, here in zip(texts, there, strict=True) if here]
        found = iter(self.tokenizer(words, truncation=False, padding=False)["input_ids"] if words else ())
        prompts = []
        for row, here in enumerate(there):
            ids = list(next(found)) if here else []
            if len(ids) > self.prompt_length and not truncation:
                raise ValueError(
                    f"the text of row {row} has {len(ids)} tokens, and a prompt {self.prompt_length}: shorten it, or "
                    "give truncation=True."
                )
            ids = ids[: self.prompt_length]
            padding = [self.tokenizer.pad_token_id] * (self.prompt_length - len(ids))
            prompts.append([*padding, *ids, len(self.tokenizer)])
        return {"input_ids": prompts, "attention_mask": [[1] * len(prompt) for prompt in prompts]}

    def post_process_multimodal_output(
        self,
        generated_outputs: Any,
        skip_special_tokens: bool = True,
        generation_mode: str | None = None,
        **kwargs: Any,
    ) -> list[Image.Image]:
        """What `pipeline("any-to-any")` calls with the model's images.

        Args:
            generated_outputs: (batch, channels, height, width), from `decode_image_tokens`.
            skip_special_tokens: Unread.
            generation_mode: `"image"`.
            kwargs: Unread.

        Raises:
            ValueError: If anything but images is asked for.
        """
        if generation_mode != "image":
            raise ValueError(
                f'this model writes images only: generation_mode must be "image", got {generation_mode!r}.'
            )
        return to_images(generated_outputs, self.image_processor)
