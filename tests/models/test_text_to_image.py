"""The text-to-image model: its vocabulary, its loss, what it generates with and without guidance, its likelihoods."""

import copy
import io
import itertools
import logging
import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import transformers as hf
from conftest import KeyWarnings
from PIL import Image
from safetensors.torch import load_file, save_file
from test_image_tokenizer import make_config as make_image_tokenizer_config
from test_image_tokenizer import make_pixels
from test_text_to_image_processor import make_text_to_image_processor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    GenerationConfig,
    pipeline,
)

from hf_multimodal import ImageTokenizerConfig, TextToImageConfig, TextToImageModel, TextToImageProcessor
from hf_multimodal.models.modeling_text_to_image import ImageTokensOnly
from hf_multimodal.synthetic.retrieval import make_retrieval

TEXT_IDS, PROMPT, TOKENS, CODES = 8, 5, 9, 24
GRID = (3, 3)
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
ROTARY = {"num_key_value_heads": 1, "max_position_embeddings": 40, **SMALL}
DECODERS = {
    "gpt2": lambda **fields: hf.GPT2Config(n_positions=40, n_embd=16, n_layer=2, n_head=2, **fields),
    "llama": lambda **fields: hf.LlamaConfig(**ROTARY, **fields),
    "qwen2": lambda **fields: hf.Qwen2Config(**ROTARY, **fields),
}


def make_text_to_image_config(decoder: str = "gpt2", quantizer: str = "fsq", tied: bool = True, **fields):
    return TextToImageConfig(
        **{
            "text_config": DECODERS[decoder](tie_word_embeddings=tied),
            "image_tokenizer_config": make_image_tokenizer_config(quantizer, codebook_size=CODES, image_size=12),
            "text_vocab_size": TEXT_IDS,
            "prompt_length": PROMPT,
            **fields,
        }
    )


def make_text_to_image(decoder: str = "gpt2", quantizer: str = "fsq", tied: bool = False, seed: int = 0, **fields):
    """Random weights, larger than at a start, so that tokens differ in their probability."""
    torch.manual_seed(seed)
    model = TextToImageModel(make_text_to_image_config(decoder, quantizer, tied, **fields))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, value in model.text_model.named_parameters():
            if value.ndim > 1:
                value.normal_(std=0.4)
            if name.endswith("bias"):
                value.normal_(std=0.1)
    if quantizer == "vq":
        with torch.no_grad():
            model.image_tokenizer.train()(make_pixels(model.config.image_tokenizer_config, rows=8))
    return model.eval()


def make_prompts(rows: int = 4, seed: int = 0) -> torch.Tensor:
    """Texts of 0 to 4 tokens behind padding, and begin of image."""
    draw = torch.Generator().manual_seed(seed)
    prompts = torch.randint(1, TEXT_IDS, (rows, PROMPT + 1), generator=draw)
    for row in range(rows):
        prompts[row, : PROMPT - row % PROMPT] = 0
    prompts[:, -1] = TEXT_IDS
    return prompts


def make_tokens(rows: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, CODES, (rows, *GRID), generator=torch.Generator().manual_seed(seed))


def log_likelihoods(model, prompt, tokens) -> list[float]:
    """Of each token of one image, step by step, each from a forward pass of the decoder alone."""
    sequence, found = prompt.tolist(), []
    for token in tokens.flatten().tolist():
        logits = model.text_model(torch.tensor([sequence])).logits[0, -1, TEXT_IDS + 1 :]
        found.append(logits.log_softmax(dim=0)[token].item())
        sequence.append(token + TEXT_IDS + 1)
    return found


@contextmanager
def errors_logged():
    """What transformers logs as an error."""
    handler = KeyWarnings()
    handler.emit = lambda record: handler.messages.append(record.getMessage())
    handler.setLevel(logging.ERROR)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)


# The configuration


@pytest.mark.parametrize("decoder", DECODERS)
def test_vocabulary_is_text_begin_of_image_and_images(decoder):
    config = make_text_to_image_config(decoder)
    assert (config.begin_of_image_token_id, config.image_token_offset) == (TEXT_IDS, TEXT_IDS + 1)
    assert config.text_config.vocab_size == TEXT_IDS + 1 + CODES
    assert config.sequence_length == PROMPT + 1 + TOKENS
    model = TextToImageModel(config)
    assert model.get_input_embeddings().weight.shape == (TEXT_IDS + 1 + CODES, 16)
    assert model.get_output_embeddings().weight.shape == (TEXT_IDS + 1 + CODES, 16)


def test_config_is_the_same_after_saving_and_takes_dicts(tmp_path):
    config = make_text_to_image_config("qwen2", text_dropout=0.25, pad_token_id=3)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is TextToImageConfig and type(loaded.image_tokenizer_config) is ImageTokenizerConfig
    one, two = loaded.to_dict(), config.to_dict()
    assert {**one, "_name_or_path": ""} == two and loaded.text_config.vocab_size == TEXT_IDS + 1 + CODES
    parts = {name: getattr(config, name).to_dict() for name in ("text_config", "image_tokenizer_config")}
    again = TextToImageConfig(**parts, text_vocab_size=TEXT_IDS, prompt_length=PROMPT, text_dropout=0.25)
    assert again.text_config.to_dict() == config.text_config.to_dict()


