"""The commands of image tokenizers and text-to-image models, on small generated data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from hf_multimodal.cli.evaluate import main as evaluate
from hf_multimodal.cli.generate import main as generate
from hf_multimodal.cli.main import run
from hf_multimodal.cli.train_aligner import main as train_aligner
from hf_multimodal.cli.train_image_tokenizer import main as train_image_tokenizer
from hf_multimodal.cli.train_text_to_image import main as train_text_to_image
from hf_multimodal.training.token_cache import TokenCache

DATA = ["--data", "controlled:retrieval", "--max_train_samples", "32", "--max_eval_samples", "8"]
DATA += ["--max_predict_samples", "8", "--dataloader_num_workers", "0", "--num_train_epochs", "1"]
TOKENIZER = [*DATA, "--image_size", "16", "--hidden_size", "8", "--num_residual_blocks", "1"]
DECODER = [*DATA, "--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tokenizer"
    train_image_tokenizer([*TOKENIZER, "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def text_to_image(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "text_to_image"
    train_text_to_image([*DECODER, "--image_tokenizer", str(tokenizer), "--output_dir", str(folder)])
    return folder


def test_train_image_tokenizer_leaves_a_model_that_auto_classes_load(tokenizer):
    model = AutoModel.from_pretrained(tokenizer).eval()
    processor = AutoImageProcessor.from_pretrained(tokenizer)
    pixels = processor(Image.new("RGB", (40, 20), "red"), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 16, 16) and pixels.min() >= -1 and pixels.max() <= 1
    with torch.no_grad():
        assert torch.equal(model.decode(model.encode(pixels)), model(pixels).reconstruction)
    metrics = json.loads((tokenizer / "metrics.json").read_text())
    assert metrics["test"]["images"] == 8 and metrics["run"]["train_images"] == 32
    assert 0 < metrics["test"]["codes_in_use"] <= metrics["test"]["codes"] == 512
    card = (tokenizer / "README.md").read_text()
    assert "reconstructions.png" in card and "4 × 4 tokens of 512 codes" in card and "PSNR" in card
    assert Image.open(tokenizer / "reconstructions.png").size[0] > 100


def test_train_image_tokenizer_needs_images_alone(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    data = ["--data", str(folder), "--dataloader_num_workers", "0", "--num_train_epochs", "1"]
    sizes = ["--image_size", "16", "--hidden_size", "8", "--quantizer", "vq", "--codebook_size", "16"]
    found = train_image_tokenizer([*data, *sizes, "--output_dir", str(tmp_path / "run")])
    assert found["run"]["train_images"] == 14 and found["test"]["codes"] == 16


def test_train_text_to_image_leaves_a_model_that_draws(text_to_image):
    model = AutoModelForMultimodalLM.from_pretrained(text_to_image).eval()
    processor = AutoProcessor.from_pretrained(text_to_image)
    images = model.generate_images(processor, ["a red circle", None], num_images_per_prompt=2, seed=0)
    assert [image.size for image in images] == [(16, 16)] * 4
    metrics = json.loads((text_to_image / "metrics.json").read_text())
    assert metrics["test"]["images"] == 8
    assert metrics["test"]["uniform_nll_per_token"] == pytest.approx(np.log(512))
    card = (text_to_image / "README.md").read_text()
    assert "samples.png" in card and "AutoModelForMultimodalLM" in card and "pipeline_tag: text-to-image" in card


def test_train_text_to_image_from_cached_tokens_is_the_same_run(tmp_path, tokenizer, text_to_image):
    flags = [*DECODER, "--image_tokenizer", str(tokenizer), "--feature_cache", str(tmp_path / "tokens")]
    train_text_to_image([*flags, "--output_dir", str(tmp_path / "run")])
    one, other = (AutoModel.from_pretrained(folder).state_dict() for folder in (text_to_image, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(list((tmp_path / "tokens").glob("*.npy"))) == 1


def test_train_text_to_image_counts_texts_that_are_cut(tmp_path, tokenizer):
    flags = [*DECODER, "--image_tokenizer", str(tokenizer), "--prompt_length", "4"]
    found = train_text_to_image([*flags, "--output_dir", str(tmp_path / "run")])
    assert found["run"]["texts_cut"]["train"] == 32


@pytest.mark.parametrize("quantizer", ["fsq", "vq"])
def test_train_image_tokenizer_resumes_bit_equal(tmp_path, quantizer):
    """A run that is cut after its first epoch and resumed ends with the same weights, codebook statistics included."""
    flags = [*TOKENIZER, "--quantizer", quantizer, "--codebook_size", "16", "--num_train_epochs", "2"]
    flags += ["--per_device_train_batch_size", "8", "--early_stopping_patience", "0", "--save_total_limit", "2"]
    flags += ["--load_best_model_at_end", "False"]
    train_image_tokenizer([*flags, "--output_dir", str(tmp_path / "whole")])
    train_image_tokenizer([*flags, "--output_dir", str(tmp_path / "cut")])
    for name in ("config.json", "metrics.json", "model.safetensors", "README.md"):
        (tmp_path / "cut" / name).unlink()
    for file in (tmp_path / "cut" / "checkpoint-8").iterdir():
        file.unlink()
    train_image_tokenizer([*flags, "--output_dir", str(tmp_path / "cut"), "--resume_from_checkpoint"])
    one, other = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert quantizer == "fsq" or one["quantizer.updates"] == 8


def test_train_that_fails_after_its_last_step_ends(tmp_path):
    """Workers that live on ignore the job's end while training goes on; afterwards nobody may wait for them."""
    flags = [*TOKENIZER, "--dataloader_num_workers", "1", "--output_dir", str(tmp_path / "run")]
    program = (
        "from hf_multimodal.cli import main, train_image_tokenizer\n"
        "def fail(folder):\n    raise RuntimeError('after training')\n"
        f"train_image_tokenizer.write_card = fail\nmain.run('train-image-tokenizer', {flags!r})"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180)
    assert found.returncode == 1 and found.stderr.strip().endswith("RuntimeError: after training"), found.stderr


