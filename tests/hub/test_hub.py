"""A push and a pull of every family over HTTP, with and without the package.

The server is a double (`hub_double.py`), because no self-hosted Hub installs as a Python package; what huggingface_hub
itself tests is not tested again. Author and stranger are processes of their own: huggingface_hub reads its endpoint
when it is imported, and a stranger has a cache of his own.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hub_double import HubDouble, hub_double
from test_without_package import ask_stranger
from transformers import AutoModel, AutoProcessor

from hf_multimodal import AlignerModel, FusionForImageTextClassification, RobustFusionForImageTextClassification

TOKEN, OTHER_TOKEN, WRONG_TOKEN = "hf_marker_environment", "hf_marker_argument", "hf_marker_wrong"
FAMILIES = {
    "fusion": FusionForImageTextClassification,
    "robust": RobustFusionForImageTextClassification,
    "aligner": AlignerModel,
}
CODE = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "processing_multimodal.py"}
CLEAN = ("transformers", "accelerate", "torch", "torchvision", "pillow")


class Pushed(NamedTuple):
    hub: HubDouble
    folder: Path
    answers: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    """All that the author does, once."""
    folder = tmp_path_factory.mktemp("author")
    with hub_double({TOKEN: "me", OTHER_TOKEN: "me", WRONG_TOKEN: "other"}) as hub:
        environment = {**os.environ, **hub.environment(folder / "home", TOKEN), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # the author builds with helpers of tests
        run = subprocess.run(
            [sys.executable, str(Path(__file__).parents[1].joinpath("author.py")), str(folder)],
            env={**environment, "TOKEN": OTHER_TOKEN, "WRONG_TOKEN": WRONG_TOKEN},
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr[-5000:]
        yield Pushed(hub, folder, json.loads((folder / "answers.json").read_text()), run.stdout + run.stderr)


def files_of(hub: HubDouble, name: str, revision: str = "main") -> dict[str, bytes]:
    repository = hub.repositories[f"me/{name}"]
    sha = repository.resolve(revision)
    assert sha is not None
    return repository.commits[sha]


def test_each_way_of_pushing_shares_what_loads_elsewhere(pushed: Pushed) -> None:
    for name, family in FAMILIES.items():
        answer = pushed.answers[name]
        assert answer["model"] == family.__name__ and answer["config"] == family.config_class.__name__
        assert set(files_of(pushed.hub, name, answer["revision"])) >= CODE
    run = {path.name for path in (pushed.folder / "aligner").iterdir()}
    private = {"run.yaml", "metrics.json", "bad_samples.csv"}
    assert private < run and not any(path.startswith("checkpoint") for path in files_of(pushed.hub, "aligner"))
    assert not {*private, "training_args.bin"} & set(files_of(pushed.hub, "aligner"))
    public, private_ones = files_of(pushed.hub, "aligner"), files_of(pushed.hub, "private")
    assert private_ones == {**public, "README.md": public["README.md"].replace(b'"me/aligner"', b'"me/private"')}
    assert b"generated_from_trainer" in files_of(pushed.hub, "robust")["README.md"]


def test_our_trainer_keeps_the_card_and_pushes_no_state(pushed: Pushed) -> None:
    own = pushed.hub.repositories["me/own"]
    assert len(own.branches["main"]) == 4 and len(own.branches["draft"]) == 5  # two checkpoints and the end; a draft
    named = {name for listing in own.commits.values() for name in listing}
    assert named >= {*CODE, "README.md", "curve.png"}
    assert not [name for name in named if name.endswith((".bin", ".pt", ".pth")) or "trainer" in name]
    card = (pushed.folder / "own" / "README.md").read_text()
    shared = files_of(pushed.hub, "own")["README.md"].decode()
    assert '"runs/own"' in card and shared == card.replace('"runs/own"', '"me/own"')
    assert pushed.answers["own"] is True
    assert pushed.answers["page"] == [1, 3] and pushed.hub.repositories["me/mine"].private


def test_an_older_revision_keeps_the_older_weights(pushed: Pushed) -> None:
    assert pushed.answers["newer"] == {"main": True, "moved": [1.0]}


def test_shards_replace_a_whole_file(pushed: Pushed) -> None:
    files = files_of(pushed.hub, "shards")
    assert "model.safetensors" not in files and "model.safetensors.index.json" in files
    assert sum(name.endswith(".safetensors") for name in files) > 1 and pushed.answers["shards"] == [2.0]


def test_wrong_tokens_and_pickles_are_refused(pushed: Pushed) -> None:
    said = pushed.answers["refusals"]
    assert said["pull"].startswith("OSError: me/private is not a local folder and is not a valid model identifier")
    assert "If this is a private repository, make sure to pass a token having permission to this repo" in said["pull"]
    assert said["push"].startswith("PermissionError: me/private cannot be written with the token that was used")
    assert said["private"].startswith("ValueError: me/aligner is there and public, and a private one is asked for")
    assert said["create"].startswith("PermissionError: me/new cannot be") and "me/new" not in pushed.hub.repositories
    assert pushed.hub.repositories["me/private"].private and said["with the right token"] == "AlignerModel"
    assert (
        said["load"].startswith("ValueError: me/fusion holds pickled weights") and "pytorch_model.bin" in said["load"]
    )
    assert said["push beside"] == said["load"]
    assert said["before the pickle"] == "FusionForImageTextClassification"


def test_tokens_reach_no_file_no_log_and_no_message(pushed: Pushed) -> None:
    marker = b"hf_marker"
    assert marker.decode() not in pushed.said
    kept = [path for path in pushed.folder.rglob("*") if path.is_file()]
    assert any(path.name == "run.yaml" for path in kept) and any(path.name == "training_args.bin" for path in kept)
    assert [path for path in kept if marker in path.read_bytes()] == []
    for repository in pushed.hub.repositories.values():
        for files in repository.commits.values():
            assert [name for name, content in files.items() if marker in content] == []


def pull_as_stranger(pushed: Pushed, folder: Path, python: str) -> None:
    """Every family, by a person with nothing but a name, a revision and an own cache."""
    jobs = [
        {
            **{key: pushed.answers[name][key] for key in ("revision", "auto_class", "output")},
            "source": f"me/{name}",
            "batch": pushed.folder / f"{name}.batch.pt",
            "logits": folder / f"{name}.pt",
            "again": folder / f"{name}.again",
            "trained": str(folder / f"{name}.trained"),
        }
        for name in FAMILIES
    ]
    said = ask_stranger(jobs, folder, python, **pushed.hub.environment(folder / "home"))
    for name, answer in zip(FAMILIES, said, strict=True):
        expected = torch.load(pushed.folder / f"{name}.expected.pt")
        assert all(torch.equal(logits, expected) for logits in torch.load(folder / f"{name}.pt"))
        assert answer["config"] == pushed.answers[name]["config"] and answer["mask"] == [[1, 1], [0, 0]]
        assert answer["ids"] == pushed.answers[name]["ids"]
        assert answer["loss"] > 0 and answer["moved"] > 10


def test_a_stranger_pulls_predicts_and_fine_tunes(pushed: Pushed, tmp_path: Path) -> None:
    pull_as_stranger(pushed, tmp_path, sys.executable)


def test_a_stranger_pulls_and_draws(pushed: Pushed, tmp_path: Path) -> None:
    """Tokens, images and all weights are those of the author's folders, bit for bit."""
    tasks = {"image_tokenizer": "reconstruct", "text_to_image": "generate"}
    jobs = [
        {
            "task": task,
            "source": f"me/{name}",
            "results": tmp_path / f"{name}.pt",
            "again": tmp_path / f"{name}.again",
        }
        for name, task in tasks.items()
    ]
    said = ask_stranger(jobs, tmp_path, **pushed.hub.environment(tmp_path / "home"))
    assert "holds no processor" not in pushed.said
    assert [answer["module"] for answer in said] == ["transformers_modules"] * 2 and said[1]["same"] == [True] * 3
    authors = {name: AutoModel.from_pretrained(pushed.folder / name).eval() for name in tasks}
    for name, model in authors.items():
        files = files_of(pushed.hub, name, pushed.answers["generators"][name])
        assert b"pipeline_tag" in files["README.md"] and not [path for path in files if path.endswith((".bin", ".pt"))]
        pulled = AutoModel.from_pretrained(tmp_path / f"{name}.again").state_dict()
        assert all(torch.equal(value, pulled[key]) for key, value in model.state_dict().items())
    pixels, ids, _ = torch.load(tmp_path / "image_tokenizer.pt", weights_only=False)
    assert torch.equal(authors["image_tokenizer"].encode(torch.as_tensor(pixels[0])[None]), ids)
    prompts, found, _ = torch.load(tmp_path / "text_to_image.pt")
    assert torch.equal(authors["text_to_image"].generate(prompts, guidance_scale=2.0), found[0])


