"""The fused classifier over every vision and text model type, and its invariances."""

import copy
import pickle

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS, make_batch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from hf_multimodal import (
    FusionConfig,
    FusionForImageTextClassification,
    RobustFusionForImageTextClassification,
    TorchvisionConfig,
)
from hf_multimodal.models.fusion import FUSIONS

PAIRS = [(vision, "bert") for vision in VISION_CONFIGS] + [("vit", text) for text in TEXT_CONFIGS]


def make_model(vision="vit", text="bert", family=FusionForImageTextClassification, **kwargs):
    torch.manual_seed(0)
    config = family.config_class(
        vision_config=None if vision is None else VISION_CONFIGS[vision](),
        text_config=None if text is None else TEXT_CONFIGS[text](),
        **{"hidden_size": 16, "num_labels": 3, **kwargs},
    )
    return family(config)


def assert_same(model, loaded, batch) -> None:
    """Every tensor and every logit to the bit.

    A copy of the loaded model is asked: tensors mapped from a file may lie unaligned in memory, and then other kernels
    round otherwise.
    """
    state, other = model.state_dict(), loaded.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).logits, copy.deepcopy(loaded).eval()(**batch).logits)


@pytest.mark.parametrize("family", [FusionForImageTextClassification, RobustFusionForImageTextClassification])
@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_every_model_type_trains_saves_and_loads(vision, text, family, tmp_path, batch):
    model = make_model(vision, text, family, fusion="cross_attention")
    loss = model(**batch, labels=torch.tensor([0, 1, 2, 0])).loss
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is family
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same(model, loaded, batch)


# SigLIP reads texts padded to a fixed length, at their last position, so its processor always pads to that length.
RIGHT = [(name, "right") for name in TEXT_CONFIGS if name != "siglip_text_model"]
LEFT = [(name, "left") for name in ("qwen2", "t5", "recurrent_text:lstm", "recurrent_text:gru")]  # relative positions


