"""The robust classifier: presence, the stack, losses, travelling."""

import copy

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS, without_dropout

from hf_multimodal import (
    FusionConfig,
    FusionForImageTextClassification,
    RobustFusionConfig,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.models.fusion import FUSIONS

MASK = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]])


def build(
    fusion: str = "concat", vision: str = "vit", text: str = "bert", **fields
) -> RobustFusionForImageTextClassification:
    torch.manual_seed(0)
    config = RobustFusionConfig(
        vision_config=VISION_CONFIGS[vision](),
        text_config=TEXT_CONFIGS[text](),
        hidden_size=16,
        fusion=fusion,
        **{"num_labels": 3, "problem_type": "single_label_classification", **fields},
    )
    return RobustFusionForImageTextClassification(config).eval()


def fitted(model: RobustFusionForImageTextClassification) -> RobustFusionForImageTextClassification:
    """A stack that is not the identity."""
    draw = torch.Generator().manual_seed(1)
    for buffer in model.stack.buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=draw) + 0.1)
    model.stack.weights[1, 2] = model.stack.weights[2, 1] = 0
    model.stack.knots.copy_(model.stack.knots.cumsum(dim=1) - 3)  # they rise
    return model


@pytest.mark.parametrize("shape", [(1, 2), (4, 1), (4,), (2,), (3, 2)])
@pytest.mark.parametrize("name", ["modality_mask", "fusion_mask"])
def test_a_mask_of_another_shape_is_refused(name, shape, batch):
    with pytest.raises(ValueError, match=rf"{name} must be of shape \(4, 2\), a row an example, got \({shape[0]},"):
        build()(**batch, **{name: torch.ones(shape, dtype=torch.long)})


