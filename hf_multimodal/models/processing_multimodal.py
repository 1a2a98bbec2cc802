"""One processor for image and text together, either of which an example may lack."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPImageProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

from .configuration_torchvision import TORCHVISION_PREFIX
from .configuration_vision_text import FIXED_LENGTH_TEXT

PARTS = ("image_processor", "tokenizer")
PICTURES = (Image.Image, np.ndarray, torch.Tensor)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class MultimodalProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    _defaults = {"text_kwargs": {"truncation": True, "padding": True}}


class _ClassOrInstance:
    """A method of the class that asks the instance where there is one."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: type) -> Callable[[], list[str]]:
        return lambda: self.function(instance)


def to_rgb(image: Any) -> Any:
    """Bring a picture into the one form that all image processors take: upright, three channels of 8 bits.

    EXIF rotation is applied, 16-bit and float grey is scaled to 8 bits, transparency is laid on white. Arrays and
    tensors of three channels pass as they are.

    Args:
        image: PIL picture, or array or tensor (height, width), (height, width, channels), (channels, height, width).

    Raises:
        TypeError: On anything else, a path or a URL (or a list of one) for instance: nothing is opened or fetched.

    Example:

    >>> to_rgb(Image.new("LA", (2, 2), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if isinstance(image, (str, bytes, os.PathLike, dict)):  # a dict is what `datasets` has before decoding
        raise TypeError(f"images must be pictures, not paths or URLs; open {image!r:.80} with PIL.Image.open first.")
    if isinstance(image, (np.ndarray, torch.Tensor)) and image.ndim in (2, 3):
        return to_rgb(Image.fromarray(np.asarray(image))) if image.ndim == 2 else image
    if not isinstance(image, Image.Image):
        shape = f" of shape {tuple(image.shape)}" if hasattr(image, "shape") else ""
        raise TypeError(
            "an image must be a PIL picture, or an array or tensor of two or three dimensions, got "
            f"{type(image).__name__}{shape}; None stands for a missing one."
        )
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        # 16-bit pictures span 0..65535; plain `convert` would clip all of it to white.
        top = (
            65535.0 if image.mode.startswith("I") and values.max(initial=0) > 255 else max(values.max(initial=0), 255)
        )
        return Image.fromarray((values * (255 / top)).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def image_processor_of(name_or_path: str) -> Any:
    """The image processor of a checkpoint, in a form that saves and loads.

    Args:
        name_or_path: Hub name or folder; `torchvision:resnet50` and its like get ImageNet's usual preparation.
    """
    if name_or_path.startswith(TORCHVISION_PREFIX):
        return CLIPImageProcessor(size={"shortest_edge": 256}, crop_size=224, **IMAGENET)
    processor = AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=False)
    timm_config = getattr(processor, "data_config", None)
    if timm_config is None:
        return processor
    # transformers' wrapper of timm saves a form that it cannot load; this does the same to a picture.
    height = timm_config["input_size"][1]
    return CLIPImageProcessor(
        size={"shortest_edge": round(height / timm_config["crop_pct"])},
        crop_size={"height": height, "width": timm_config["input_size"][2]},
        resample=Image.Resampling[timm_config["interpolation"].upper()],
        image_mean=list(timm_config["mean"]),
        image_std=list(timm_config["std"]),
    )


def padding_of(text_config: Any) -> bool | str:
    """How texts are padded for a text model: SigLIP's reads the last position of a fixed length."""
    return "max_length" if getattr(text_config, "model_type", None) in FIXED_LENGTH_TEXT else True


