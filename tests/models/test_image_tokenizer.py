"""The image tokenizer: its quantizers against loops written by hand, its tokens against its reconstructions."""

import copy
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_batch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModel
from two_ranks_codebook import CASES, train_codebook, train_scalars

from hf_multimodal import ImageTokenizerConfig, ImageTokenizerModel
from hf_multimodal.models import modeling_image_tokenizer
from hf_multimodal.models.modeling_image_tokenizer import (
    QUANTIZERS,
    SPREAD,
    FiniteScalarQuantizer,
    GradientQuantizer,
    MovingAverageQuantizer,
    gather_vectors,
    nearest_codes,
    straight_through,
)

FIELDS = {"image_size": 16, "hidden_size": 8, "levels": [4, 3, 2], "codebook_size": 20, "codebook_dim": 4}
LEVELS = [[2], [3], [8, 8, 8], [5, 4, 3, 2], [7, 5, 5]]


def make_config(quantizer: str = "fsq", **fields) -> ImageTokenizerConfig:
    return ImageTokenizerConfig(**{**FIELDS, "quantizer": quantizer, **fields})


def make_image_tokenizer(quantizer: str = "fsq", seed: int = 0, **fields) -> ImageTokenizerModel:
    """Random weights; a codebook of moving averages has seen one batch."""
    torch.manual_seed(seed)
    model = ImageTokenizerModel(make_config(quantizer, **fields))
    if quantizer == "vq":
        with torch.no_grad():
            model.train()(make_pixels(model.config))
    return model.eval()


def make_pixels(config: ImageTokenizerConfig, rows: int = 4, seed: int = 1) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, config.num_channels, config.image_size, config.image_size, generator=draw)