def test_config_leaves_what_it_was_given_as_it_was():
    decoder = DECODERS["gpt2"]()
    before = decoder.to_dict()
    make_text_to_image_config(text_config=decoder)
    assert decoder.to_dict() == before


def test_config_of_the_decoders_own_vocabulary():
    config = make_text_to_image_config(text_config=DECODERS["gpt2"](vocab_size=50), text_vocab_size=None)
    assert (config.text_vocab_size, config.text_config.vocab_size) == (50, 51 + CODES)
    assert TextToImageConfig().image_token_offset == 50258


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_vocab_size": 0}, "text_vocab_size must be 1 or more, got 0"),
        ({"prompt_length": 0}, "prompt_length must be 1 or more, got 0"),
        ({"pad_token_id": 8}, "pad_token_id must be one of the 8 text ids, since .* got 8"),
        ({"pad_token_id": None}, "pad_token_id must be one of the 8 text ids, since .* got None"),
        ({"text_dropout": 1.0}, r"text_dropout must lie in \[0, 1\), got 1.0"),
        ({"text_dropout": -0.1}, r"text_dropout must lie in \[0, 1\), got -0.1"),
        (
            {"prompt_length": 31},
            r"the decoder reads 40 positions \(max_position_embeddings\), and 31 text tokens, begin of image and 9 "
            "image tokens are 41",
        ),
        ({"image_tokenizer_config": {"image_size": 30}}, "image_size must be a multiple of 4"),
        ({"text_config": {"n_embd": 8}}, "needs a model_type"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        make_text_to_image_config(**fields)


# Saving and loading


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("decoder", DECODERS)
def test_saved_and_loaded_bit_for_bit(decoder, tied, tmp_path):
    model = make_text_to_image(decoder, "vq", tied)
    heads = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (heads[0] is heads[1]) == tied
    model.save_pretrained(tmp_path)
    assert len(load_file(tmp_path / "model.safetensors")) == len(model.state_dict()) - tied
    prompts, tokens = make_prompts(), make_tokens()
    for auto_class in (TextToImageModel, AutoModel, AutoModelForMultimodalLM):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is TextToImageModel and not loaded.training
        assert set(loaded.state_dict()) == set(model.state_dict())
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        heads = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
        assert (heads[0] is heads[1]) == tied
        frozen = {name for name, value in loaded.named_parameters() if not value.requires_grad}
        assert frozen == {name for name, _ in loaded.named_parameters() if name.startswith("image_tokenizer.")}
        with torch.no_grad():
            mine, other = (one(prompts, image_token_ids=tokens) for one in (model, loaded))
        torch.testing.assert_close(mine.logits, other.logits, rtol=0, atol=1e-5)
        assert torch.equal(loaded.generate(prompts), model.generate(prompts))


def test_states_of_tied_heads_load_where_they_are_saved_once(tmp_path):
    """`Trainer` gives the file that was saved, which names a tied weight once, to `load_state_dict`."""
    model, other = make_text_to_image(tied=True), make_text_to_image(tied=True, seed=1)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert len(saved) == len(model.state_dict()) - 1
    result = other.load_state_dict(saved, strict=True)
    assert result.missing_keys == result.unexpected_keys == []
    assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    del saved["text_model.transformer.ln_f.bias"]
    with pytest.raises(RuntimeError, match="text_model.transformer.ln_f.bias"):
        other.load_state_dict(saved, strict=True)


@pytest.mark.keys_do_not_fit
@pytest.mark.parametrize("name", ["text_model.transformer.h.1.mlp.c_fc.bias", "image_tokenizer.quantizer.codebook"])
def test_a_checkpoint_without_a_tensor_is_refused(name, tmp_path):
    make_text_to_image(quantizer="vq").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    missing = tensors.pop(name)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"holds no whole TextToImageModel: missing \['{name}'\]"):
        TextToImageModel.from_pretrained(tmp_path)
    save_file({**tensors, name: missing * math.nan}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"NaN or infinite: \['{name}'\]"):
        TextToImageModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("quantizer", ["fsq", "vq", "vq_grad"])