@pytest.mark.parametrize("poison", [0.0, torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_a_missing_slot_holds_changes_nothing(fusion, poison, batch):
    model = without_dropout(fitted(build(fusion)).double()).train()
    results = []
    for value in (1.0, poison):
        inputs = {**batch, "pixel_values": batch["pixel_values"].double(), "input_ids": batch["input_ids"].clone()}
        inputs["pixel_values"][MASK[:, 0] == 0] = value
        inputs["input_ids"][MASK[:, 1] == 0] = 5 if value == 1.0 else 7
        model.zero_grad()
        output = model(**inputs, modality_mask=MASK, labels=torch.tensor([0, 1, 2, 0]))
        output.loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append((output.logits.detach(), gradients))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_neighbours_and_batch_size_change_nothing(fusion, batch):
    model = fitted(build(fusion)).double()
    batch["pixel_values"] = batch["pixel_values"].double()
    whole = model(**batch, modality_mask=MASK)
    for row in range(4):
        alone = model(
            **{name: value[row : row + 1] for name, value in batch.items()}, modality_mask=MASK[row : row + 1]
        )
        assert (alone.logits - whole.logits[row]).abs().max() <= 1e-12
    order = torch.tensor([2, 0, 3, 1])
    shuffled = model(**{name: value[order] for name, value in batch.items()}, modality_mask=MASK[order])
    assert (shuffled.logits - whole.logits[order]).abs().max() <= 1e-12
    texts = {name: torch.nn.functional.pad(batch[name], (0, 3)) for name in ("input_ids", "attention_mask")}
    assert (model(**{**batch, **texts}, modality_mask=MASK).logits - whole.logits).abs().max() <= 1e-12


def test_an_example_with_neither_gets_the_prior(batch):
    model = build()
    model.stack.prior.copy_(torch.tensor([0.0, 1.0, 2.0]))
    logits = model(**batch, modality_mask=MASK).logits
    assert torch.equal(logits[3], torch.tensor([0.0, 1.0, 2.0]))
    assert not torch.equal(logits[2], logits[3])


def test_an_unfitted_stack_gives_the_joint_branch(batch):
    output = build()(**batch, modality_mask=MASK)
    assert torch.equal(output.logits[:3], output.joint_logits[:3])


def test_a_batch_wide_none_is_a_missing_modality(batch):
    model = fitted(build())
    only_text = {name: value for name, value in batch.items() if name != "pixel_values"}
    masked = model(**batch, modality_mask=torch.tensor([[0, 1]] * 4))
    assert torch.equal(model(**only_text).logits, masked.logits)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_hiding_equals_missing_for_the_joint_branch_only(fusion, batch):
    model = build(fusion)
    only_text = torch.tensor([[0, 1]] * 4)
    full, missing = model(**batch), model(**batch, modality_mask=only_text)
    assert torch.equal(model(**batch, fusion_mask=only_text).joint_logits, full.joint_logits)  # in evaluation: nothing
    hidden = without_dropout(model).train()(**batch, fusion_mask=only_text)
    torch.testing.assert_close(hidden.joint_logits, missing.joint_logits)
    assert torch.equal(hidden.image_logits, full.image_logits)
    assert not torch.equal(hidden.joint_logits, full.joint_logits)


def test_fusion_mask_cannot_show_what_is_missing(batch):
    model = without_dropout(build()).train()
    shown = model(**batch, modality_mask=MASK, fusion_mask=torch.ones(4, 2, dtype=torch.long))
    assert torch.equal(shown.logits, model(**batch, modality_mask=MASK).logits)


def test_loss_is_the_sum_over_present_examples_by_the_batch_size(batch):
    model = build(unimodal_loss_weight=0.5)
    labels = torch.tensor([0, 1, 2, 0])
    without_dropout(model).train()
    fusion_mask = torch.tensor([[0, 1], [1, 1], [1, 1], [1, 1]])
    output = model(**batch, modality_mask=MASK, fusion_mask=fusion_mask, labels=labels)
    each = torch.nn.functional.cross_entropy
    expected = 0.0
    for row in range(3):  # the fourth has nothing
        expected += each(output.joint_logits[row], labels[row])
        for column, logits in enumerate((output.image_logits, output.text_logits)):
            if MASK[row, column]:
                expected += 0.5 * each(logits[row], labels[row])
    assert output.loss.item() == pytest.approx(expected.item() / 4, abs=1e-6)


@pytest.mark.parametrize("mask", [MASK, torch.tensor([[0, 1]] * 4), torch.tensor([[0, 0]] * 4)])
def test_every_parameter_has_a_gradient_whatever_is_missing(mask, batch):
    model = build("cross_attention").train()
    model(**batch, modality_mask=mask, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("problem_type", ["multi_label_classification", "regression"])
def test_other_problem_types(problem_type, batch, tmp_path):
    model = fitted(build(problem_type=problem_type)).train()
    output = model(**batch, modality_mask=MASK, labels=torch.rand(4, 3).round())
    output.loss.backward()
    assert model.stack.weights.shape == (4, 3, 3)
    model.save_pretrained(tmp_path)
    loaded = RobustFusionForImageTextClassification.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.stack.buffers(), model.stack.buffers(), strict=True))


def test_the_stack_is_saved_and_stays_float32(batch, tmp_path):
    model = fitted(build())
    weights = model.stack.weights.clone()
    model.save_pretrained(tmp_path)
    for loaded in (
        RobustFusionForImageTextClassification.from_pretrained(tmp_path, dtype=torch.bfloat16),
        copy.deepcopy(model).to(torch.bfloat16),
        copy.deepcopy(model).half().double(),
    ):
        assert loaded.stack.weights.dtype == torch.float32
        assert torch.equal(loaded.stack.weights, weights)


def test_from_fusion_keeps_every_weight(batch, tmp_path):
    torch.manual_seed(0)
    config = FusionConfig(
        vision_config=VISION_CONFIGS["vit"](), text_config=TEXT_CONFIGS["bert"](), hidden_size=16, num_labels=3
    )
    fusion = FusionForImageTextClassification(config).eval()
    fusion.save_pretrained(tmp_path)
    for robust in (
        RobustFusionForImageTextClassification.from_fusion(fusion),
        RobustFusionForImageTextClassification.from_fusion(tmp_path, unimodal_loss_weight=0.25),
    ):
        robust.eval()
        torch.testing.assert_close(robust(**batch).logits, fusion(**batch).logits, atol=1e-6, rtol=0)
        assert robust.stack.weights[:, 0].eq(1).all() and robust.stack.temperatures.eq(1).all()
    assert robust.config.unimodal_loss_weight == 0.25 and robust.config.model_type == "multimodal_robust_fusion"


@pytest.mark.keys_do_not_fit
def test_a_new_head_has_a_stack_that_is_not_fitted(tmp_path, batch):
    fitted(build()).save_pretrained(tmp_path)
    model = RobustFusionForImageTextClassification.from_pretrained(
        tmp_path, num_labels=5, ignore_mismatched_sizes=True
    )
    assert model.stack.weights.shape == (4, 3, 5)
    assert model.stack.weights[:, 0].eq(1).all() and not model.stack.weights[:, 1:].any()
    assert model.stack.temperatures.eq(1).all() and model.stack.scales.eq(1).all() and not model.stack.prior.any()
    output = model.eval()(**batch)
    assert torch.equal(output.logits, output.joint_logits)


def test_a_problem_type_that_the_labels_decide_loads_again(batch, tmp_path):
    model = build(problem_type=None).train()
    model(**batch, labels=torch.rand(4, 3).round())
    assert model.config.problem_type == "multi_label_classification"
    fitted(model).save_pretrained(tmp_path)
    loaded = RobustFusionForImageTextClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.stack.weights, model.stack.weights)


