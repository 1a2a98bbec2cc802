"""One processor for image and text together, either of which an example may lack."""

import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, CLIPImageProcessor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin
from transformers.utils import logging

from .configuration_vision_text import FIXED_LENGTH_TEXT, TORCHVISION_PREFIX

logger = logging.get_logger(__name__)

PARTS = ("image_processor", "tokenizer")
IMAGES = (Image.Image, np.ndarray, torch.Tensor)
EIGHT_BITS = (np.uint8, np.bool_)
UINT16_RANGE = (0, 65535)
LAYOUTS = (None, "channels_first", "channels_last")
CUT_TO_8_BITS = "cut_to_8_bits"  # key of an image's `info`
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what brings an image of that orientation upright
COUNT_BEHIND_PADDING = ("camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "mpnet", "xmod")
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class MultimodalProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    _defaults = {"text_kwargs": {"truncation": True, "padding": True}}


class _ClassOrInstance:
    """A method of the class that asks the instance where there is one."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __get__(self, instance: Any, owner: type) -> Callable[[], list[str]]:
        return lambda: self.function(instance)


class ImageValues(NamedTuple):
    """The lowest and the highest value of an image, and the range that its values are scaled from."""

    lowest: float
    highest: float
    low: float
    high: float

    @property
    def is_narrow(self) -> bool:
        """Whether the image uses under a tenth of its range, as 12 bits in a file of 16 do."""
        return self.highest - self.lowest < 0.1 * (self.high - self.low)


def check_value_range(value_range: Any) -> tuple[float, float] | None:
    """Check an `image_value_range`; None is allowed and stated none.

    Raises:
        ValueError: If it is not two finite numbers, the lower one first.

    Example:

    >>> check_value_range([0, 4095])
    (0.0, 4095.0)
    """
    if value_range is None:
        return None
    try:
        low, high = (float(end) for end in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "image_value_range must be two finite numbers, the value of black and that of white, such as 0 4095, got "
            f"{value_range!r}."
        )
    return low, high


def load_pixels(image: Image.Image) -> None:
    """Decode the pixels of a PIL image, and note in its `info` where Pillow keeps the upper 8 of 16 bits a channel.

    Pillow does so with colours of 16 bits, and tells of it only before the pixels are decoded.
    """
    if _dtype_of(image) in EIGHT_BITS and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        image.info[CUT_TO_8_BITS] = True
    image.load()


def upright(image: Image.Image) -> Image.Image:
    """Turn a PIL image as its EXIF orientation says, and take out what says so.

    Unlike Pillow's own `exif_transpose` it writes no EXIF anew, makes no copy where nothing is to turn, and leaves an
    image whose EXIF cannot be read as it lies.

    Raises:
        Exception: Whatever Pillow raises on pixels that cannot be decoded.
    """
    load_pixels(image)
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow passes on whatever its parser meets; the pixels are whole
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    for name in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        turned.info.pop(name, None)
    return turned


def image_values(image: Any, value_range: tuple[float, float] | None = None) -> ImageValues | None:
    """Find the values of an image that is not of 8 bits, and refuse those outside their range.

    Args:
        image: PIL image or array.
        value_range: The value of black and that of white in an image that is not of 8 bits, as `to_rgb` takes it.

    Returns:
        None for an image of 8 bits, whose values are 0 to 255 and to which no stated range applies.

    Raises:
        ValueError: If a value lies outside the range, or is not finite.

    Example:

    >>> image_values(Image.new("I;16", (2, 2), 4095))
    ImageValues(lowest=4095, highest=4095, low=0, high=65535)
    """
    if isinstance(image, Image.Image) and CUT_TO_8_BITS in image.info:
        if value_range not in (None, UINT16_RANGE):
            raise ValueError(
                "its colours have 16 bits a channel, of which Pillow keeps the upper 8, so that image_value_range "
                f"{_words(value_range)} cannot be applied: save it with 8 bits a channel, or give an array."
            )
        ends = np.array(image.getextrema()).reshape(-1, 2)[:3]  # without alpha
        return ImageValues(ends.min().item() * 257, ends.max().item() * 257, *UINT16_RANGE)
    kind = _dtype_of(image)
    if kind in EIGHT_BITS:
        return None
    floats = np.issubdtype(kind, np.floating)
    usual = UINT16_RANGE if kind == np.uint16 else (0, 1) if floats else (0, 255)
    low, high = usual if value_range is None else value_range
    lowest, highest = _extremes(image)
    rounding = 1e-6 * (high - low) if floats else 0  # what resizing may add to a value at the end of the range
    if not (low - rounding <= lowest and highest <= high + rounding):
        values = f"its values of type {kind.name} lie between {lowest:.8g} and {highest:.8g}, outside"
        if value_range is not None:
            raise ValueError(f"{values} image_value_range {_words(value_range)}.")
        raise ValueError(
            f"{values} {_words(usual)}: state what black and white are by the processor's image_value_range (in "
            "training --image_value_range), such as 0 255 or 0 4095."
        )
    return ImageValues(lowest, highest, low, high)


def to_rgb(image: Any, value_range: tuple[float, float] | None = None, layout: str | None = None) -> Image.Image:
    """Bring an image into the one form that every model here sees: upright, RGB, 8 bits a channel.

    EXIF rotation is applied and transparency is laid on white. Values that are not of 8 bits are scaled from their
    range to 0..255 and rounded, never by what the image happens to hold, so that a series keeps its brightness. An
    array or tensor gives what a PIL image of the same values gives.

    Args:
        image: PIL image, or array or tensor (height, width), (height, width, channels) or (channels, height, width)
            with 1 channel, 3 (RGB) or 4 (RGBA), of booleans, integers or floats.
        value_range: The value of black and that of white in images and arrays of 16-bit or 32-bit integers or floats.
            By default they are 0 and 65535 for 16 unsigned bits, 0 and 1 for floats, 0 and 255 for other integers.
            Images of 8 bits (and boolean arrays) always span 0..255 (False..True): it does not apply to them.
        layout: `"channels_first"` or `"channels_last"`, for an array whose shape may mean either.

    Raises:
        TypeError: On anything else, a path or a URL (or a list of one) for instance: nothing is opened or fetched.
        ValueError: If a value lies outside the range or is not finite, an array's shape is none of these or may mean
            two of them, or a PIL image cannot be decoded.

    Example:

    >>> to_rgb(Image.new("LA", (2, 2), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    >>> to_rgb(np.array([[0, 2048, 4095]], dtype=np.uint16), value_range=(0, 4095)).getpixel((1, 0))
    (128, 128, 128)
    """
    return _convert(image, value_range, layout)[0]


def _convert(
    image: Any, value_range: tuple[float, float] | None, layout: str | None
) -> tuple[Image.Image, ImageValues | None]:
    """What `to_rgb` gives, and the values that it found."""
    if isinstance(image, (str, bytes, os.PathLike, dict)):  # a dict is what `datasets` has before decoding
        raise TypeError(
            "an image must be a PIL image, or an array or tensor, not a path or URL; open "
            f"{image!r:.80} with PIL.Image.open first."
        )
    if not isinstance(image, IMAGES):
        raise TypeError(
            f"an image must be a PIL image, or an array or tensor, got {type(image).__name__}; None stands for a "
            "missing one."
        )
    converted: Any
    if isinstance(image, Image.Image):
        try:
            converted = upright(image)
        except Exception as error:  # Pillow passes on whatever a decoder meets
            raise ValueError(f"it is cut off or broken ({error}).") from error
        if 0 in image.size:
            raise ValueError(f"it has no pixels: it is {image.width} x {image.height}.")
    else:
        converted = _channels_last(image, layout)
    values = image_values(converted, value_range)
    if values is not None and _dtype_of(converted) not in EIGHT_BITS:
        converted = _to_8_bits(converted, values.low, values.high)
    if isinstance(converted, np.ndarray):
        converted = Image.fromarray(converted)
    if converted.mode == "RGB":
        return converted, values
    if converted.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in converted.info:
        converted = converted.convert("RGBA")
        converted = Image.alpha_composite(Image.new("RGBA", converted.size, "white"), converted)
    return converted.convert("RGB"), values


def _words(value_range: tuple[float, float]) -> str:
    return f"{value_range[0]:.8g} to {value_range[1]:.8g}"


def _dtype_of(image: Any) -> np.dtype:
    """The type of an image's values; every mode of Pillow but its 16-bit and 32-bit ones is of 8 bits."""
    if not isinstance(image, Image.Image):
        return image.dtype.newbyteorder("=")
    deep = {"I": np.int32, "F": np.float32, "I;16": np.uint16}
    return np.dtype(deep.get(image.mode[:4], np.uint8))


def _bands(image: Any) -> Iterator[np.ndarray]:
    """The rows of an image as arrays that fit a cache, so that no large copy is made."""
    shape = (image.height, image.width) if isinstance(image, Image.Image) else image.shape
    rows = max(1, 2**18 // max(1, math.prod(shape[1:])))
    for top in range(0, shape[0], rows):
        if isinstance(image, Image.Image):
            yield np.asarray(image.crop((0, top, shape[1], min(top + rows, shape[0]))))
        else:
            yield image[top : top + rows]


def _extremes(image: Any) -> tuple[float, float]:
    """The lowest and the highest value, both NaN where one is."""
    ends = np.array([(band.min(), band.max()) for band in _bands(image)])
    return ends.min().item(), ends.max().item()


def _to_8_bits(image: Any, low: float, high: float) -> np.ndarray:
    """(height, width) or (height, width, channels) of 8 bits, `low` at 0 and `high` at 255."""
    scaled: list[np.ndarray] = []
    for band in _bands(image):
        values = band.astype(np.float64)
        values -= low
        values *= 255 / (high - low)
        scaled.append(np.rint(values, out=values).clip(0, 255, out=values).astype(np.uint8))
    return np.concatenate(scaled)


def _channels_last(image: np.ndarray | torch.Tensor, layout: str | None) -> np.ndarray:
    """An array as Pillow takes it: (height, width) or (height, width, 3 or 4), booleans as 0 and 255."""
    shape = tuple(image.shape)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.dtype in (torch.float16, torch.bfloat16) else image).numpy()
    if image.dtype.kind not in "biuf":
        raise TypeError(f"an array must hold booleans, integers or floats, got type {image.dtype}.")
    if layout not in LAYOUTS:
        raise ValueError(f"input_data_format must be one of {LAYOUTS}, got {layout!r}.")
    deep = image.ndim == 3
    first = deep and layout != "channels_last" and shape[0] in (1, 3, 4)
    last = deep and layout != "channels_first" and shape[2] in (1, 3, 4)
    if first and last:
        raise ValueError(
            f"an array of shape {shape} may have its channels first or last: say which by input_data_format="
            '"channels_first" or "channels_last", or give a PIL image.'
        )
    if not (image.ndim == 2 or first or last) or 0 in shape:
        raise ValueError(
            "an array must be (height, width), (height, width, channels) or (channels, height, width), with 1, 3 or "
            f"4 channels, and not empty, got shape {shape}."
        )
    image = np.moveaxis(image, 0, 2) if first else image
    image = image[:, :, 0] if deep and image.shape[2] == 1 else image
    return image * np.uint8(255) if image.dtype == np.bool_ else image


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
    # transformers' wrapper of timm saves a form that it cannot load; this does the same to an image.
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
        image_value_range: The value of black and that of white in images that are not of 8 bits, as `to_rgb` takes
            it: (0, 4095) for 12 bits in files of 16. Saved with the processor.

    Raises:
        ValueError: If both parts are None, or the range is none.

    Example:

    >>> from transformers import ViTImageProcessor
    >>> processor = MultimodalProcessor(ViTImageProcessor(size={"height": 8, "width": 8}))
    >>> batch = processor(images=[Image.new("L", (9, 5)), None], return_tensors="pt")
    >>> batch["pixel_values"].shape, batch["modality_mask"].tolist()
    (torch.Size([2, 3, 8, 8]), [[1, 0], [0, 0]])
    """

    _auto_class = "AutoProcessor"
    valid_processor_kwargs = MultimodalProcessorKwargs

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_value_range: Any = None,
    ) -> None:
        self.image_processor = image_processor
        self.tokenizer = tokenizer
        if image_processor is None and tokenizer is None:
            raise ValueError("a processor needs an image_processor, a tokenizer, or both; both are None.")
        if tokenizer is not None and tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.image_value_range = check_value_range(image_value_range)
        super().__init__(**{name: getattr(self, name) for name in self.get_attributes()}, chat_template=chat_template)

    @_ClassOrInstance
    def get_attributes(self) -> list[str]:  # transformers saves, loads and checks what this names
        return [name for name in PARTS if self is None or getattr(self, name) is not None]

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model_name_or_path: str | None = None,
        text_model_name_or_path: str | None = None,
        image_value_range: Any = None,
    ) -> "MultimodalProcessor":
        """The image processor of one checkpoint and the tokenizer of another.

        Texts are cut at what the text model can read, which tokenizers do not always know.

        Args:
            vision_model_name_or_path: Hub name or folder, or None.
            text_model_name_or_path: Hub name or folder, or None.
            image_value_range: Of the processor.
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
                if "roberta" in config.model_type or config.model_type in COUNT_BEHIND_PADDING:
                    positions -= config.pad_token_id + 1  # these begin to count behind the padding's place
                tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
            tokenizer.init_kwargs["padding"] = padding_of(config)
        return cls(image_processor, tokenizer, image_value_range=image_value_range)

    def keep_whole_images(self) -> None:
        """Resize images to the size that would be cropped to, stretched if need be, and cut nothing off.

        A classifier of images expects its object in the middle; a caption also tells what stands at the border.

        Raises:
            ValueError: If there is no image processor, or it has a way of its own to crop (ConvNeXt's).
        """
        part = self.image_processor
        if part is None:
            raise ValueError("a processor without an image_processor reads no images that could be kept whole.")
        if getattr(part, "crop_pct", None) is not None:
            raise ValueError(f"{type(part).__name__} crops by its crop_pct, so images cannot be kept whole.")
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
            images: An image or a list of images and `None`s; left out, no example has one. In place of an image
                there may be a list of one, or of none, as processors of several images an example have it.
            text: A string or a list of strings and `None`s; left out, no example has one.
            kwargs: Of the image processor and the tokenizer (`return_tensors="pt"`, `max_length`, ...).
                `input_data_format` says of arrays where their channels are.

        Returns:
            `pixel_values` (batch, channels, height, width) where images were given, `input_ids` and
            `attention_mask` (batch, length) and whatever else the tokenizer makes where text was given, and
            `modality_mask` (batch, 2), 1 = present, column 0 image, column 1 text. Images and texts that are not as
            many are no examples but each to be compared with each, by an aligner: they come without a mask.

        Raises:
            ValueError: If nothing is given, the lists differ in length and lack something, a side is given that this
                processor has no part for, or a text has more tokens than the text model reads. If an image has values
                outside `image_value_range`, or a shape that is none or is ambiguous; the message names its row.
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
            tokenizer_init_kwargs=self.tokenizer.init_kwargs if self.tokenizer is not None else {},
            **kwargs,
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
        """A single image, or a batch in one array."""
        return list(images) if getattr(images, "ndim", 3) == 4 else [images]

    @staticmethod
    def _only_one(image: Any) -> Any:
        """An image out of a list of one, None out of an empty one; whatever else is no image is refused later."""
        if not isinstance(image, (list, tuple)) or len(image) > 1:
            return image
        return next(iter(image), None) if all(isinstance(part, IMAGES) for part in image) else image

    @staticmethod
    def _has_text(text: Any, row: int) -> bool:
        if text is not None and not isinstance(text, str):
            raise TypeError(f"text must be a string or None, got {type(text).__name__} in row {row}.")
        return bool(text and text.strip())

    def _pixel_values(self, images: list, kwargs: dict[str, Any]) -> torch.Tensor:
        """(batch, channels, height, width), zeros where an image is missing."""
        present = [row for row, image in enumerate(images) if image is not None]
        rgb_images = [self._to_rgb(images[row], row, kwargs) for row in present] or [Image.new("RGB", (32, 32))]
        kwargs = {name: value for name, value in kwargs.items() if name != "input_data_format"}
        pixels = self.image_processor(rgb_images, **{**kwargs, "return_tensors": "pt"})["pixel_values"]
        if len(present) == len(images):
            return pixels
        batch = pixels.new_zeros(len(images), *pixels.shape[1:])
        if present:
            batch[present] = pixels
        return batch

    def _to_rgb(self, image: Any, row: int, kwargs: dict[str, Any]) -> Image.Image:
        try:
            converted, values = _convert(image, self.image_value_range, kwargs.get("input_data_format"))
            if values is not None and kwargs.get("do_rescale") is False and not isinstance(image, Image.Image):
                raise ValueError(
                    "leave do_rescale=False out: whatever its range, an array is brought to 0..255 first."
                )
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"image in row {row}: {error}") from error
        if values is not None and values.is_narrow:
            used = _words((values.low, values.high))
            logger.warning_once(
                f"an image uses under a tenth of its range, {used}. If fewer bits are in use, say so by the "
                "processor's image_value_range, (0, 4095) for 12 bits."
            )
        return converted

    def _tokens(self, text: list[str | None], present: np.ndarray, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Tokens; a missing text is one padding token between whatever the tokenizer puts around it, all masked."""
        blank = self.tokenizer.pad_token
        tokens = self.tokenizer([one if here else blank for one, here in zip(text, present, strict=True)], **kwargs)
        self._check_length(tokens)
        if "attention_mask" in tokens and not present.all():
            masks = tokens["attention_mask"]
            for row in np.flatnonzero(~present):
                masks[row] = masks[row] * 0 if kwargs.get("return_tensors") else [0] * len(masks[row])
        return dict(tokens)

    def _check_length(self, tokens: Any) -> None:
        """Say that a text is too long before the text model ends in an error about the sizes of tensors."""
        longest = self.tokenizer.model_max_length
        width = max(len(row) for row in tokens["input_ids"])
        if width > longest:
            lengths = [int(sum(row)) for row in tokens["attention_mask"]] if "attention_mask" in tokens else [width]
            row = int(np.argmax(lengths))
            what = f"the text of row {row} has {lengths[row]} tokens"
            if lengths[row] <= longest:
                what = f"texts are padded to {width} tokens"
            raise ValueError(
                f"{what}, and the text model reads {longest} (tokenizer.model_max_length, to be raised if the model "
                "reads more): leave truncation on, and max_length at no more than that."
            )
