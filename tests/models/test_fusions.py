"""All fusions on features alone."""

import pytest
import torch
from torch import nn

from hf_multimodal import FusionConfig
from hf_multimodal.models.fusion import FUSIONS, FusionLayer, present_softmax
from hf_multimodal.models.modeling_vision_text import Features

MASK = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]])


def make_features(rows: int = 4, width: int = 8, mask: torch.Tensor = MASK, seed: int = 0) -> Features:
    draw = torch.Generator().manual_seed(seed)
    there = mask.bool()
    return Features(
        embeds=torch.randn(rows, 2, width, generator=draw) * mask[..., None],
        modality_mask=mask,
        image_tokens=torch.randn(rows, 5, width, generator=draw) * mask[:, :1, None],
        image_token_mask=there[:, :1].expand(rows, 5),
        text_tokens=torch.randn(rows, 3, width, generator=draw) * mask[:, 1:, None],
        text_token_mask=there[:, 1:] & torch.tensor([True, True, False]),
    )


def make_fusion(name: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return FUSIONS[name](FusionConfig(fusion=name, hidden_size=8, fusion_heads=2, **kwargs)).eval()


@pytest.mark.parametrize("name", FUSIONS)
def test_shape_and_finite_in_every_pattern_of_presence(name):
    fusion = make_fusion(name)
    output = fusion(make_features())
    assert output.shape == (4, fusion.output_size)
    assert output.isfinite().all()


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e6])
def test_what_is_masked_is_never_read(name, poison):
    fusion, features = make_fusion(name), make_features()
    parts = {key: value.clone() for key, value in vars(features).items() if value is not None}
    parts["embeds"][~features.modality_mask.bool()] = poison
    parts["image_tokens"][~features.image_token_mask] = poison
    parts["text_tokens"][~features.text_token_mask] = poison
    assert torch.equal(fusion(Features(**parts)), fusion(features))


@pytest.mark.parametrize("name", ["weighted_sum", "gated", "attention"])
def test_averages_give_the_lone_modality_all_the_weight(name):
    features = make_features()
    output = make_fusion(name)(features)
    torch.testing.assert_close(output[1], features.embeds[1, 0])
    torch.testing.assert_close(output[2], features.embeds[2, 1])
    assert output[3].abs().sum() == 0


def test_late_fusion_gives_nothing_for_what_is_missing():
    image, text = make_fusion("late")(make_features()).chunk(2, dim=1)
    assert image[[0, 1]].any(dim=1).all() and text[[0, 2]].any(dim=1).all()
    assert not image[[2, 3]].any() and not text[[1, 3]].any()


def test_weighted_sum_is_normalised():
    fusion, features = make_fusion("weighted_sum"), make_features()
    nn.init.constant_(fusion.scores.weight, 3.0)
    torch.testing.assert_close(fusion(features)[0], features.embeds[0].mean(dim=0))


def test_late_fusion_is_additive_and_concat_is_not():
    """What a linear classifier sees of `late` splits into a part of the image and a part of the text."""

    def interaction(name: str) -> float:
        fusion = make_fusion(name)
        first, second = (
            make_features(seed=1, mask=torch.ones(4, 2).long()),
            make_features(seed=2, mask=torch.ones(4, 2).long()),
        )

        def mixed(image: Features, text: Features) -> torch.Tensor:
            embeds = torch.stack([image.embeds[:, 0], text.embeds[:, 1]], dim=1)
            return fusion(Features(embeds, torch.ones(4, 2).long()))

        difference = mixed(first, first) - mixed(first, second) - mixed(second, first) + mixed(second, second)
        return difference.abs().max().item()

    assert interaction("late") < 1e-6
    assert interaction("concat") > 1e-3
    assert interaction("bilinear") > 1e-3


def test_late_of_one_modality_has_one_mlp():
    from transformers import ViTConfig

    fusion = FUSIONS["late"](FusionConfig(vision_config=ViTConfig(), hidden_size=8))
    assert len(fusion.mlps) == 1 and fusion.output_size == 8


@pytest.mark.parametrize("name", FUSIONS)
def test_every_parameter_is_read(name):
    fusion = make_fusion(name)
    fusion.train()(make_features()).square().sum().backward()
    assert [key for key, p in fusion.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_present_softmax():
    weights = present_softmax(torch.zeros(2), MASK)
    assert weights.tolist() == [[0.5, 0.5], [1, 0], [0, 1], [0, 0]]


def test_layer_against_torchs_attention():
    torch.manual_seed(0)
    layer = FusionLayer(8, heads=2, dropout=0.0).eval()
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key_value.bias]))
        reference.out_proj.weight.copy_(layer.output.weight)
        reference.out_proj.bias.copy_(layer.output.bias)
    states, memory = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    mask = torch.rand(3, 5) > 0.4
    mask[:, 0] = True
    attended, _ = reference(
        layer.query_norm(states), *[layer.memory_norm(memory)] * 2, key_padding_mask=~mask, need_weights=False
    )
    expected = states + attended
    torch.testing.assert_close(layer(states, memory, mask), expected + layer.feed_forward(expected))