def test_a_stranger_pulls_and_is_answered(pushed: Pushed, tmp_path: Path) -> None:
    """The repository has all that answers need, and the answers and weights are those of the author's folder."""
    environment = {**os.environ, **pushed.hub.environment(tmp_path / "author", TOKEN), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    author, folder = Path(__file__).with_name("author_of_answers.py"), tmp_path / "run"
    command = [sys.executable, str(author), str(folder), "me/vision_language"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-5000:]
    files = files_of(pushed.hub, "vision_language", run.stdout.split()[-1])
    assert set(files) == {
        *("README.md", "answers.png", "config.json", "generation_config.json", "model.safetensors"),
        *("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("configuration_vision_text.py", "configuration_vision_language.py", "modeling_vision_language.py"),
        *("checked_model.py", "inner_models.py", "processing_vision_language.py"),
    }
    card = files["README.md"].decode()
    assert card.count('"me/vision_language"') == 3 and "folder of this card" not in card
    job = {"task": "answer", "source": "me/vision_language"}
    job |= {"results": tmp_path / "results.pt", "again": tmp_path / "again"}
    (said,) = ask_stranger([job], tmp_path, **pushed.hub.environment(tmp_path / "home"))
    assert said["module"] == "transformers_modules"
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    pulled = AutoModel.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(value, pulled[key]) for key, value in model.state_dict().items())
    inputs, found = torch.load(tmp_path / "results.pt", weights_only=False)
    expected = model.generate(**inputs, max_new_tokens=6)
    assert all(torch.equal(sequences, expected) for sequences in found)
    written = expected[0, inputs["input_ids"].shape[1] :]
    assert said["pipeline"].strip() == processor.decode(written, skip_special_tokens=True)
    assert model.config.image_token_id not in written


@pytest.mark.slow
def test_a_stranger_has_a_clean_environment(pushed: Pushed, tmp_path: Path) -> None:
    """Only what a model needs is installed, in the versions of this environment."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        pytest.skip("uv is not installed: no clean environment without it; an import hook stands in above")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "clean")], check=True)
    python = str(tmp_path / "clean" / "bin" / "python")
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in CLEAN]
    install = subprocess.run([uv, "pip", "install", "--python", python, *wanted], capture_output=True, text=True)
    if install.returncode:
        pytest.skip(f"the packages could not be had, as without a network: {install.stderr[-300:]}")
    pull_as_stranger(pushed, tmp_path, python)
