"""`torch.compile` in one graph whatever is present, and `torch.export` for any batch: both equal to eager."""

import pytest
import torch
from conftest import make_batch, without_dropout
from test_fusion_model import PAIRS, make_model
from test_image_tokenizer import make_image_tokenizer, make_pixels
from test_text_to_image import make_prompts, make_text_to_image, make_tokens

from hf_multimodal import (
    AlignerModel,
    FusionConfig,
    FusionForImageTextClassification,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.models.fusion import FUSIONS
from hf_multimodal.models.modeling_image_tokenizer import QUANTIZERS
from hf_multimodal.models.modeling_vision_text import Features

FAMILIES = [FusionForImageTextClassification, RobustFusionForImageTextClassification, AlignerModel]
MASK = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]])
MASKS = [MASK, MASK.flip(0), torch.ones_like(MASK), torch.tensor([[0, 1]] * 4), torch.zeros_like(MASK)]
TABLE = [
    pytest.param(vision, text, marks=() if (vision, text) == ("vit", "bert") else pytest.mark.slow)
    for vision, text in dict.fromkeys(PAIRS)
]
# These read texts of one length: torch unrolls the steps of a recurrent model, SigLIP's learned its length.
FIXED_LENGTH = ("recurrent_text", "siglip_text_model")


def build(vision, text, family):
    fields = {} if family is AlignerModel else {"fusion": "cross_attention"}
    return make_model(vision, text, family, **fields).eval()


@torch.no_grad()
def assert_equals_eager(compiled, model, batch) -> None:
    expected, found = model(**batch), compiled(**batch)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("vision", "text"), [pair for pair in TABLE if "recurrent" not in pair.values[1]])
def test_one_graph_for_every_pattern_of_presence(vision, text, family, batch):
    model = build(vision, text, family)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_equals_eager(compiled, model, {**batch, "modality_mask": MASK})
    with torch.compiler.set_stance("fail_on_recompile"):
        for mask in MASKS:
            assert_equals_eager(compiled, model, {**batch, "modality_mask": mask})


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["recurrent_text:lstm", "recurrent_text:gru"])
def test_a_recurrent_model_compiles_around_its_layers(text, family, batch):
    model = build("vit", text, family)
    compiled = torch.compile(model, backend="eager")
    for mask in MASKS:
        assert_equals_eager(compiled, model, {**batch, "modality_mask": mask})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_is_one_graph(fusion):
    module = FUSIONS[fusion](FusionConfig(hidden_size=8, fusion=fusion)).eval()
    draw = torch.Generator().manual_seed(0)
    embeds, tokens = torch.randn(4, 2, 8, generator=draw), torch.randn(4, 3, 8, generator=draw)

    def run(mask: torch.Tensor) -> torch.Tensor:
        masks = [mask[:, column, None].bool().expand(4, 3) for column in (0, 1)]
        return module(Features(embeds, mask, tokens, masks[0], tokens, masks[1]))

    compiled = torch.compile(run, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(MASK)
        with torch.compiler.set_stance("fail_on_recompile"):
            for mask in MASKS:
                torch.testing.assert_close(compiled(mask), run(mask), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "family", [FAMILIES[0], *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES[1:])]
)
def test_a_training_step_is_one_graph(family, batch):
    model = without_dropout(build("vit", "bert", family)).train()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    extra = {"return_loss": True} if family is AlignerModel else {"labels": torch.tensor([0, 1, 2, 0])}
    for number, mask in enumerate(MASKS[:3]):
        gradients = []
        for one in (model, compiled):
            with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
                model.zero_grad()
                one(**batch, modality_mask=mask, **extra).loss.backward()
            gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("vision", "text"), TABLE)
