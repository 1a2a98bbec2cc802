"""LoRA: small matrices on the inner models, merged at the end."""

from pathlib import Path

import pytest
import torch
from conftest import make_batch
from test_freezing import tiny_model
from transformers import AutoModel

from hf_multimodal.training.freezing import freeze_layers
from hf_multimodal.training.lora import add_lora
from hf_multimodal.training.optimization import parameter_groups


def test_lora_trains_small_matrices_and_merges_into_an_ordinary_model(tmp_path: Path) -> None:
    model = tiny_model(problem_type="single_label_classification")
    freeze_layers(model, "text", 1)
    wrapped = add_lora(model, 2)
    trainable = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    inner = [name for name in trainable if "vision_model." in name or "text_model." in name]
    assert inner and all("lora_" in name and "attention" in name for name in inner)
    assert not any("text_model.encoder.layer.0" in name for name in inner)  # frozen before
    whole = {name.split(".")[2] for name in trainable if name not in inner}
    assert whole == {"visual_projection", "text_projection", "fusion", "classifier"}
    rates = parameter_groups(wrapped, learning_rate=1e-5, head_learning_rate=1e-2, weight_decay=0)
    assert [group["lr"] for group in rates] == [1e-2] * len(rates)

    optimizer = torch.optim.AdamW(rates)
    for _ in range(2):
        wrapped(**make_batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        optimizer.step()
    wrapped.eval()
    expected = wrapped(**make_batch()).logits
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(loaded.eval()(**make_batch()).logits, expected, atol=1e-5, rtol=0)


def test_lora_on_a_convolutional_model_and_on_a_frozen_one() -> None:
    wrapped = add_lora(tiny_model(vision="resnet"), 2)
    assert any("vision_model" in name and "lora_" in name for name, _ in wrapped.named_parameters())
    before = {name: value.clone() for name, value in wrapped.named_buffers() if "running" in name}
    wrapped.train()(**make_batch())
    assert before and all(torch.equal(dict(wrapped.named_buffers())[name], value) for name, value in before.items())
    model = tiny_model()
    freeze_layers(model, "vision", "all")
    freeze_layers(model, "text", "all")
    with pytest.raises(ValueError, match="lora_rank has no use where every pretrained layer is frozen"):
        add_lora(model, 2)


@pytest.mark.parametrize("vision", ["mobilenet_v2", "torchvision:mobilenet_v3_small"])
def test_lora_leaves_grouped_convolutions_and_an_inner_classifier_alone(tmp_path: Path, vision: str) -> None:
    model = tiny_model(vision=vision, problem_type="single_label_classification")
    assert any(getattr(module, "groups", 1) > 1 for module in model.modules())
    wrapped = add_lora(model, 2)
    saved = {name for name, module in wrapped.named_modules() if type(module).__name__ == "ModulesToSaveWrapper"}
    parts = ("visual_projection", "text_projection", "fusion", "classifier")
    assert saved == {f"base_model.model.{part}" for part in parts}
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        wrapped(**make_batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        optimizer.step()
    expected = wrapped.eval()(**make_batch()).logits
    wrapped.save_pretrained(tmp_path)  # what a checkpoint holds, and what the best one is restored from
    head = wrapped.get_submodule("base_model.model.classifier").modules_to_save["default"].weight
    trained = head.detach().clone()
    with torch.no_grad():
        head.zero_()
    wrapped.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(head, trained)
    found = wrapped.merge_and_unload()(**make_batch()).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
