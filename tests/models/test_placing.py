"""Device maps, attention implementations and dtypes reach both inner models of every family."""

import copy

import pytest
import torch
from test_fusion_model import make_model
from transformers import AutoModel

from hf_multimodal import AlignerModel, FusionForImageTextClassification, RobustFusionForImageTextClassification
from hf_multimodal.models.fusion import FUSIONS

FAMILIES = [FusionForImageTextClassification, RobustFusionForImageTextClassification, AlignerModel]
KINDS = [("vit", "bert"), ("resnet", "recurrent_text:lstm"), ("torchvision:resnet18", "gpt2")]
MASK = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]])


@torch.no_grad()
def scores(model, batch) -> torch.Tensor:
    output = model.eval()(**batch, modality_mask=MASK)
    return output["logits" if "logits" in output else "logits_per_image"]


def implementations(model) -> list[str]:
    parts = (model, model.vision_model, model.text_model)
    assert model.config.vision_config is parts[1].config and model.config.text_config is parts[2].config
    return [part.config._attn_implementation for part in parts]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("vision", "text"), KINDS)
def test_device_maps(vision, text, family, tmp_path, batch):
    model = make_model(vision, text, family).eval()
    model.save_pretrained(tmp_path)
    expected = scores(model, batch)
    parts = [name for name, _ in model.named_children()]
    maps = [dict.fromkeys(parts, "cpu") | {name: "disk"} for name in ("vision_model", "text_model")]
    for number, device_map in enumerate(["cpu", "auto", {"": "cpu"}, *maps]):
        folder = tmp_path / f"offload{number}"
        loaded = AutoModel.from_pretrained(tmp_path, device_map=device_map, offload_folder=folder)
        if isinstance(device_map, str) or "" in device_map:
            loaded = copy.deepcopy(loaded)  # tensors mapped from a file may be rounded otherwise
        else:
            assert loaded.hf_device_map == device_map
        torch.testing.assert_close(scores(loaded, batch), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_all_but_the_vision_model_may_lie_on_disk(fusion, tmp_path, batch):
    model = make_model(family=RobustFusionForImageTextClassification, fusion=fusion).eval()
    model.save_pretrained(tmp_path)
    device_map = {name: "cpu" if name == "vision_model" else "disk" for name, _ in model.named_children()}
    loaded = AutoModel.from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "offload")
    assert loaded.missing_embeddings.weight.device.type == "meta"
    torch.testing.assert_close(scores(loaded, batch), scores(model, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_reaches_both_inner_models(family, tmp_path, batch):
    model = make_model(family=family)
    model.save_pretrained(tmp_path)
    assert implementations(model) == ["sdpa"] * 3
    expected = scores(model, batch)
    mixed = {"vision_config": "eager", "text_config": "sdpa"}
    flex = AutoModel.from_pretrained(tmp_path, attn_implementation="flex_attention")  # needs a compiler to run
    assert implementations(flex) == ["flex_attention"] * 3
    for asked, found in (("eager", ["eager"] * 3), ("sdpa", ["sdpa"] * 3), (mixed, ["sdpa", "eager", "sdpa"])):
        loaded = AutoModel.from_pretrained(tmp_path, attn_implementation=asked)
        model.set_attn_implementation(asked)
        for one in (loaded, model):
            assert implementations(one) == found
            torch.testing.assert_close(scores(one, batch), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("vision", "text", "found"),
    [
        ("resnet", "recurrent_text:lstm", ["sdpa", "eager", "eager"]),
        ("torchvision:resnet18", "gpt2", ["sdpa", "eager", "sdpa"]),
    ],
)
def test_what_has_no_attention_keeps_eager(vision, text, found, family, tmp_path):
    model = make_model(vision, text, family)
    model.save_pretrained(tmp_path)
    model.set_attn_implementation("eager")
    model.set_attn_implementation("sdpa")
    assert implementations(model) == found
    assert implementations(AutoModel.from_pretrained(tmp_path, attn_implementation="sdpa")) == found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("vision", "text"), KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "bfloat16"])
def test_dtype_reaches_all_and_auto_finds_it_again(vision, text, family, dtype, tmp_path, batch):
    source = make_model(vision, text, family).eval()
    source.save_pretrained(tmp_path / "float32")
    wanted = torch.bfloat16 if dtype == "bfloat16" else dtype
    model = AutoModel.from_pretrained(tmp_path / "float32", dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {wanted}
    model.save_pretrained(tmp_path / "half")
    for kwargs in ({"dtype": "auto"}, {}):
        again = AutoModel.from_pretrained(tmp_path / "half", **kwargs)
        assert {p.dtype for p in again.parameters()} == {wanted}
        assert again.config.vision_config.dtype == again.config.text_config.dtype == wanted
    found = scores(model, batch).float()
    tolerance = 0.15 if family is AlignerModel else 0.1  # logits of the aligner are cosines times 14
    torch.testing.assert_close(found, scores(source, batch), rtol=0, atol=tolerance)
    assert torch.equal(scores(copy.deepcopy(again), batch), scores(copy.deepcopy(model), batch))
    whole = AutoModel.from_pretrained(tmp_path / "float32", dtype="auto")
    assert {p.dtype for p in whole.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_choices_for_pretrained_parts(family, tmp_path):
    source = make_model("vit", "bert")
    source.vision_model.to(torch.bfloat16).save_pretrained(tmp_path / "vision")
    source.text_model.save_pretrained(tmp_path / "text")
    source.text_model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    vision, text, half = (str(tmp_path / name) for name in ("vision", "text", "half"))
    build = family.from_vision_text_pretrained
    assert implementations(build(vision, text, attn_implementation="eager")) == ["eager"] * 3
    for kwargs, dtype in (
        ({}, torch.float32),
        ({"dtype": "float16"}, torch.float16),
        ({"dtype": "auto"}, torch.bfloat16),
    ):
        assert {p.dtype for p in build(vision, half, **kwargs).parameters()} == {dtype}
    with pytest.raises(ValueError, match=r"needs checkpoints of one dtype, got \['bfloat16', 'float32'\]"):
        build(vision, text, dtype="auto")
    with pytest.raises(ValueError, match="device_map is for from_pretrained of a saved model"):
        build(vision, text, device_map="auto")