@pytest.mark.parametrize("way", ["to", "load"])
def test_bfloat16_generates_and_learns(way, quantizer, tmp_path):
    model = make_text_to_image("llama", quantizer)
    if way == "load":
        model.save_pretrained(tmp_path)
        model = TextToImageModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    else:
        model = model.to(torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    output = model(make_prompts(), pixel_values=make_pixels(model.config.image_tokenizer_config))
    output.loss.backward()
    assert output.loss.isfinite()
    found = model.generate(make_prompts(), do_sample=True)
    assert model.decode_image_tokens(found).dtype == torch.bfloat16


def test_resizing_the_vocabulary_is_refused():
    model = make_text_to_image()
    with pytest.raises(ValueError, match="33 in all, and cannot be resized, got 40: build a TextToImageConfig"):
        model.resize_token_embeddings(40)
    assert model.resize_token_embeddings() is model.get_input_embeddings() is model.resize_token_embeddings(33)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_attention_is_chosen_as_of_the_decoder(attention, tmp_path):
    model = make_text_to_image("llama")
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, attn_implementation=attention)
    assert loaded.text_model.config._attn_implementation == attention
    if attention != "flex_attention":  # which compiles
        loss = model(make_prompts(), image_token_ids=make_tokens()).loss
        torch.testing.assert_close(loaded(make_prompts(), image_token_ids=make_tokens()).loss, loss)


# Learning


@pytest.mark.parametrize("decoder", DECODERS)
def test_loss_is_the_mean_log_likelihood_of_the_images_tokens(decoder):
    model = make_text_to_image(decoder)
    prompts, tokens = make_prompts(), make_tokens()
    output = model(prompts, image_token_ids=tokens)
    found = [log_likelihoods(model, prompt, ids) for prompt, ids in zip(prompts, tokens, strict=True)]
    assert output.loss.item() == pytest.approx(-np.mean(found), abs=1e-5)
    assert output.logits.shape == (4, TOKENS, TEXT_IDS + 1 + CODES)
    own = output.logits[..., TEXT_IDS + 1 :].log_softmax(dim=-1).gather(2, tokens.flatten(1)[..., None])
    np.testing.assert_allclose(own.squeeze(2).detach(), found, atol=1e-5)


@pytest.mark.parametrize("quantizer", ["fsq", "vq", "vq_grad"])
def test_loss_of_pixels_is_that_of_their_tokens(quantizer):
    model = make_text_to_image(quantizer=quantizer)
    pixels, prompts = make_pixels(model.config.image_tokenizer_config), make_prompts()
    tokens = model.image_tokens(pixels)
    assert torch.equal(tokens, model.image_tokenizer.encode(pixels)) and tokens.shape == (4, *GRID)
    expected = model(prompts, image_token_ids=tokens)
    for inputs in ({"pixel_values": pixels}, {"image_token_ids": tokens.flatten(1)}):
        found = model(prompts, **inputs)
        assert torch.equal(found.loss, expected.loss) and torch.equal(found.logits, expected.logits)
    assert model(prompts, image_token_ids=tokens, return_loss=False).loss is None


def test_forward_reads_padding_as_the_processor_gives_it():
    """What stands for the empty text is read in training, so a mask would make it another one."""
    model = make_text_to_image()
    prompts, tokens = make_prompts(), make_tokens()
    one = model(prompts, image_token_ids=tokens).loss
    two = model(prompts, attention_mask=torch.ones_like(prompts), image_token_ids=tokens).loss
    assert torch.equal(one, two)


