"""The processor of text-to-image models: prompts of one length, images to pixels and back."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_processor import make_tokenizer
from transformers import AutoProcessor, CLIPImageProcessor, SiglipImageProcessor, ViTImageProcessor

from hf_multimodal import MultimodalProcessor, TextToImageProcessor
from hf_multimodal.models.processing_text_to_image import to_images, unit_pixels

SIZE = {"height": 16, "width": 16}
BEGIN = 8  # behind the tokenizer's eight words


def make_text_to_image_processor(image_size: int = 16, **fields) -> TextToImageProcessor:
    size = {"height": image_size, "width": image_size}
    image_processor = CLIPImageProcessor(
        size=size, crop_size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    parts = {"image_processor": image_processor, "tokenizer": make_tokenizer(), "prompt_length": 5}
    return TextToImageProcessor(**{**parts, **fields})


@pytest.fixture
def processor() -> TextToImageProcessor:
    return make_text_to_image_processor()


def noise(mode: str = "RGB", size: tuple[int, int] = (16, 16), seed: int = 0) -> Image.Image:
    bands = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (*size[::-1], bands), dtype=np.uint8)
    return Image.fromarray(values.squeeze(2) if bands == 1 else values)


def test_prompts_are_padded_on_the_left(processor):
    batch = processor(text=["a red dog", "cat", "a"], return_tensors="pt")
    assert batch.input_ids.tolist() == [[2, 4, 5, 6, 3, BEGIN], [0, 0, 2, 7, 3, BEGIN], [0, 0, 2, 4, 3, BEGIN]]
    assert batch.attention_mask.tolist() == [[1] * 6] * 3 and set(batch) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_do_not_hang_on_the_tokenizers_side(side):
    processor = make_text_to_image_processor(tokenizer=make_tokenizer(padding_side=side, truncation_side=side))
    assert processor(text=["cat"])["input_ids"] == [[0, 0, 2, 7, 3, BEGIN]]


def test_a_missing_text_is_an_empty_one(processor):
    expected = [[0, 0, 0, 0, 0, BEGIN]] * 4 + [[0, 0, 2, 7, 3, BEGIN]]
    assert processor(text=[None, "", "   ", "\n", "cat"])["input_ids"] == expected
    assert processor(text=[None, None], return_tensors="pt").input_ids.tolist() == expected[:2]
    assert processor(text="")["input_ids"] == expected[:1]


@pytest.mark.parametrize("word", ["NaN", "None", "null"])
def test_literal_words_are_text(processor, word):
    assert processor(text=[word])["input_ids"] == [[0, 0, 2, 1, 3, BEGIN]]


def test_a_text_alone_is_a_batch_of_one(processor):
    assert processor(text="cat", return_tensors="pt").input_ids.shape == (1, 6)
    assert processor(text=("cat", "dog"), return_tensors="np")["input_ids"].shape == (2, 6)


def test_a_text_that_is_too_long_is_named_by_its_row(processor):
    with pytest.raises(ValueError, match="the text of row 2 has 6 tokens, and a prompt 5: shorten it, or give trunc"):
        processor(text=["cat", None, "a a a a", "a a a a a a"])
    cut = processor(text=["cat", None, "a red dog cat"], truncation=True)["input_ids"]
    assert processor(text=["cat", None, "a red dog cat"], text_kwargs={"truncation": True})["input_ids"] == cut
    assert cut[2] == [2, 4, 5, 6, 7, BEGIN] and cut[0] == [0, 0, 2, 7, 3, BEGIN]


def test_begin_of_image_is_behind_added_words():
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["more"])
    assert make_text_to_image_processor(tokenizer=tokenizer)(text="more")["input_ids"] == [[0, 0, 2, 8, 3, 9]]


def test_images_become_pixels(processor):
    batch = processor(images=[noise(), noise("L", (40, 20)), noise("RGBA", (5, 30))], return_tensors="pt")
    assert set(batch) == {"pixel_values"} and batch.pixel_values.shape == (3, 3, 16, 16)
    assert processor(images=noise(), return_tensors="pt").pixel_values.shape == (1, 3, 16, 16)
    assert len(processor(images=[noise()])["pixel_values"]) == 1


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("L", 100, 100), ("LA", (100, 255), 100), ("RGBA", (0, 0, 0, 0), 255), ("1", 1, 255), ("I;16", 32896, 128)],
)
def test_images_of_every_mode_as_of_the_other_processor(processor, mode, colour, expected):
    image = Image.new(mode, (9, 5), colour)
    pixels = processor(images=[image], return_tensors="pt").pixel_values
    other = MultimodalProcessor(processor.image_processor)(images=[image], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, other)
    assert np.asarray(to_images(pixels, processor.image_processor)[0]).tolist() == [[[expected] * 3] * 16] * 16


def test_images_and_texts_together(processor):
    batch = processor(images=[noise(), noise(seed=1)], text=["cat", None], return_tensors="pt")
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "input_ids": (2, 6),
        "attention_mask": (2, 6),
        "pixel_values": (2, 3, 16, 16),
    }
    assert processor.model_input_names == ["input_ids", "attention_mask", "pixel_values"]


@pytest.mark.parametrize(
    "image_processor",
    [
        CLIPImageProcessor(size=SIZE, do_center_crop=False),  # CLIP's own means
        ViTImageProcessor(size=SIZE),
        SiglipImageProcessor(size=SIZE, do_normalize=False),
        SiglipImageProcessor(size=SIZE, do_normalize=False, do_rescale=False),
    ],
    ids=["clip", "vit", "without means", "without scale"],
)
def test_pixels_become_the_images_that_they_were(image_processor):
    processor = make_text_to_image_processor(image_processor=image_processor)
    images = [noise(seed=seed) for seed in range(3)]
    pixels = processor(images=images, return_tensors="pt").pixel_values
    for way in (
        to_images(pixels, image_processor),
        processor.post_process_multimodal_output(pixels, generation_mode="image"),
    ):
        assert [image.size for image in way] == [(16, 16)] * 3
        for mine, other in zip(images, way, strict=True):
            assert np.abs(np.asarray(mine).astype(int) - np.asarray(other).astype(int)).max() <= 1
    assert unit_pixels(pixels, image_processor).min() >= 0 and unit_pixels(pixels, image_processor).max() <= 1


def test_pixels_beyond_black_and_white_are_cut(processor):
    pixels = torch.stack([torch.full((3, 16, 16), value) for value in (-9.0, 9.0)]).bfloat16().requires_grad_()
    black, white = processor.post_process_multimodal_output(pixels, generation_mode="image")
    assert black.getextrema() == ((0, 0),) * 3 and white.getextrema() == ((255, 255),) * 3


def test_options_of_images_and_texts(processor):
    images, text = [noise(size=(20, 30))], ["a red dog cat"]
    options = {"text_kwargs": {"truncation": True}, "images_kwargs": {"do_normalize": False}}
    batch = processor(images=images, text=text, return_tensors="pt", **options)
    assert batch.pixel_values.min() >= 0 and batch.input_ids.shape == (1, 6)
    flat = processor(images=images, text=text, return_tensors="pt", truncation=True, do_normalize=False, padding=True)
    assert all(torch.equal(batch[name], flat[name]) for name in flat)
    with pytest.raises(ValueError, match="truncation"):
        processor(text=text, truncation=True, text_kwargs={"truncation": False})


@pytest.mark.parametrize("mode", [None, "text", "audio"])
def test_nothing_but_images_is_written(processor, mode):
    with pytest.raises(ValueError, match=f'generation_mode must be "image", got {mode!r}'):
        processor.post_process_multimodal_output(torch.zeros(1, 3, 16, 16), generation_mode=mode)


def test_saved_and_loaded(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for loaded in (TextToImageProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is TextToImageProcessor and loaded.prompt_length == 5
        mine, other = (one(images=[noise()], text=["a red dog"], return_tensors="pt") for one in (processor, loaded))
        assert set(mine) == set(other) and all(torch.equal(mine[name], other[name]) for name in mine)
    assert processor.to_dict()["auto_map"] == {"AutoProcessor": "processing_text_to_image.TextToImageProcessor"}


def test_a_tokenizer_without_padding_token_pads_with_its_end():
    tokenizer = make_tokenizer(pad_token=None, eos_token="[SEP]")
    assert make_text_to_image_processor(tokenizer=tokenizer)(text=["cat"])["input_ids"] == [[3, 3, 2, 7, 3, BEGIN]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer": None}, "a text-to-image processor needs an image_processor and a tokenizer"),
        ({"image_processor": None}, "a text-to-image processor needs an image_processor and a tokenizer"),
        ({"prompt_length": 0}, "prompt_length must be 1 or more, got 0"),
    ],
)
def test_processor_refuses_parts(fields, message):
    with pytest.raises(ValueError, match=message):
        make_text_to_image_processor(**fields)


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        ({}, ValueError, "a processor needs images, text, or both; got neither"),
        ({"text": []}, ValueError, "at least one example, got an empty list of texts"),
        ({"images": []}, ValueError, "at least one example, got empty lists"),
        ({"text": ["cat", 3]}, TypeError, "text must be a string or None, got int in row 1"),
        ({"images": ["a.jpg"]}, TypeError, "image in row 0: an image must be a PIL image, .* not a path or URL"),
        ({"images": [noise(), None]}, ValueError, "the image of row 1 is missing, and there is no image of nothing"),
    ],
)
def test_processor_refuses(processor, inputs, kind, message):
    with pytest.raises(kind, match=message):
        processor(**inputs)
