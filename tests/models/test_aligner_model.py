"""The aligner: losses over presence and images, its scalars, warm starts, save and load."""

import copy
import logging
import math

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS, without_dropout
from safetensors.torch import save_file
from test_fusion_model import PAIRS
from transformers import AutoModel, AutoModelForZeroShotImageClassification
from transformers.models.clip.modeling_clip import CLIPOutput

from hf_multimodal import (
    AlignerConfig,
    AlignerModel,
    FusionForImageTextClassification,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.models.losses import LOSSES

MASK = torch.tensor([[1, 1], [1, 0], [0, 1], [1, 1]])


def build(vision: str | None = "vit", text: str | None = "bert", family=AlignerModel, **fields):
    torch.manual_seed(0)
    config = family.config_class(
        vision_config=None if vision is None else VISION_CONFIGS[vision](),
        text_config=None if text is None else TEXT_CONFIGS[text](),
        **{"hidden_size": 16, **fields},
    )
    return family(config).eval()


def assert_same(model, loaded, batch) -> None:
    state, other = model.state_dict(), loaded.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
    with torch.no_grad():
        # Of a copy: tensors mapped from a file may lie unaligned in memory, and other kernels round otherwise.
        found = copy.deepcopy(loaded).eval()(**batch)
        assert torch.equal(model.eval()(**batch).logits_per_image, found.logits_per_image)


@pytest.mark.parametrize(("vision", "text"), PAIRS)
def test_every_model_type_trains_saves_and_loads(vision, text, tmp_path, batch):
    model = build(vision, text, projection="mlp").train()
    model(**batch, modality_mask=MASK, return_loss=True).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is AlignerModel
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same(model, loaded, batch)


def test_a_configuration_keeps_nothing_that_is_no_field(tmp_path):
    """A token would be saved with it, and pushed."""
    build(family=FusionForImageTextClassification).vision_model.save_pretrained(tmp_path)
    fusion, aligner = build(family=FusionForImageTextClassification), build()
    starts = {
        "fusoin": lambda **given: FusionForImageTextClassification.from_vision_text_pretrained(tmp_path, **given),
        "token": lambda **given: AlignerModel.from_vision_text_pretrained(tmp_path, tmp_path, **given),
        "revision": lambda **given: AlignerModel.from_fusion(fusion, **given),
        "unimodal_loss": lambda **given: RobustFusionForImageTextClassification.from_fusion(fusion, **given),
        "num_label": lambda **given: FusionForImageTextClassification.from_aligner(aligner, **given),
    }
    for name, start in starts.items():
        with pytest.raises(TypeError, match=rf"'{name}' is no field of \w+Config\."):
            start(**{name: "hf_marker"})


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_every_parameter_saves_and_loads(loss, tmp_path, batch):
    model = build(loss=loss).train()
    model(**batch, return_loss=True).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    learned = [name for name, _ in model.scaling.named_parameters()]
    assert learned == {"infonce": ["logit_scale"], "sigmoid": ["logit_scale", "logit_bias"]}.get(loss, [])
    model.scaling.logit_scale.data.fill_(1.5)
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForZeroShotImageClassification):
        assert_same(model, auto_class.from_pretrained(tmp_path), batch)


