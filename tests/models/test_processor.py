"""The processor: every form of image, every pattern of presence, save and load."""

import json

import numpy as np
import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    PreTrainedTokenizerFast,
    ViTImageProcessor,
)

from hf_multimodal import MultimodalProcessor
from hf_multimodal.models.processing_multimodal import padding_of, to_rgb

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "dog", "cat"]


def make_tokenizer(**kwargs) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", **kwargs}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=8, **special)


def make_image_processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": 8, "width": 8})


@pytest.fixture
def processor() -> MultimodalProcessor:
    return MultimodalProcessor(make_image_processor(), make_tokenizer())


def pil_image(value: int = 200) -> Image.Image:
    return Image.new("RGB", (10, 6), (value, 10, 10))


def test_every_pattern_of_presence_in_one_batch(processor):
    images = [pil_image(), pil_image(), None, None]
    batch = processor(images=images, text=["a red dog", None, "cat", "  "], return_tensors="pt")
    assert batch["modality_mask"].tolist() == [[1, 1], [1, 0], [0, 1], [0, 0]]
    assert batch["pixel_values"].shape == (4, 3, 8, 8)
    assert batch["pixel_values"][2:].abs().sum() == 0
    assert batch["attention_mask"].tolist() == [[1] * 5, [0] * 5, [1, 1, 1, 0, 0], [0] * 5]
    lone = processor(images=pil_image(), text="a red dog", return_tensors="pt")
    torch.testing.assert_close(lone["pixel_values"][0], batch["pixel_values"][0])
    assert lone["input_ids"].tolist() == [[2, 4, 5, 6, 3]] == batch["input_ids"][:1].tolist()


def test_a_side_left_out_gives_no_keys(processor):
    text_only = processor(text=["cat", None], return_tensors="pt")
    assert "pixel_values" not in text_only and text_only["modality_mask"].tolist() == [[0, 1], [0, 0]]
    image_only = processor(images=[None, pil_image()], return_tensors="pt")
    assert "input_ids" not in image_only and image_only["modality_mask"].tolist() == [[0, 0], [1, 0]]
    none_at_all = processor(images=[None], text=[None], return_tensors="pt")
    assert none_at_all["modality_mask"].tolist() == [[0, 0]] and none_at_all["pixel_values"].shape == (1, 3, 8, 8)