def test_forward_gives_states_attentions_and_tuples():
    model = make_text_to_image()
    model.set_attn_implementation("eager")
    prompts, tokens = make_prompts(), make_tokens()
    output = model(prompts, image_token_ids=tokens, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == 3 and output.hidden_states[0].shape == (4, PROMPT + TOKENS, 16)
    assert len(output.attentions) == 2 and output.attentions[0].shape == (4, 2, PROMPT + TOKENS, PROMPT + TOKENS)
    as_tuple = model(prompts, image_token_ids=tokens, return_dict=False)
    assert torch.equal(as_tuple[0], output.loss) and torch.equal(as_tuple[1], output.logits)
    without = model(prompts, return_dict=False)
    assert torch.equal(without[0], model(prompts).logits)


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradient_checkpointing_gives_the_same_gradients(decoder):
    model = make_text_to_image(decoder, text_dropout=0).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert model.is_gradient_checkpointing
        model.zero_grad()
        model(make_prompts(), image_token_ids=make_tokens()).loss.backward()
        gradients.append({name: value.grad for name, value in model.text_model.named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=0, atol=1e-6)


def test_text_dropout_replaces_texts_in_training_alone():
    model = make_text_to_image("llama", text_dropout=0.5)
    prompts, tokens = make_prompts(40), make_tokens(40)
    with torch.no_grad():
        whole = model(prompts, image_token_ids=tokens).logits
        empty = model(model.empty_prompt(40), image_token_ids=tokens).logits
        assert torch.equal(model(prompts, image_token_ids=tokens).logits, whole)
        torch.manual_seed(0)
        found = model.train()(prompts, image_token_ids=tokens).logits
    kept, dropped = ((found - one).abs().amax(dim=(1, 2)) < 1e-5 for one in (whole, empty))
    longer = (prompts[:, :-1] != 0).any(dim=1)  # an empty text is both
    assert (kept | dropped).all() and (kept & dropped == ~longer).all()
    assert 8 < dropped[longer].sum() < 24


def test_empty_prompt_is_padding_and_begin_of_image():
    model = make_text_to_image(pad_token_id=2)
    assert model.empty_prompt(2).tolist() == [[2, 2, 2, 2, 2, 8]] * 2


@pytest.mark.parametrize("quantizer", ["fsq", "vq", "vq_grad"])
def test_image_tokenizer_is_frozen(quantizer):
    model = make_text_to_image(quantizer=quantizer).train()
    assert model.training and model.text_model.training
    assert not any(part.training for part in model.image_tokenizer.modules())
    before = copy.deepcopy(model.image_tokenizer.state_dict())
    trained = [value for value in model.parameters() if value.requires_grad]
    assert len(trained) == len(list(model.text_model.parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(3):
        pixels = make_pixels(model.config.image_tokenizer_config, seed=seed)
        model(make_prompts(), pixel_values=pixels).loss.backward()
        optimizer.step()
    for name, value in model.image_tokenizer.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(value.grad is None for value in model.image_tokenizer.parameters())
    assert all(value.grad is not None for value in trained)


@pytest.mark.parametrize(
    ("prompts", "images", "message"),
    [
        (make_prompts()[:, 1:], make_tokens(), r"input_ids must be \(batch, 6\), a prompt of 5 text .* got \(4, 5\)"),
        (None, make_tokens(), r"input_ids must be \(batch, 6\), .* got None"),
        (make_prompts(3), make_tokens(), r"3 texts need as many images of 9 tokens, got \(4, 9\)"),
        (make_prompts(), make_tokens()[:, :2], r"4 texts need as many images of 9 tokens, got \(4, 6\)"),
    ],
)
def test_forward_refuses(prompts, images, message):
    with pytest.raises(ValueError, match=message):
        make_text_to_image()(prompts, image_token_ids=images)


def test_forward_refuses_images_of_another_size():
    with pytest.raises(ValueError, match=r"pixel_values must be \(batch, 3, 12, 12\), which .* got \(4, 3, 32, 32\)"):
        make_text_to_image()(make_prompts(), pixel_values=torch.zeros(4, 3, 32, 32))


# Generation


def greedy(model, prompt, guidance: float = 1.0, begun: tuple[int, ...] = ()) -> list[int]:
    """The likeliest image token after each other, one forward pass of the decoder a step and a text."""
    offset = TEXT_IDS + 1
    found, empty = list(begun), model.empty_prompt(1)[0].tolist()
    while len(found) < TOKENS:
        written = [token + offset for token in found]
        given, none = (
            model.text_model(torch.tensor([[*start, *written]])).logits[0, -1].log_softmax(dim=0)
            for start in (prompt.tolist(), empty)
        )
        found.append(int((none + guidance * (given - none))[offset:].argmax()))
    return found


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_greedy_generation_alone_and_in_a_batch_with_and_without_cache(decoder, use_cache):
    model = make_text_to_image(decoder)
    prompts = make_prompts(50)
    found = model.generate(prompts, use_cache=use_cache)
    assert torch.equal(found[:, : PROMPT + 1], prompts) and found.shape == (50, PROMPT + 1 + TOKENS)
    for row in (0, 3, 49):
        assert torch.equal(model.generate(prompts[row : row + 1], use_cache=use_cache)[0], found[row])
        assert (found[row, PROMPT + 1 :] - TEXT_IDS - 1).tolist() == greedy(model, prompts[row])
    assert len(found[:, PROMPT + 1 :].unique(dim=0)) > 20  # texts matter


def test_generation_hides_no_padding():
    """Left without a mask, transformers would hide what looks like padding, which training reads."""
    model = make_text_to_image()
    prompts = make_prompts(10)
    expected = model.generate(prompts, attention_mask=torch.ones_like(prompts))
    assert torch.equal(model.generate(prompts), expected)
    assert torch.equal(model.generate(input_ids=prompts), expected)
    with pytest.raises(ValueError, match="attention_mask must be 1 throughout, as the processor gives it"):
        model.generate(prompts, attention_mask=(prompts != 0).long())


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "top_k": 0},
        {"do_sample": True, "top_k": 5},
        {"do_sample": True, "top_k": 0, "top_p": 0.7},
        {"do_sample": True, "temperature": 3.0, "num_return_sequences": 3},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 2, "do_sample": True},
        {"guidance_scale": 3.0, "do_sample": True, "num_return_sequences": 3, "top_k": 5},
        {"guidance_scale": 2.0, "use_cache": False},
        {"repetition_penalty": 1.5},
        {"token_type_ids": torch.zeros(4, PROMPT + 1), "generation_mode": "image"},
    ],
    ids=lambda options: "-".join(options),
)
def test_generation_writes_whole_images_and_image_tokens_alone(options):
    model = make_text_to_image()
    with torch.no_grad():  # an untrained decoder that would rather write text
        model.get_output_embeddings().weight[: TEXT_IDS + 1] *= 50
    torch.manual_seed(0)
    found = model.generate(make_prompts(), **options)
    written = found[:, PROMPT + 1 :] - TEXT_IDS - 1
    assert found.shape == (4 * options.get("num_return_sequences", 1), PROMPT + 1 + TOKENS)
    assert written.min() >= 0 and written.max() < CODES
    images = model.decode_image_tokens(found)
    assert images.shape == (len(found), 3, 12, 12)
    with torch.no_grad():
        assert torch.equal(images, model.image_tokenizer.decode(written))