@pytest.mark.parametrize(("text", "side"), RIGHT + LEFT)
def test_padding_changes_nothing(text, side, batch):
    model = make_model("vit", text).eval()
    row = {name: value[:1] for name, value in batch.items()}
    pad = (3, 0) if side == "left" else (0, 3)
    padded = {**row, **{name: nn.functional.pad(row[name], pad) for name in ("input_ids", "attention_mask")}}
    with torch.no_grad():
        torch.testing.assert_close(model(**padded).logits, model(**row).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
class TestPresence:
    """A missing modality's slot may hold anything: nothing of it reaches an output or a gradient."""

    mask = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]])

    def poisoned(self, batch):
        pixels = batch["pixel_values"].clone()
        pixels[2:] = float("nan")
        ids, attention = batch["input_ids"].clone(), batch["attention_mask"].clone()
        ids[[1, 3]], attention[[1, 3]] = 7, 0
        return {"pixel_values": pixels, "input_ids": ids, "attention_mask": attention, "modality_mask": self.mask}

    def test_poison_changes_nothing(self, fusion, batch):
        model = make_model(fusion=fusion).eval()
        clean = model(**batch, modality_mask=self.mask)
        poisoned = model(**self.poisoned(batch))
        assert torch.equal(clean.logits, poisoned.logits)
        assert clean.image_embeds[2:].abs().sum() == 0 and clean.text_embeds[[1, 3]].abs().sum() == 0

    def test_gradients_are_finite_and_complete(self, fusion, batch):
        model = make_model(fusion=fusion)
        model(**self.poisoned(batch), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    def test_neighbours_change_nothing(self, fusion, batch):
        model = make_model(fusion=fusion).eval().double()
        batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
        together = model(**batch, modality_mask=self.mask).logits
        alone = [
            model(**{k: v[i : i + 1] for k, v in batch.items()}, modality_mask=self.mask[i : i + 1]) for i in range(4)
        ]
        torch.testing.assert_close(torch.cat([out.logits for out in alone]), together, rtol=0, atol=1e-12)
        order = torch.tensor([2, 0, 3, 1])
        permuted = model(**{k: v[order] for k, v in batch.items()}, modality_mask=self.mask[order]).logits
        torch.testing.assert_close(permuted, together[order], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("present", ["image", "text"])
    def test_an_argument_left_out_is_absent_for_all(self, fusion, present, batch):
        model = make_model(fusion=fusion).eval()
        names = ["pixel_values"] if present == "image" else ["input_ids", "attention_mask"]
        column = torch.tensor([[1, 0]] if present == "image" else [[0, 1]]).expand(4, 2)
        left_out = model(**{name: batch[name] for name in names})
        torch.testing.assert_close(left_out.logits, model(**batch, modality_mask=column).logits, rtol=0, atol=1e-6)
        model.train()
        model(**{name: batch[name] for name in names}, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        assert all(p.grad is not None for p in model.parameters())  # zeros at least, so that no rank hangs

    def test_dense_equals_gathered(self, fusion, batch, monkeypatch):
        model = make_model(fusion=fusion).eval()
        gathered = model(**self.poisoned(batch)).logits
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        torch.testing.assert_close(model(**self.poisoned(batch)).logits, gathered, rtol=0, atol=1e-5)


def test_models_run_only_on_rows_that_are_there(batch):
    model = make_model().eval()
    seen = {}
    model.vision_model.register_forward_pre_hook(lambda _, args: seen.update(image=len(args[0])))
    model.text_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(text=len(kwargs["input_ids"])), with_kwargs=True
    )
    model(**batch, modality_mask=torch.tensor([[1, 0], [1, 1], [1, 0], [0, 0]]))
    assert seen == {"image": 3, "text": 1}
    seen.clear()
    model(**batch, modality_mask=torch.zeros(4, 2))
    assert seen == {}


def test_batch_norm_keeps_its_statistics_from_blank_and_single_rows(batch):
    model = make_model("resnet").train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(**batch, modality_mask=torch.tensor([[1, 1], [0, 1], [0, 1], [0, 1]]))
    model(input_ids=batch["input_ids"])
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    model(**batch)
    assert any(not torch.equal(before[name], value) for name, value in model.named_buffers())


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_single_modality_model_builds_and_runs_one_model(modality, tmp_path, batch):
    model = make_model("vit" if modality == "image" else None, "bert" if modality == "text" else None)
    absent = "text" if modality == "image" else "vision"
    assert getattr(model, f"{absent}_model") is None
    assert not [name for name, _ in model.named_parameters() if name.startswith((absent, f"{absent[:4]}ual"))]
    model(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert getattr(loaded.config, f"{absent}_config") is None
    assert_same(model, loaded, batch)
    assert torch.equal(model(**batch).modality_mask[:, 1 if modality == "image" else 0], torch.zeros(4).long())


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        ("single_label_classification", 3, torch.tensor([0, 1, 2, 0])),
        ("multi_label_classification", 3, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])),
        ("regression", 1, torch.tensor([0.5, -1.0, 2.0, 0.0])),
    ],
)
@pytest.mark.parametrize("stated", [True, False])
def test_problem_types(problem_type, num_labels, labels, stated, batch):
    model = make_model(num_labels=num_labels, **({"problem_type": problem_type} if stated else {})).eval()
    out = model(**batch, labels=labels)
    logits = out.logits.detach()
    expected = {
        "single_label_classification": lambda: nn.functional.cross_entropy(logits, labels),
        "multi_label_classification": lambda: nn.functional.binary_cross_entropy_with_logits(logits, labels),
        "regression": lambda: nn.functional.mse_loss(logits[:, 0], labels),
    }[problem_type]()
    torch.testing.assert_close(out.loss.detach(), expected)
    assert model.config.problem_type == problem_type


