"""Freezing the first layers of an inner model, and the parameter groups of what is trained."""

from typing import Any

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS, make_batch
from torch import nn

from hf_multimodal import FusionConfig, FusionForImageTextClassification
from hf_multimodal.training.freezing import find_blocks, freeze_layers
from hf_multimodal.training.optimization import parameter_groups


def tiny_model(vision: str = "vit", text: str = "bert", **fields: Any) -> FusionForImageTextClassification:
    torch.manual_seed(0)
    config = FusionConfig(
        vision_config=VISION_CONFIGS[vision](),
        text_config=TEXT_CONFIGS[text](),
        hidden_size=16,
        num_labels=4,
        **fields,
    )
    return FusionForImageTextClassification(config)


# Freezing


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("vit", "ViTLayer", 2),
        ("deit", "DeiTLayer", 2),
        ("dinov2", "Dinov2Layer", 2),
        ("clip_vision_model", "CLIPEncoderLayer", 2),
        ("swin", "SwinStage", 2),
        ("convnext", "ConvNextStage", 2),
        ("resnet", "ResNetStage", 2),
        ("mobilenet_v2", "MobileNetV2InvertedResidual", 16),
        ("timm_wrapper", "BasicBlock", 4),
        ("torchvision:resnet18", "BasicBlock", 8),
        ("torchvision:mobilenet_v3_small", "InvertedResidual", 11),
        ("torchvision:vgg16", "Conv2d", 13),
        ("bert", "BertLayer", 2),
        ("distilbert", "TransformerBlock", 2),
        ("modernbert", "ModernBertEncoderLayer", 2),
        ("gpt2", "GPT2Block", 2),
        ("t5", "T5Block", 2),
        ("recurrent_text:lstm", None, 0),
    ],
)
def test_blocks_are_found_by_module(name: str, kind: str | None, count: int) -> None:
    model = tiny_model(vision=name) if name in VISION_CONFIGS else tiny_model(text=name)
    blocks = find_blocks(model.vision_model if name in VISION_CONFIGS else model.text_model)
    assert [type(block).__name__ for block in blocks] == [kind] * count


def test_the_first_layers_and_the_embeddings_are_frozen() -> None:
    model = tiny_model()
    frozen = freeze_layers(model, "vision", 1)
    names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    blocks = find_blocks(model.vision_model)
    assert not any(parameter.requires_grad for parameter in blocks[0].parameters())
    assert all(parameter.requires_grad for parameter in blocks[1].parameters())
    assert all(name.startswith("vision_model.") for name in names)
    assert any("cls_token" in name for name in names) and any("patch_embeddings" in name for name in names)
    model.train()
    assert not blocks[0].training and blocks[1].training and model.training


def test_all_or_too_many_layers() -> None:
    model = tiny_model()
    freeze_layers(model, "text", "all")
    assert not any(parameter.requires_grad for parameter in model.text_model.parameters())
    assert not model.train().text_model.training
    with pytest.raises(ValueError, match=r"freeze_vision_layers must be at most 2, the number of layers of ViTModel"):
        freeze_layers(model, "vision", 3)
    with pytest.raises(ValueError, match=r"freeze_vision_layers must be a number of layers or 'all', got 'al'"):
        freeze_layers(model, "vision", "al")
    assert freeze_layers(model, "vision", 0) == 0
    single = FusionForImageTextClassification(FusionConfig(text_config=TEXT_CONFIGS["bert"](), hidden_size=16))
    with pytest.raises(ValueError, match="cannot freeze vision layers: the model has no vision_model"):
        freeze_layers(single, "vision", 1)


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    model = tiny_model(vision="resnet")
    freeze_layers(model, "vision", 1)
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    model(**make_batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    moved = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    trained = [norm.weight.requires_grad for norm in norms]
    assert moved == trained and any(moved) and not all(moved)


# Parameter groups


def test_every_trainable_parameter_is_in_its_group() -> None:
    model = tiny_model()
    freeze_layers(model, "vision", 1)
    groups = parameter_groups(model, learning_rate=2e-5, head_learning_rate=1e-3, weight_decay=0.01)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    assert sorted(found) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert sum(len(group["params"]) for group in groups) == len(found)
    for name, group in found.items():
        inner = name.startswith(("vision_model.", "text_model."))
        assert group["lr"] == (2e-5 if inner else 1e-3), name
        is_fixed = name.endswith("bias") or "norm" in name.lower() or "projection.0" in name
        assert group["weight_decay"] == (0.0 if is_fixed else 0.01), name


@pytest.mark.parametrize("vision", ["resnet", "swin", "convnext", "torchvision:resnet18"])
def test_norms_of_any_kind_do_not_decay(vision: str) -> None:
    model = tiny_model(vision=vision)
    groups = parameter_groups(model, learning_rate=2e-5, head_learning_rate=1e-3, weight_decay=0.01)
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    weights = [parameter for norm in norms for parameter in norm.parameters()]
    assert len(weights) > 8 and {decays[id(parameter)] for parameter in weights} == {0.0}
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert kernels and {decays[id(parameter)] for parameter in kernels} == {0.01}