def test_top_k_draws_from_the_likeliest_image_tokens():
    model = make_text_to_image()
    prompts = make_prompts(1).repeat(200, 1)
    torch.manual_seed(0)
    first = model.generate(prompts, do_sample=True, top_k=3, max_new_tokens=1)[:, -1]
    likeliest = model.text_model(prompts[:1]).logits[0, -1, TEXT_IDS + 1 :].topk(3).indices + TEXT_IDS + 1
    assert set(first.tolist()) == set(likeliest.tolist())


def test_sampling_follows_the_likelihoods():
    model = make_text_to_image()
    prompts = make_prompts(1).repeat(4000, 1)
    torch.manual_seed(0)
    first = model.generate(prompts, do_sample=True, top_k=0, max_new_tokens=1)[:, -1] - TEXT_IDS - 1
    expected = model.text_model(prompts[:1]).logits[0, -1, TEXT_IDS + 1 :].softmax(dim=0)
    np.testing.assert_allclose(first.bincount(minlength=CODES) / 4000, expected.detach(), atol=0.04)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_guided_generation_is_that_of_a_loop(decoder, use_cache):
    model = make_text_to_image(decoder)
    prompts = make_prompts(6)
    found = model.generate(prompts, guidance_scale=2.5, use_cache=use_cache) - TEXT_IDS - 1
    for row in (0, 3, 4):
        assert found[row, PROMPT + 1 :].tolist() == greedy(model, prompts[row], 2.5)
    plain = model.generate(prompts) - TEXT_IDS - 1
    assert torch.equal(plain[0], found[0]) and not torch.equal(plain, found)  # the first text is empty


@torch.no_grad()
def test_guidance_of_a_generation_config_and_of_several_images_a_text():
    model = make_text_to_image()
    prompts = make_prompts(3)
    expected = model.generate(prompts, guidance_scale=2.5)
    assert torch.equal(model.generate(prompts, GenerationConfig(guidance_scale=2.5)), expected)
    again = model.generate(prompts, guidance_scale=2.5, num_return_sequences=2, do_sample=True, top_k=1)
    assert torch.equal(again, expected.repeat_interleave(2, dim=0))
    model.generation_config.guidance_scale = 2.5
    assert torch.equal(model.generate(prompts), expected)


def test_guidance_of_1_is_none():
    model = make_text_to_image()
    plain = model.generate(make_prompts())
    assert torch.equal(model.generate(make_prompts(), guidance_scale=1), plain)
    assert torch.equal(model.generate(make_prompts(), guidance_scale=1.0, num_beams=1), plain)
    beams = model.generate(make_prompts(), guidance_scale=1.0, num_beams=3)
    assert torch.equal(beams, model.generate(make_prompts(), num_beams=3))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@torch.no_grad()
def test_an_image_is_completed(guidance):
    model = make_text_to_image()
    prompts, begun = make_prompts(3), make_tokens(3).flatten(1)[:, :6]
    found = model.generate(torch.cat([prompts, begun + TEXT_IDS + 1], dim=1), guidance_scale=guidance)
    assert found.shape == (3, PROMPT + 1 + TOKENS)
    for row in range(3):
        expected = greedy(model, prompts[row], guidance, tuple(begun[row].tolist()))
        assert (found[row, PROMPT + 1 :] - TEXT_IDS - 1).tolist() == expected
    assert model.decode_image_tokens(found).shape == (3, 3, 12, 12)


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_beams_end_with_the_likelihood_of_their_image(decoder):
    model = make_text_to_image(decoder)
    prompts = make_prompts(3)
    output = model.generate(
        prompts, num_beams=4, num_return_sequences=2, return_dict_in_generate=True, output_scores=True
    )
    tokens = (output.sequences[:, PROMPT + 1 :] - TEXT_IDS - 1).view(6, *GRID)
    scores = model.score(prompts, tokens)
    own = scores[torch.arange(6), torch.arange(3).repeat_interleave(2)]
    torch.testing.assert_close(output.sequences_scores * TOKENS, own, rtol=1e-4, atol=1e-4)
    assert (own[::2] >= own[1::2]).all()


