"""A person who has never heard of this package loads what was trained with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_batch
from test_fusion_model import make_model
from test_image_tokenizer import make_image_tokenizer
from test_processor import make_image_processor, make_tokenizer, pil_image
from test_text_to_image import make_text_to_image
from test_text_to_image_processor import make_text_to_image_processor
from test_vision_language import make_with_processor as make_vision_language_with_processor
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor

from hf_multimodal import (
    AlignerModel,
    FusionForImageTextClassification,
    MultimodalProcessor,
    RobustFusionForImageTextClassification,
)

STRANGER = Path(__file__).parents[1].joinpath("stranger.py")


def ask_stranger(jobs: list[dict[str, Any]], folder: Path, python: str = sys.executable, **environment: str) -> Any:
    """What a person without the package says of each job."""
    (folder / "jobs.json").write_text(json.dumps(jobs, default=str))
    run = subprocess.run(
        [python, str(STRANGER), str(folder / "jobs.json")],
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            "HF_HOME": str(folder / "home"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": "",
            **environment,
        },
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


CASES = {
    "fused": ("vit", "bert", FusionForImageTextClassification, {"fusion": "concat"}),
    "own inner models": (
        "torchvision:resnet18",
        "recurrent_text:gru",
        FusionForImageTextClassification,
        {"fusion": "cross_attention"},
    ),
    "robust": ("vit", "bert", RobustFusionForImageTextClassification, {"fusion": "concat"}),
    "aligner": ("vit", "bert", AlignerModel, {"loss": "sigmoid", "projection": "mlp"}),
}


def output_of(model: Any) -> str:
    return "logits" if model.auto_classes[1] == "AutoModelForSequenceClassification" else "logits_per_image"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A folder with each case's own, the models that were saved there, and what a stranger says of each."""
    folder, models, jobs = tmp_path_factory.mktemp("stranger"), {}, []
    torch.save(make_batch(), folder / "batch.pt")
    for name, (vision, text, family, fields) in CASES.items():
        model = models[name] = make_model(vision, text, family, **fields).eval()
        own = folder / name.replace(" ", "_")
        model.save_pretrained(own / "model")
        MultimodalProcessor(make_image_processor(), make_tokenizer()).save_pretrained(own / "model")
        job = {"source": own / "model", "auto_class": model.auto_classes[1], "output": output_of(model)}
        jobs.append({**job, "batch": folder / "batch.pt", "logits": own / "logits.pt", "again": own / "again"})
    return folder, models, dict(zip(CASES, ask_stranger(jobs, folder), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_saved_folder_loads_without_the_package(name, told):
    folder, models, answers = told
    own, model, said = folder / name.replace(" ", "_"), models[name], answers[name]
    assert said["config"] == type(model.config).__name__ and said["mask"] == [[1, 1], [0, 0]]
    here = MultimodalProcessor.from_pretrained(own / "model")(images=[pil_image(), None], text=["a red dog", None])
    assert said["ids"] == here["input_ids"]
    for source in (own / "model", own / "again"):  # what the stranger saved is as good as what was sent
        loaded = AutoModel.from_pretrained(source, trust_remote_code=False)
        with torch.no_grad():
            expected = loaded(**make_batch())[output_of(model)]
        for logits in torch.load(own / "logits.pt"):
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
        travelled = {
            name for name, tensor in model.state_dict().items() if torch.equal(tensor, loaded.state_dict()[name])
        }
        assert travelled == set(model.state_dict())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The same for what makes images, and for what answers."""
    folder, models, jobs = tmp_path_factory.mktemp("maker"), {}, []
    for quantizer in ("fsq", "vq"):
        models[f"{quantizer} tokenizer"] = make_image_tokenizer(quantizer)
    for decoder, quantizer in (("gpt2", "fsq"), ("llama", "vq")):
        models[f"{decoder} generator"] = make_text_to_image(decoder, quantizer)
    processors = {name: make_text_to_image_processor(12) for name in models if "generator" in name}
    for vision in ("vit", "torchvision:resnet18"):
        name = f"{vision} conversation"
        models[name], processors[name] = make_vision_language_with_processor(vision)
    for name, model in models.items():
        own = folder / name.replace(" ", "_")
        model.save_pretrained(own / "model")
        processor = processors.get(name, make_text_to_image_processor(16).image_processor)
        processor.save_pretrained(own / "model")
        task = {"tokenizer": "reconstruct", "generator": "generate", "conversation": "answer"}[name.split()[-1]]
        jobs.append({"task": task, "source": own / "model", "results": own / "results.pt", "again": own / "again"})
    return folder, models, dict(zip(models, ask_stranger(jobs, folder), strict=True))


@pytest.mark.parametrize("name", ["fsq tokenizer", "vq tokenizer"])
def test_an_image_tokenizer_loads_without_the_package(name, made):
    folder, models, answers = made
    own, model = folder / name.replace(" ", "_"), models[name]
    assert answers[name] == {"config": "ImageTokenizerConfig", "module": "transformers_modules"}
    pixels, ids, images = torch.load(own / "results.pt", weights_only=False)
    for source in (own / "model", own / "again"):
        loaded = AutoModel.from_pretrained(source, trust_remote_code=False)
        assert type(loaded) is type(model)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
        assert torch.equal(loaded.encode(torch.as_tensor(pixels[0])[None]), ids)
        with torch.no_grad():
            torch.testing.assert_close(loaded.decode(ids), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2 generator", "llama generator"])
def test_a_text_to_image_model_loads_without_the_package(name, made):
    folder, models, answers = made
    own, model, said = folder / name.replace(" ", "_"), models[name], answers[name]
    assert said == {
        "config": "TextToImageConfig",
        "module": "transformers_modules",
        "processor": "TextToImageProcessor",
        "same": [True] * 3,
    }
    prompts, found, images = torch.load(own / "results.pt")
    here = AutoProcessor.from_pretrained(own / "model", trust_remote_code=False)
    assert here(text=["a red dog", None, "cat"])["input_ids"] == prompts.tolist()
    for source in (own / "model", own / "again"):
        loaded = AutoModelForMultimodalLM.from_pretrained(source, trust_remote_code=False)
        assert type(loaded) is type(model)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
        for sequences in found:
            assert torch.equal(loaded.generate(prompts, guidance_scale=2.0), sequences)
        torch.testing.assert_close(loaded.decode_image_tokens(found[0]), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["vit conversation", "torchvision:resnet18 conversation"])
def test_a_vision_language_model_answers_without_the_package(name, made):
    """By both classes, by the pipeline, and saved again: the words and weights that it has here."""
    folder, models, answers = made
    own, model, said = folder / name.replace(" ", "_"), models[name], answers[name]
    assert said["config"] == "VisionLanguageConfig" and said["module"] == "transformers_modules"
    inputs, found = torch.load(own / "results.pt", weights_only=False)
    for source in (own / "model", own / "again"):
        loaded = AutoModel.from_pretrained(source, trust_remote_code=False)
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
        for sequences in found:
            assert torch.equal(loaded.generate(**inputs, max_new_tokens=6), sequences)
    here = AutoProcessor.from_pretrained(own / "model", trust_remote_code=False)
    answer = here.decode(found[0][0][inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said["pipeline"].strip() == answer


def test_importing_the_package_leaves_out_what_only_retrieval_needs():
    heavy = "{'datasets', 'sklearn'} & set(sys.modules)"
    code = f"import sys, hf_multimodal as h; assert not {heavy}; h.Retriever, h.ZeroShotClassifier; assert {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
