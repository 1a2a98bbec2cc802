"""Open images from files and bytes without trusting them."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from hf_multimodal.data.archives import open_file
from hf_multimodal.models.processing_multimodal import ImageValues, image_values, load_pixels, to_rgb

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 50_000_000

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)


class BadImageError(ValueError):
    """An image that cannot be used.

    It can be rebuilt from its message alone, as pickle and a `DataLoader` do with an error of their workers.

    Args:
        reason: `missing`, `empty`, `truncated`, `too large`, `not an image`, `a URL` or `out of range`; without the
            other two the whole message.
        name: The file, or `bytes` for an image held in memory.
        detail: What was found, in words.
    """

    def __init__(self, reason: str, name: str | None = None, detail: str = ""):
        super().__init__(reason if name is None else f"image {name!r} is {reason}: {detail}")
        self.reason = reason
        self.name = name
        self.detail = detail


def is_url(value: str) -> bool:
    """Whether a string would make an image loader reach beyond the data folder (`scheme://...`, `data:`).

    Example:

    >>> is_url("https://example.org/1.jpg"), is_url("images/1.jpg")
    (True, False)
    """
    return _URL.match(value) is not None


def _name_of(image: Any) -> str:
    """What messages call an image."""
    if isinstance(image, Image.Image):
        return str(getattr(image, "filename", "") or "of Pillow")
    path = image.get("path") if isinstance(image, dict) else None if isinstance(image, bytes) else image
    return "bytes" if path is None else str(path)


def _open_stream(image: dict[str, Any] | str | Path | bytes) -> tuple[BinaryIO, str]:
    """Open an image's bytes and give them with its name."""
    if not isinstance(image, (dict, str, Path, bytes)):
        kind = type(image).__name__
        raise TypeError(f"an image must be an image of Pillow, a path, bytes or a dict of them, got a {kind}.")
    if isinstance(image, dict):
        content, path = image.get("bytes"), image.get("path")
    else:
        content, path = (image, None) if isinstance(image, bytes) else (None, image)
    name = _name_of(image)
    stream: BinaryIO
    if content is not None:
        stream = io.BytesIO(content)
    elif path is None:
        raise BadImageError("missing", name, "neither a path nor bytes were given")
    elif is_url(name):
        raise BadImageError("a URL", name, "only local files are opened")
    else:
        try:
            stream = open_file(path)  # closed by the callers
        except FileNotFoundError:
            raise BadImageError("missing", name, "there is no such file") from None
        except OSError as error:  # no permission, a name too long, a broken archive
            raise BadImageError("missing", name, f"it cannot be read ({error.strerror})") from None
        except ValueError as error:  # a NUL in the name
            raise BadImageError("missing", name, f"it is not a file name ({error})") from None
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if not size:
        stream.close()
        raise BadImageError("empty", name, "it holds zero bytes")
    return stream, name


def _read_header(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Read the header only, and refuse what it already shows to be unusable."""
    try:
        # With `formats`, an EPS never reaches Ghostscript.
        image = Image.open(stream, formats=IMAGE_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError("too large", name, str(error)) from None
    except UnidentifiedImageError:
        raise BadImageError("not an image", name, f"its content is none of {', '.join(IMAGE_FORMATS)}") from None
    except Exception as error:  # Pillow passes on whatever a parser meets: struct.error, SyntaxError, ...
        raise BadImageError("truncated", name, f"its header is broken ({error})") from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadImageError("too large", name, f"{width} x {height} pixels are more than {max_pixels:,}")
    return image


def _load(image: Image.Image, name: str) -> None:
    try:
        load_pixels(image)
    except Exception as error:  # Pillow passes on whatever a decoder meets: OSError, SyntaxError, zlib.error, ...
        raise BadImageError("truncated", name, f"its content is cut off or broken ({error})") from None


def open_image(image: Image.Image | dict[str, Any] | str | Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open and decode one image of a whitelisted format.

    The size is checked in the header before a pixel is decoded: a file of 12 KB can hold 100 megapixels. The mode
    stays as it is (palette, CMYK, 16 bit, alpha, EXIF rotation): converting is the processor's work.

    Args:
        image: A path, the file's bytes, a `{"bytes", "path"}` dict as `datasets.Image(decode=False)` gives it, or an
            image that Pillow has opened, whose pixels may still be in its file.
        max_pixels: Largest allowed width times height of an image that is opened here.

    Returns:
        The loaded image.

    Raises:
        BadImageError: With the `reason`.
        TypeError: If it is none of these.

    Example:

    >>> open_image("https://example.org/cat.jpg")
    Traceback (most recent call last):
    ...
    hf_multimodal.data.images.BadImageError: image 'https://example.org/cat.jpg' is a URL: only local files are opened
    """
    if isinstance(image, Image.Image):
        _load(image, _name_of(image))
        return image
    stream, name = _open_stream(image)
    with stream:
        content = stream.read()
    opened = _read_header(io.BytesIO(content), name, max_pixels)  # stays open: TIFF reads its EXIF tags later
    _load(opened, name)
    return opened


def value_range_of(processor: Any) -> tuple[float, float] | None:
    """The `image_value_range` that a processor states; None of one that knows no such thing, as CLIP's."""
    return getattr(processor, "image_value_range", None)


def open_rgb(
    image: Image.Image | dict[str, Any] | str | Path | bytes,
    value_range: tuple[float, float] | None = None,
    augment: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """Open an image as every model sees it, by `to_rgb`, which is the one definition of how it is brought there.

    Args:
        image: As for `open_image`.
        value_range: The processor's `image_value_range`.
        augment: Changes the image before, in the mode of its file.

    Returns:
        The image, upright, RGB.

    Raises:
        BadImageError: As `open_image`, and where a value lies outside the range.
        TypeError: If it is no image.
    """
    opened = open_image(image)
    try:
        if augment is not None:
            image_values(opened, value_range)  # what is refused must not depend on what a crop shows
            opened = augment(opened)
        return to_rgb(opened, value_range)
    except ValueError as error:
        raise BadImageError("out of range", _name_of(image), str(error)) from None


def verify_image(
    image: dict[str, Any] | str | Path | bytes,
    max_pixels: int = MAX_PIXELS,
    decode: bool = True,
    value_range: tuple[float, float] | None = None,
) -> ImageValues | None:
    """Raise what `open_rgb` would raise, at less cost.

    Args:
        image: As for `open_image`.
        max_pixels: Largest allowed width times height.
        decode: Also decode the pixels; only that shows a truncated file, and values outside the range. JPEGs are
            decoded at an eighth of their size, which still reads every byte.
        value_range: As for `open_rgb`.

    Returns:
        The values of an image that is not of 8 bits; None of any other, and where the pixels are not decoded.

    Raises:
        BadImageError: With the `reason`.
    """
    stream, name = _open_stream(image)
    with stream:
        opened = _read_header(stream, name, max_pixels)
        if not decode:
            return None
        opened.draft(opened.mode, (max(1, opened.width // 8), max(1, opened.height // 8)))
        _load(opened, name)
    try:
        return image_values(opened, value_range)
    except ValueError as error:
        raise BadImageError("out of range", name, str(error)) from None