def make_vectors(number: int = 50, width: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(number, width, generator=torch.Generator().manual_seed(seed))


# The model


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_forward_reconstructs_what_the_tokens_decode_to_bit_for_bit(quantizer, training):
    model = make_image_tokenizer(quantizer).train(training)
    pixels = make_pixels(model.config, seed=2)
    before = copy.deepcopy(model)
    with torch.no_grad():
        output = model(pixels)
        ids = before.eval().encode(pixels)
        if quantizer == "fsq" and training:  # which normalises by the batch, in evaluation by what it has seen
            ids = output.image_token_ids
        assert torch.equal(output.image_token_ids, ids)
        assert torch.equal(output.reconstruction, before.decode(ids))  # in training the codebook moves afterwards
        assert torch.equal(before.decode(ids.flatten(1)), before.decode(ids))
    assert ids.dtype == torch.int64 and ids.shape == (4, 4, 4)
    assert ids.min() >= 0 and ids.max() < model.config.vocab_size


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_forward_loss_is_that_of_the_pixels_and_the_quantizers(quantizer):
    model = make_image_tokenizer(quantizer)
    pixels = make_pixels(model.config)
    output = model(pixels)
    features = model.encoder(pixels).movedim(1, -1)  # (batch, rows, columns, width)
    codes = model.quantizer.lookup(output.image_token_ids.flatten()).view_as(features)
    error = ((output.reconstruction - pixels) ** 2).mean()
    away = ((features - codes) ** 2).mean()
    weight = {"fsq": 0, "vq": 0.25, "vq_grad": 1.25}[quantizer]
    torch.testing.assert_close(output.reconstruction_loss, error)
    torch.testing.assert_close(output.loss, error + weight * away)
    assert model(pixels, return_loss=False).loss is None


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_forward_gives_every_parameter_a_gradient(quantizer):
    model = make_image_tokenizer(quantizer).train()
    model(make_pixels(model.config) * 30).loss.backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_features_of_nothing_train_a_decoder():
    """Where finite scalar codes are all 0, a decoder without biases would give 0 and pass no gradient, for good."""
    model = make_image_tokenizer()
    model.encoder.projection.weight.data.zero_()
    model.encoder.projection.bias.data.zero_()
    output = model(torch.zeros(2, 3, 16, 16))
    assert not model.quantizer.lookup(output.image_token_ids.flatten()).any()
    functional.mse_loss(output.reconstruction, torch.ones(2, 3, 16, 16)).backward()
    assert model.decoder.blocks[0].first.bias.grad.any() and model.encoder.projection.bias.grad.any()


def test_encode_reads_each_image_alone():
    model = make_image_tokenizer()
    pixels = make_pixels(model.config, rows=6)
    assert torch.equal(model.encode(pixels), torch.cat([model.encode(pixels[row : row + 1]) for row in range(6)]))


def test_tokens_stand_where_their_pixels_are():
    model = make_image_tokenizer(num_residual_blocks=0)
    model.encoder.norm = torch.nn.Identity()  # it looks at the whole image
    pixels = make_pixels(model.config, rows=1)
    changed = pixels.clone()
    changed[:, :, 12:, :4] += 99  # the lower left corner
    moved = (model.encode(pixels) != model.encode(changed))[0]
    assert moved.any() and not moved[0].any() and not moved[:, 3].any()  # three convolutions look so far


@pytest.mark.parametrize(
    ("fields", "grid", "tokens", "codes"),
    [
        ({}, (16, 16), 256, 512),
        ({"image_size": 32, "levels": [5, 3]}, (8, 8), 64, 15),
        ({"image_size": 24, "num_downsamplings": 3, "quantizer": "vq"}, (3, 3), 9, 512),
        ({"image_size": 2, "num_downsamplings": 1, "quantizer": "vq_grad", "codebook_size": 7}, (1, 1), 1, 7),
    ],
)
def test_config_counts_tokens_and_codes(fields, grid, tokens, codes):
    config = ImageTokenizerConfig(**fields)
    assert (config.grid, config.num_image_tokens, config.vocab_size) == (grid, tokens, codes)


@pytest.mark.parametrize("fields", [{"num_channels": 1}, {"num_downsamplings": 1}, {"num_residual_blocks": 0}])
def test_forward_of_every_shape(fields):
    model = make_image_tokenizer(**fields)
    pixels = make_pixels(model.config)
    output = model(pixels)
    assert output.reconstruction.shape == pixels.shape
    assert output.image_token_ids.shape == (4, *model.config.grid)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantizer": "vqgan"}, r"quantizer must be one of \['fsq', 'vq', 'vq_grad'\], got 'vqgan'"),
        ({"image_size": 30}, "image_size must be a multiple of 4, since it is halved 2 times, got 30"),
        ({"image_size": 0}, "image_size must be 1 or more, got 0"),
        ({"num_channels": 0}, "num_channels must be 1 or more, got 0"),
        ({"hidden_size": 0}, "hidden_size must be 1 or more, got 0"),
        ({"num_downsamplings": 0}, "num_downsamplings must be 1 or more, got 0"),
        ({"num_residual_blocks": -1}, "num_residual_blocks must be 0 or more, got -1"),
        ({"codebook_size": 0}, "codebook_size must be 1 or more, got 0"),
        ({"codebook_dim": 0}, "codebook_dim must be 1 or more, got 0"),
        ({"levels": []}, r"levels must be numbers of 2 or more, one a channel of the code, got \[\]"),
        ({"levels": [8, 1]}, r"levels must be numbers of 2 or more, one a channel of the code, got \[8, 1\]"),
        ({"codebook_decay": 1.0}, r"codebook_decay must lie in \[0, 1\), got 1.0"),
        ({"codebook_decay": -0.1}, r"codebook_decay must lie in \[0, 1\), got -0.1"),
        ({"commitment_weight": -1}, "commitment_weight must be 0 or more, got -1"),
    ],
)
def test_config_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        ImageTokenizerConfig(**fields)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 3, 16, 20), (2, 1, 16, 16), (3, 16, 16), (2, 3, 16)])
def test_images_of_another_size_are_refused(shape):
    model = make_image_tokenizer()
    message = r"pixel_values must be \(batch, 3, 16, 16\), which the processor makes of any image, got "
    for method in (model, model.encode):
        with pytest.raises(ValueError, match=message + str(shape).replace("(", r"\(").replace(")", r"\)")):
            method(torch.zeros(shape))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("beyond", [-1, 0])
