"""Embeddings are those of the model itself, one at a time, whatever shares their batch."""

import pytest
import torch
from conftest import PATCHES, TEXT, VOCABULARY
from PIL import Image
from test_processor import make_tokenizer
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    ViTConfig,
    ViTImageProcessor,
)

from hf_multimodal import AlignerConfig, AlignerModel, MultimodalProcessor
from hf_multimodal.data.images import BadImageError
from hf_multimodal.inference.embedding import embed_images, embed_texts, pair_logits

TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
SIZE = {"height": 32, "width": 32}
WORDS = ["a red dog", "cat", "a a a red red cat", "dog", "red"]
COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (250, 250, 20), (120, 20, 120), (10, 10, 10)]


def make_pair(kind, seed=0):
    """A tiny random model with its processor, with weights large enough for embeddings to differ."""
    torch.manual_seed(seed)
    text, tokenizer = {**TEXT, **TOKENS}, make_tokenizer(model_input_names=["input_ids", "attention_mask"])
    if kind == "siglip":
        tokenizer.model_max_length = 64  # as every SigLIP has it, and as transformers' pipeline takes for granted
        processor = SiglipProcessor(SiglipImageProcessor(size=SIZE), tokenizer)
        model = SiglipModel(SiglipConfig(vision_config=PATCHES, text_config={**text, "max_position_embeddings": 64}))
        model.logit_scale.data.fill_(1.2)
        model.logit_bias.data.fill_(-0.7)
    else:
        images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIZE)
        processor = CLIPProcessor(images, tokenizer)
        model = CLIPModel(CLIPConfig(vision_config=PATCHES, text_config=text, projection_dim=12))
    if kind == "own processor":
        processor = MultimodalProcessor(ViTImageProcessor(size=SIZE), tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    return model.eval(), processor


def pil_images():
    return [Image.new("RGB", (20 + 3 * i, 30), colour) for i, colour in enumerate(COLOURS)]


@pytest.fixture(params=["clip", "siglip", "own processor"])
def pair(request):
    return make_pair(request.param)


@torch.no_grad()
def test_texts_in_batches_equal_texts_alone(pair):
    model, processor = pair
    found = embed_texts(model, processor, WORDS, batch_size=2)
    for text, embed in zip(WORDS, found, strict=True):
        padding = "max_length" if model.config.model_type == "siglip" else False
        tokens = processor.tokenizer([text], padding=padding, return_tensors="pt")
        alone = model.get_text_features(**tokens).pooler_output[0]
        torch.testing.assert_close(embed, alone / alone.norm(), rtol=0, atol=1e-5)
    assert (found @ found.T)[~torch.eye(len(found), dtype=torch.bool)].max() < 0.999


@torch.no_grad()
@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_in_batches_equal_images_alone(pair, num_workers):
    model, processor = pair
    found, rows, bad = embed_images(model, processor, pil_images(), batch_size=4, num_workers=num_workers)
    assert bad == {} and rows == list(range(6)) and found.dtype == torch.float32 and found.shape[0] == len(COLOURS)
    for image, embed in zip(pil_images(), found, strict=True):
        pixels = processor.image_processor([image], return_tensors="pt")["pixel_values"]
        alone = model.get_image_features(pixel_values=pixels).pooler_output[0]
        torch.testing.assert_close(embed, alone / alone.norm(), rtol=0, atol=1e-5)
    assert (found @ found.T)[~torch.eye(len(found), dtype=torch.bool)].max() < 0.9999


@torch.no_grad()
def test_logits_are_those_of_the_model(pair):
    model, processor = pair
    images, texts = embed_images(model, processor, pil_images())[0], embed_texts(model, processor, WORDS)
    pixels = processor.image_processor(pil_images(), return_tensors="pt")["pixel_values"]
    tokens = processor.tokenizer(WORDS, padding="max_length", return_tensors="pt")
    expected = model(pixel_values=pixels, **tokens).logits_per_image
    torch.testing.assert_close(pair_logits(model, images @ texts.T), expected, rtol=0, atol=1e-4)


def test_the_scale_of_an_aligner_ends_at_100():
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = AlignerConfig(
        vision_config=ViTConfig(image_size=8, patch_size=4, **small),
        text_config=BertConfig(vocab_size=10, **small),
    )
    model = AlignerModel(config)
    model.logit_scale.data.fill_(6.0)  # exp(6) is 403
    assert pair_logits(model, torch.tensor([[0.5, -1.0]])).tolist() == [[50.0, -100.0]]


def test_a_bad_image_is_an_error_or_left_out(tmp_path):
    model, processor = make_pair("clip")
    pil_images()[0].save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    images = [tmp_path / "0.png", tmp_path / "1.png", pil_images()[2], None, {"bytes": None, "path": "gone.png"}]
    with pytest.raises(BadImageError, match=r"1.png \(row 1\)' is truncated"):
        embed_images(model, processor, images)
    found, rows, bad = embed_images(model, processor, images, batch_size=2, on_bad_image="missing")
    assert rows == [0, 2] and {row: error.reason for row, error in bad.items()} == {1: "truncated", 4: "missing"}
    torch.testing.assert_close(found, embed_images(model, processor, [images[0], images[2]])[0], rtol=0, atol=1e-6)
    nothing, rows, bad = embed_images(model, processor, [None])
    assert len(nothing) == 0 and rows == [] and bad == {}
    with pytest.raises(ValueError, match=r"on_bad_image must be one of \['error', 'missing'\], got 'drop'"):
        embed_images(model, processor, images, on_bad_image="drop")


def test_a_image_that_pillow_opened_and_cannot_read_goes_by_the_policy(tmp_path):
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (60, 60, 3), dtype=torch.uint8, generator=draw)
    Image.fromarray(noise.numpy()).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1500])
    pair = make_pair("clip")
    with pytest.raises(BadImageError, match=r"cut.jpg \(row 1\)' is truncated"):
        embed_images(*pair, [pil_images()[0], Image.open(tmp_path / "cut.jpg")])
    _, rows, bad = embed_images(*pair, [pil_images()[0], Image.open(tmp_path / "cut.jpg")], on_bad_image="missing")
    assert rows == [0] and bad[1].reason == "truncated"


def test_a_probe_learns_on_embeddings():
    pair = make_pair("clip")
    for embeds in (embed_images(*pair, pil_images())[0], embed_texts(*pair, WORDS)):
        assert not embeds.requires_grad
        torch.nn.Linear(embeds.shape[1], 2)(embeds).sum().backward()


def test_any_image_of_pillow_is_brought_into_one_form():
    model, processor = make_pair("clip")
    grey = Image.new("L", (20, 30), 90)
    found, *_ = embed_images(model, processor, [grey, grey.convert("RGB"), grey.convert("RGBA"), grey.convert("P")])
    torch.testing.assert_close(found, found[:1].expand_as(found), rtol=0, atol=1e-6)


def test_embeddings_that_are_not_finite_are_refused():
    model, processor = make_pair("clip")
    model.text_projection.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the model gives an embedding that is not finite for text 'cat'"):
        embed_texts(model, processor, ["cat"])