class MultimodalProcessor(ProcessorMixin):
    """Image processor and tokenizer in one, for every model of this package.

    An example may lack its image or its text: `None` (or an empty text) gets a blank and a 0 in `modality_mask`.
    A processor may have one part only, for a single-modality model.

    Args:
        image_processor: Any image processor of transformers, or None.
        tokenizer: Any tokenizer of transformers, or None. One without padding token pads with its end token. Texts are
            padded to the longest of a batch, or as the tokenizer was made to: SigLIP's text model needs
            `AutoTokenizer.from_pretrained(..., padding="max_length")`.

    Raises:
        ValueError: If both parts are None.

    Example:

    >>> from transformers import ViTImageProcessor
    >>> processor = MultimodalProcessor(ViTImageProcessor(size={"height": 8, "width": 8}))
    >>> batch = processor(images=[Image.new("L", (9, 5)), None], return_tensors="pt")
    >>> batch["pixel_values"].shape, batch["modality_mask"].tolist()
    (torch.Size([2, 3, 8, 8]), [[1, 0], [0, 0]])
    """

    _auto_class = "AutoProcessor"
    valid_processor_kwargs = MultimodalProcessorKwargs

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        if image_processor is None and tokenizer is None:
            raise ValueError("a processor needs an image_processor, a tokenizer, or both; both are None.")
        if tokenizer is not None and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(**{name: getattr(self, name) for name in self.get_attributes()}, chat_template=chat_template)

    @_ClassOrInstance
    def get_attributes(self) -> list[str]:  # transformers saves, loads and checks what this names
        return [name for name in PARTS if self is None or getattr(self, name) is not None]

    @classmethod
    def from_vision_text_pretrained(
        cls, vision_model_name_or_path: str | None = None, text_model_name_or_path: str | None = None
    ) -> "MultimodalProcessor":
        """The image processor of one checkpoint and the tokenizer of another.

        Texts are cut at what the text model can read, which tokenizers do not always know.

        Args:
            vision_model_name_or_path: Hub name or folder, or None.
            text_model_name_or_path: Likewise.
        """
        image_processor = tokenizer = None
        if vision_model_name_or_path is not None:
            image_processor = image_processor_of(vision_model_name_or_path)
        if text_model_name_or_path is not None:
            no_code = {"trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(text_model_name_or_path, **no_code)
            config = AutoConfig.from_pretrained(text_model_name_or_path, **no_code)
            config = getattr(config, "text_config", None) or config
            positions = getattr(config, "max_position_embeddings", None)
            if positions is not None:
                if "roberta" in config.model_type or config.model_type == "mpnet":
                    positions -= config.pad_token_id + 1  # these begin to count behind the padding's place
                tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
            tokenizer.init_kwargs["padding"] = padding_of(config)
        return cls(image_processor, tokenizer)

    def keep_whole_pictures(self) -> None:
        """Resize pictures to the size that would be cropped to, stretched if need be, and cut nothing off.

        A classifier of pictures expects its object in the middle; a caption also tells what stands at the border.

        Raises:
            ValueError: If there is no image processor, or it has a way of its own to crop (ConvNeXt's).
        """
        part = self.image_processor
        if part is None:
            raise ValueError("a processor without an image_processor reads no pictures that could be kept whole.")
        if getattr(part, "crop_pct", None) is not None:
            raise ValueError(f"{type(part).__name__} crops by its crop_pct, so pictures cannot be kept whole.")
        if getattr(part, "do_center_crop", None):
            part.size, part.do_center_crop = part.crop_size, False

    def to_dict(self) -> dict[str, Any]:
        own = type(self)
        auto_map = {self._auto_class: f"{own.__module__.split('.')[-1]}.{own.__name__}"}
        return {**super().to_dict(), "auto_map": auto_map, "parts": self.get_attributes()}

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict | None = None, **kwargs: Any
    ) -> list:
        parts = (processor_dict or {}).get("parts", PARTS)
        # Left open, transformers asks on the terminal whether the code of a strange tokenizer may run.
        kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))
        loaders = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}
        return [
            loaders[name].from_pretrained(pretrained_model_name_or_path, **kwargs) if name in parts else None
            for name in PARTS
        ]

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "modality_mask"]

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Prepare a batch.

        Args:
            images: A picture or a list of pictures and `None`s; left out, no example has one. In place of a picture
                there may be a list of one, or of none, as processors of several pictures an example have it.
            text: A string or a list of strings and `None`s; left out, no example has one.
            kwargs: Of the image processor and the tokenizer (`return_tensors="pt"`, `max_length`, ...).

        Returns:
            `pixel_values` (batch, channels, height, width) where images were given, `input_ids` and
            `attention_mask` (batch, length) and whatever else the tokenizer makes where text was given, and
            `modality_mask` (batch, 2), 1 = present, column 0 image, column 1 text. Images and texts that are not as
            many are no examples but each to be compared with each, by an aligner: they come without a mask.

        Raises:
            ValueError: If nothing is given, the lists differ in length and lack something, or a side is given that
                this processor has no part for.
            TypeError: If an image is a path or a text is not a string.
        """
        images = images if images is None or isinstance(images, (list, tuple)) else self._as_list(images)
        images = images if images is None else [self._only_one(image) for image in images]
        text = [text] if isinstance(text, str) else text
        for name, side, part in (("images", images, self.image_processor), ("text", text, self.tokenizer)):
            if side is not None and part is None:
                raise ValueError(f"{name} were given to a processor that has no part for them: it has {self.parts}.")
        lengths = [len(side) for side in (images, text) if side is not None]
        if not lengths:
            raise ValueError("a processor needs images, text, or both; got neither.")
        if not any(lengths):
            raise ValueError("a processor needs at least one example, got empty lists.")
        merged = self._merge_kwargs(
            tokenizer_init_kwargs=self.tokenizer.init_kwargs if self.tokenizer is not None else {}, **kwargs
        )
        tensors = merged["text_kwargs"].get("return_tensors")
        has_image = np.array([image is not None for image in images or ()], dtype=bool)
        has_text = np.array([self._has_text(one, row) for row, one in enumerate(text or ())], dtype=bool)
        paired = len(set(lengths)) == 1
        if not paired and (0 in lengths or not (has_image.all() and has_text.all())):
            raise ValueError(
                f"images and text must be of one length where something is missing, got {lengths[0]} images and "
                f"{lengths[1]} texts."
            )
        data: dict[str, Any] = {}
        if images is not None:
            data["pixel_values"] = self._pixel_values(images, merged["images_kwargs"])
        if text is not None:
            data.update(self._tokens(text, has_text, merged["text_kwargs"]))
        if paired:
            mask = np.zeros((lengths[0], 2), dtype=np.int64)
            for column, (side, here) in enumerate(((images, has_image), (text, has_text))):
                mask[:, column] = here if side is not None else 0
            data["modality_mask"] = torch.from_numpy(mask) if tensors else mask.tolist()
        return BatchFeature(data, tensor_type=tensors)

    @property
    def parts(self) -> list[str]:
        """Which of `image_processor` and `tokenizer` this processor has."""
        return self.get_attributes()

    @staticmethod
    def _as_list(images: Any) -> list:
        """A single picture, or a batch in one array."""
        return list(images) if getattr(images, "ndim", 3) == 4 else [images]

    @staticmethod
    def _only_one(image: Any) -> Any:
        """A picture out of a list of one, None out of an empty one; whatever else is no picture is refused later."""
        if not isinstance(image, (list, tuple)) or len(image) > 1:
            return image
        return next(iter(image), None) if all(isinstance(part, PICTURES) for part in image) else image

    @staticmethod
    def _has_text(text: Any, row: int) -> bool:
        if text is not None and not isinstance(text, str):
            raise TypeError(f"text must be a string or None, got {type(text).__name__} in row {row}.")
        return bool(text and text.strip())

    def _pixel_values(self, images: list, kwargs: dict[str, Any]) -> torch.Tensor:
        """(batch, channels, height, width), zeros where a picture is missing."""
        present = [row for row, image in enumerate(images) if image is not None]
        pictures = [to_rgb(images[row]) for row in present] or [Image.new("RGB", (32, 32))]
        pixels = self.image_processor(pictures, **{**kwargs, "return_tensors": "pt"})["pixel_values"]
        if len(present) == len(images):
            return pixels
        batch = pixels.new_zeros(len(images), *pixels.shape[1:])
        if present:
            batch[present] = pixels
        return batch

    def _tokens(self, text: list[str | None], present: np.ndarray, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Tokens; a missing text is one padding token between whatever the tokenizer puts around it, all masked."""
        blank = self.tokenizer.pad_token
        tokens = self.tokenizer([one if here else blank for one, here in zip(text, present, strict=True)], **kwargs)
        if "attention_mask" in tokens and not present.all():
            masks = tokens["attention_mask"]
            for row in np.flatnonzero(~present):
                masks[row] = masks[row] * 0 if kwargs.get("return_tensors") else [0] * len(masks[row])
        return dict(tokens)