def test_decode_refuses_ids_beyond_the_vocabulary(quantizer, beyond):
    model = make_image_tokenizer(quantizer)
    codes = model.config.vocab_size
    ids = torch.zeros(2, 4, 4, dtype=torch.long)
    ids[1, 2, 3] = beyond or codes
    with pytest.raises(ValueError, match=f"image token ids must be in 0..{codes - 1}, got {ids.min()} to {ids.max()}"):
        model.decode(ids)


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 15), (2,)])
def test_decode_refuses_another_number_of_tokens(shape):
    with pytest.raises(ValueError, match=r"an image has 16 tokens, got \(2,"):
        make_image_tokenizer().decode(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_saved_and_loaded_bit_for_bit(quantizer, tmp_path):
    model = make_image_tokenizer(quantizer)
    model.save_pretrained(tmp_path)
    pixels = make_pixels(model.config, seed=3)
    for auto_class in (ImageTokenizerModel, AutoModel):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is ImageTokenizerModel and not loaded.training
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        with torch.no_grad():
            for mine, other in zip(model(pixels).to_tuple(), loaded(pixels).to_tuple(), strict=True):
                torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is ImageTokenizerConfig and config.levels == [4, 3, 2] and config.quantizer == quantizer


@pytest.mark.keys_do_not_fit
@pytest.mark.parametrize("name", ["encoder.projection.weight", "quantizer.codebook", "quantizer.updates"])
def test_a_checkpoint_without_a_tensor_is_refused(name, tmp_path):
    make_image_tokenizer("vq").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[name]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"holds no whole ImageTokenizerModel: missing \['{name}'\], unexpected \[\]"
    ):
        ImageTokenizerModel.from_pretrained(tmp_path)


@pytest.mark.keys_do_not_fit
def test_a_checkpoint_with_too_much_is_refused(tmp_path):
    make_image_tokenizer("vq").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "more": torch.ones(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing \[\], unexpected \['more'\] \(0 and 1 in all\)"):
        ImageTokenizerModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["encoder.projection.weight", "quantizer.codebook"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_checkpoint_that_is_not_finite_is_refused(name, value, tmp_path):
    make_image_tokenizer("vq").save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=rf"holds weights that are NaN or infinite: \['{name}'\] \(1 tensors"):
        ImageTokenizerModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["to", "load", "short name"])
def test_half_precision_reconstructs_what_the_tokens_decode_to(quantizer, dtype, way, tmp_path):
    model = make_image_tokenizer(quantizer)
    codebook = copy.deepcopy(model.quantizer.state_dict())
    if way == "load":
        model.save_pretrained(tmp_path)
        model = ImageTokenizerModel.from_pretrained(tmp_path, dtype=dtype)
    elif way == "to":
        model = model.to(dtype)
    else:
        model = model.bfloat16() if dtype is torch.bfloat16 else model.half()
    assert model.encoder.projection.weight.dtype == dtype
    if quantizer == "vq" or way == "load":  # as it was, to the last bit
        for name, value in codebook.items():
            assert torch.equal(model.quantizer.state_dict()[name], value) and value.dtype in (torch.float, torch.long)
    pixels = make_pixels(model.config)
    with torch.no_grad():
        output = model(pixels)
        assert output.reconstruction.dtype == dtype and output.loss.isfinite()
        assert torch.equal(model.decode(model.encode(pixels)), output.reconstruction)


def test_autocast_gives_tokens_that_decode():
    model = make_image_tokenizer("vq").train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(make_pixels(model.config))
    output.loss.backward()
    assert output.loss.isfinite() and model.quantizer.codebook.dtype == torch.float32


def test_double_precision_is_kept():
    model = make_image_tokenizer("vq").double()
    output = model(make_pixels(model.config).double())
    assert output.reconstruction.dtype == torch.float64 and model.quantizer.codebook.dtype == torch.float32


# Nearest codes


