"""Mutated images: whatever the bytes are, an image opens or is refused by a documented error."""

import io
import random
import struct
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_multimodal import MultimodalProcessor
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.collator import MultimodalCollator
from hf_multimodal.data.images import BadImageError, open_image, open_rgb, verify_image

RANGES = (None, (0, 4095), (-1024, 3071), (0, 255), (0, 1))
EXIF_KINDS = ("JPEG", "PNG", "WEBP", "TIFF")


def seeds() -> dict[str, bytes]:
    """Small whole files of all formats and modes, with and without EXIF tags."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 17, 4), dtype=np.uint8)
    deep = noise[..., 0].astype(np.uint16) * 257
    images = {mode: Image.fromarray(noise[..., :3]).convert(mode) for mode in ("RGB", "L", "1", "P", "CMYK", "YCbCr")}
    images |= {"RGBA": Image.fromarray(noise), "LA": Image.fromarray(noise).convert("LA")}
    images |= {"I;16": Image.fromarray(deep), "I;16B": Image.fromarray(deep.astype(">u2"))}
    images |= {"I": Image.fromarray(deep.astype(np.int32)), "F": Image.fromarray((noise[..., 0] / 255).astype("f4"))}
    kinds = {
        "JPEG": ({"RGB", "L", "CMYK"}, [{}, {"progressive": True}]),
        "PNG": ({"RGB", "L", "1", "P", "RGBA", "LA", "I;16"}, [{}]),
        "WEBP": ({"RGB", "RGBA"}, [{}, {"lossless": True}]),
        "GIF": ({"P", "L"}, [{}, {"save_all": True, "append_images": [images["L"]]}]),
        "BMP": ({"RGB", "L", "1", "P"}, [{}]),
        "TIFF": (set(images), [{}, {"compression": "tiff_deflate"}, {"compression": "tiff_lzw"}]),
    }
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "what it shows", 72.0
    files = {}
    for kind, (modes, variants) in kinds.items():
        for mode in sorted(modes):
            for number, options in enumerate([*variants, {"exif": exif}] if kind in EXIF_KINDS else variants):
                stream = io.BytesIO()
                images[mode].save(stream, kind, **options)
                files[f"{kind} {mode} {number}"] = stream.getvalue()
    return files


def mutate(content: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Damage a file as disks, networks and hostile people do."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(4, len(data)) if len(data) > 4 else 0  # the first four say which format it is
        tags = [at for mark in (b"II*\0", b"MM\0*", b"II+\0") if (at := data.find(mark)) >= 0]
        if tags and draw.random() < 0.5:  # a TIFF, or EXIF in another format
            place = min(tags[0] + draw.randrange(2, 90), len(data) - 1)
        near = min(place, draw.randrange(4, 128))  # headers and tags lie in front
        length = draw.randint(1, 16)
        kind = draw.randrange(9)
        if kind == 0:  # bits flip
            for _ in range(length):
                if data:
                    data[draw.randrange(min(4, len(data) - 1), len(data))] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data = data[:place]
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = draw.randbytes(length)
        elif kind == 4:
            data[near : near + length] = draw.randbytes(length)
        elif kind == 5:  # numbers at the ends of their types, in sizes, counts and offsets
            number = draw.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 7, 65))
            data[near : near + 4] = struct.pack(draw.choice("<>") + "I", number)
        elif kind == 6:
            number = draw.choice((0, 1, 2, 3, 5, 7, 11, 12, 13, 255, 256, 65535))
            data[place : place + 2] = struct.pack(draw.choice("<>") + "H", number)
        elif kind == 7:
            data[place:] = draw.choice(others)[place:]
        else:
            data[place:place] = data[near : near + 4 * length]
    return with_checksums(data) if draw.random() < 0.5 else bytes(data)


def with_checksums(data: bytearray) -> bytes:
    """The checksums of a PNG put right, so that what was changed in its chunks is read at all."""
    place = 8
    while data.startswith(b"\x89PNG") and place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end])) if end + 4 <= len(data) else b""
        place = end + 4
    return bytes(data)


def doors(value_range: Any, folder: Path) -> dict[str, Callable[[bytes], Any]]:
    """All that reads bytes."""
    processor = MultimodalProcessor(ViTImageProcessor(size={"height": 4, "width": 4}), image_value_range=value_range)
    path = folder / "image"
    collators = {
        "collator": MultimodalCollator(processor),
        "augmented": MultimodalCollator(processor, augment=ImageAugmentation(0)),
        "missing": MultimodalCollator(processor, on_bad_image="missing", on_empty="keep"),
    }

    def written(content: bytes) -> Path:
        path.write_bytes(content)
        return path

    def collated(name: str) -> Callable[[bytes], Any]:
        row = {"text": "a", "label": 0, "id": "0", "index": 0}
        return lambda content: collators[name]([{**row, "image": {"bytes": content, "path": None}}])["pixel_values"]

    return {
        "open": open_image,
        "open a file": lambda content: open_image(written(content)),
        "verify": lambda content: verify_image(content, value_range=value_range),
        "verify the header": lambda content: verify_image(content, decode=False),
        "rgb": lambda content: open_rgb(content, value_range),
        "processor": lambda content: processor(images=[open_image(content)], return_tensors="pt")["pixel_values"],
        "lazy": lambda content: processor(images=[Image.open(io.BytesIO(content))], return_tensors="pt"),
        **{name: collated(name) for name in collators},
    }


def outcome(read: Callable[[bytes], Any], content: bytes) -> str:
    """What comes of reading: a result, or which documented error.

    Raises:
        AssertionError: On a result that is none.
        Exception: Whatever else the reading raises.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = read(content)
        except BadImageError as error:
            assert error.reason and str(error).startswith("image ")
            return error.reason
        except ValueError as error:
            if type(error) is ValueError and str(error).startswith("image in row 0: "):
                return "refused by the processor"
            raise
    if isinstance(found, torch.Tensor):
        assert found.isfinite().all() and found.shape[1:] == (3, 4, 4)
    return "result"