def test_lists_without_return_tensors(processor):
    batch = processor(images=[None, pil_image()], text=["cat", None])
    assert batch["modality_mask"] == [[0, 1], [1, 0]]
    assert batch["attention_mask"] == [[1, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("word", ["NaN", "None", "null", "NA"])
def test_literal_words_are_text(processor, word):
    assert processor(text=[word], return_tensors="pt")["modality_mask"].tolist() == [[0, 1]]


def test_texts_are_cut_at_the_tokenizers_limit_or_the_callers(processor):
    assert processor(text=["a " * 30], return_tensors="pt")["input_ids"].shape == (1, 8)
    assert processor(text=["a " * 30], return_tensors="pt", max_length=4)["input_ids"].shape == (1, 4)


def test_padding_to_a_fixed_length_is_kept(tmp_path):
    MultimodalProcessor(tokenizer=make_tokenizer(padding="max_length")).save_pretrained(tmp_path)
    loaded = MultimodalProcessor.from_pretrained(tmp_path)
    assert loaded(text=["a"], return_tensors="pt")["input_ids"].shape == (1, 8)
    assert loaded(text=["a"], return_tensors="pt", padding=True)["input_ids"].shape == (1, 3)
    assert loaded(text=["a"], return_tensors="pt", text_kwargs={"padding": True})["input_ids"].shape == (1, 3)


def test_a_processor_says_where_its_code_is_before_and_after_saving(processor, tmp_path):
    expected = {"AutoProcessor": "processing_multimodal.MultimodalProcessor"}
    assert processor.to_dict()["auto_map"] == expected
    processor.save_pretrained(tmp_path)
    assert processor.to_dict()["auto_map"] == expected
    assert MultimodalProcessor.from_pretrained(tmp_path).to_dict()["auto_map"] == expected


def test_a_tokenizer_without_padding_token_pads_with_its_end():
    tokenizer = make_tokenizer(pad_token=None, eos_token="[SEP]")
    batch = MultimodalProcessor(tokenizer=tokenizer)(text=["a", "a red dog", None], return_tensors="pt")
    assert batch["input_ids"][0].tolist() == [2, 4, 3, 3, 3]
    assert batch["attention_mask"][2].sum() == 0


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("LA", (0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 32896, (128, 128, 128)),
        ("I", 255, (255, 255, 255)),
        ("I", 0, (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, expected):
    image = to_rgb(Image.new(mode, (3, 2), colour))
    assert image.mode == "RGB" and image.getpixel((1, 1)) == expected


def test_palette_with_transparency_and_exif_rotation():
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert to_rgb(palette).getpixel((0, 0)) == (10, 20, 30)
    palette.info["transparency"] = 0
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)
    turned = pil_image()
    turned.getexif()[274] = 6  # rotate by 90 degrees
    assert to_rgb(turned).size == (6, 10)


def test_arrays_and_tensors(processor):
    grey = np.full((6, 10), 7, dtype=np.uint8)
    batch = processor(images=[grey, torch.zeros(3, 6, 10, dtype=torch.uint8)], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert processor(images=np.zeros((2, 6, 10, 3), np.uint8), return_tensors="pt")["pixel_values"].shape[0] == 2


def test_one_image_and_several_texts_are_each_to_be_compared_with_each(processor):
    batch = processor(text=["a red dog", "cat"], images=pil_image(), return_tensors="pt", padding=True)
    assert batch["pixel_values"].shape[0] == 1 and batch["input_ids"].shape[0] == 2
    assert "modality_mask" not in batch


def test_a_list_of_one_image_is_that_image(processor):
    nested = processor(images=[[pil_image()], [], [pil_image(10)]], text=["a", "cat", "red"], return_tensors="pt")
    flat = processor(images=[pil_image(), None, pil_image(10)], text=["a", "cat", "red"], return_tensors="pt")
    assert all(torch.equal(nested[name], flat[name]) for name in flat) and nested.keys() == flat.keys()
    with pytest.raises(TypeError, match="an image must be a PIL image, .* got list; None stands"):
        processor(images=[pil_image(), [pil_image(), pil_image()]])


def test_errors_say_what_was_given(processor):
    with pytest.raises(
        TypeError, match="an image must be a PIL image, .*, not a path or URL; open 'https://x.org/a.jpg'"
    ):
        processor(images=["https://x.org/a.jpg"])
    with pytest.raises(TypeError, match="text must be a string or None, got float in row 1"):
        processor(text=["a", float("nan")])
    with pytest.raises(ValueError, match="of one length where something is missing, got 1 images and 2 texts"):
        processor(images=[pil_image()], text=["a", None])
    with pytest.raises(ValueError, match="of one length where something is missing, got 0 images and 1 texts"):
        processor(images=[], text=["a"])
    with pytest.raises(ValueError, match="needs images, text, or both; got neither"):
        processor()
    with pytest.raises(ValueError, match=r"images were given .* no part for them: it has \['tokenizer'\]"):
        MultimodalProcessor(tokenizer=make_tokenizer())(images=[pil_image()])
    with pytest.raises(ValueError, match="needs an image_processor, a tokenizer, or both"):
        MultimodalProcessor()


@pytest.mark.parametrize("parts", ["both", "image", "text"])
def test_saves_and_loads(parts, tmp_path):
    processor = MultimodalProcessor(
        make_image_processor() if parts != "text" else None, make_tokenizer() if parts != "image" else None
    )
    processor.save_pretrained(tmp_path)
    inputs = {"images": [pil_image(), None]} if parts != "text" else {}
    inputs |= {"text": ["a dog", None]} if parts != "image" else {}
    from hf_multimodal import FusionConfig

    FusionConfig(
        vision_config=VISION_CONFIGS["vit"]() if parts != "text" else None,
        text_config=TEXT_CONFIGS["bert"]() if parts != "image" else None,
    ).save_pretrained(tmp_path)
    for loaded in (MultimodalProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is MultimodalProcessor and loaded.parts == processor.parts
        expected, actual = processor(**inputs, return_tensors="pt"), loaded(**inputs, return_tensors="pt")
        assert expected.keys() == actual.keys()
        assert all(torch.equal(expected[key], actual[key]) for key in expected)


def test_a_timm_checkpoint_gets_a_processor_that_loads(tmp_path):
    source, folder = tmp_path / "timm", tmp_path / "processor"
    source.mkdir()
    preparation = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.8}
    preparation |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    described = {"architecture": "resnet10t", "num_classes": 10, "pretrained_cfg": preparation}  # as timm has it
    (source / "config.json").write_text(json.dumps(described))
    processor = MultimodalProcessor.from_vision_text_pretrained(str(source))
    processor.save_pretrained(folder)
    loaded = MultimodalProcessor.from_pretrained(folder)
    expected = processor(images=[pil_image()], return_tensors="pt")["pixel_values"]
    assert expected.shape == (1, 3, 32, 32)
    assert expected[0, 0, 0, 0].item() == pytest.approx((200 / 255 - 0.5) / 0.2, abs=1e-5)
    assert torch.equal(loaded(images=[pil_image()], return_tensors="pt")["pixel_values"], expected)


def test_torchvision_names_get_imagenets_preparation():
    processor = MultimodalProcessor.from_vision_text_pretrained("torchvision:resnet18")
    pixels = processor(images=[Image.new("RGB", (300, 200), "white")], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    torch.testing.assert_close(
        pixels[0, :, 0, 0], (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )


def test_siglip_texts_are_padded_to_a_fixed_length():
    assert padding_of(TEXT_CONFIGS["siglip_text_model"]()) == "max_length"
    assert padding_of(TEXT_CONFIGS["bert"]()) is True and padding_of(None) is True


def test_empty_lists_are_refused():
    processor = MultimodalProcessor(ViTImageProcessor(size={"height": 8, "width": 8}))
    with pytest.raises(ValueError, match="a processor needs at least one example, got empty lists"):
        processor(images=[])


@pytest.mark.parametrize("kind", [DeiTImageProcessor, CLIPImageProcessor])
def test_whole_images_show_their_borders(kind, tmp_path):
    size = {"shortest_edge": 8} if kind is CLIPImageProcessor else {"height": 12, "width": 12}
    processor = MultimodalProcessor(kind(size=size, crop_size={"height": 8, "width": 8}))
    wide = Image.new("RGB", (64, 32))
    wide.paste((255, 255, 255), (0, 0, 8, 32))  # a border that the crop cuts off
    cut = processor(images=[wide], return_tensors="pt")["pixel_values"][0, 0]
    processor.keep_whole_images()
    whole = processor(images=[wide], return_tensors="pt")["pixel_values"][0, 0]
    assert cut.shape == whole.shape == (8, 8)
    assert whole[:, 0].min() > 0.5 > cut.max() and whole[:, 2:].max() < 0
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)(images=[wide], return_tensors="pt")["pixel_values"][0, 0]
    assert torch.equal(again, whole)


def test_images_that_cannot_be_kept_whole_are_told(processor):
    with pytest.raises(ValueError, match="without an image_processor reads no images"):
        MultimodalProcessor(None, make_tokenizer()).keep_whole_images()
    with pytest.raises(ValueError, match="crops by its crop_pct"):
        MultimodalProcessor(ConvNextImageProcessor()).keep_whole_images()
    before = processor.image_processor.to_json_string()
    processor.keep_whole_images()
    assert processor.image_processor.to_json_string() == before  # nothing is cut off as it is


def test_texts_longer_than_the_text_model_reads_are_named(processor):
    texts = ["a", "a red dog " * 4, None]
    for options in ({"truncation": False}, {"max_length": 14}, {"truncation": False, "return_tensors": "pt"}):
        message = r"the text of row 1 has 14 tokens, and the text model reads 8 \(tokenizer.model_max_length"
        with pytest.raises(ValueError, match=message):
            processor(text=texts, **options)
    with pytest.raises(ValueError, match="texts are padded to 20 tokens, and the text model reads 8"):
        processor(text=["a"], padding="max_length", max_length=20, return_tensors="pt")
    processor.tokenizer.model_max_length = 20
    assert processor(text=texts, truncation=False, return_tensors="pt")["input_ids"].shape == (3, 14)
