"""What of a folder is shared, and what is never loaded: pickled weights, and code that nobody asked for."""

import json
import pickle
import re
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
import yaml
from conftest import PATCHES, TEXT_CONFIGS, VISION_CONFIGS
from test_fusion_model import make_model
from test_processor import make_image_processor, make_tokenizer
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel, ViTConfig, ViTModel

from hf_multimodal import FusionForImageTextClassification, MultimodalCollator, MultimodalProcessor
from hf_multimodal.cli.train_robust_fusion import main as train_robust
from hf_multimodal.cli.training_flags import parse_training
from hf_multimodal.hub import pickles, upload
from hf_multimodal.hub.eval_results import EVAL_RESULTS
from hf_multimodal.hub.files import SHARED, shared_files
from hf_multimodal.hub.tables import inline
from hf_multimodal.hub.upload import push_folder
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.training.arguments import MultimodalTrainingArguments
from hf_multimodal.training.from_scratch import vision_part
from hf_multimodal.training.lora import add_lora
from hf_multimodal.training.trainer import MultimodalTrainer


class Evil:
    """Leaves a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def make_processor() -> MultimodalProcessor:
    return MultimodalProcessor(make_image_processor(), make_tokenizer())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model with its processor."""
    make_model().save_pretrained(tmp_path / "model")
    make_processor().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# What is shared


def test_only_what_is_named_is_shared(folder: Path) -> None:
    saved = {path.name for path in folder.iterdir()}
    assert set(shared_files(folder)) == saved  # all that model and processor save
    for name in (
        "predictions.csv",
        "run.yaml",
        "metrics.json",
        "history.png",
        "training_args.bin",
        "notes.py",
        "v.model",
    ):
        (folder / name).write_text("private")
    for name in ("checkpoint-4/model.safetensors", "baselines/image_alone/config.json", "images/confusion.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("private")
    assert set(shared_files(folder)) == saved
    (folder / "README.md").write_text("![a](history.png) <img src='images/confusion.png'> ![b](https://x.org/c.png)")
    assert set(shared_files(folder)) == {*saved, "README.md", "history.png", "images/confusion.png"}
    (folder / ".eval_results").mkdir()
    for name in (EVAL_RESULTS, ".eval_results/of_others.yaml"):
        (folder / name).write_text("- dataset: {}")
    assert set(shared_files(folder)) == {*saved, "README.md", "history.png", "images/confusion.png", EVAL_RESULTS}


def test_all_chat_templates_are_shared(folder: Path) -> None:
    processor = make_processor()
    processor.tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ messages }} tools"}
    processor.save_pretrained(folder)
    (folder / "additional_chat_templates" / "notes.txt").write_text("private")
    named = {"chat_template.jinja", "additional_chat_templates/tool_use.jinja"}
    assert {name for name in shared_files(folder) if "template" in name} == named


def test_a_card_shows_images_and_nothing_else(folder: Path) -> None:
    (folder / "a b.png").write_text("an image")
    card = "![a](a%20b.png?raw=true) ![b](<a b.png>) ![c](HTTPS://x.org/c.png) `![d](lost.png)`"
    (folder / "README.md").write_text(card)
    assert {"README.md", "a b.png"} < set(shared_files(folder))
    (folder / "run.yaml").write_text("private")
    (folder / "README.md").write_text("![a](run.yaml)")
    with pytest.raises(ValueError, match=r"README.md shows 'run.yaml', which is none of \['.png'"):
        shared_files(folder)
    (folder / "README.md").write_bytes("grün".encode("latin-1"))
    with pytest.raises(ValueError, match=r"README.md must be UTF-8"):
        shared_files(folder)


def test_the_vocabulary_of_every_tokenizer_is_shared() -> None:
    sources = Path(transformers.__file__).parent.glob("models/*/tokenization_*.py")
    blocks = [
        found for path in sources for found in re.findall(r"VOCAB_FILES_NAMES *= *{(.*?)}", path.read_text(), re.S)
    ]
    names = {name for block in blocks for name in re.findall(r':\s*"([^"]+)"', block)}
    assert len(names) > 20 and "bpe.codes" in names
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in SHARED)] == []


