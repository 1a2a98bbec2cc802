"""Augmentation is a pure function of (seed, epoch, index), whatever the mode of the image."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from hf_multimodal.data.augmentation import ImageAugmentation

STILL = {"min_area": 1.0, "max_aspect": 1.0, "flip_probability": 0.0, "colour": 0.0}


def image(size: tuple[int, int] = (20, 12), mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def test_the_same_draw_gives_the_same_image() -> None:
    augment = ImageAugmentation(seed=3)
    first = augment(image(), epoch=1, index=5).tobytes()
    assert augment(image(), epoch=1, index=5).tobytes() == first
    assert ImageAugmentation(seed=3)(image(), epoch=1, index=5).tobytes() == first
    others = [augment(image(), 2, 5), augment(image(), 1, 6), ImageAugmentation(seed=4)(image(), 1, 5)]
    assert all(other.tobytes() != first for other in others)


def test_no_global_generator_is_touched() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    ImageAugmentation()(image(), epoch=0, index=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "I", "F", "CMYK"])
def test_mode_and_size_stay(mode: str) -> None:
    augmented = ImageAugmentation()(image(mode=mode), epoch=0, index=1)
    assert (augmented.mode, augmented.size) == (mode, (20, 12))


def test_16_bit_values_are_not_clipped() -> None:
    deep = Image.fromarray(np.full((12, 20), 40_000, dtype=np.uint16))
    assert np.asarray(ImageAugmentation()(deep, epoch=0, index=0)).max() == 40_000


def test_nothing_is_drawn_when_everything_is_off() -> None:
    assert ImageAugmentation(**STILL)(image(), 0, 0).tobytes() == image().tobytes()


def test_a_certain_flip_mirrors() -> None:
    flipped = ImageAugmentation(**{**STILL, "flip_probability": 1.0})(image(), 0, 0)
    assert np.array_equal(np.asarray(flipped), np.asarray(image())[:, ::-1])


def test_half_of_the_images_are_flipped() -> None:
    augment = ImageAugmentation(**{**STILL, "flip_probability": 0.5})
    plain = image().tobytes()
    flips = sum(augment(image(), 0, index).tobytes() != plain for index in range(400))
    assert 160 < flips < 240  # four standard deviations


def test_colour_stays_light() -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    values = [np.asarray(ImageAugmentation(colour=0.2)(grey, 0, index)).max() for index in range(200)]
    assert 80 <= min(values) < 90 and 110 < max(values) <= 120


def test_a_crop_keeps_at_least_its_share() -> None:
    ramp = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (100, 1)))
    augment = ImageAugmentation(**{**STILL, "min_area": 0.49})
    widths = [np.ptp(np.asarray(augment(ramp, 0, index))) for index in range(200)]
    assert 66 <= min(widths) < 75 and max(widths) > 95  # 0.7 of the width, less interpolation at the edges


def test_exif_rotation_is_applied_before_the_crop() -> None:
    wide = image()
    exif = wide.getexif()
    exif[0x0112] = 6  # lies on its side
    assert ImageAugmentation(**STILL)(wide, 0, 0).size == (12, 20)