def fuzz(seconds: float, seed: int, most: int | None = None) -> dict[str, int]:
    """Mutate and read images.

    Args:
        seconds: How long.
        seed: Of all that is drawn; the same seed meets the same mutations in the same order.
        most: Number of mutations after which it ends in any case.

    Returns:
        Number of `mutations`, and how often each result and each documented error came.

    Raises:
        AssertionError: On any other exception, or where two ways to read a file disagree whether it can be used; the
            message holds the file's bytes.
    """
    draw = random.Random(seed)
    files = seeds()
    contents = list(files.values())
    counts: Counter[str] = Counter()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        readers = {value_range: doors(value_range, Path(folder)) for value_range in RANGES}
        while time.monotonic() - begin < seconds and (most is None or counts["mutations"] < most):
            name = draw.choice(list(files))
            content = mutate(files[name], contents, draw)
            value_range = draw.choice(RANGES)
            found = {}
            for door, read in readers[value_range].items():
                if door == "lazy" and found["verify"] != "result":
                    continue  # Pillow's own errors in opening are Pillow's
                try:
                    found[door] = outcome(read, content)
                except Exception as error:
                    raise AssertionError(f"{name}, range {value_range}, {door}: {error!r}\n{content!r}") from error
                counts[found[door]] += 1
            verdicts = {door: found[door] for door in ("verify", "rgb", "collator")}
            # JPEGs are verified at an eighth of their size, which Pillow may read where it cannot read the whole
            if len(set(verdicts.values())) > 1 and not content.startswith(b"\xff\xd8"):
                raise AssertionError(f"{name}, range {value_range}: {verdicts}\n{content!r}")
            counts["mutations"] += 1
    return dict(counts)


if __name__ == "__main__":
    import sys

    print(fuzz(float(sys.argv[1]), int(sys.argv[2])))
