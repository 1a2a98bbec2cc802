"""Images that are not of 8 bits, arrays and tensors: one conversion, by a range that is stated and never guessed."""

import io
import json
import re
import struct
import tracemalloc
import zlib
from fractions import Fraction
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from test_scripts import FAST, predict, train, write_table
from transformers import ViTImageProcessor

import hf_multimodal.cli.predict
from hf_multimodal import MultimodalProcessor
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.checks import BadSamplesError, check_rows
from hf_multimodal.data.collator import MultimodalCollator
from hf_multimodal.data.images import BadImageError, open_image, open_rgb, verify_image
from hf_multimodal.data.value_ranges import ValueRanges
from hf_multimodal.evaluation.drawing import rgb
from hf_multimodal.inference.fingerprint import fingerprint
from hf_multimodal.models.processing_multimodal import ImageValues, check_value_range, image_values, to_rgb, upright

AS_THEY_ARE = {"do_resize": False, "do_normalize": False, "do_rescale": False}
TWELVE_BITS = (0, 4095)
RAMP = np.linspace(0, 4095, 64).reshape(8, 8)


def make_processor(value_range=None, **options) -> MultimodalProcessor:
    return MultimodalProcessor(ViTImageProcessor(**AS_THEY_ARE | options), image_value_range=value_range)


def pixels(image, value_range=None, **options) -> np.ndarray:
    """(height, width, channels) of 0 to 255, as a model would see it."""
    batch = make_processor(value_range)(images=[image], return_tensors="pt", **options)
    return batch["pixel_values"][0].permute(1, 2, 0).numpy()


def encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


# --- ranges


@pytest.mark.parametrize(
    ("image", "value_range"),
    [
        (Image.fromarray(RAMP.astype(np.uint16)), (0, 4095)),
        (Image.fromarray((RAMP / 4).astype(np.uint16)), (0, 1023)),
        (Image.fromarray((RAMP * 65535 / 4095).astype(np.uint16)), None),
        (Image.fromarray(RAMP.astype(np.int32) - 1024), (-1024, 3071)),
        (Image.fromarray(RAMP.astype(np.float32)), (0, 4095)),
        (Image.fromarray((RAMP / 4095).astype(np.float32)), None),
        (RAMP / 4095, None),
        (np.repeat(RAMP[..., None] / 4095, 3, 2), None),
        (np.repeat((RAMP * 16).astype(np.uint16)[..., None], 3, 2), (0, 65520)),
        (torch.tensor(RAMP / 4095).to(torch.bfloat16), None),
        (np.rint(RAMP / 4095 * 255).astype(np.int64), None),
    ],
)
def test_a_range_fills_what_the_model_sees(image, value_range):
    seen = pixels(image, value_range)
    assert (seen.min(), seen.max()) == (0, 255)
    expected = np.repeat((RAMP / 4095 * 255)[..., None], 3, 2)
    assert np.abs(seen - expected).max() <= 1.1  # half a step of 8 bits, and half a step of the coarsest input


def test_one_series_is_scaled_alike():
    dark = Image.fromarray((RAMP / 4).astype(np.float32))
    bright = Image.fromarray(RAMP.astype(np.float32))
    batch = make_processor(TWELVE_BITS)(images=[dark, bright], return_tensors="pt")["pixel_values"]
    assert batch[1].max() == 255 and batch[0].max() == 64


@pytest.mark.parametrize(
    ("image", "value_range", "message"),
    [
        (np.array([[0, 4096]], np.uint16), TWELVE_BITS,
         "uint16 lie between 0 and 4096, outside image_value_range 0 to 4095."),
        (Image.new("F", (2, 2), 255), None, "float32 lie between 255 and 255, outside 0 to 1: state .* 0 255 or 0 40"),
        (np.full((5, 5, 3), 255.0), None, "float64 lie between 255 and 255, outside 0 to 1: state"),
        (Image.new("I", (2, 2), 65535), None, "int32 lie between 65535 and 65535, outside 0 to 255: state"),
        (torch.tensor([[-1, 3]]), None, "int64 lie between -1 and 3, outside 0 to 255"),
        (np.array([[0.5, np.nan]]), None, "float64 lie between nan and nan, outside 0 to 1"),
        (np.array([[0.5, np.inf]]), (0, 1e9), "float64 lie between 0.5 and inf, outside image_value_range 0 to 1e.09"),
    ],
)  # fmt: skip
def test_values_outside_the_range_are_refused_with_row_and_value(image, value_range, message):
    black = Image.new("L", (2, 2))
    with pytest.raises(ValueError, match=f"image in row 2: its values of type {message}"):
        make_processor(value_range)(images=[black, None, image])