@pytest.mark.parametrize("chunk", [1, 7, 4096])
@pytest.mark.parametrize(("number", "codes", "width"), [(50, 13, 4), (7, 1, 3), (1, 9, 1), (0, 5, 2)])
def test_nearest_codes_are_those_of_all_distances(chunk, number, codes, width, monkeypatch):
    monkeypatch.setattr(modeling_image_tokenizer, "CHUNK", chunk)
    vectors, codebook = make_vectors(number, width), make_vectors(codes, width, seed=1)
    expected = torch.cdist(vectors, codebook).argmin(dim=1) if number else torch.zeros(0, dtype=torch.long)
    assert torch.equal(nearest_codes(vectors, codebook), expected)


def test_nearest_codes_hold_no_matrix_beyond_a_chunk(monkeypatch):
    seen = []

    def watched(bias, chunk, codes):
        seen.append((len(chunk), codes.shape[1]))
        return addmm(bias, chunk, codes)

    addmm = torch.addmm
    monkeypatch.setattr(torch, "addmm", watched)
    monkeypatch.setattr(modeling_image_tokenizer, "CHUNK", 8)
    nearest_codes(make_vectors(20), make_vectors(5))
    assert seen == [(8, 5), (8, 5), (4, 5)]


def test_straight_through_is_the_codes_with_the_gradient_of_the_features():
    features = (make_vectors(30) * 1e-3 + 1).requires_grad_()
    codes = make_vectors(30, seed=1).requires_grad_()
    found = straight_through(features, codes)
    assert torch.equal(found, codes)
    weight = make_vectors(30, seed=2)
    (found * weight).sum().backward()
    assert torch.equal(features.grad, weight) and codes.grad is None


@pytest.mark.parametrize("quantizer", ["vq", "vq_grad"])
def test_gradient_at_the_features_is_that_at_the_codes(quantizer):
    model = make_image_tokenizer(quantizer, commitment_weight=0)
    features = make_vectors(30).requires_grad_()
    vectors = model.quantizer(features).vectors
    vectors.retain_grad()
    functional.mse_loss(vectors, make_vectors(30, seed=4)).backward()
    assert torch.equal(features.grad, vectors.grad)


def make_fsq(levels: list[int]) -> FiniteScalarQuantizer:
    """In evaluation, where the running statistics let features pass as they are."""
    quantizer = FiniteScalarQuantizer(make_config(levels=levels)).eval()
    quantizer.norm.running_var.fill_(SPREAD**2 - quantizer.norm.eps)
    return quantizer


def test_fsq_gradient_is_that_of_the_bound():
    quantizer = make_fsq([5, 3])
    features = make_vectors(30, 2).requires_grad_()
    weight = make_vectors(30, 2, seed=1)
    (quantizer(features).vectors * weight).sum().backward()
    half = torch.tensor([4 * 1.001 / 2, 2 * 1.001 / 2])
    expected = weight * half / torch.tensor([2, 1]) * (1 - features.detach().tanh() ** 2)
    torch.testing.assert_close(features.grad, expected)