@pytest.mark.parametrize("poison", [0.0, torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("loss", LOSSES)
def test_what_a_missing_slot_holds_changes_nothing(loss, poison, batch):
    model = without_dropout(build(loss=loss).double()).train()
    results = []
    for value in (1.0, poison):
        inputs = {**batch, "pixel_values": batch["pixel_values"].double(), "input_ids": batch["input_ids"].clone()}
        inputs["pixel_values"][MASK[:, 0] == 0] = value
        inputs["input_ids"][MASK[:, 1] == 0] = 5 if value == 1.0 else 7
        model.zero_grad()
        output = model(**inputs, modality_mask=MASK, return_loss=True)
        output.loss.backward()
        results.append([output.loss.detach(), output.logits_per_image, *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*results, strict=True))
    assert output.incomplete_pairs == 2
    assert not output.image_embeds[2].any() and not output.text_embeds[1].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_an_incomplete_pair_is_as_if_it_were_not_there(loss, batch):
    model = build(loss=loss).double()
    batch["pixel_values"] = batch["pixel_values"].double()
    whole = model(**batch, modality_mask=MASK, return_loss=True)
    kept = model(**{name: value[[0, 3]] for name, value in batch.items()}, return_loss=True)
    torch.testing.assert_close(whole.loss, kept.loss, rtol=0, atol=1e-12)
    assert kept.incomplete_pairs == 0 and kept.loss > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_order_and_neighbours_change_nothing(loss, batch):
    model = build(loss=loss).double()
    batch["pixel_values"] = batch["pixel_values"].double()
    ids = torch.tensor([7, 7, 2, 3])
    whole = model(**batch, modality_mask=MASK, image_ids=ids, return_loss=True)
    order = torch.tensor([2, 0, 3, 1])
    permuted = {name: value[order] for name, value in {**batch, "modality_mask": MASK, "image_ids": ids}.items()}
    shuffled = model(**permuted, return_loss=True)
    torch.testing.assert_close(shuffled.loss, whole.loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(shuffled.logits_per_image, whole.logits_per_image[order][:, order], rtol=0, atol=1e-12)
    for row in range(4):
        alone = model(**{name: value[row : row + 1] for name, value in batch.items()}, modality_mask=MASK[[row]])
        torch.testing.assert_close(alone.image_embeds[0], whole.image_embeds[row], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone.text_embeds[0], whole.text_embeds[row], rtol=0, atol=1e-12)


def test_captions_of_one_image_are_no_negatives(batch):
    model = build().double()
    batch["pixel_values"] = batch["pixel_values"].double()
    output = model(**batch, image_ids=torch.tensor([7, 7, 2, 3]), return_loss=True)
    logits, total = output.logits_per_image, 0.0
    for way in (logits, logits.T):
        for row in range(4):
            columns = [column for column in range(4) if column == row or {row, column} != {0, 1}]
            total += math.log(sum(way[row, column].exp().item() for column in columns)) - way[row, row].item()
    assert output.loss.item() == pytest.approx(total / 8, abs=1e-12)


def test_a_batch_without_a_complete_pair_trains_nothing(batch):
    model = build().train()
    output = model(pixel_values=batch["pixel_values"], return_loss=True)
    output.loss.backward()
    assert output.loss == 0 and output.incomplete_pairs == 4
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())  # zeros, so that no rank hangs


def test_image_and_text_batches_may_differ_in_length(batch):
    model = build()
    texts = {name: batch[name][:3] for name in ("input_ids", "attention_mask")}
    output = model(pixel_values=batch["pixel_values"], **texts)
    whole = model(**batch)
    assert output.logits_per_image.shape == (4, 3)
    torch.testing.assert_close(output.logits_per_image, whole.logits_per_image[:, :3])
    assert torch.equal(output.logits_per_text, output.logits_per_image.T)
    for asked in ({"return_loss": True}, {"modality_mask": MASK}):
        with pytest.raises(ValueError, match="need as many images as texts, got 4 and 3"):
            model(pixel_values=batch["pixel_values"], **texts, **asked)


@pytest.mark.parametrize("ids", [None, torch.tensor([5, 5, 7, 7])])
def test_a_image_with_several_texts_runs_once_and_costs_what_its_copies_cost(batch, ids):
    model, seen = build().double(), []
    pixels = batch["pixel_values"][:2].double()
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    copies = pixels.repeat_interleave(2, dim=0)
    expected = model(pixel_values=copies, **texts, image_ids=torch.tensor([0, 0, 1, 1]), return_loss=True)
    model.vision_model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    output = model(pixel_values=pixels, **texts, image_ids=ids, return_loss=True)
    assert seen == [2] and output.logits_per_image.shape == (2, 4) and output.incomplete_pairs == 0
    torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=1e-12)


def test_features_are_the_embeddings(batch):
    model = build(text="roberta")
    output = model(**batch)
    ids = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    for embeds, features in (
        (output.image_embeds, model.get_image_features(pixel_values=batch["pixel_values"])),
        (output.text_embeds, model.get_text_features(**ids)),
    ):
        assert torch.equal(embeds, features.pooler_output)
        torch.testing.assert_close(embeds.norm(dim=-1), torch.ones(4))
    masked = model(**batch, modality_mask=MASK)
    pixels = {"pixel_values": batch["pixel_values"].masked_fill(MASK[:, 0, None, None, None] == 0, torch.nan)}
    assert torch.equal(model.get_image_features(**pixels, modality_mask=MASK).pooler_output, masked.image_embeds)
    assert torch.equal(model.get_text_features(**ids, modality_mask=MASK).pooler_output, masked.text_embeds)


def test_the_scale_is_stored_as_a_logarithm_and_clamped(batch):
    model = build()
    cosines = model(**batch).logits_per_image / math.exp(2.6592)
    torch.testing.assert_close(model.logit_scale.detach(), torch.tensor(2.6592))
    assert model.logit_bias is None
    model.logit_scale.data.fill_(50.0)
    torch.testing.assert_close(model(**batch).logits_per_image, 100 * cosines, rtol=1e-4, atol=1e-4)
    siglip = build(loss="sigmoid")
    torch.testing.assert_close(siglip.logit_scale.exp().item(), 10.0)
    assert siglip.logit_bias == -10
    torch.testing.assert_close(siglip(**batch).logits_per_image, 10 * cosines - 10)
    assert build(logit_scale_init_value=1).logit_scale == 1


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_a_scale_beyond_the_highest_comes_back_and_goes_on_learning(loss, compiled):
    model = build(loss=loss).train()
    run = torch.compile(model.contrastive_loss, backend="aot_eager", fullgraph=True) if compiled else None
    images = torch.nn.functional.normalize(torch.eye(4, 16) + 0.1)
    texts = images.roll(1, dims=0)  # every match is the worst, so the scale is to fall
    model.logit_scale.data.fill_(4.7)
    (run or model.contrastive_loss)(images, texts)[0].backward()
    assert 99.99 < model.logit_scale.exp() <= 100  # whoever reads it sees what is used
    at_100 = build(loss=loss).train()
    at_100.logit_scale.data.fill_(4.605)
    at_100.contrastive_loss(images, texts)[0].backward()
    assert model.logit_scale.grad > 10
    torch.testing.assert_close(model.logit_scale.grad, at_100.logit_scale.grad, rtol=1e-3, atol=0)
    model.eval().logit_scale.data.fill_(4.7)  # measuring changes nothing
    model.contrastive_loss(images, texts)
    assert model.logit_scale.item() == pytest.approx(4.7)


@pytest.mark.keys_do_not_fit
def test_another_loss_of_a_trained_model_brings_what_it_needs(tmp_path, batch):
    model = build()
    model.logit_scale.data.fill_(1.25)
    model.save_pretrained(tmp_path)
    siglip = AlignerModel.from_pretrained(tmp_path, loss="sigmoid")
    assert siglip.logit_scale == 1.25 and siglip.logit_bias == -10
    assert AlignerModel.from_pretrained(tmp_path, loss="triplet").logit_scale == 1.25


def test_the_loss_is_float32_under_autocast(batch):
    model = build()
    model.logit_scale.data.fill_(4.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**batch, return_loss=True)
    exact = model.contrastive_loss(output.image_embeds.float(), output.text_embeds.float())[0]
    torch.testing.assert_close(output.loss, exact, rtol=0, atol=1e-6)


def test_dense_equals_gathered(batch, monkeypatch):
    model = build()
    gathered = model(**batch, modality_mask=MASK, return_loss=True)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    dense = model(**batch, modality_mask=MASK, return_loss=True)
    torch.testing.assert_close(dense.loss, gathered.loss, rtol=0, atol=1e-5)
    torch.testing.assert_close(dense.logits_per_image, gathered.logits_per_image, rtol=0, atol=1e-5)


def test_compiled_equals_eager(batch):
    model = build()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for mask in (MASK, torch.ones(4, 2, dtype=torch.long)):
        output, expected = (one(**batch, modality_mask=mask, return_loss=True) for one in (compiled, model))
        torch.testing.assert_close(output.loss, expected.loss, rtol=0, atol=1e-5)


def test_lora_trains_and_keeps_the_scale(batch):
    pytest.importorskip("peft")
    from hf_multimodal.training.lora import add_lora

    model = add_lora(build(loss="sigmoid"), rank=2)
    for name in ("logit_scale", "logit_bias"):
        parameters = [p for path, p in model.named_parameters() if path.endswith(name) and p.requires_grad]
        assert len(parameters) == 1
        parameters[0].data.fill_(0.5)
    model(**batch, return_loss=True).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    merged = model.merge_and_unload()
    assert merged.logit_scale == merged.logit_bias == 0.5


@pytest.mark.parametrize("family", [FusionForImageTextClassification, RobustFusionForImageTextClassification])
@pytest.mark.parametrize("stored", [False, True])
def test_an_aligner_starts_from_a_classifier(family, stored, tmp_path, batch):
    classifier = build(family=family, num_labels=3, image_pooling="cls", fusion="cross_attention")
    classifier.save_pretrained(tmp_path)
    model = AlignerModel.from_fusion(tmp_path if stored else classifier, loss="sigmoid")
    assert model.config.hidden_size == 16 and model.config.image_pooling == "cls" and model.config.num_labels == 2
    assert model.logit_bias == -10 and not model.training
    embeds = torch.nn.functional.normalize(classifier(**batch).image_embeds, dim=-1)
    torch.testing.assert_close(model(**batch).image_embeds, embeds)
    wider = AlignerModel.from_fusion(tmp_path if stored else classifier, projection_dim=24, projection="mlp")
    assert wider(**batch).image_embeds.shape == (4, 24)
    state = wider.state_dict()
    for name, value in classifier.vision_model.state_dict().items():
        assert torch.equal(state[f"vision_model.{name}"], value)
    next(classifier.vision_model.parameters()).data.fill_(7.0)  # nothing is shared
    assert not next(model.vision_model.parameters()).eq(7).all()


@pytest.mark.parametrize("stored", [False, True])
def test_a_classifier_starts_from_an_aligner(stored, tmp_path, batch):
    aligner = build(text="distilbert", text_pooling="cls")
    aligner.save_pretrained(tmp_path)
    model = FusionForImageTextClassification.from_aligner(
        tmp_path if stored else aligner, num_labels=5, fusion="gated"
    )
    assert model.config.hidden_size == 16 and model.config.text_pooling == "cls" and not model.training
    output = model(**batch)
    assert output.logits.shape == (4, 5)
    torch.testing.assert_close(torch.nn.functional.normalize(output.text_embeds, dim=-1), aligner(**batch).text_embeds)
    back = AlignerModel.from_fusion(model)
    torch.testing.assert_close(back(**batch).logits_per_image, aligner(**batch).logits_per_image)


def test_a_start_without_the_inner_models_is_refused():
    from hf_multimodal.training.lora import add_lora

    pytest.importorskip("peft")
    wrapped = add_lora(build(family=FusionForImageTextClassification), rank=2).base_model.model
    with pytest.raises(ValueError, match="has not the weights that AlignerModel starts from: missing .'text_model"):
        AlignerModel.from_fusion(wrapped)
    with pytest.raises(ValueError, match="text_config is None: there is nothing to align"):
        AlignerModel.from_fusion(build(text=None, family=FusionForImageTextClassification))


def test_a_single_modality_is_refused():
    with pytest.raises(ValueError, match="vision_config is None"):
        AlignerModel(AlignerConfig(text_config=TEXT_CONFIGS["bert"]()))


def test_a_start_from_a_folder_says_nothing(tmp_path, caplog):
    build(family=FusionForImageTextClassification).save_pretrained(tmp_path)
    logging.getLogger("transformers").propagate = True
    AlignerModel.from_fusion(tmp_path)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_image_ids_are_one_a_text_or_one_an_image(batch):
    model, texts = build(), {name: batch[name].repeat_interleave(2, dim=0) for name in ("input_ids", "attention_mask")}
    batch = {**batch, **texts}
    expected = model(**batch, image_ids=torch.tensor([7, 7, 7, 7, 8, 8, 9, 9]), return_loss=True).loss
    for given in (torch.tensor([7, 7, 8, 9]), [7, 7, 8, 9]):
        assert torch.equal(model(**batch, image_ids=given, return_loss=True).loss, expected)
    for wrong in (torch.zeros(8, 1), torch.zeros(1), torch.zeros(5)):
        with pytest.raises(ValueError, match="a number for each of the 8 texts or of the 4 images, got the shape"):
            model(**batch, image_ids=wrong, return_loss=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"projection_dim": 0}, "projection_dim must be 1 or more, got 0"),
        ({"logit_scale_init_value": 14.3}, "is a logarithm, at most log.100. = 4.605, got 14.3"),
        ({"logit_scale_init_value": math.nan}, "is a logarithm, at most log.100. = 4.605, got nan"),
        ({"margin": math.nan}, "margin must be more than 0, got nan"),
        ({"logit_bias_init_value": math.inf}, "logit_bias_init_value must be finite, got inf"),
    ],
)
def test_numbers_that_cannot_train_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AlignerConfig(**fields)


