"""The recurrent text model against a loop over single texts, and its invariances."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from hf_multimodal.models.modeling_recurrent_text import RecurrentTextConfig, RecurrentTextModel

AutoConfig.register("recurrent_text", RecurrentTextConfig, exist_ok=True)
AutoModel.register(RecurrentTextConfig, RecurrentTextModel, exist_ok=True)

VARIANTS = [
    (cell, bidirectional, layers) for cell in ("lstm", "gru") for bidirectional in (True, False) for layers in (1, 2)
]
TEXTS = [[5, 3, 9, 2, 7], [4, 8], [6], [1, 2, 3]]


def build(cell: str = "lstm", bidirectional: bool = True, layers: int = 1, **kwargs) -> RecurrentTextModel:
    torch.manual_seed(0)
    config = RecurrentTextConfig(
        vocab_size=11,
        embedding_size=5,
        hidden_size=8,
        cell=cell,
        bidirectional=bidirectional,
        num_hidden_layers=layers,
        **kwargs,
    )
    return RecurrentTextModel(config).eval()


def pad(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """TEXTS as a batch of length 6; the padding is a real word, which only the mask tells from text."""
    ids, mask = torch.full((len(TEXTS), 6), 10), torch.zeros(len(TEXTS), 6, dtype=torch.long)
    for row, text in enumerate(TEXTS):
        places = {
            "right": torch.arange(len(text)),
            "left": torch.arange(6 - len(text), 6),
            "between": torch.linspace(0, 5, len(text)).long(),
        }[side]
        ids[row, places], mask[row, places] = torch.tensor(text), 1
    return ids, mask


@pytest.mark.parametrize(("cell", "bidirectional", "layers"), VARIANTS)
@pytest.mark.parametrize("side", ["right", "left", "between"])
@pytest.mark.parametrize("path", ["packed", "unpacked"])
def test_equals_a_loop_over_single_texts(cell, bidirectional, layers, side, path, monkeypatch):
    model = build(cell, bidirectional, layers)
    if path == "unpacked":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    ids, mask = pad(side)
    output = model(ids, mask)
    for row, text in enumerate(TEXTS):
        states, last = model.rnn(model.embeddings(torch.tensor([text])))  # no padding, no mask
        hidden = last[0] if cell == "lstm" else last
        expected = torch.cat([hidden[-2, 0], hidden[-1, 0]]) if bidirectional else hidden[-1, 0]
        torch.testing.assert_close(output.pooler_output[row], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(output.last_hidden_state[row][mask[row].bool()], states[0], rtol=0, atol=1e-5)
    assert output.pooler_output.shape == (4, 8)
    assert torch.equal(output.last_hidden_state[~mask.bool()], torch.zeros(int((1 - mask).sum()), 8))


@pytest.mark.parametrize(("cell", "bidirectional", "layers"), VARIANTS)
def test_export_equals_eager(cell, bidirectional, layers):
    model = build(cell, bidirectional, layers)
    ids, mask = pad("left")
    mask[2] = 0
    expected = model(ids, mask)
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(model, (ids, mask), dynamic_shapes={"input_ids": batch, "attention_mask": batch})
    output = exported.module()(ids, mask)
    for name in ("last_hidden_state", "pooler_output"):
        torch.testing.assert_close(output[name], expected[name], rtol=0, atol=1e-5)
    assert exported.module()(ids[:2], mask[:2])["pooler_output"].shape == (2, 8)


def test_compile_equals_eager():
    model = build(layers=2)
    ids, mask = pad("right")
    output = torch.compile(model, backend="eager")(ids, mask)
    torch.testing.assert_close(output.pooler_output, model(ids, mask).pooler_output, rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", ["packed", "unpacked"])
def test_a_text_without_tokens_gets_zeros_and_changes_no_other(path, monkeypatch):
    if path == "unpacked":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    model = build(layers=2)
    ids, mask = pad("right")
    expected = model(ids, mask).pooler_output
    mask[1] = 0
    output = model(ids, mask)
    assert torch.equal(output.pooler_output[1], torch.zeros(8))
    assert torch.equal(output.last_hidden_state[1], torch.zeros(6, 8))
    torch.testing.assert_close(output.pooler_output[[0, 2, 3]], expected[[0, 2, 3]], rtol=0, atol=1e-5)
    nothing = model(ids, torch.zeros_like(mask))
    assert torch.equal(nothing.pooler_output, torch.zeros(4, 8))


def test_without_a_mask_the_pad_token_is_padding():
    model = build()
    ids, mask = pad("right")
    ids = ids.masked_fill(mask == 0, 0)
    assert torch.equal(model(ids).pooler_output, model(ids, mask).pooler_output)
    model = build(pad_token_id=None)
    assert torch.equal(model(ids).pooler_output, model(ids, torch.ones_like(ids)).pooler_output)


def test_batch_permutation():
    model = build(layers=2)
    ids, mask = pad("right")
    order = torch.tensor([3, 1, 0, 2])
    for given, permuted in zip(model(ids, mask).to_tuple(), model(ids[order], mask[order]).to_tuple(), strict=True):
        torch.testing.assert_close(permuted, given[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradient_reaches_every_parameter_and_is_the_same_on_both_paths(cell, monkeypatch):
    model = build(cell, layers=2)
    ids, mask = pad("right")

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model(ids, mask).pooler_output.pow(2).sum().backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    packed = gradients()
    assert all(gradient.abs().sum() > 0 for gradient in packed.values())
    assert torch.equal(packed["embeddings.weight"][10], torch.zeros(5))  # the word that stood in the padding
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, packed[name], rtol=0, atol=1e-5)


def test_dropout_works_in_training_only_and_on_both_paths(monkeypatch):
    model = build(layers=2, dropout=0.5)
    ids, mask = pad("right")
    assert torch.equal(model(ids, mask).pooler_output, model(ids, mask).pooler_output)
    model.train()
    assert not torch.equal(model(ids, mask).pooler_output, model(ids, mask).pooler_output)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not torch.equal(model(ids, mask).pooler_output, model(ids, mask).pooler_output)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_save_and_load_are_bit_equal(cell, tmp_path):
    model = build(cell, layers=2)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    ids, mask = pad("left")
    for mine, other in zip(model(ids, mask).to_tuple(), loaded(ids, mask).to_tuple(), strict=True):
        assert torch.equal(mine, other)
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()


def test_initialisation():
    model = AutoModel.from_config(RecurrentTextConfig(vocab_size=4000, embedding_size=6, hidden_size=16))
    assert torch.equal(model.embeddings.weight[0], torch.zeros(6))
    assert model.embeddings.weight.std().item() == pytest.approx(0.1, rel=0.05)
    for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
        for gate in getattr(model.rnn, name).split(8):
            torch.testing.assert_close(gate @ gate.T, torch.eye(8), rtol=0, atol=1e-5)
    forget = torch.zeros(32)
    forget[8:16] = 1.0
    assert torch.equal(model.rnn.bias_ih_l0, forget)
    assert torch.equal(model.rnn.bias_hh_l0, torch.zeros(32))


def test_input_embeddings_can_be_read_replaced_and_resized():
    model = build()
    assert model.get_input_embeddings() is model.embeddings
    replacement = nn.Embedding(11, 5)
    model.set_input_embeddings(replacement)
    assert model.get_input_embeddings() is replacement
    model.resize_token_embeddings(20)
    assert model.config.vocab_size == 20
    assert model(torch.tensor([[19]])).pooler_output.shape == (1, 8)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"cell": "rnn"}, r"cell must be one of \['lstm', 'gru'\], got 'rnn'"),
        ({"hidden_size": 7}, "hidden_size holds two directions and must be even, got 7"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"pad_token_id": 30522}, r"pad_token_id must lie in \[0, 30522\), got 30522"),
    ],
)
def test_config_errors(field, message):
    with pytest.raises(ValueError, match=message):
        RecurrentTextConfig(**field)


def test_one_direction_takes_the_whole_width():
    config = RecurrentTextConfig(hidden_size=7, bidirectional=False)
    assert (config.cell_size, config.num_directions) == (7, 1)