def test_an_index_in_the_cache_is_looked_at_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"weight_map": {"a": "weights.dat"}}))
    monkeypatch.setattr(pickles, "try_to_load_from_cache", lambda *args, **kwargs: str(index))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"index.json names \['weights.dat'\], and only safetensors are read"):
        pickles.refuse_pickled_model("me/mine")


def test_all_shards_are_needed_and_none_is_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"no whole model, it lacks \['model-00002-of-00002.safetensors'\]"):
        shared_files(folder)
    index["weight_map"]["b"] = "weights.dat"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for use in (load_model, shared_files):
        with pytest.raises(ValueError, match=r"index.json names \['weights.dat'\], and only safetensors are read"):
            use(folder)


@pytest.mark.parametrize("image", ["lost.png", "../beside.png"])
def test_a_card_shows_only_images_of_its_folder(folder: Path, image: str) -> None:
    (folder.parent / "beside.png").write_text("private")
    (folder / "README.md").write_text(f"![a]({image})")
    with pytest.raises(FileNotFoundError, match=rf"README.md shows '{image}', which is not in "):
        shared_files(folder)


def test_a_folder_without_a_whole_model_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder '.*mine'"):
        push_folder(tmp_path / "mine", "me/mine")
    with pytest.raises(
        FileNotFoundError, match=r"holds no whole model, it lacks \['config.json', 'model.safetensors'"
    ):
        push_folder(tmp_path, "me/mine")
    add_lora(make_model(), 2).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"It holds a LoRA adapter alone: merge it and save the model\."):
        push_folder(tmp_path, "me/mine")


def test_where_inner_models_lie_is_not_shared(tmp_path: Path) -> None:
    ViTModel(ViTConfig(**PATCHES)).save_pretrained(tmp_path / "vit")
    make_image_processor().save_pretrained(tmp_path / "vit")
    model = FusionForImageTextClassification.from_vision_text_pretrained(str(tmp_path / "vit"), None)
    model.save_pretrained(tmp_path / "model")
    MultimodalProcessor.from_vision_text_pretrained(str(tmp_path / "vit"), None).save_pretrained(tmp_path / "model")
    saved = [path for path in (tmp_path / "model").iterdir() if str(tmp_path).encode() in path.read_bytes()]
    assert saved == [] and model.config.vision_config._name_or_path == "vit"
    assert vision_part(str(tmp_path / "vit"))[0]._name_or_path == ""


@pytest.mark.parametrize("name", ["run", "runs/run", 'a "run"'])
def test_all_that_a_card_loads_is_loaded_from_where_it_is_pushed(tmp_path: Path, name: str) -> None:
    quoted = json.dumps(name)
    loads = (
        f"model = AutoModelForImageTextToText.from_pretrained({quoted}, trust_remote_code=True).eval()",
        f"processor = AutoImageProcessor.from_pretrained({quoted})",
        f'ask = pipeline("image-text-to-text", model={quoted}, trust_remote_code=True)',
    )
    note = f"It needs torchvision and pillow. {inline(name)} is the folder of this card: give its path."
    others = 'other = AutoModel.from_pretrained("base", trust_remote_code=True)\npipeline("x", model="base")'
    text = "\n".join((*loads, note, others, f"The {quoted} of ours."))
    found = upload.card_of("me/mine", text).splitlines()
    assert found[:3] == [line.replace(quoted, '"me/mine"') for line in loads]
    assert found[3:] == ["It needs torchvision and pillow.", *others.splitlines(), f"The {quoted} of ours."]
    assert upload.card_of("me/mine", others + note) == others + note


class RecordingApi:
    """A Hub that holds some files and keeps what a commit would do."""

    def __init__(self, token: str | None = None) -> None:
        self.there = ["config.json", "model-00001-of-00002.safetensors", ".eval_results/of_others.yaml", EVAL_RESULTS]

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        return SimpleNamespace(repo_id=repo_id)

    def list_repo_files(self, repo_id: str, **options: Any) -> list[str]:
        return self.there

    def create_commit(self, repo_id: str, operations: list[Any], **options: Any) -> dict[str, str]:
        return {operation.path_in_repo: type(operation).__name__ for operation in operations}