def test_generate_draws_the_same_for_the_same_seed(tmp_path, text_to_image):
    flags = ["--model", str(text_to_image), "--text", "a red circle", "a blue cross", "--n", "3", "--seed", "5"]
    for name in ("one", "other"):
        found = generate([*flags, "--output", str(tmp_path / f"{name}.png"), "--output_dir", str(tmp_path / name)])
        assert found["images"] == 6 and len(found["files"]) == 7
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["0-0.png", "0-1.png", "0-2.png", "1-0.png", "1-1.png", "1-2.png"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes() for name in names)


def test_generate_keeps_what_an_aligner_finds_best(tmp_path, text_to_image):
    train_aligner([*DATA, "--from_scratch", "--projection_dim", "8", "--output_dir", str(tmp_path / "aligner")])
    flags = ["--model", str(text_to_image), "--text", "a red circle", "--n", "2", "--candidates", "5"]
    flags += ["--rerank", str(tmp_path / "aligner"), "--output", str(tmp_path / "sheet.png")]
    found = generate(flags)
    assert found["images"] == 5 and len(found["cosines"][0]) == 2
    assert found["cosines"][0][0] >= found["cosines"][0][1]


def test_generate_refuses(capsys, tmp_path, tokenizer, text_to_image):
    output = ["--output", str(tmp_path / "sheet.png")]
    for flags, message in (
        (["--model", str(tokenizer), "--text", "a"], "draws no images: `hf-multimodal train-text-to-image`"),
        (["--model", str(text_to_image), "--text", "a", "--guidance_scale", "0.5"], "must be 1 or more"),
        (["--model", str(text_to_image), "--text", "a", "--n", "0"], "n must be 1 or more, got 0"),
        (["--model", str(text_to_image), "--text", "a", "--candidates", "4"], "ordered by --rerank"),
        (["--model", str(text_to_image), "--text", "red " * 80], "the text of row 0 has 82 tokens, and a prompt 13"),
        (["--model", str(text_to_image), "--text", "a", "--rerank", str(tokenizer)], "an aligner or a CLIP orders"),
    ):
        assert run("generate", [*flags, *output]) == 2
        assert message in capsys.readouterr().err, flags


def test_train_text_to_image_refuses(capsys, tmp_path, text_to_image):
    output = ["--output_dir", str(tmp_path / "run")]
    for flags, message in (
        (DECODER, "image_tokenizer is needed"),
        ([*DECODER, "--image_tokenizer", str(text_to_image)], "is a 'multimodal_text_to_image'"),
        ([*DECODER, "--image_tokenizer", str(text_to_image), "--num_attention_heads", "3"], "must divide hidden_size"),
    ):
        assert run("train-text-to-image", [*flags, *output]) == 2
        assert message in capsys.readouterr().err, flags


def test_train_dry_run_writes_nothing(tmp_path, tokenizer, capsys):
    for name, flags in (
        ("train-image-tokenizer", TOKENIZER),
        ("train-text-to-image", [*DECODER, "--image_tokenizer", str(tokenizer)]),
    ):
        assert run(name, [*flags, "--dry_run", "--output_dir", str(tmp_path / "run")]) == 0
        assert "The run would start." in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_token_cache_refuses_another_image_tokenizer(tmp_path, tokenizer):
    model, processor = AutoModel.from_pretrained(tokenizer), AutoImageProcessor.from_pretrained(tokenizer)
    image = Image.new("RGB", (16, 16), "red")
    image.save(tmp_path / "red.png")
    cells = [{"bytes": None, "path": str(tmp_path / "red.png")}, None]
    cache = TokenCache(tmp_path / "tokens", model, processor, cells)
    cache.check(model, processor)
    pixels = processor(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        assert torch.equal(cache.batch(cells[:1]), model.eval().encode(pixels))
        model.encoder.projection.weight += 1
    with pytest.raises(ValueError, match="made by another image tokenizer than the model's"):
        cache.check(model, processor)
    with pytest.raises(ValueError, match="there are no images"):
        TokenCache(tmp_path / "tokens", model, processor, [None])


def test_evaluate_measures_an_image_tokenizer_and_a_text_to_image_model(tmp_path, tokenizer, text_to_image, capsys):
    data = ["--data", "controlled:retrieval", "--max_predict_samples", "8", "--output_dir", str(tmp_path / "found")]
    found = evaluate(["--model", str(tokenizer), *data])
    run = json.loads((tokenizer / "metrics.json").read_text())
    assert found["test"] == run["test"]
    found = evaluate(["--model", str(text_to_image), *data])
    assert (
        found["test"]["nll_per_token"]
        == json.loads((text_to_image / "metrics.json").read_text())["test"]["nll_per_token"]
    )
    assert "| psnr |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="missing_curve is for classifiers, and .* is a multimodal_image_tokenizer"):
        evaluate(["--model", str(tokenizer), *data[:2], "--missing_curve"])
