"""Adapters of peft, made, saved, loaded and merged as peft and transformers do, on every family."""

import copy

import pytest
import torch
from test_fusion_model import make_model
from transformers import AutoModel

from hf_multimodal import AlignerModel, FusionForImageTextClassification, RobustFusionForImageTextClassification
from hf_multimodal.training.lora import add_lora

peft = pytest.importorskip("peft")

FAMILIES = [FusionForImageTextClassification, RobustFusionForImageTextClassification, AlignerModel]
MASK = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]])


@torch.no_grad()
def scores(model, batch) -> torch.Tensor:
    # Of a copy: tensors mapped from a file may lie unaligned in memory, and other kernels round otherwise.
    output = copy.deepcopy(model).eval()(**batch, modality_mask=MASK)
    return output["logits" if "logits" in output else "logits_per_image"]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def trained(request, batch, tmp_path):
    """Folders of a base model and of an adapter trained on it, and the trained model."""
    family = request.param
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    fields = {"loss": "sigmoid"} if family is AlignerModel else {"problem_type": "single_label_classification"}
    make_model(family=family, **fields).save_pretrained(base)
    model = add_lora(AutoModel.from_pretrained(base), rank=2).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    extra = {"return_loss": True} if family is AlignerModel else {"labels": torch.tensor([0, 1, 2, 0])}
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch, modality_mask=MASK, **extra).loss.backward()
        optimizer.step()
    model.save_pretrained(adapter)
    return base, adapter, model


def test_peft_loads_and_merges(trained, batch, tmp_path):
    base, adapter, model = trained
    plain = AutoModel.from_pretrained(base)
    before, expected = scores(plain, batch), scores(model, batch)
    assert not torch.allclose(before, expected, atol=1e-3)
    loaded = peft.PeftModel.from_pretrained(plain, adapter)
    assert torch.equal(scores(loaded, batch), expected)
    with loaded.disable_adapter():
        assert torch.equal(scores(loaded, batch), before)
    with pytest.raises(ValueError, match="a PeftModel is neither .* merged first"):
        RobustFusionForImageTextClassification.from_fusion(loaded)
    merged = loaded.merge_and_unload()
    assert not any("lora" in name or "modules_to_save" in name for name in merged.state_dict())
    torch.testing.assert_close(scores(merged, batch), expected, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    again, info = AutoModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(scores(again, batch), scores(merged, batch))


def test_transformers_loads_an_adapter(trained, batch):
    base, adapter, model = trained
    expected = scores(model, batch)
    loaded = AutoModel.from_pretrained(base)
    loaded.load_adapter(str(adapter))
    assert torch.equal(scores(loaded, batch), expected)  # the trained heads too
    assert torch.equal(scores(AutoModel.from_pretrained(adapter), batch), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_is_added_by_transformers(family, batch, tmp_path):
    make_model(family=family).save_pretrained(tmp_path / "base")
    model = AutoModel.from_pretrained(tmp_path / "base")
    before = scores(model, batch)
    targets = r"(vision_model|text_model)\..*(query|value|q_proj|v_proj)"  # one expression for both inner models
    model.add_adapter(peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    places = {name.split(".")[0] for name, _ in model.named_parameters() if "lora_" in name}
    assert places == {"vision_model", "text_model"}
    changed = scores(model, batch)
    assert not torch.allclose(changed, before, atol=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoModel.from_pretrained(tmp_path / "base")
    loaded.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(scores(loaded, batch), changed)
    loaded.disable_adapters()
    assert torch.equal(scores(loaded, batch), before)