def test_smoothing_and_class_weights_against_a_loop(batch):
    weights, smoothing = [1.0, 2.0, 0.5], 0.2
    model = make_model(label_smoothing=smoothing, class_weights=weights).eval()
    labels = torch.tensor([0, 1, 2, 0])
    out = model(**batch, labels=labels)
    total = 0.0
    for row, label in zip(out.logits.detach().double().log_softmax(-1), labels.tolist(), strict=True):
        target = torch.full((3,), smoothing / 3, dtype=torch.double)
        target[label] += 1 - smoothing
        total += -weights[label] * (target * row).sum().item()
    assert out.loss.item() == pytest.approx(total / 4, abs=1e-6)


def test_labels_of_a_wrong_shape_are_named(batch):
    with pytest.raises(ValueError, match=r"labels of single-label classification are \(batch,\), got \(4, 3\)"):
        make_model(problem_type="single_label_classification")(**batch, labels=torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"multi-label classification are \(4, 3\), got \(4,\)"):
        make_model(problem_type="multi_label_classification")(**batch, labels=torch.zeros(4))


@pytest.mark.keys_do_not_fit
def test_a_new_head(tmp_path, batch):
    make_model(num_labels=3).save_pretrained(tmp_path)
    model = FusionForImageTextClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert model(**batch).logits.shape == (4, 5)
    assert model.config.label2id == {f"LABEL_{i}": i for i in range(5)}


@pytest.mark.keys_do_not_fit
def test_a_new_head_after_thresholds(tmp_path):
    kind = {"problem_type": "multi_label_classification"}
    make_model(num_labels=3, thresholds=[0.3, 0.5, 0.7], **kind).save_pretrained(tmp_path)
    options = {"num_labels": 5, "ignore_mismatched_sizes": True}
    assert FusionForImageTextClassification.from_pretrained(tmp_path, **options).config.thresholds is None
    assert FusionForImageTextClassification.from_pretrained(tmp_path).config.thresholds == [0.3, 0.5, 0.7]
    assert FusionConfig().thresholds is None


@pytest.mark.keys_do_not_fit
def test_a_new_head_after_class_weights(tmp_path, batch):
    make_model(num_labels=3, class_weights=[1.0, 2.0, 3.0]).save_pretrained(tmp_path)
    model = FusionForImageTextClassification.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert model.config.class_weights is None and model(**batch).logits.shape == (4, 5)
    assert FusionForImageTextClassification.from_pretrained(tmp_path).config.class_weights == [1.0, 2.0, 3.0]
    labels = {"id2label": {0: "cold", 1: "warm"}, "label2id": {"cold": 0, "warm": 1}}
    model = AutoModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **labels)
    assert model.config.class_weights is None and model(**batch).logits.shape == (4, 2)
    model.save_pretrained(tmp_path / "again")
    assert AutoModel.from_pretrained(tmp_path / "again").config.id2label == labels["id2label"]


def test_checkpoints_in_half_precision_become_one_model(tmp_path, batch):
    source = make_model("vit", "qwen2")
    source.vision_model.save_pretrained(tmp_path / "vision")
    source.text_model.to(torch.bfloat16).save_pretrained(tmp_path / "text")
    names = str(tmp_path / "vision"), str(tmp_path / "text")
    for dtype in (None, torch.bfloat16):
        kwargs = {} if dtype is None else {"dtype": dtype}
        model = FusionForImageTextClassification.from_vision_text_pretrained(*names, num_labels=2, **kwargs)
        assert {p.dtype for p in model.parameters()} == {dtype or torch.float32}
        assert model(**batch).logits.dtype == (dtype or torch.float32)
    config = FusionConfig(text_config=AutoConfig.from_pretrained(names[1]), num_labels=2)
    assert {p.dtype for p in FusionForImageTextClassification(config).parameters()} == {torch.float32}


