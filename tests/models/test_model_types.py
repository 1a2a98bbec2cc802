"""Which inner models are taken, what makes them fit, and that the rest is refused when it is built."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from conftest import PATCHES, SMALL, TEXT, TEXT_CONFIGS, VISION_CONFIGS
from test_fusion_model import make_model
from transformers import AutoModel

from hf_multimodal import AlignerConfig, AlignerModel, FusionConfig, FusionForImageTextClassification
from hf_multimodal.models.inner_models import UNFIT
from hf_multimodal.models.processing_multimodal import padding_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def build(vision=None, text=None, **fields):
    """A model over configurations, a missing one of which is the tiny ViT or BERT."""
    torch.manual_seed(0)
    sides = {"vision_config": vision or VISION_CONFIGS["vit"](), "text_config": text or TEXT_CONFIGS["bert"]()}
    return FusionForImageTextClassification(FusionConfig(**sides, hidden_size=16, num_labels=3, **fields))


def strange(config):
    """The model, its weights far from the small ones that hide what leaks."""
    model = build(text=config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


REFUSED = {
    "fnet": (
        "text",
        lambda: hf.FNetConfig(**TEXT),
        "takes no attention_mask, so a text's feature would change with its",
    ),
    "convbert": ("text", lambda: hf.ConvBertConfig(**TEXT), "its convolutions read the padding"),
    "funnel": ("text", lambda: hf.FunnelConfig(), "means that count the padding"),
    "marian": ("text", lambda: hf.MarianConfig(), "which needs decoder_input_ids"),
    "xmod": ("text", lambda: hf.XmodConfig(**TEXT), "needs a default_language in its configuration"),
    "vit": ("text", lambda: hf.ViTConfig(**PATCHES), "reads no input_ids"),
    "vilt": ("text", lambda: hf.ViltConfig(), "reads images and texts together"),
    "siglip2_vision_model": (
        "vision",
        lambda: hf.Siglip2VisionConfig(),
        "also needs pixel_attention_mask, spatial_shapes",
    ),
    "pixtral": ("vision", lambda: hf.PixtralVisionConfig(), "joins the images of a batch into one sequence"),
    "qwen2_5_vl_vision": ("vision", lambda: hf.Qwen2_5_VLConfig().vision_config, "reads no pixel_values"),
    "clip": ("vision", lambda: hf.CLIPConfig(), "is made of several models: give its vision_config instead"),
    "detr": ("vision", lambda: hf.DetrConfig(), "is made of several models: give its backbone_config instead"),
    "videomae": ("vision", lambda: hf.VideoMAEConfig(), "reads video"),
    "bert": ("vision", lambda: hf.BertConfig(**TEXT), "reads no pixel_values"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_give_a_right_feature_is_refused_when_built(name):
    side, config, reason = REFUSED[name]
    with pytest.raises(
        ValueError, match=re.escape(f"a model of type '{name}' cannot be the {side} model: it")
    ) as error:
        build(**{side: config()})
    assert reason in str(error.value)
    assert str(error.value).endswith(". docs/model_types.md of hf_multimodal lists the types that can.")


def test_a_checkpoint_that_cannot_give_a_right_feature_is_refused_before_its_weights_are_read(tmp_path):
    hf.FNetConfig(**TEXT).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="a model of type 'fnet' cannot be the text model: it takes no attention_mask"
    ):
        FusionForImageTextClassification.from_vision_text_pretrained(None, str(tmp_path))


def test_vit_mae_sees_all_patches_in_their_order(tmp_path, batch):
    model = build(hf.ViTMAEConfig(mask_ratio=0.75, **PATCHES))
    assert model.config.vision_config.mask_ratio == 0
    pixels = {"pixel_values": batch["pixel_values"]}
    with torch.no_grad():
        for mode in (True, False):
            first, second = (model.vision_model.train(mode)(**pixels).last_hidden_state for _ in range(2))
            assert torch.equal(first, second) and first.shape == (4, 5, 16)
        embeddings, mask, order = model.vision_model.embeddings(
            batch["pixel_values"], noise=torch.arange(4.0).expand(4, 4)
        )
        assert not mask.any() and torch.equal(order[0], torch.arange(4))
    model.save_pretrained(tmp_path)
    assert hf.AutoConfig.from_pretrained(tmp_path).vision_config.mask_ratio == 0
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.encode(**batch).embeds, loaded.encode(**batch).embeds)


def test_a_vit_mae_from_its_own_checkpoint_sees_all_patches(tmp_path, batch):
    hf.ViTMAEModel(hf.ViTMAEConfig(**PATCHES)).save_pretrained(tmp_path)
    model = FusionForImageTextClassification.from_vision_text_pretrained(str(tmp_path), num_labels=3).eval()
    pixels = batch["pixel_values"]
    assert torch.equal(model(pixel_values=pixels).logits, model(pixel_values=pixels).logits)


def test_the_pooler_of_albert_is_frozen_and_kept(tmp_path, batch):
    model = make_model(text="albert")
    poolers = {name: parameter for name, parameter in model.text_model.named_parameters() if "pooler" in name}
    assert sorted(poolers) == ["pooler.bias", "pooler.weight"]  # as in checkpoints saved so far
    assert not any(parameter.requires_grad for parameter in poolers.values())
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not loaded.text_model.pooler.weight.requires_grad
    assert torch.equal(loaded.text_model.pooler.weight, model.text_model.pooler.weight)
    pooled = make_model(text="albert", text_pooling="pooler")
    pooled(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert pooled.text_model.pooler.weight.grad.abs().sum() > 0
    # One that starts from a trained model is frozen and let go anew.
    again = FusionForImageTextClassification.from_vision_text_pretrained(
        None, str(tmp_path), num_labels=3, text_pooling="pooler"
    )
    assert again.text_model.pooler.weight.requires_grad


UNUSED = {
    "xlnet": lambda: hf.XLNetConfig(vocab_size=64, d_model=16, n_layer=2, n_head=2, d_inner=16),
    "longformer": lambda: hf.LongformerConfig(attention_window=4, pad_token_id=1, **TEXT),
    "big_bird": lambda: hf.BigBirdConfig(block_size=2, num_random_blocks=1, **TEXT),
    "layoutlm": lambda: hf.LayoutLMConfig(**TEXT),
}


@pytest.mark.parametrize("name", UNUSED)
def test_every_parameter_that_learns_gets_a_gradient(name, batch):
    model = build(text=UNUSED[name](), fusion="cross_attention")
    model(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


HEADS = {"clip_vision_model": 2, "siglip_vision_model": 11, "convnext": 2, "vit": 0}


@pytest.mark.parametrize("pooling", ["auto", "mean", "cls_mean"])
@pytest.mark.parametrize("vision", HEADS)
def test_what_pools_by_itself_learns_where_it_is_read_and_is_frozen_elsewhere(vision, pooling, tmp_path, batch):
    if pooling == "cls_mean" and vision in ("siglip_vision_model", "convnext"):
        pytest.skip("has no class token")
    built = make_model(vision, image_pooling=pooling)
    built.save_pretrained(tmp_path)
    for model in (built, AutoModel.from_pretrained(tmp_path)):
        model(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        assert len(frozen) == (0 if pooling == "auto" else HEADS[vision])


def test_a_mask_token_is_frozen_in_a_loaded_model_too(tmp_path):
    make_model("dinov2").save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    frozen = [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad]
    assert frozen == ["vision_model.embeddings.mask_token"]


def test_aimv2_has_its_class_token_in_its_head_alone():
    with pytest.raises(ValueError, match="image_pooling 'cls' needs a class token, which Aimv2VisionModel has not"):
        build(hf.Aimv2VisionConfig(**PATCHES), image_pooling="cls")


PADDED = {
    "big_bird": lambda: hf.BigBirdConfig(block_size=2, num_random_blocks=1, **TEXT),
    "mobilebert": TEXT_CONFIGS["mobilebert"],
    "longformer": UNUSED["longformer"],
}


@pytest.mark.parametrize("name", PADDED)
def test_long_padding_changes_no_feature(name):
    """Beyond 22 tokens a tiny BigBird would attend to random blocks; MobileBERT reads the neighbouring token."""
    model = strange(PADDED[name]())
    ids = torch.randint(5, 60, (1, 7), generator=torch.Generator().manual_seed(0))
    padded, mask = torch.nn.functional.pad(ids, (0, 25)), torch.nn.functional.pad(torch.ones_like(ids), (0, 25))
    with torch.no_grad():
        alone = model.encode(input_ids=ids).embeds
        torch.testing.assert_close(
            model.encode(input_ids=padded, attention_mask=mask).embeds, alone, rtol=0, atol=1e-4
        )


def test_aimv2_text_is_causal_where_no_text_of_the_batch_is_padded():
    model = strange(hf.Aimv2TextConfig(eos_token_id=2, **TEXT))
    ids = torch.tensor([[5, 6, 7, 2]])
    beside = {
        "input_ids": torch.tensor([[5, 6, 7, 2], [5, 2, 0, 0]]),
        "attention_mask": torch.tensor([[1] * 4, [1, 1, 0, 0]]),
    }
    with torch.no_grad():
        torch.testing.assert_close(model.encode(**beside).embeds[:1], model.encode(input_ids=ids).embeds)


def test_siglip2_text_is_padded_to_its_fixed_length():
    config = hf.Siglip2TextConfig(**SPECIAL, **TEXT)
    assert padding_of(config) == "max_length"
    model = strange(config)
    ids = torch.tensor([[5, 6, 7, 2]])
    longer, mask = torch.nn.functional.pad(ids, (0, 36)), torch.nn.functional.pad(torch.ones_like(ids), (0, 36))
    with torch.no_grad():
        short = model.encode(input_ids=ids, attention_mask=torch.ones_like(ids)).embeds
        assert torch.equal(short, model.encode(input_ids=longer, attention_mask=mask).embeds)


# Checkpoints of two sides, and how the text side is pooled.
TWO_SIDED = {
    "chinese_clip": (hf.ChineseCLIPConfig, {}, lambda output: output.last_hidden_state[:, 0]),
    "metaclip_2": (hf.MetaClip2Config, SPECIAL, lambda output: output.pooler_output),
    "siglip2": (hf.Siglip2Config, SPECIAL, lambda output: output.pooler_output),
    "aimv2": (hf.Aimv2Config, {"eos_token_id": 2}, lambda output: output.pooler_output),
    "blip": (hf.BlipConfig, SPECIAL, lambda output: output.pooler_output),
}


@pytest.mark.keys_do_not_fit  # those of the other side are left over
@pytest.mark.parametrize("name", TWO_SIDED)
def test_the_text_side_of_a_checkpoint_of_two_is_taken(name, tmp_path):
    config_class, special, pool = TWO_SIDED[name]
    torch.manual_seed(0)
    vision = {"num_patches": 4, "patch_size": 16} if name == "siglip2" else PATCHES
    both = AutoModel.from_config(
        config_class(vision_config={**SMALL, **vision}, text_config={**TEXT, **special}, projection_dim=8)
    ).eval()
    both.save_pretrained(tmp_path)
    sides = (None if name == "siglip2" else str(tmp_path), str(tmp_path))
    model = FusionForImageTextClassification.from_vision_text_pretrained(*sides, num_labels=3).eval()
    length = 40 if name == "siglip2" else 4
    ids = torch.nn.functional.pad(torch.tensor([[5, 6, 7, 2], [5, 2, 0, 0]]), (0, length - 4))
    mask = ids.ne(0).long()
    with torch.no_grad():
        output = both.text_model(input_ids=ids, attention_mask=mask)
        expected = model.text_projection(pool(output))
        found = model.encode(input_ids=ids, attention_mask=mask).embeds[:, 1]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    if sides[0] is not None:
        pixels = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            expected = model.visual_projection(both.vision_model(pixels).pooler_output)
            torch.testing.assert_close(model.encode(pixel_values=pixels).embeds[:, 0], expected, rtol=0, atol=1e-6)


ENCODERS = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5", "longt5": "LongT5"}


@pytest.mark.parametrize("name", ENCODERS)
def test_of_t5_and_its_kin_the_encoder_is_built(name):
    small = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2}
    model = build(text=hf.CONFIG_MAPPING[name](**small))
    assert type(model.text_model).__name__ == f"{ENCODERS[name]}EncoderModel"


def test_an_aligner_takes_both_sides_of_metaclip():
    config = AlignerConfig(
        vision_config=hf.MetaClip2VisionConfig(**PATCHES),
        text_config=hf.MetaClip2TextConfig(**SPECIAL, **TEXT),
        projection_dim=8,
    )
    output = AlignerModel(config)(pixel_values=torch.zeros(1, 3, 32, 32), input_ids=torch.tensor([[5, 2]]))
    assert output.logits_per_image.shape == (1, 1)


def model_types():
    """`benchmarks/model_types.py` as a module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("model_types", BENCHMARKS / "model_types.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.mark.parametrize("name", ["vit", "bert", "resnet"])
def test_the_trial_sees_what_is_right(name):
    assert model_types().judge(name).result == "works"


def test_the_trial_sees_what_is_wrong(monkeypatch):
    monkeypatch.delitem(UNFIT, "convbert")
    verdict = model_types().judge("convbert")
    assert verdict.result == "fails"
    assert "row 1 alone differs from itself in the batch; row 2 alone" in verdict.reason
    assert verdict.reason.endswith("more padding changes the feature")


def test_no_type_is_refused_without_need():
    """What the reasons name are types of transformers, and the document gives each reason."""
    text = (BENCHMARKS.parent / "docs" / "model_types.md").read_text(encoding="utf-8")
    for name, reason in UNFIT.items():
        assert name in hf.CONFIG_MAPPING and f"| `{name}` | refused: {reason} |" in text


@pytest.mark.slow
def test_every_model_type_does_as_the_document_says():
    module = model_types()
    verdicts = list(module.try_all(module.model_types()))
    assert [verdict for verdict in verdicts if verdict.result == "fails"] == []
    text = module.DOCUMENT.read_text(encoding="utf-8")
    found = text.split(f"<!-- {module.REGION}:start -->\n")[1].split(f"\n<!-- {module.REGION}:end -->")[0]
    assert found == module.table(verdicts)