def test_earlier_eval_results_are_replaced_or_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "HfApi", RecordingApi)
    made = push_folder(folder, "me/mine")
    gone = {name for name, operation in made.items() if operation == "CommitOperationDelete"}
    assert gone == {"model-00001-of-00002.safetensors", EVAL_RESULTS}  # that of others stays
    (folder / ".eval_results").mkdir()
    (folder / EVAL_RESULTS).write_text("- dataset: {}")
    assert push_folder(folder, "me/mine")[EVAL_RESULTS] == "CommitOperationAdd"


# Pickles


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pkl", "last.PT", "adapter_model.bin"])
def test_pickled_weights_are_neither_loaded_nor_pushed(folder: Path, name: str) -> None:
    mark = folder.parent / "ran"
    (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    for use in (load_model, lambda where: push_folder(where, "me/mine")):
        with pytest.raises(ValueError, match=rf"holds pickled weights, which can run code .*: \['{name}'\]"):
            use(folder)
    assert not mark.exists()


def test_what_a_trainer_leaves_beside_the_weights_is_no_pickled_model(folder: Path) -> None:
    for name in ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state_0.pth"):
        (folder / name).write_bytes(b"never read")
    assert type(load_model(folder)[0]) is FusionForImageTextClassification


def test_from_pretrained_reads_safetensors_alone(folder: Path) -> None:
    state = AutoModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    for family in (AutoModel, FusionForImageTextClassification):
        with pytest.raises(OSError, match=r"no file named model.safetensors found"):
            family.from_pretrained(folder)
    asked = FusionForImageTextClassification.from_pretrained(folder, use_safetensors=False)
    assert torch.equal(asked.classifier.weight, state["classifier.weight"])


def test_models_of_others_are_read_from_their_safetensors(tmp_path: Path) -> None:
    text = TEXT_CONFIGS["clip_text_model"]().to_dict()
    vision = VISION_CONFIGS["clip_vision_model"]().to_dict()
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    clip.save_pretrained(tmp_path)
    make_processor().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    assert type(load_model(tmp_path)[0]) is CLIPModel
    inner = FusionForImageTextClassification.from_vision_text_pretrained(str(tmp_path), None)
    assert inner.config.vision_config.model_type == "clip_vision_model"
    (tmp_path / "model.safetensors").unlink()
    for load in (load_model, FusionForImageTextClassification.from_vision_text_pretrained):
        with pytest.raises(OSError, match=r"no file named model.safetensors found"):
            load(str(tmp_path))
    assert not (tmp_path / "ran").exists()


# Code


def plant(folder: Path, file: str, entry: dict[str, Any], mark: Path) -> None:
    """Let a configuration name code that leaves a file when it is imported."""
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    content.update(entry)
    (folder / file).write_text(json.dumps(content))


def test_a_pretrained_model_brings_no_code(tmp_path: Path) -> None:
    vit = tmp_path / "vit"
    ViTModel(ViTConfig(**PATCHES)).save_pretrained(vit)
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoImageProcessor": "evil.Processor"}
    plant(vit, "config.json", {"auto_map": auto_map, "model_type": "evil"}, tmp_path / "ran")
    plant(vit, "preprocessor_config.json", {"auto_map": auto_map, "image_processor_type": "Evil"}, tmp_path / "ran")
    plant(vit, "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}, tmp_path / "ran")
    for load, arguments in (
        (FusionForImageTextClassification.from_vision_text_pretrained, (str(vit), None)),
        (MultimodalProcessor.from_vision_text_pretrained, (str(vit), None)),
        (MultimodalProcessor.from_vision_text_pretrained, (None, str(vit))),
        (load_model, (vit,)),
    ):
        with pytest.raises(ValueError, match=r"contains custom code which must be executed"):
            load(*arguments)
    assert not (tmp_path / "ran").exists()


def test_a_model_of_ours_brings_no_code_from_within(folder: Path) -> None:
    mark = folder.parent / "ran"
    auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoProcessor": "evil.Processor"}
    config = json.loads((folder / "config.json").read_text())
    inner = {name: {**config[name], "auto_map": auto_map} for name in ("vision_config", "text_config")}
    plant(folder, "config.json", {"auto_map": auto_map, **inner}, mark)
    plant(folder, "processor_config.json", {"auto_map": auto_map}, mark)
    tokenizer_map = {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
    plant(folder, "tokenizer_config.json", {"auto_map": tokenizer_map}, mark)
    model, processor = load_model(folder)
    assert type(model) is FusionForImageTextClassification and type(processor) is MultimodalProcessor
    assert type(AutoModel.from_pretrained(folder)) is FusionForImageTextClassification
    assert type(AutoProcessor.from_pretrained(folder)) is MultimodalProcessor
    assert not mark.exists()


def test_a_strange_tokenizer_is_refused_and_nobody_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = folder.parent / "ran"
    names = {number: f"class_{number}" for number in range(4)}
    make_model(num_labels=4, id2label=names).save_pretrained(folder)
    strange = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}, "tokenizer_class": "Evil"}
    plant(folder, "tokenizer_config.json", strange, mark)
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    flags = ["--data", "controlled:unique", "--from_fusion", str(folder), "--output_dir", str(folder.parent / "run")]
    for load in (lambda: MultimodalProcessor.from_pretrained(folder), lambda: train_robust(flags)):
        with pytest.raises(ValueError, match=r"contains custom code which must be executed"):
            load()
    assert not mark.exists()


def test_a_revision_of_a_folder_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"revision 'v1' is for models on the Hub, and '.*model' is a folder"):
        load_model(folder, "v1")