def test_scores_of_generation_are_log_likelihoods_of_image_tokens():
    model = make_text_to_image()
    output = model.generate(make_prompts(), return_dict_in_generate=True, output_scores=True)
    assert len(output.scores) == TOKENS
    for step in output.scores:
        assert (step[:, : TEXT_IDS + 1] == -torch.inf).all()
        torch.testing.assert_close(step.exp().sum(dim=1), torch.ones(4))


def test_image_tokens_only_comes_after_processors_of_the_callers():
    class Prefer(hf.LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, [2, TEXT_IDS + 1 + 5]] += 1e4
            return scores

    found = make_text_to_image().generate(make_prompts(), logits_processor=[Prefer()])
    assert (found[:, PROMPT + 1 :] == TEXT_IDS + 1 + 5).all()
    assert ImageTokensOnly(1)(None, torch.zeros(1, 3)).tolist() == [[-math.inf, *[pytest.approx(-math.log(2))] * 2]]


# What transformers' `GenerationTesterMixin` holds generating models to; its own file is in no distribution.


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_generate_returns_what_is_asked_for(decoder, options):
    model = make_text_to_image(decoder)
    model.set_attn_implementation("eager")  # which tells its attentions
    output = model.generate(
        make_prompts(),
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        output_hidden_states=True,
        output_attentions=True,
        **options,
    )
    rows = 4 * options.get("num_beams", 1)
    assert output.sequences.shape == (4, PROMPT + 1 + TOKENS)
    assert len(output.scores) == len(output.logits) == len(output.hidden_states) == len(output.attentions) == TOKENS
    assert output.logits[0].shape == (rows, TEXT_IDS + 1 + CODES)
    assert len(output.hidden_states[1]) == 3 and output.hidden_states[1][0].shape == (rows, 1, 16)
    assert len(output.attentions[1]) == 2 and output.attentions[1][0].shape == (rows, 2, 1, PROMPT + 2)
    assert output.past_key_values.get_seq_length() == PROMPT + TOKENS


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_generate_goes_on_from_a_cache(decoder):
    model = make_text_to_image(decoder)
    whole = model.generate(make_prompts())
    begun = model.generate(make_prompts(), max_new_tokens=3, return_dict_in_generate=True)
    found = model.generate(begun.sequences, past_key_values=begun.past_key_values)
    assert torch.equal(found, whole)


@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_generate_with_a_static_cache(decoder):
    model = make_text_to_image(decoder)
    expected = model.generate(make_prompts())
    assert torch.equal(model.generate(make_prompts(), cache_implementation="static", disable_compile=True), expected)


@torch.no_grad()
def test_generate_stops_by_a_criterion_and_streams():
    model = make_text_to_image()

    class Stop(hf.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= PROMPT + 4)

    found = model.generate(make_prompts(), stopping_criteria=hf.StoppingCriteriaList([Stop()]))
    assert torch.equal(found, model.generate(make_prompts())[:, : PROMPT + 4])


BEGUN = torch.full((4, TOKENS), TEXT_IDS + 1)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (make_prompts(), {"guidance_scale": 0.5}, "guidance_scale must be 1 or more, where 1 is none, got 0.5"),
        (make_prompts(), {"guidance_scale": 0}, "guidance_scale must be 1 or more, where 1 is none, got 0"),
        (
            make_prompts(),
            {"generation_config": GenerationConfig(guidance_scale=-1.0)},
            "guidance_scale must be 1 or more, where 1 is none, got -1.0",
        ),
        (make_prompts(), {"guidance_scale": 2.0, "num_beams": 2}, "guidance_scale has no use with beams"),
        (
            make_prompts(),
            {"generation_config": GenerationConfig(num_beams=2), "guidance_scale": 2.0},
            "guidance_scale has no use with beams",
        ),
        (make_prompts(), {"max_new_tokens": 10}, "9 image tokens are left to write, got max_new_tokens=10"),
        (
            torch.cat([make_prompts(), BEGUN[:, :6]], dim=1),
            {"max_new_tokens": 4},
            "3 image tokens are left to write, got max_new_tokens=4",
        ),
        (make_prompts()[:, 1:], {}, "a prompt has 6 ids, and .* fewer than 15, got 5: take the processor saved with"),
        (torch.cat([make_prompts(), BEGUN], dim=1), {}, "a prompt has 6 ids, and .* fewer than 15, got 15"),
        (
            make_prompts().where(make_prompts() != TEXT_IDS, TEXT_IDS + 3),
            {},
            r"begin of image, id 8, must stand at place 5 of a prompt, got \[11, 11, 11, 11\]: is the tokenizer",
        ),
    ],
)
def test_generate_refuses(prompts, options, message):
    with pytest.raises(ValueError, match=message):
        make_text_to_image().generate(prompts, **options)


def test_generate_some_of_the_tokens():
    model = make_text_to_image()
    whole, part = model.generate(make_prompts()), model.generate(make_prompts(), max_new_tokens=5)
    assert torch.equal(part, whole[:, : PROMPT + 1 + 5])
    config = GenerationConfig(max_new_tokens=999, eos_token_id=int(whole[0, -5]))  # an end that is an image token
    assert model.generate(make_prompts(), config).shape == whole.shape