def test_from_fusion_takes_no_other_weights():
    config = FusionConfig(vision_config=VISION_CONFIGS["vit"](), text_config=TEXT_CONFIGS["bert"](), hidden_size=16)
    fusion = FusionForImageTextClassification(config)
    with pytest.raises(ValueError, match=r"has not the weights that Robust.* starts from: missing \['fusion.gate"):
        RobustFusionForImageTextClassification.from_fusion(fusion, fusion="gated")


def test_a_single_modality_is_refused():
    with pytest.raises(ValueError, match="text_config is None"):
        RobustFusionForImageTextClassification(RobustFusionConfig(vision_config=VISION_CONFIGS["vit"]()))


def test_a_negative_loss_weight_is_refused():
    with pytest.raises(ValueError, match="unimodal_loss_weight must be 0 or more, got -1"):
        RobustFusionConfig(unimodal_loss_weight=-1)


def test_compiled_equals_eager_whatever_is_present(batch):
    model = fitted(build())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for mask in (MASK, torch.ones(4, 2, dtype=torch.long), MASK.flip(0)):
        torch.testing.assert_close(
            compiled(**batch, modality_mask=mask).logits, model(**batch, modality_mask=mask).logits, atol=1e-5, rtol=0
        )


def test_missing_embeddings_are_an_option(batch):
    model = build(missing_embeddings=False)
    assert model.missing_embeddings is None
    assert model(**batch, modality_mask=MASK).logits.isfinite().all()


@pytest.mark.parametrize(("vision", "text"), [("vit", "bert"), ("resnet", "gpt2"), ("swin", "modernbert")])
@pytest.mark.parametrize("fusion", ["concat", "cross_attention"])
def test_skipping_equals_the_full_masked_computation(vision, text, fusion, batch, monkeypatch):
    """Under compilation every row is computed, with blanks for what is absent; eager code skips these rows."""
    model = fitted(build(fusion, vision, text)).double()
    inputs = {**batch, "pixel_values": batch["pixel_values"].double(), "modality_mask": MASK}
    results = []
    for dense in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda dense=dense: dense)
        model.zero_grad()
        output = model(**inputs, labels=torch.tensor([0, 1, 2, 0]))
        output.loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((output.joint_logits, gradients))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-12)
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], rtol=0, atol=1e-12, msg=name)