# Finite scalar quantization


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_every_code_is_reached_and_looked_up(levels):
    quantizer = make_fsq(levels)
    codes = math.prod(levels)
    ids = torch.arange(codes)
    vectors = quantizer.lookup(ids)
    assert len(vectors.unique(dim=0)) == codes and vectors.min() == -1 and vectors.max() <= 1
    # What the bound maps onto each code: the inverse of the squashing at the code itself.
    half = torch.tensor([(level - 1) * 1.001 / 2 for level in levels])
    even = torch.tensor([0.5 * (level % 2 == 0) for level in levels])
    whole = vectors * torch.tensor([level // 2 for level in levels])
    features = ((whole + even) / half).atanh() - (even / half).atanh()
    quantized = quantizer(features)
    assert torch.equal(quantized.ids, ids)
    assert torch.equal(quantized.vectors, vectors) and quantized.loss == 0


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_values_are_those_of_a_loop(levels):
    quantizer = make_fsq(levels)
    features = make_vectors(40, len(levels)) * 3
    expected_ids, expected_codes = [], []
    for row in features.tolist():
        number, step, code = 0, 1, []
        for value, level in zip(row, levels, strict=True):
            half = (level - 1) * 1.001 / 2
            offset = 0.5 if level % 2 == 0 else 0.0
            whole = round(math.tanh(value + math.atanh(offset / half)) * half - offset)
            number += (whole + level // 2) * step
            step *= level
            code.append(whole / (level // 2))
        expected_ids.append(number)
        expected_codes.append(code)
    quantized = quantizer(features)
    assert quantized.ids.tolist() == expected_ids
    torch.testing.assert_close(quantized.vectors, torch.tensor(expected_codes))


def test_fsq_channels_keep_their_levels_whatever_the_scale():
    """In training no channel can shrink into one of its levels, or drift to an end of them."""
    quantizer = FiniteScalarQuantizer(make_config(levels=[8, 8])).train()
    features = make_vectors(500, 2)
    ids = quantizer(features).ids
    assert len(ids.unique()) > 50
    assert torch.equal(quantizer(features * torch.tensor([0.5, 50.0]) + torch.tensor([3.0, -7.0])).ids, ids)


@pytest.mark.parametrize("levels", [[2000, 3], [2001, 2], [300, 300, 300]])
def test_fsq_many_levels_stay_within_the_vocabulary(levels):
    """Squashing to a little more than the outermost level must not round beyond it, nor may ids lose digits."""
    quantizer = make_fsq(levels)
    corners = torch.tensor(list(itertools.product([-99.0, 99.0], repeat=len(levels))))
    quantized = quantizer(corners)
    assert quantized.ids.min() == 0 and quantized.ids.max() == math.prod(levels) - 1
    assert torch.equal(quantizer.lookup(quantized.ids), quantized.vectors)
    last = math.prod(levels) - torch.arange(1, 50)
    features = quantizer.lookup(last)
    assert features.min() >= -1 and len(features.unique(dim=0)) == 49


# Moving averages


def reference_step(state, vectors, decay):
    """One step of the moving averages, code by code; codes hardly drawn are told apart, not put back."""
    codebook, counts, sums = state
    distances = ((vectors[:, None] - codebook[None]) ** 2).sum(dim=2)
    ids = distances.argmin(dim=1)
    for code in range(len(codebook)):
        own = vectors[ids == code]
        counts[code] = decay * counts[code] + (1 - decay) * len(own)
        sums[code] = decay * sums[code] + (1 - decay) * own.sum(dim=0)
    faded = counts < 0.1 * counts.sum() / len(counts)
    codebook[:] = sums / counts[:, None]
    return ids, faded


def test_vq_moving_averages_are_those_of_a_loop():
    quantizer = MovingAverageQuantizer(make_config("vq", codebook_size=5, codebook_decay=0.9)).train()
    quantizer(make_vectors(60))
    state = [getattr(quantizer, name).double().clone() for name in ("codebook", "counts", "sums")]
    moved = quantizer.codebook.clone()
    for step in range(1, 8):
        vectors = make_vectors(60, seed=step) + step * 0.02
        found = quantizer(vectors)
        ids, faded = reference_step(state, vectors.double(), 0.9)
        assert not faded.any(), "the test wants a run without codes put back"
        assert torch.equal(found.ids, ids)
        for name, expected in zip(("codebook", "counts", "sums"), state, strict=True):
            torch.testing.assert_close(getattr(quantizer, name).double(), expected, rtol=1e-5, atol=1e-5)
    assert quantizer.updates == 8 and not torch.equal(moved, quantizer.codebook)


def test_vq_quantizes_before_the_codebook_moves():
    quantizer = MovingAverageQuantizer(make_config("vq", codebook_size=5)).train()
    quantizer(make_vectors(60))
    before = copy.deepcopy(quantizer).eval()
    vectors = make_vectors(60, seed=1)
    found, expected = quantizer(vectors), before(vectors)
    assert torch.equal(found.vectors, expected.vectors) and torch.equal(found.ids, expected.ids)
    assert torch.equal(found.loss, expected.loss)


def test_vq_starts_on_the_data_with_all_codes_in_use():
    quantizer = MovingAverageQuantizer(make_config("vq", codebook_size=20)).train()
    vectors = make_vectors(200) + 50  # far away from where a codebook of zeros is
    found = quantizer(vectors)
    assert len(found.ids.unique()) == 20
    assert (torch.cdist(quantizer.codebook, vectors).amin(dim=1) < 2).all()


def test_vq_start_finds_the_means_of_clusters():
    centres = torch.tensor([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0], [9.0, 9.0]])
    noise = make_vectors(400, 2) * 0.1
    vectors = centres.repeat(100, 1) + noise
    quantizer = MovingAverageQuantizer(make_config("vq", codebook_size=4, codebook_dim=2)).train()
    quantizer._start(vectors)
    before = quantizer.codebook.clone()
    assert (torch.cdist(centres, before).amin(dim=0) < 1).sum() >= 2
    quantizer.eval()
    found = quantizer(vectors)
    # From points k-means may end with two codes in one cluster, so the test asks for what every such end has: each
    # code is the mean of what is nearest to it.
    for code in range(4):
        own = vectors[found.ids == code]
        torch.testing.assert_close(before[code], own.mean(dim=0))


def test_vq_starts_with_fewer_vectors_than_codes():
    quantizer = MovingAverageQuantizer(make_config("vq", codebook_size=20)).train()
    vectors = make_vectors(7)
    found = quantizer(vectors)
    torch.testing.assert_close(found.vectors, vectors, rtol=0, atol=1e-6)  # each has a code of its own
    assert quantizer.codebook.isfinite().all()
    assert quantizer(make_vectors(7, seed=1)).vectors.isfinite().all()


def test_vq_codes_that_nobody_draws_are_put_back_on_data():
    quantizer = MovingAverageQuantizer(make_config("vq", codebook_size=8, codebook_decay=0.5)).train()
    quantizer(make_vectors(100))
    for step in range(6):  # the data leave for another place
        vectors = make_vectors(100, seed=step + 1) + 40
        quantizer(vectors)
    assert (torch.cdist(quantizer.codebook, vectors).amin(dim=1) < 4).all()
    used = quantizer.eval()(vectors).ids.unique()
    assert len(used) == 8
    assert (quantizer.counts >= 0.1 * quantizer.counts.sum() / 8 - 1e-4).all()


def test_vq_a_code_put_back_stands_on_a_vector_of_the_batch():
    quantizer = MovingAverageQuantizer(make_config("vq", codebook_size=4)).train()
    quantizer(make_vectors(100))
    quantizer.counts[2] = 1e-6
    quantizer.sums[2] = 1e-6 * 77.0
    quantizer.codebook[2] = 77.0
    vectors = make_vectors(30, seed=1)
    quantizer(vectors)
    assert torch.cdist(quantizer.codebook[2:3], vectors).min() < 1e-5
    assert quantizer.counts[2] == pytest.approx(quantizer.counts[[0, 1, 3]].sum().item() / 4, rel=1e-4)


def test_vq_codebook_stands_still_in_evaluation():
    model = make_image_tokenizer("vq")
    before = copy.deepcopy(model.state_dict())
    model(make_pixels(model.config, seed=9))
    model.encode(make_pixels(model.config, seed=9))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_vq_loss_pulls_the_features_to_the_codes():
    quantizer = MovingAverageQuantizer(make_config("vq", commitment_weight=0.5)).train()
    quantizer(make_vectors(60))
    features = make_vectors(60, seed=1).requires_grad_()
    quantized = quantizer.eval()(features)
    away = features.detach() - quantizer.codebook[quantized.ids]
    torch.testing.assert_close(quantized.loss, 0.5 * (away**2).mean())
    quantized.loss.backward()
    torch.testing.assert_close(features.grad, 0.5 * 2 * away / away.numel())


def train_steps(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        model(make_pixels(model.config, seed=100 + step)).loss.backward()
        optimizer.step()


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("stop", [0, 3])
def test_training_goes_on_bit_for_bit_where_it_was_saved(quantizer, stop, tmp_path):
    """Also across steps in which codes are put back: what is drawn hangs on the number of updates alone."""

    def begin():
        torch.manual_seed(0)
        model = ImageTokenizerModel(make_config(quantizer, codebook_decay=0.5, codebook_size=60)).train()
        return model, torch.optim.Adam(model.parameters(), lr=0.01)

    whole, optimizer = begin()
    train_steps(whole, optimizer, range(7))
    first, optimizer = begin()
    train_steps(first, optimizer, range(stop))
    first.save_pretrained(tmp_path)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.manual_seed(99)
    second = ImageTokenizerModel.from_pretrained(tmp_path).train()
    optimizer = torch.optim.Adam(second.parameters(), lr=0.01)
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    train_steps(second, optimizer, range(stop, 7))
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_vq_training_leaves_the_global_generator_alone():
    model = make_image_tokenizer("vq").train()
    before = torch.get_rng_state()
    model(make_pixels(model.config, seed=5))
    assert torch.equal(torch.get_rng_state(), before)


# By gradient


def test_vq_grad_loss_and_gradients_are_those_of_the_paper():
    quantizer = GradientQuantizer(make_config("vq_grad", codebook_size=6, commitment_weight=0.25))
    features = make_vectors(40).requires_grad_()
    codes = quantizer.codebook.weight.detach().clone()
    quantized = quantizer(features)
    nearest = torch.cdist(features.detach(), codes).argmin(dim=1)
    assert torch.equal(quantized.ids, nearest)
    away = features.detach() - codes[nearest]
    torch.testing.assert_close(quantized.loss, 1.25 * (away**2).mean())
    quantized.loss.backward()
    torch.testing.assert_close(features.grad, 0.25 * 2 * away / away.numel())
    expected = torch.zeros_like(codes).index_add_(0, nearest, -2 * away / away.numel())
    torch.testing.assert_close(quantizer.codebook.weight.grad, expected)


def test_vq_grad_starts_uniform_within_one_over_the_codes():
    weight = make_image_tokenizer("vq_grad", codebook_size=50).quantizer.codebook.weight
    assert weight.abs().max() <= 1 / 50 and weight.abs().max() > 0.8 / 50 and weight.std() > 0.4 / 50


# Several processes


def test_vectors_of_one_process_are_its_own():
    vectors = make_vectors()
    assert gather_vectors(vectors) is vectors


def test_two_processes_train_the_quantizers_of_one(tmp_path):
    """`vq`: start, several steps, codes put back; `fsq`: statistics, ids and gradients. Halves alike, of unlike
    length, and one of them without any image."""
    program = Path(__file__).parents[1].joinpath("two_ranks_codebook.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    path = os.pathsep.join(sys.path)  # tests of other rooms are read
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    run = subprocess.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    for case in CASES:
        expected = train_codebook(case, None)
        ranks = [torch.load(tmp_path / f"{case}-{rank}.pt") for rank in range(2)]
        for name in ("codebook", "counts", "sums", "updates"):
            assert torch.equal(ranks[0][name], ranks[1][name]), (case, name)
        for found in ranks:
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=f"{case} {name}")
        assert expected["revived"] > 0, "the test wants codes put back"
        expected = train_scalars(case, None)
        ranks = [torch.load(tmp_path / f"{case}-{rank}-fsq.pt") for rank in range(2)]
        for name in ("ids", "gradient"):
            found = torch.cat([rank[name] for rank in ranks])
            torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-5, msg=f"{case} {name}")
        for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
            assert torch.equal(ranks[0][name], ranks[1][name]), (case, name)
            torch.testing.assert_close(ranks[0][name], expected[name], rtol=1e-5, atol=1e-5, msg=f"{case} {name}")


def test_a_batch_of_other_tests_is_refused_by_size():
    with pytest.raises(ValueError, match=r"got \(4, 3, 32, 32\)"):
        make_image_tokenizer()(make_batch()["pixel_values"])