# Trainer and scripts


def make_trainer(output_dir: Path, model: Any = None, **arguments: Any) -> MultimodalTrainer:
    args = MultimodalTrainingArguments(str(output_dir), use_cpu=True, report_to="none", **arguments)
    collator = MultimodalCollator(make_processor())
    return MultimodalTrainer(model or make_model(), args, data_collator=collator)


def test_a_card_that_stands_is_kept_and_a_draft_is_renewed(tmp_path: Path) -> None:
    trainer, card = make_trainer(tmp_path), tmp_path / "README.md"
    trainer.create_model_card(model_name="first")
    assert "# first" in card.read_text()
    trainer.create_model_card(model_name="second")
    assert "# second" in card.read_text()
    card.write_text("our own")
    trainer.create_model_card(model_name="third")
    assert card.read_text() == "our own"


def test_a_token_is_not_pickled_with_the_arguments(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, hub_token="hf_marker")
    trainer.save_model()
    assert (tmp_path / "training_args.bin").is_file() and trainer.args.hub_token == "hf_marker"
    assert [path for path in tmp_path.iterdir() if b"hf_marker" in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("lora", "strategy", "allowed"), [(0, "checkpoint", "'end', 'every_save'"), (2, "every_save", "'end'")]
)
def test_whole_checkpoints_are_not_pushed(tmp_path: Path, lora: int, strategy: str, allowed: str) -> None:
    model = add_lora(make_model(), lora) if lora else make_model()
    with pytest.raises(ValueError, match=rf"hub_strategy must be one of \[{allowed}\], got '{strategy}': checkpoints"):
        make_trainer(tmp_path, model, push_to_hub=True, hub_strategy=strategy)


def test_a_run_file_repeats_no_token() -> None:
    flags = ["--data", "t.csv", "--from_scratch", "--push_to_hub", "--hub_token", "hf_marker"]
    parsed = parse_training("train-fusion", flags)
    training_args, given = parsed.training, parsed.given
    assert training_args.hub_token == "hf_marker" and training_args.hub_strategy == "end"
    assert given["push_to_hub"] is True and "hf_marker" not in yaml.safe_dump(given)
    assert "hf_marker" not in repr(training_args) and "hf_marker" not in training_args.to_json_string()