# Likelihoods


@torch.no_grad()
def test_score_of_every_pair_is_that_of_a_loop():
    model = make_text_to_image()
    prompts, tokens = make_prompts(3), make_tokens(5)
    expected = [[sum(log_likelihoods(model, prompt, image)) for prompt in prompts] for image in tokens]
    for size in (1, 4, 64):
        found = model.score(prompts, tokens, batch_size=size)
        assert found.shape == (5, 3)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert torch.equal(model.score(prompts, tokens.flatten(1)), model.score(prompts, tokens))


@torch.no_grad()
def test_score_is_without_dropout_and_leaves_the_mode():
    model = make_text_to_image()
    expected = model.score(make_prompts(), make_tokens())
    assert torch.equal(model.train().score(make_prompts(), make_tokens()), expected) and model.training
    with pytest.raises(ValueError, match="a prompt of 5 text tokens"):
        model.score(make_prompts()[:, 1:], make_tokens())
    assert model.training and model.text_model.training and not model.image_tokenizer.training


# Images


def test_generate_images_in_the_order_of_the_texts():
    model, processor = make_text_to_image(), make_text_to_image_processor(12)
    texts = ["a red dog", None, "cat", "  "]
    images = model.generate_images(processor, texts, num_images_per_prompt=2, top_k=1, guidance_scale=1.5)
    assert len(images) == 8 and all(image.size == (12, 12) and image.mode == "RGB" for image in images)
    pixels = [np.asarray(image) for image in images]
    for row in range(4):
        assert (pixels[2 * row] == pixels[2 * row + 1]).all()  # the likeliest one twice
    assert (pixels[2] == pixels[6]).all() and not (pixels[0] == pixels[2]).all()
    prompts = processor(text=texts, return_tensors="pt").input_ids
    found = model.decode_image_tokens(model.generate(prompts, guidance_scale=1.5))
    expected = processor.post_process_multimodal_output(found, generation_mode="image")
    for row in range(4):
        assert (pixels[2 * row] == np.asarray(expected[row])).all()