def test_exported_for_any_batch_length_and_presence(vision, text, family, batch):
    model = build(vision, text, family)
    inputs = {**batch, "modality_mask": MASK}
    any_length = not text.startswith(FIXED_LENGTH)
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", max=40)
    shapes = {
        name: {0: rows, 1: length} if any_length and value.ndim == 2 else {0: rows} for name, value in batch.items()
    }
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, dynamic_shapes={**shapes, "modality_mask": {0: rows}})
    exported = program.module()
    for mask in MASKS:
        assert_equals_eager(exported, model, {**batch, "modality_mask": mask})
    larger = make_batch(rows=7, length=9 if any_length else 6, seed=1)
    assert_equals_eager(exported, model, {**larger, "modality_mask": torch.cat([MASK, MASK[:3]])})


def test_an_exported_program_is_saved_and_loaded(batch, tmp_path):
    model = build("vit", "bert", RobustFusionForImageTextClassification)
    inputs = {**batch, "modality_mask": MASK}
    with torch.no_grad():
        torch.export.save(torch.export.export(model, (), inputs), tmp_path / "model.pt2")
    assert_equals_eager(torch.export.load(tmp_path / "model.pt2").module(), model, inputs)


def test_an_aligner_exports_for_more_texts_than_images(batch):
    model = build("vit", "bert", AlignerModel)
    inputs = {**make_batch(rows=3, seed=1), "pixel_values": batch["pixel_values"]}
    images, texts = torch.export.Dim("images"), torch.export.Dim("texts")
    shapes = {name: {0: images if name == "pixel_values" else texts} for name in inputs}
    with torch.no_grad():
        exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes).module()
    assert_equals_eager(exported, model, inputs)
    assert_equals_eager(exported, model, {**make_batch(rows=7), "pixel_values": batch["pixel_values"][:2]})


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_single_modality_model_exports(modality, batch):
    sides = {"text": None} if modality == "image" else {"vision": None}
    model = make_model(**sides).eval()
    names = ["pixel_values"] if modality == "image" else ["input_ids", "attention_mask"]
    inputs = {**{name: batch[name] for name in names}, "modality_mask": MASK}
    rows = torch.export.Dim("rows")
    with torch.no_grad():
        program = torch.export.export(model, (), inputs, dynamic_shapes={name: {0: rows} for name in inputs})
    assert_equals_eager(program.module(), model, inputs)
    assert_equals_eager(program.module(), model, {name: value[:3] for name, value in inputs.items()})


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_an_image_tokenizer_is_one_graph_each_way_and_exports_for_any_batch(quantizer):
    model = make_image_tokenizer(quantizer)
    pixels, other = (make_pixels(model.config, rows=rows, seed=rows) for rows in (4, 7))
    rows = torch.export.Dim("rows")

    class Half(torch.nn.Module):
        def __init__(self, function):
            super().__init__()
            self.model, self.function = model, function

        def forward(self, inputs):
            return self.function(inputs)

    with torch.no_grad():
        ids = model.encode(pixels)
        for function, inputs, more in ((model.encode, pixels, other), (model.decode, ids, model.encode(other))):
            compiled = torch.compile(function, backend="eager", fullgraph=True)
            torch.testing.assert_close(compiled(inputs), function(inputs), rtol=0, atol=1e-5)
            program = torch.export.export(Half(function), (inputs,), dynamic_shapes=({0: rows},)).module()
            torch.testing.assert_close(program(inputs), function(inputs), rtol=0, atol=1e-5)
            torch.testing.assert_close(program(more), function(more), rtol=0, atol=1e-5)
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert_equals_eager(compiled, model, {"pixel_values": pixels})


@pytest.mark.parametrize("decoder", ["gpt2", "llama"])
def test_a_text_to_image_model_is_one_graph_in_training(decoder):
    model = without_dropout(make_text_to_image(decoder, text_dropout=0)).train()
    inputs = {"input_ids": make_prompts(), "image_token_ids": make_tokens()}
    gradients = []
    for one in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        one(**inputs).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.text_model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_inductor_equals_eager(family, batch, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # a run that was killed leaves half a library behind
    model = build("vit", "bert", family)
    compiled = torch.compile(model, fullgraph=True)
    assert_equals_eager(compiled, model, {**batch, "modality_mask": MASK})
    with torch.compiler.set_stance("fail_on_recompile"):
        for mask in MASKS:
            assert_equals_eager(compiled, model, {**batch, "modality_mask": mask})