def test_only_the_first_layers_are_kept(tmp_path, batch):
    source = make_model("vit", "bert").eval()
    source.vision_model.save_pretrained(tmp_path / "vision")
    name, layers = str(tmp_path / "vision"), source.config.vision_config.num_hidden_layers
    build = FusionForImageTextClassification.from_vision_text_pretrained
    model = build(name, vision_layers=layers - 1, num_labels=3, image_pooling="cls").eval()
    assert model.config.vision_config.num_hidden_layers == layers - 1
    vision = source.vision_model
    with torch.no_grad():
        hidden = vision(batch["pixel_values"], output_hidden_states=True).hidden_states[layers - 1]
        kept = model.vision_model(batch["pixel_values"]).last_hidden_state
        torch.testing.assert_close(kept, vision.layernorm(hidden))
    model.save_pretrained(tmp_path / "cut")
    assert_same(model, AutoModel.from_pretrained(tmp_path / "cut"), {"pixel_values": batch["pixel_values"]})
    for wanted in (0, layers + 1):
        with pytest.raises(ValueError, match=f"first {wanted} layers cannot be kept: num_hidden_layers is {layers}"):
            build(name, vision_layers=wanted, num_labels=3)


def test_a_pooler_that_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"needs a text model that has one; 'distilbert' does not: choose one of"):
        make_model(text="distilbert", text_pooling="pooler")


@pytest.mark.parametrize("architecture", ["vit_b_32", "swin_t"])
def test_torchvision_models_of_a_fixed_image_size(architecture, batch):
    with torch.device("meta"):
        config = FusionConfig(
            vision_config=TorchvisionConfig(architecture=architecture), text_config=TEXT_CONFIGS["bert"]()
        )
        assert FusionForImageTextClassification(config).visual_projection[0].weight.shape == (768,)


def test_one_missing_argument_warns_once(batch, caplog):
    from transformers.utils import logging

    logging.get_logger("transformers").propagate = True
    model = make_model().eval()
    logging.warning_once.cache_clear()
    for _ in range(2):
        model(input_ids=batch["input_ids"])
    assert sum("pixel_values is None" in record.message for record in caplog.records) == 1


def test_nothing_to_read_is_an_error(batch):
    with pytest.raises(ValueError, match=r"needs one of the inputs that this model reads, \['input_ids'\]"):
        make_model(vision=None)(pixel_values=batch["pixel_values"])
    with pytest.raises(ValueError, match="needs a vision_config, a text_config, or both"):
        FusionForImageTextClassification(FusionConfig())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fusion": "gate"}, r"fusion must be one of \['concat', .*'late'.*\], got 'gate'"),
        ({"text_pooling": "max"}, r"text_pooling must be one of \['auto', .*\], got 'max'"),
        ({"label_smoothing": 1}, r"label_smoothing must lie in \[0, 1\), got 1"),
        ({"fusion": "early", "fusion_heads": 3}, "fusion_heads must divide hidden_size 256, got 3"),
        ({"num_labels": 3, "class_weights": [1.0]}, r"class_weights needs one number a label \(3\)"),
        ({"num_labels": 3, "thresholds": [0.5]}, r"thresholds needs one number a label \(3\), got \[0.5\]"),
        ({"num_labels": 2, "thresholds": [0.5, 1.0]}, r"thresholds must lie between 0 and 1, got \[0.5, 1.0\]"),
        ({"vision_config": {"image_size": 8}}, "needs a model_type, got"),
    ],
)
def test_every_choice_of_the_config_is_checked(kwargs, message):
    with pytest.raises(ValueError, match=message):
        FusionConfig(**kwargs)


@pytest.mark.parametrize(
    ("text", "pooling"),
    [("bert", "mean"), ("gpt2", "last"), ("qwen2", "last"), ("clip_text_model", "pooler"), ("t5", "mean")],
)
def test_auto_pooling(text, pooling):
    model, named = make_model("vit", text), make_model("vit", text, text_pooling=pooling)
    batch = make_batch()
    assert torch.equal(model.eval()(**batch).logits, named.eval()(**batch).logits)
    assert not [name for name, _ in model.named_parameters() if "pooler.dense" in name]


