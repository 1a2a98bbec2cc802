"""Images from untrusted files: what opens, and the error of what does not."""

import io
import os
import pickle
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hf_multimodal.data.images import BadImageError, is_url, open_image, verify_image


def noisy(size=(40, 30), mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bomb(width, height):
    """A PNG whose header alone claims width x height."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_whitelisted_formats_open_from_path_bytes_and_dict(tmp_path, kind):
    path = tmp_path / "image"
    path.write_bytes(saved(noisy(), kind))
    for image in (
        path,
        str(path),
        path.read_bytes(),
        {"bytes": None, "path": str(path)},
        {"bytes": path.read_bytes()},
    ):
        assert open_image(image).size == (40, 30)
        verify_image(image)


@pytest.mark.parametrize("mode, kind", [("L", "PNG"), ("1", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG")])
def test_mode_stays_for_the_processor(mode, kind):
    content = saved(noisy(mode=mode), kind)
    assert open_image(content).mode == mode
    verify_image(content)


def test_16_bit_image_keeps_its_values():
    values = np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50
    assert np.array_equal(np.asarray(open_image(saved(Image.fromarray(values), "PNG"))), values)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
def test_exif_rotation_can_still_be_applied(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert ImageOps.exif_transpose(open_image(saved(noisy(), kind, exif=exif))).size == (30, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_only_shows_when_decoded(tmp_path, kind):
    path = tmp_path / "cut"
    content = saved(noisy((200, 200)), kind)
    path.write_bytes(content[: len(content) * 2 // 3])
    if kind != "WEBP":  # which states its length in the header
        verify_image(path, decode=False)
    for check in (open_image, verify_image):
        with pytest.raises(BadImageError, match="cut' is (truncated|not an image)"):
            check(path)


def test_reasons(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "drawing.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = {
        "absent.jpg": ("missing", "there is no such file"),
        "empty.jpg": ("empty", "it holds zero bytes"),
        "text.jpg": ("not an image", "its content is none of JPEG, PNG"),
        "drawing.jpg": ("not an image", "its content is none of JPEG, PNG"),
        "pipe.jpg": ("missing", "it cannot be read .not a regular file"),
        ".": ("missing", "it cannot be read .not a regular file"),
        "empty.jpg/x": ("missing", "there is no such file"),
        "x" * 300: ("missing", "it cannot be read .File name too long"),
        "\0": ("missing", "it is not a file name .embedded null byte"),
    }
    for name, (reason, detail) in expected.items():
        with pytest.raises(BadImageError, match=f"is {reason}: {detail}") as caught:
            open_image(tmp_path / name)
        assert caught.value.reason == reason
    for image in ({"bytes": None, "path": None}, {}):
        with pytest.raises(BadImageError, match="neither a path nor bytes"):
            open_image(image)
    with pytest.raises(BadImageError, match="'bytes' is empty"):
        open_image(b"")


@pytest.mark.parametrize("url", ["http://x.org/a.jpg", "HTTPS://x.org/a.jpg", "ftp://x", "hf://a", "data:image/png,x"])
def test_url_is_never_opened(url):
    assert is_url(url)
    for image in (url, {"bytes": None, "path": url}):
        with pytest.raises(BadImageError, match="is a URL: only local files are opened"):
            open_image(image)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_size_is_refused_before_decoding():
    with pytest.raises(BadImageError, match="10000 x 10000 pixels are more than 50,000,000"):
        open_image(bomb(10_000, 10_000))
    with pytest.raises(BadImageError, match="is too large"):
        open_image(bomb(100_000, 100_000))
    with pytest.raises(BadImageError, match="40 x 30 pixels are more than 1,199"):
        verify_image(saved(noisy(), "PNG"), max_pixels=1199, decode=False)
    assert open_image(saved(noisy(), "PNG"), max_pixels=1200).size == (40, 30)


def test_error_survives_pickling_and_the_way_out_of_a_worker():
    error = BadImageError("empty", "a.jpg", "it holds zero bytes")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.reason, copy.name) == ("image 'a.jpg' is empty: it holds zero bytes", "empty", "a.jpg")
    loader = torch.utils.data.DataLoader([b""], collate_fn=lambda rows: open_image(rows[0]), num_workers=1)
    with pytest.raises(BadImageError, match="image 'bytes' is empty: it holds zero bytes"):
        next(iter(loader))