def test_images_of_8_bits_need_no_range_and_heed_none():
    opaque = Image.new("RGBA", (2, 2), (200, 200, 200, 255))
    for image in (Image.new("L", (2, 2), 200), opaque, np.full((2, 2), 200, np.uint8)):
        assert (pixels(image, TWELVE_BITS) == 200).all()


@pytest.mark.parametrize("value_range", [(5, 5), (9, 2), (0, float("inf")), (0,), 4095, "ab", (0, 1, 2), (0, None)])
def test_what_is_no_range_is_refused(value_range):
    with pytest.raises(ValueError, match="image_value_range must be two finite numbers, .* such as 0 4095, got"):
        make_processor(value_range)


def test_the_range_is_saved_with_the_processor(tmp_path):
    make_processor(TWELVE_BITS).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["image_value_range"] == [0, 4095]
    loaded = MultimodalProcessor.from_pretrained(tmp_path)
    assert loaded.image_value_range == TWELVE_BITS
    assert loaded(images=[Image.new("I;16", (8, 8), 4095)], return_tensors="pt")["pixel_values"].min() == 255
    assert MultimodalProcessor.from_pretrained(tmp_path, image_value_range=None).image_value_range is None


def test_processors_of_earlier_runs_state_none(tmp_path):
    with ZipFile(Path(__file__).parents[1].joinpath("saved_by_190fc8f") / "fused.zip") as archive:
        archive.extractall(tmp_path)
    processor = MultimodalProcessor.from_pretrained(tmp_path)
    assert processor.image_value_range is None
    full = np.linspace(0, 65535, 1024).reshape(32, 32).astype(np.uint16)
    eight = Image.fromarray((full.astype(np.float64) * (255 / 65535)).round().clip(0, 255).astype(np.uint8))
    batch = processor(images=[Image.fromarray(full), eight], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch[0], batch[1])  # as the code of then did it


def test_a_range_is_another_fingerprint():
    def processor(value_range):
        made = make_processor(value_range)
        made.tokenizer = type("Words", (), {"get_vocab": dict, "model_max_length": 1, "padding_side": "right"})()
        return made

    class Model(torch.nn.Linear):
        config = type("Config", (), {"to_dict": lambda self: {}})()

    model = Model(1, 1)
    unstated, stated = (fingerprint(model, processor(value_range)) for value_range in (None, TWELVE_BITS))
    assert unstated["processor"] != stated["processor"] and unstated["weights"] == stated["weights"]