@pytest.mark.parametrize(
    "vision", ["vit", "clip_vision_model", "resnet", "torchvision:resnet18", "siglip_vision_model"]
)
@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_mean"])
def test_image_pooling(vision, pooling, tmp_path, batch):
    has_class_token = vision in ("vit", "clip_vision_model")
    if pooling != "mean" and not has_class_token:
        with pytest.raises(ValueError, match=f"image_pooling '{pooling}' needs a class token"):
            make_model(vision, image_pooling=pooling)
        return
    model = make_model(vision, image_pooling=pooling).eval()
    with torch.no_grad():
        hidden = model.vision_model(batch["pixel_values"]).last_hidden_state
        tokens = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden
        mean = tokens[:, 1:].mean(dim=1) if has_class_token else tokens.mean(dim=1)
        parts = {"cls": [tokens[:, 0]], "mean": [mean], "cls_mean": [tokens[:, 0], mean]}[pooling]
        expected = model.visual_projection(torch.cat(parts, dim=-1))
        torch.testing.assert_close(model(**batch).image_embeds, expected)
    model.save_pretrained(tmp_path)
    assert_same(model, AutoModel.from_pretrained(tmp_path), batch)


def test_the_models_own_pooler_is_built_only_when_asked_for():
    names = [name for name, _ in make_model(text="bert", text_pooling="pooler").named_parameters()]
    assert "text_model.pooler.dense.weight" in names


def test_gradient_checkpointing_gives_the_same_gradients(batch):
    gradients = []
    for checkpointing in (False, True):
        model = make_model().eval().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        model(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert model.vision_model.is_gradient_checkpointing
    torch.testing.assert_close(gradients[0], gradients[1])


def test_pretrained_weights_enter_through_the_classmethod(tmp_path, batch):
    source = make_model("vit", "bert", text_pooling="pooler")
    source.vision_model.save_pretrained(tmp_path / "vision")
    source.text_model.save_pretrained(tmp_path / "text")
    model = FusionForImageTextClassification.from_vision_text_pretrained(
        tmp_path.joinpath("vision").as_posix(), tmp_path.joinpath("text").as_posix(), num_labels=4, hidden_size=16
    )
    for name, tensor in model.vision_model.state_dict().items():
        assert torch.equal(tensor, source.vision_model.state_dict()[name])
    for name, tensor in model.text_model.state_dict().items():
        assert torch.equal(tensor, source.text_model.state_dict()[name])
    assert model.config.vision_config is model.vision_model.config
    assert model(**batch).logits.shape == (4, 4)


def test_a_model_can_be_pickled(batch):
    model = make_model().eval()
    copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(copied(**batch).logits, model(**batch).logits)


def test_a_classifier_refuses_images_and_texts_that_are_no_pairs(batch):
    batch["pixel_values"] = batch["pixel_values"][:1]
    with pytest.raises(ValueError, match="an example has one image and one text, got 1 images and 4 texts"):
        make_model()(**batch)


def test_images_of_another_size_are_read_where_the_model_can():
    larger = torch.randn(2, 3, 48, 48)
    model, texts = make_model("vit").eval(), torch.ones(2, 5, dtype=torch.long)
    with torch.no_grad():
        logits = model(pixel_values=larger, input_ids=texts, interpolate_pos_encoding=True).logits
    assert logits.isfinite().all() and len(logits) == 2
    with pytest.raises(ValueError, match="ResNetModel has no position encodings that could be interpolated"):
        make_model("resnet")(pixel_values=larger, input_ids=texts, interpolate_pos_encoding=True)


def test_a_fusion_named_afterwards_is_checked_where_the_model_is_built():
    config = FusionConfig(vision_config=VISION_CONFIGS["vit"](), text_config=TEXT_CONFIGS["bert"]())
    config.fusion = "gate"  # as where the configuration came from the Hub without the fusions beside it
    for family in (FusionForImageTextClassification, RobustFusionForImageTextClassification):
        with pytest.raises(ValueError, match=r"fusion must be one of \['concat', .*'late'.*\], got 'gate'"):
            family(config)
