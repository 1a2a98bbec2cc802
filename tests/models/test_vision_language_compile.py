"""A compiled decoder writes what an eager one writes: texts in one graph, and each further token in another."""

import copy

import pytest
import torch
from test_vision_language import DECODERS, make_batch, make_model
from torch._dynamo.utils import counters
from transformers import CompileConfig

OPTIONS = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def make_inputs(decoder):
    """A model, a batch of which a text has no image and one has two, and what follows."""
    model = make_model(decoder=decoder)
    batch = make_batch(model)
    del batch["labels"]
    return model, batch, model.generate(**batch, **OPTIONS)


@pytest.mark.parametrize("decoder", ["llama", "gpt2"])
def test_a_compiled_forward_generates_what_an_eager_one_does(decoder):
    model, batch, expected = make_inputs(decoder)
    compiled = copy.deepcopy(model)
    compiled.forward = torch.compile(compiled.forward, backend="eager", fullgraph=True)
    assert torch.equal(compiled.generate(**batch, **OPTIONS, cache_implementation="static"), expected)
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("decoder", DECODERS)
def test_generate_compiles_the_step_of_a_static_cache_itself(decoder):
    """As it does on a GPU unasked."""
    model, batch, expected = make_inputs(decoder)
    assert torch.equal(model.generate(**batch, **OPTIONS, cache_implementation="static"), expected)
    config = CompileConfig(backend="eager", mode=None, fullgraph=True)
    config._compile_all_devices = True
    found = model.generate(**batch, **OPTIONS, cache_implementation="static", compile_config=config)
    assert torch.equal(found, expected) and counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["llama", "gpt2"])
def test_inductor_generates_what_an_eager_model_does(decoder, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # a run that was killed leaves half a library behind
    model, batch, expected = make_inputs(decoder)
    compiled = copy.deepcopy(model)
    compiled.forward = torch.compile(compiled.forward, fullgraph=True)
    assert torch.equal(compiled.generate(**batch, **OPTIONS, cache_implementation="static"), expected)
