"""Hidden states and attentions of the inner models, where they are asked for."""

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS, make_batch

from hf_multimodal import AlignerModel, FusionForImageTextClassification, RobustFusionForImageTextClassification

FAMILIES = [FusionForImageTextClassification, RobustFusionForImageTextClassification, AlignerModel]
MASK = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]])


def make_model(family, vision="vit", text="bert"):
    torch.manual_seed(0)
    config = family.config_class(vision_config=VISION_CONFIGS[vision](), text_config=TEXT_CONFIGS[text]())
    model = family(config).eval()
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_inner_models(family, batch):
    model = make_model(family)
    assert model(**batch).text_model_output is None and model(**batch).vision_model_output is None
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    images = model.vision_model(batch["pixel_values"], output_hidden_states=True, output_attentions=True)
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    texts = model.text_model(**texts, output_hidden_states=True, output_attentions=True)
    for found, expected in ((output.vision_model_output, images), (output.text_model_output, texts)):
        for name in ("hidden_states", "attentions"):
            assert len(found[name]) == len(expected[name]) > 0
            assert all(torch.equal(*pair) for pair in zip(found[name], expected[name], strict=True))
        assert torch.equal(found.last_hidden_state, expected.last_hidden_state)


@pytest.mark.parametrize("vision", ["vit", "swin", "resnet"])  # Swin's attentions have several windows an image
@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_what_is_missing_are_zeros(family, vision, batch):
    model = make_model(family, vision)
    asked = {"output_hidden_states": True, "output_attentions": True}
    output = model(**batch, modality_mask=MASK, **asked)
    alone = model(**{name: value[:1] for name, value in batch.items()}, **asked)
    sides = (
        (output.vision_model_output, alone.vision_model_output),
        (output.text_model_output, alone.text_model_output),
    )
    for column, (found, one) in enumerate(sides):
        for states, expected in zip(found.to_tuple(), one.to_tuple(), strict=True):
            states, expected = (part if isinstance(part, tuple) else (part,) for part in (states, expected))
            for state, first in zip(states, expected, strict=True):
                rows = state.unflatten(0, (4, -1))
                torch.testing.assert_close(rows[0], first.unflatten(0, (1, -1))[0], rtol=0, atol=1e-5)
                assert rows[MASK[:, column] == 0].abs().sum() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_side_that_nobody_has_has_no_states(family, batch):
    output = make_model(family)(**batch, modality_mask=MASK * torch.tensor([0, 1]), output_hidden_states=True)
    assert output.vision_model_output is None
    assert len(output.text_model_output.hidden_states) == 3


def test_features_of_the_aligner_come_with_states(batch):
    model = make_model(AlignerModel)
    features = model.get_image_features(batch["pixel_values"], modality_mask=MASK, output_hidden_states=True)
    assert features.last_hidden_state.shape == (4, 5, 16)
    assert len(features.hidden_states) == 3 and features.attentions is None
    assert features.last_hidden_state[2:].abs().sum() == 0
    plain = model.get_text_features(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(plain.last_hidden_state, model.text_model(batch["input_ids"], batch["attention_mask"])[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_come_first(family, batch):
    """As in `CLIPModel` and in whatever reads text: the first argument is the main input."""
    model = make_model(family)
    ids = make_batch(seed=1)["input_ids"]
    assert model.main_input_name == "input_ids"
    expected = model(input_ids=ids).text_embeds
    assert torch.equal(model(ids).text_embeds, expected)