def test_generate_images_of_a_seed():
    model, processor = make_text_to_image(), make_text_to_image_processor(12)

    def draw(**options):
        images = model.generate_images(processor, "a red dog", num_images_per_prompt=3, **options)
        return np.stack([np.asarray(image) for image in images])

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = draw(seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert (draw(seed=0) == first).all() and not (draw(seed=1) == first).all()
    assert not (first[0] == first[1]).all()
    free = draw()
    assert not torch.equal(torch.get_rng_state(), before) and not (draw() == free).all()
    torch.manual_seed(5)
    assert (draw() == free).all()


def test_generate_images_without_dropout_whatever_the_mode():
    model, processor = make_text_to_image(), make_text_to_image_processor(12)
    expected = model.generate_images(processor, ["cat"], top_k=1)
    found = model.train().generate_images(processor, ["cat"], top_k=1)
    assert (np.asarray(found[0]) == np.asarray(expected[0])).all() and model.training


def test_generate_images_refuses():
    model, processor = make_text_to_image(), make_text_to_image_processor(12)
    with pytest.raises(ValueError, match="num_images_per_prompt must be 1 or more, got 0"):
        model.generate_images(processor, ["cat"], num_images_per_prompt=0)
    with pytest.raises(ValueError, match="the text of row 1 has 6 tokens, and a prompt 5"):
        model.generate_images(processor, ["cat", "a a a a"])
    assert len(model.generate_images(processor, ["cat", "a a a a"], truncation=True)) == 2
    with pytest.raises(ValueError, match="at least one example"):
        model.generate_images(processor, [])
    with pytest.raises(ValueError, match="guidance_scale must be 1 or more"):
        model.train().generate_images(processor, ["cat"], guidance_scale=0.9)
    assert model.training


def test_generate_images_of_a_tokenizer_with_more_words():
    processor = make_text_to_image_processor(12)
    processor.tokenizer.add_tokens(["more"])
    with pytest.raises(ValueError, match=r"begin of image, id 8, must stand at place 5 of a prompt, got \[9\]"):
        make_text_to_image().generate_images(processor, "cat")


# Pipelines


@pytest.mark.parametrize("source", ["model", "folder"])
def test_pipeline_any_to_any_gives_images(source, tmp_path):
    model, processor = make_text_to_image(), make_text_to_image_processor(12)
    with errors_logged() as errors:
        if source == "model":
            pipe = pipeline("any-to-any", model=model, processor=processor)
        else:
            model.save_pretrained(tmp_path)
            processor.save_pretrained(tmp_path)
            pipe = pipeline("any-to-any", model=str(tmp_path))
            assert type(pipe.model) is TextToImageModel and type(pipe.processor) is TextToImageProcessor
        found = pipe(text=["a red dog", "cat", ""], generation_mode="image", generate_kwargs={"guidance_scale": 2.0})
    assert errors == []
    expected = model.generate_images(processor, ["a red dog", "cat", None], guidance_scale=2.0, do_sample=False)
    assert [record["input_text"] for record in found] == ["a red dog", "cat", ""]
    for record, image in zip(found, expected, strict=True):
        assert record["generated_image"].size == (12, 12)
        assert (np.asarray(record["generated_image"]) == np.asarray(image)).all()
    alone = pipe(text="cat", generation_mode="image", generate_kwargs={"guidance_scale": 2.0})
    assert (np.asarray(alone[0]["generated_image"]) == np.asarray(expected[1])).all()


def test_pipeline_any_to_any_draws_several_images_a_text():
    pipe = pipeline("any-to-any", model=make_text_to_image(), processor=make_text_to_image_processor(12))
    options = {"guidance_scale": 3.0, "do_sample": True, "num_return_sequences": 4, "top_k": 0}
    found = pipe(text=["cat", "a dog"], generation_mode="image", generate_kwargs=options)
    assert [record["input_text"] for record in found] == ["cat"] * 4 + ["a dog"] * 4
    images = {record["generated_image"].tobytes() for record in found}
    assert len(images) == 8
    batches = pipe(
        [{"text": "cat"}, {"text": "a red dog"}, {"text": "dog"}],
        generation_mode="image",
        batch_size=2,
    )
    assert len(batches) == 3


def test_pipeline_any_to_any_writes_no_text():
    pipe = pipeline("any-to-any", model=make_text_to_image(), processor=make_text_to_image_processor(12))
    with pytest.raises(ValueError, match="`generation_mode=text` is not supported for TextToImageModel"):
        pipe(text="cat", generation_mode="text")
    with pytest.raises(ValueError, match='this model writes images only: generation_mode must be "image"'):
        pipe(text="cat")


def test_auto_classes_load_a_saved_folder(tmp_path):
    make_text_to_image().save_pretrained(tmp_path)
    make_text_to_image_processor(12).save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is TextToImageProcessor
    assert type(AutoModelForMultimodalLM.from_pretrained(tmp_path)) is TextToImageModel
    assert type(AutoModel.from_pretrained(tmp_path)) is TextToImageModel
    assert type(AutoConfig.from_pretrained(tmp_path)) is TextToImageConfig
    config = GenerationConfig.from_pretrained(tmp_path)
    assert (config.max_new_tokens, config.min_new_tokens, config.eos_token_id) == (TOKENS, TOKENS, None)


# Both together, learned


def test_the_matching_caption_of_controlled_images_scores_highest():
    """Twelve images, learned by heart: each is likeliest after its own caption, and each caption draws its image."""
    rows = make_retrieval(40)
    seen: dict[tuple[int, int, int], int] = {}
    for number, row in enumerate(rows):
        seen.setdefault((row["shape"], row["colour"], row["place"]), number)
    rows = rows.select(list(seen.values())[:12])
    captions = [text.split() for text in rows["text"]]
    words = ["[PAD]", *sorted(set(itertools.chain(*captions)))]
    prompts = torch.zeros(12, 16, dtype=torch.long)
    prompts[:, -1] = len(words)
    for number, caption in enumerate(captions):
        prompts[number, 15 - len(caption) : 15] = torch.tensor([words.index(word) for word in caption])
    images = [Image.open(io.BytesIO(image["bytes"])).convert("RGB").resize((16, 16)) for image in rows["image"]]
    pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images]).movedim(-1, 1) / 127.5 - 1
    torch.manual_seed(0)
    model = TextToImageModel(
        TextToImageConfig(
            text_config=hf.GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=2),
            image_tokenizer_config=make_image_tokenizer_config(levels=[8, 4, 4]),
            text_vocab_size=len(words),
            prompt_length=15,
        )
    )
    tokenizer = model.image_tokenizer.requires_grad_(True).train()
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        tokenizer(pixels).loss.backward()
        optimizer.step()
    tokenizer.requires_grad_(False).eval()
    tokens = model.image_tokens(pixels)
    for module in model.text_model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert len(tokens.flatten(1).unique(dim=0)) == 12
    optimizer = torch.optim.Adam(model.text_model.parameters(), lr=0.005)
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        model(prompts, image_token_ids=tokens).loss.backward()
        optimizer.step()
    scores = model.eval().score(prompts, tokens)
    assert scores.argmax(dim=1).tolist() == list(range(12))
    assert scores.argmax(dim=0).tolist() == list(range(12))
    drawn = model.generate(prompts, guidance_scale=2.0)[:, 16:] - model.config.image_token_offset
    alike = (drawn[:, None] == tokens.flatten(1)).float().mean(dim=2)  # (captions, images)
    assert (alike.argmax(dim=1) == torch.arange(12)).sum() >= 6  # by chance 1
