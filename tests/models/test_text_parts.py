"""Texts of a batch that differ much in length run in parts: the same features, without the padding."""

import pytest
import torch
from conftest import TEXT_CONFIGS
from test_aligner_model import build

from hf_multimodal.models import modeling_vision_text
from hf_multimodal.models.modeling_vision_text import parts_of_like_length

LENGTHS = torch.tensor([3, 20, 4, 5, 1, 3] * 16)


@pytest.fixture
def texts():
    mask = (torch.arange(20) < LENGTHS[:, None]).long()
    ids = torch.randint(5, 30, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.where(mask == 1, ids, 0), "attention_mask": mask}


def embeds_and_gradients(model, texts):
    model.zero_grad()
    output = model._encode_texts(token_type_ids=None, present=None, batch=96, device=torch.device("cpu"), **texts)
    output.embeds.square().sum().backward()
    return output.embeds.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("text", TEXT_CONFIGS)
def test_parts_predict_and_learn_as_the_whole_batch(text, texts, monkeypatch):
    model = build(text=text).double()
    seen = []
    model.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["attention_mask"].numel()), with_kwargs=True
    )
    embeds, gradients = embeds_and_gradients(model, texts)
    if model._reads_mask:
        assert len(seen) == 3 and sum(seen) < 0.75 * 96 * 20
    else:
        assert seen == [96 * (model._text_length or 20)]
    monkeypatch.setattr(modeling_vision_text, "parts_of_like_length", lambda mask: [])
    whole, others = embeds_and_gradients(model, texts)
    torch.testing.assert_close(embeds, whole, atol=1e-12, rtol=1e-10)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], atol=1e-10, rtol=1e-8)


def test_states_that_are_asked_for_come_whole(texts):
    model = build()
    asked = model.get_text_features(**texts, output_hidden_states=True)
    assert asked.last_hidden_state.shape[:2] == asked.hidden_states[0].shape[:2] == (96, 20)
    model.text_model.config.output_hidden_states = True
    images = torch.zeros(1, 3, 32, 32)
    assert model(pixel_values=images, **texts).text_model_output.hidden_states[0].shape[:2] == (96, 20)


def test_no_parts_where_they_save_little():
    alike = torch.ones(96, 20)
    padded_left = (torch.arange(20) >= 20 - LENGTHS[:, None]).long()
    few = (torch.arange(20) < LENGTHS[:40, None]).long()
    for mask in (alike, padded_left, few, torch.zeros(0, 20)):
        assert parts_of_like_length(mask) == []
    assert [length for _, length in parts_of_like_length(torch.zeros(64, 20))] == [1, 1]