def test_outputs_stand_in_the_order_of_clips(batch):
    ours, theirs = build()(**batch, return_loss=True), CLIPOutput.__dataclass_fields__
    assert [name for name in ours if name in theirs] == [name for name in theirs if name in ours]


def test_the_inner_models_of_a_trained_model_are_started_from(batch, tmp_path):
    trained = build(loss="sigmoid").float()
    trained.save_pretrained(tmp_path / "aligner")
    model = FusionForImageTextClassification.from_vision_text_pretrained(
        str(tmp_path / "aligner"), str(tmp_path / "aligner"), num_labels=3
    )
    for name in ("vision_model", "text_model"):
        state, theirs = getattr(model, name).state_dict(), getattr(trained, name).state_dict()
        assert state.keys() == theirs.keys() and all(torch.equal(state[key], theirs[key]) for key in state)
    assert model.eval()(**batch).logits.shape == (4, 3)
    build("vit", None, FusionForImageTextClassification).save_pretrained(tmp_path / "vision")
    with pytest.raises(ValueError, match="has no text_config"):
        AlignerModel.from_vision_text_pretrained(str(tmp_path / "vision"), str(tmp_path / "vision"))
    with pytest.raises(ValueError, match="a model of this package, cannot be cut"):
        AlignerModel.from_vision_text_pretrained(str(tmp_path / "aligner"), str(tmp_path / "aligner"), vision_layers=1)


@pytest.mark.keys_do_not_fit
def test_a_checkpoint_that_lacks_weights_is_no_start(tmp_path):
    vision = build().vision_model
    vision.save_pretrained(tmp_path)
    state = {name: value for name, value in vision.state_dict().items() if "layernorm" not in name}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="is no ViTModel: it lacks .* weights, such as"):
        FusionForImageTextClassification.from_vision_text_pretrained(str(tmp_path))


@pytest.mark.parametrize(("field", "given"), [("loss", "clip"), ("triplet_mining", "easy")])
def test_a_loss_named_afterwards_is_checked_where_the_model_is_built(field, given):
    config = AlignerConfig(vision_config=VISION_CONFIGS["vit"](), text_config=TEXT_CONFIGS["bert"]())
    setattr(config, field, given)  # as where the configuration came from the Hub without the losses beside it
    with pytest.raises(ValueError, match=rf"{field} must be one of \[.*\], got '{given}'"):
        AlignerModel(config)
