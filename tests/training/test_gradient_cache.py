"""Gradient caching gives the loss and the gradients of the whole batch, holding one chunk of it."""

import pytest
import torch
from conftest import make_batch, without_dropout
from test_aligner_model import build

from hf_multimodal.models.losses import LOSSES
from hf_multimodal.training.gradient_cache import backward_in_chunks

MASK = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [1, 1]])
IDS = torch.tensor([0, 1, 2, 3, 1, 5, 6])


def make_inputs() -> dict[str, torch.Tensor]:
    batch = make_batch(rows=7)
    batch["pixel_values"] = batch["pixel_values"].double()
    return {**batch, "modality_mask": MASK, "image_ids": IDS}


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("chunk_size", "cells"), [(1, 1), (2, 14), (3, 21), (100, 1_000_000)])
def test_loss_and_gradients_are_those_of_the_whole_batch(loss, chunk_size, cells, monkeypatch):
    monkeypatch.setattr("hf_multimodal.training.gradient_cache.CELLS", cells)
    model = without_dropout(build(loss=loss, margin=None if loss in ("infonce", "sigmoid") else 2.0)).double().train()
    inputs = make_inputs()
    direct = model(**inputs, return_loss=True)
    direct.loss.backward()
    expected = gradients(model)
    cached = backward_in_chunks(model, {**inputs, "return_loss": True}, chunk_size)
    assert direct.loss > 0 and cached.incomplete_pairs == direct.incomplete_pairs == 3
    torch.testing.assert_close(cached.loss, direct.loss.detach(), rtol=0, atol=1e-12)
    assert not cached.loss.requires_grad
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10, msg=name)


def test_chunks_of_images_with_several_texts_each():
    model = without_dropout(build()).double().train()
    inputs = make_inputs()
    del inputs["modality_mask"], inputs["image_ids"]
    inputs["pixel_values"] = inputs["pixel_values"][:3]
    for name in ("input_ids", "attention_mask"):
        inputs[name] = inputs[name][:6]
    direct = model(**inputs, return_loss=True).loss
    direct.backward()
    expected, seen = gradients(model), []
    model.vision_model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    cached = backward_in_chunks(model, inputs, chunk_size=2)
    assert seen == [2, 1, 2, 1]
    torch.testing.assert_close(cached.loss, direct.detach(), rtol=0, atol=1e-12)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10, msg=name)


def test_a_side_left_out_costs_nothing():
    model = build().double().train()
    inputs = make_inputs()
    cached = backward_in_chunks(model, {"pixel_values": inputs["pixel_values"], "input_ids": None}, chunk_size=3)
    assert cached.loss == 0 and cached.incomplete_pairs == 7
    assert not any(gradient.any() for gradient in gradients(model).values())


def test_each_chunk_meets_its_dropout_again():
    model, inputs = build().double().train(), make_inputs()
    assert any(module.p > 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))
    torch.manual_seed(3)
    images, texts = [], []
    for start in range(0, 7, 2):
        names = ("pixel_values", "input_ids", "attention_mask", "modality_mask")
        output = model(**{name: inputs[name][start : start + 2] for name in names})
        images.append(output.image_embeds)
        texts.append(output.text_embeds)
    direct, _ = model.contrastive_loss(torch.cat(images), torch.cat(texts), MASK, IDS)
    direct.backward()
    expected, state = gradients(model), torch.get_rng_state()
    torch.manual_seed(3)
    cached = backward_in_chunks(model, inputs, chunk_size=2)
    assert torch.equal(torch.get_rng_state(), state)  # the next batch draws something else
    torch.testing.assert_close(cached.loss, direct.detach(), rtol=0, atol=1e-12)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10, msg=name)
    model(**inputs, return_loss=True).loss.backward()
    assert not torch.allclose(gradients(model)["text_projection.1.weight"], expected["text_projection.1.weight"])


def test_gradients_are_added_and_scaled_as_the_caller_says():
    model, inputs = without_dropout(build()).double().train(), make_inputs()
    for _ in range(2):
        model(**inputs, return_loss=True).loss.backward()
    expected = gradients(model)
    for _ in range(4):
        backward_in_chunks(model, inputs, 3, backward=lambda loss: (loss / 2).backward())
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-10, msg=name)


def test_only_one_chunk_runs_at_once():
    model, inputs, seen = build().double().train(), make_inputs(), []
    model.vision_model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    del inputs["modality_mask"]
    backward_in_chunks(model, inputs, chunk_size=3)
    assert seen == [3, 3, 1, 3, 3, 1]


def test_similarities_are_held_some_rows_at_a_time(monkeypatch):
    monkeypatch.setattr("hf_multimodal.training.gradient_cache.CELLS", 14)
    model, seen, products = build().double().train(), [], []
    model.scaling.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    loss = model._loss
    monkeypatch.setattr(model, "_loss", lambda pairs, config: products.append(pairs.cells) or loss(pairs, config))
    backward_in_chunks(model, make_inputs(), chunk_size=7)
    assert products == [14]
    assert seen == [(7, 7), (7, 7)]  # the chunk's own logits, without and with a graph


def test_lora():
    pytest.importorskip("peft")
    from hf_multimodal.training.lora import add_lora

    model, inputs = without_dropout(add_lora(build(), rank=2)).double().train(), make_inputs()
    results = []
    for cached in (False, True):
        if cached:
            backward_in_chunks(model, inputs, chunk_size=3)
        else:
            model(**inputs, return_loss=True).loss.backward()
        results.append({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
        model.zero_grad()
    assert any("lora_" in name for name in results[0]) and any("logit_scale" in name for name in results[0])
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, rtol=0, atol=1e-10, msg=name)


def test_what_cannot_be_cut_is_refused():
    model, inputs = build().double(), make_inputs()
    with pytest.raises(ValueError, match="chunk_size must be 1 or more, got 0"):
        backward_in_chunks(model, inputs, 0)
    with pytest.raises(ValueError, match="for each image, got {'pixel_values': 7, 'input_ids': 6}"):
        backward_in_chunks(
            model, {"pixel_values": inputs["pixel_values"], "input_ids": inputs["input_ids"][:6]}, chunk_size=3
        )