def test_colours_of_16_bits_are_read_by_their_upper_8_and_refuse_another_range(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(deep_rgb_png(4000))
    assert np.asarray(open_rgb(path)).max() == 4000 >> 8
    assert np.asarray(open_rgb(path, (0, 65535))).max() == 4000 >> 8
    for check in (lambda: open_rgb(path, TWELVE_BITS), lambda: verify_image(path, value_range=TWELVE_BITS)):
        with pytest.raises(
            BadImageError, match="deep.png' is out of range: its colours have 16 bits a channel, of which"
        ):
            check()
    values = verify_image(path)
    assert values is not None and values.is_narrow and values.highest < 4096
    with Image.open(path) as lazy, pytest.raises(ValueError, match="image in row 0: its colours have 16 bits"):
        make_processor(TWELVE_BITS)(images=[lazy])


def deep_rgb_png(value: int) -> bytes:
    """A PNG of 8 x 8 pixels and 48 bits each, which Pillow reads and does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + struct.pack(">3H", value, value, value) * 8) * 8
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_rgb_images_pass_as_they_are():
    keyed = Image.new("RGB", (3, 2), (200, 10, 10))
    keyed.info["transparency"] = (200, 10, 10)  # as a PNG may have it; the colour is drawn, as ever
    assert to_rgb(keyed) is keyed


@pytest.mark.parametrize("broken", [b"Exif\0\0uM\0*\0\0\0\x08", b"Exif\0\0II*\0\x08", b"Exif\0\0"])
def test_exif_that_cannot_be_read_turns_nothing(broken, tmp_path):
    stream = io.BytesIO()
    Image.effect_noise((40, 30), 90).save(stream, "JPEG", exif=broken)
    whole = open_image(encoded(Image.effect_noise((40, 30), 90), "JPEG"))
    assert open_rgb(stream.getvalue()).size == whole.size
    augmented = ImageAugmentation(0)(open_image(stream.getvalue()), 0, 0)
    assert augmented.size == whole.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_once_as_pillow_does(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)).save(stream, kind, exif=exif)
    expected = ImageOps.exif_transpose(open_image(stream.getvalue())).convert("RGB")
    turned = upright(open_image(stream.getvalue()))
    assert np.array_equal(np.asarray(turned.convert("RGB")), np.asarray(expected))
    assert upright(turned) is turned and turned.crop((0, 0, 3, 2)).getexif().get(0x0112, 1) == 1


# --- properties

RANGES = st.tuples(st.integers(-5000, 5000), st.integers(1, 70000)).map(lambda pair: (pair[0], pair[0] + pair[1]))
SIZES = st.tuples(st.integers(5, 9), st.integers(5, 9))
WIDE = {kind.__name__: kind for kind in (np.uint16, np.int16, np.int32, np.int64, np.float32, np.float64)}


def drawn(seed: int, size: tuple[int, ...], low: float, high: float, kind: type) -> np.ndarray:
    """Values within a range and those at its ends."""
    values = np.random.default_rng(seed).uniform(low, high, size)
    values.flat[:2] = low, high
    return values.astype(kind)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WIDE)), RANGES, SIZES, st.integers(0, 99))
def test_scaling_is_that_of_the_formula(name, value_range, size, seed):
    low, high = value_range
    info = np.iinfo(WIDE[name]) if "int" in name else None
    if info is not None and not (info.min <= low and high <= info.max):
        return
    values = drawn(seed, size, low, high, WIDE[name])
    seen = np.asarray(to_rgb(values, value_range))
    for value, grey in zip(values.flat, seen[..., 0].flat, strict=True):
        exact = (Fraction(value.item()) - low) * 255 / (high - low)
        assert abs(exact - int(grey)) <= Fraction(1, 2) + Fraction(1, 10**9)
    assert (seen == seen[..., :1]).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WIDE)), RANGES, SIZES, st.integers(0, 99), st.booleans())
def test_one_value_outside_refuses_the_image_and_names_it(name, value_range, size, seed, above):
    low, high = value_range
    outside = high + 1 if above else low - 1
    info = np.iinfo(WIDE[name]) if "int" in name else None
    if info is not None and not (info.min < low and high < info.max):
        return
    values = drawn(seed, size, low, high, WIDE[name])
    values[-1, -1] = outside
    with pytest.raises(ValueError, match=f"{outside:g}, outside" if above else f"between {outside:g} and"):
        to_rgb(values, value_range)


LAYOUTS = {
    "HW": lambda values: values[..., 0],
    "HWC": lambda values: values,
    "CHW": lambda values: np.moveaxis(values, 2, 0),
}


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from([1, 3, 4]),
    st.sampled_from(["uint8", "bool", "uint16", "int32", "float32"]),
    SIZES,
    st.integers(0, 99),
    st.booleans(),
)
def test_an_array_and_a_tensor_are_the_image_of_the_same_values(layout, channels, name, size, seed, as_tensor):
    if layout == "HW":
        channels = 1
    eight = np.random.default_rng(seed).integers(0, 256, (*size, channels)).astype(np.uint8)
    eight = (eight > 127) * np.uint8(255) if name == "bool" else eight
    image = Image.fromarray(eight if channels > 1 else eight[..., 0])
    values = {
        "uint8": eight,
        "bool": eight > 0,
        "uint16": eight.astype(np.uint16) * 257,
        "int32": eight.astype(np.int32),
        "float32": (eight / 255).astype(np.float32),
    }[name]
    array = LAYOUTS[layout](values)
    given_array = torch.from_numpy(np.ascontiguousarray(array)) if as_tensor else array
    expected = pixels(image)
    assert np.array_equal(pixels(given_array), expected)
    if channels == 4:  # on white, as those of files
        white = Image.new("RGBA", image.size, "white")
        assert np.array_equal(expected, np.asarray(Image.alpha_composite(white, image).convert("RGB")))
    resized = make_processor(do_resize=True, size={"height": 4, "width": 4}, do_rescale=True)
    assert torch.equal(*resized(images=[image, given_array], return_tensors="pt")["pixel_values"])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["I;16", "I;16B", "I", "F"]), RANGES, SIZES, st.integers(0, 99))
def test_a_file_gives_what_the_array_gives(mode, value_range, size, seed):
    low, high = value_range
    if mode.startswith("I;16"):
        low, high = max(low, 0), min(max(high, 1), 65535)
    if low >= high:
        return
    kind = {"I": np.int32, "F": np.float32}.get(mode, np.uint16)
    values = drawn(seed, size, low, high, kind)
    stored = values.astype(">u2") if mode == "I;16B" else values
    pil_image = Image.fromarray(stored)
    assert pil_image.mode == mode
    expected = pixels(values, (low, high))
    files = ["TIFF"] if mode != "I;16" else ["TIFF", "PNG"]
    for image in (pil_image, *(open_image(encoded(pil_image, kind)) for kind in files)):
        assert np.array_equal(pixels(image, (low, high)), expected)
    assert np.array_equal(rgb(pil_image, (low, high)), expected)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=5).map(tuple))
def test_a_shape_is_one_thing_or_refused(shape):
    array = np.full(shape, 100, np.uint8)
    forms = [shape] if len(shape) == 2 else []
    if len(shape) == 3:
        forms += [(*shape[1:], shape[0])] if shape[0] in (1, 3, 4) else []
        forms += [shape] if shape[2] in (1, 3, 4) else []
    if len(forms) == 1 and 0 not in shape:
        assert pixels(array).shape[:2] == forms[0][:2]
        return
    with pytest.raises(ValueError, match="image in row 0: an array (must be|of shape)") as caught:
        make_processor()(images=[array])
    assert str(shape) in str(caught.value)
    if len(forms) == 2 and 0 not in shape:
        assert 'say which by input_data_format="channels_first" or "channels_last"' in str(caught.value)
        assert pixels(array, input_data_format="channels_first").shape[:2] == shape[1:]
        assert pixels(array, input_data_format="channels_last").shape[:2] == shape[:2]


def test_other_arrays_are_refused():
    with pytest.raises(TypeError, match="an array must hold booleans, integers or floats, got type complex64"):
        make_processor()(images=[np.zeros((4, 4), np.complex64)])
    with pytest.raises(ValueError, match="input_data_format must be one of .*'channels_last'.*, got 'NHWC'"):
        make_processor()(images=[np.zeros((4, 4), np.uint8)], input_data_format="NHWC")
    with pytest.raises(ValueError, match="image in row 0: leave do_rescale=False out: whatever its range, an array"):
        make_processor()(images=[np.zeros((4, 4))], do_rescale=False)
    with pytest.raises(ValueError, match="image in row 0: it has no pixels: it is 0 x 3"):
        make_processor()(images=[Image.new("L", (0, 3))])
    with pytest.raises(ValueError, match="image in row 1: it is cut off or broken .*truncated"):
        content = encoded(Image.effect_noise((64, 64), 90), "PNG")
        make_processor()(images=[None, Image.open(io.BytesIO(content[: len(content) // 2]))])


def test_a_large_image_is_converted_by_bands():
    image = Image.new("I;16", (3000, 3000), 4095)
    tracemalloc.start()
    try:
        converted = to_rgb(image, TWELVE_BITS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert converted.getpixel((2999, 2999)) == (255, 255, 255)
    assert peak < 60e6  # in float64 the whole image alone would be 72e6


# --- data


def rows_of(images: list) -> Dataset:
    columns = {"image": [None if one is None else {"bytes": one, "path": None} for one in images]}
    columns |= {
        "text": ["a"] * len(images),
        "label": [0] * len(images),
        "id": [f"r{row}" for row in range(len(images))],
    }
    columns |= {"index": list(range(len(images)))}
    names = {"text": Value("string"), "label": Value("int64"), "id": Value("string"), "index": Value("int64")}
    return Dataset.from_dict(columns, features=Features(image=ImageFeature(decode=False), **names))


TWELVE = encoded(Image.fromarray(RAMP.astype(np.uint16)), "PNG")
TOO_BRIGHT = encoded(Image.fromarray(np.full((8, 8), 5000, np.uint16)), "PNG")
EIGHT = encoded(Image.new("L", (8, 8), 9), "PNG")


def test_checks_refuse_values_outside_by_the_policy():
    rows = rows_of([TWELVE, TOO_BRIGHT, EIGHT])
    ranges = ValueRanges(TWELVE_BITS)
    with pytest.raises(BadSamplesError, match="row 1 .*is out of range: .* 5000, outside image_value_range 0 to 4095"):
        check_rows(rows, policy="error", source="t", value_ranges=ranges)
    checked, samples = check_rows(rows, policy="drop", source="t", value_ranges=ranges)
    assert checked["id"][:] == ["r0", "r2"] and [sample.row for sample in samples] == [1]


def test_collator_refuses_values_outside_by_its_policy():
    rows = [dict(row) for row in rows_of([TWELVE, TOO_BRIGHT])]
    with pytest.raises(
        BadImageError, match=r"bytes \(row r1, column image\)' is out of range: .* outside image_value_r"
    ):
        MultimodalCollator(make_processor(TWELVE_BITS))(rows)
    with pytest.warns(UserWarning, match="r1, column image.* is out of range.* is taken as one without an image"):
        batch = MultimodalCollator(make_processor(TWELVE_BITS), on_bad_image="missing", on_empty="keep")(rows)
    assert batch["modality_mask"].tolist() == [[1, 0], [0, 0]]
    assert batch["pixel_values"][0].max() == 255


def test_augmentation_neither_leaves_the_range_nor_hides_what_is_outside():
    rows = np.random.default_rng(0).integers(0, 2, (16, 16)).astype(np.float32)
    for index in range(30):
        augment = ImageAugmentation(index)
        image = Image.fromarray(rows)
        open_rgb(image, None, lambda one: augment(one, 0, index))  # noqa: B023
        border = Image.fromarray(rows * 1)
        border.putpixel((0, 0), 9)
        with pytest.raises(BadImageError, match="of Pillow' is out of range"):
            open_rgb(border, None, lambda one: augment(one, 0, index))  # noqa: B023


@pytest.mark.parametrize(
    ("values", "stated", "warning"),
    [
        ([ImageValues(0, 4011, 0, 65535), ImageValues(0, 60000, 0, 65535), None], None,
         "1 of 2 images that are not of 8 bits use under a tenth .* 0 to 4011, .* 0 to 65535, such as '0'.* 0 4095 "),
        ([ImageValues(7, 900, 0, 65535)] * 2, None, "2 of 2 images .* --image_value_range 0 1023 "),
        ([ImageValues(0.01, 0.05, 0, 1)], None, "1 of 1 .* 0.01 to 0.05, .* 0 to 1, .*_range LOWEST HIGHEST "),
        ([None, None], (0, 4095), "range 0 to 4095 has no effect: all 2 images are of 8 bits, which always span 0"),
    ],
)  # fmt: skip
def test_what_is_odd_is_told_with_its_remedy(values, stated, warning):
    ranges = ValueRanges(stated)
    for name, found in enumerate(values):
        ranges.add(str(name), found)
    assert ranges.warning is not None
    assert re.search(warning, ranges.warning)


def test_nothing_is_told_of_what_is_in_order():
    for found, stated in (
        (ImageValues(0, 60000, 0, 65535), None),
        (ImageValues(0, 4000, 0, 4095), TWELVE_BITS),
        (None, None),
    ):
        ranges = ValueRanges(stated)
        ranges.add("a", found)
        assert ranges.warning is None


def test_image_values_of_8_bits_are_none():
    assert image_values(Image.new("RGB", (2, 2))) is None and image_values(np.zeros((2, 2), np.uint8)) is None
    assert check_value_range(None) is None


# --- the scripts


def make_deep_table(folder: Path, top: float = 4095) -> Path:
    rows = []
    for number in range(24):
        label = ["dark", "light"][number % 2]
        values = np.random.default_rng(number).uniform(*((0, top / 3), (top / 2, top))[number % 2], (16, 16))
        Image.fromarray(values.astype(np.uint16)).save(folder / f"{number}.png")
        rows.append({"id": f"r{number}", "image": f"{number}.png", "text": f"scan {number}", "label": label})
    return write_table(folder / "table.csv", rows)


def test_a_dry_run_reports_narrow_images_with_count_and_remedy(tmp_path, capsys):
    table = make_deep_table(tmp_path)
    flags = ["--data", str(table), "--modality", "image", *FAST]
    report = train([*flags, "--dry_run"])
    message = "24 of 24 images that are not of 8 bits use under a tenth of their range: their values are 0 to"
    assert report["image_values"].startswith(message)
    assert "state so in training: --image_value_range 0 4095 (" in report["image_values"]
    assert f"image values: {message}" in capsys.readouterr().out
    assert train([*flags, "--dry_run", "--image_value_range", "0", "4095"])["image_values"] is None


def test_the_image_that_show_draws_is_the_one_that_the_model_saw(tmp_path, monkeypatch, caplog):
    table, folder = make_deep_table(tmp_path), tmp_path / "run"
    flags = ["--data", str(table), "--output_dir", str(folder), "--modality", "image", *FAST]
    train([*flags, "--image_value_range", "0", "4095"])
    assert not [record for record in caplog.records if "under a tenth" in record.getMessage()]
    assert json.loads((folder / "processor_config.json").read_text())["image_value_range"] == [0, 4095]

    answering = hf_multimodal.cli.predict
    seen, figures, load, plot = [], [], answering.load_model, answering.plot_prediction

    def load_model(*args):
        model, processor = load(*args)
        model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
        return model, processor

    monkeypatch.setattr(answering, "load_model", load_model)
    monkeypatch.setattr(answering, "plot_prediction", lambda *args, **kwargs: figures.append(plot(*args, **kwargs)))
    image = str(tmp_path / "3.png")
    predict(["--model", str(folder), "--image", image, "--show", str(tmp_path / "show.png")])
    shown = figures[0].axes[0].images[0].get_array()
    processor = MultimodalProcessor.from_pretrained(folder)
    again = processor(images=[Image.fromarray(np.asarray(shown))], return_tensors="pt")["pixel_values"]
    assert torch.equal(seen[0].cpu(), again)
    assert shown.min() > 120 and shown.max() > 250  # of 0 to 4095, neither nearly black nor stretched
    Image.fromarray(np.asarray(Image.open(image), dtype=np.float32)).save(tmp_path / "float.tif")
    predict(["--model", str(folder), "--image", str(tmp_path / "float.tif"), "--show", str(tmp_path / "show.png")])
    assert torch.equal(seen[1], seen[0])
    assert np.array_equal(figures[1].axes[0].images[0].get_array(), shown)


def test_values_outside_stop_a_run_before_it_starts(tmp_path):
    table = make_deep_table(tmp_path, top=5000)
    flags = ["--data", str(table), "--output_dir", str(tmp_path / "run"), "--modality", "image", *FAST]
    with pytest.raises(BadSamplesError, match="column 'image', '.*.png': .*outside image_value_range 0 to 4095"):
        train([*flags, "--image_value_range", "0", "4095"])
    with pytest.raises(ValueError, match=r"image_value_range must be two finite numbers, .* got \[4095.0, 0.0\]"):
        train([*flags, "--image_value_range", "4095", "0"])
    text_only = ["--data", str(table), "--modality", "text", *FAST]
    with pytest.raises(ValueError, match="image_value_range has no use with modality 'text'"):
        train([*text_only, "--image_value_range", "-1024", "3071"])
