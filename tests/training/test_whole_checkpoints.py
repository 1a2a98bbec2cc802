"""A finished run that lacks weights, holds others, or holds NaN is refused by whoever loads it, and named."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_fusion_model import make_model
from test_saved_before import unpack
from test_scripts import evaluate, make_rows, predict, script, train_robust, write_table
from transformers import AutoModel, AutoModelForSequenceClassification, CLIPConfig, CLIPModel

from hf_multimodal import (
    AlignerModel,
    FusionForImageTextClassification,
    ImageTextClassificationPipeline,
    RobustFusionForImageTextClassification,
    ZeroShotClassifier,
)
from hf_multimodal.cli.push import PushArguments, push
from hf_multimodal.inference.missing_curve import predictions_by_presence
from hf_multimodal.inference.prediction import load_model, one_example, predict_dataset

FAMILIES = [FusionForImageTextClassification, RobustFusionForImageTextClassification, AlignerModel]


def drop(weights: dict[str, torch.Tensor]) -> None:
    del weights["text_projection.1.bias"]


def add(weights: dict[str, torch.Tensor]) -> None:
    weights["classifier.scale"] = torch.ones(2)


def poison(weights: dict[str, torch.Tensor]) -> None:
    weights["text_projection.1.bias"][0] = torch.nan


def overflow(weights: dict[str, torch.Tensor]) -> None:
    weights["text_projection.1.bias"][0] = torch.inf


DAMAGES = {
    drop: r"missing \['text_projection.1.bias'\], unexpected \[\] \(1 and 0 in all\)",
    add: r"missing \[\], unexpected \['classifier.scale'\] \(0 and 1 in all\)",
    poison: r"NaN or infinite: \['text_projection.1.bias'\] \(1 tensors in all\)",
    overflow: r"NaN or infinite: \['text_projection.1.bias'\]",
}
# Loads of a fused run's folder; the commands stand below.
DOORS: dict[str, Callable[[Path], Any]] = {
    "load_model": load_model,
    "AutoModel": AutoModel.from_pretrained,
    "AutoModelForSequenceClassification": AutoModelForSequenceClassification.from_pretrained,
    "its class": FusionForImageTextClassification.from_pretrained,
    "told of the loading": lambda folder: AutoModel.from_pretrained(folder, output_loading_info=True),
    "a robust start": RobustFusionForImageTextClassification.from_fusion,
    "an aligner's start": AlignerModel.from_fusion,
    "its parts": lambda folder: AlignerModel.from_vision_text_pretrained(str(folder), str(folder), projection_dim=8),
    "push": lambda folder: push(PushArguments(model=str(folder), repo_id="me/mine")),
}


def damaged(damage: Callable[[dict[str, torch.Tensor]], None], folder: Path) -> Path:
    file = folder / "model.safetensors"
    weights = load_file(file)
    damage(weights)
    save_file(weights, file, {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fused run as an earlier version left it."""
    folder = unpack("fused", tmp_path_factory.mktemp("saved"))
    (folder / "README.md").unlink()  # it shows images that are not kept
    return folder


def broken(damage: Callable[[dict[str, torch.Tensor]], None], fused: Path, tmp_path: Path) -> Path:
    return damaged(damage, Path(shutil.copytree(fused, tmp_path / "run")))


@pytest.mark.keys_do_not_fit
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("door", DOORS)
def test_every_load_refuses_what_does_not_fit(door: str, damage: Callable, fused: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=DAMAGES[damage]):
        DOORS[door](broken(damage, fused, tmp_path))


@pytest.mark.keys_do_not_fit
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_command_refuses_what_does_not_fit(damage: Callable, fused: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", make_rows(tmp_path, 16))
    model, data = str(broken(damage, fused, tmp_path)), ["--data", str(table), "--on_bad_sample", "missing"]
    whole = str(fused)
    for command in (
        lambda: predict(["--model", model, "--text", "a blue thing"]),
        lambda: predict(["--model", model, *data, "--output", str(tmp_path / "out.csv")]),
        lambda: evaluate(["--model", model, *data]),
        lambda: evaluate(["--model", whole, *data, "--missing_curve", "--curve_models", model]),
        lambda: train_robust(["--from_fusion", model, *data, "--use_cpu", "--output_dir", str(tmp_path / "robust")]),
        lambda: script("push_to_hub")(["--model", model, "--repo_id", "me/mine"]),
    ):
        with pytest.raises(ValueError, match=DAMAGES[damage]):
            command()
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "robust" / "config.json").exists()


@pytest.mark.keys_do_not_fit
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_names_a_lost_weight(family: Any, tmp_path: Path) -> None:
    make_model(family=family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"no whole {family.__name__}: .*missing \['text_projection.1.bias'\]"):
        AutoModel.from_pretrained(damaged(drop, tmp_path))


@pytest.mark.keys_do_not_fit
def test_what_another_configuration_brings_is_new_and_the_rest_must_be_there(tmp_path: Path) -> None:
    make_model(family=AlignerModel).save_pretrained(tmp_path)
    assert AlignerModel.from_pretrained(tmp_path, loss="sigmoid").logit_bias == -10
    assert type(FusionForImageTextClassification.from_aligner(tmp_path)) is FusionForImageTextClassification
    damaged(drop, tmp_path)
    for load in (
        lambda: AlignerModel.from_pretrained(tmp_path, loss="sigmoid"),
        lambda: FusionForImageTextClassification.from_aligner(tmp_path),
    ):
        with pytest.raises(ValueError, match=r"no whole AlignerModel: .*missing \['text_projection.1.bias'\]"):
            load()


@pytest.mark.keys_do_not_fit
def test_a_class_of_ones_own_starts_from_ours(tmp_path: Path) -> None:
    class WithAux(FusionForImageTextClassification):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.aux = torch.nn.Linear(2, 2)
            self.post_init()

    make_model().save_pretrained(tmp_path / "ours")
    own = WithAux.from_pretrained(tmp_path / "ours")  # its new part is no fault of the checkpoint
    own.config.auto_map = None
    torch.save(own.state_dict(), tmp_path / "state.pt")
    assert own.aux.weight.isfinite().all()
    with pytest.raises(ValueError, match=r"missing \['text_projection.1.bias'\]"):
        WithAux.from_pretrained(damaged(drop, tmp_path / "ours"))


def test_a_file_cut_short_is_named(fused: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fused, tmp_path / "run"))
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"run: the weights cannot be read, the file is cut short or damaged"):
        load_model(folder)


@pytest.mark.keys_do_not_fit
def test_weights_of_others_must_be_there_too(tmp_path: Path) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    vision, text = {**small, "image_size": 8, "patch_size": 4}, {**small, "vocab_size": 9}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)).save_pretrained(tmp_path)

    def damage(weights: dict[str, torch.Tensor]) -> None:
        del weights["visual_projection.weight"]

    with pytest.raises(ValueError, match="no whole CLIPModel: it lacks 1 weights, such as visual_projection.weight"):
        load_model(damaged(damage, tmp_path))


def test_logits_that_are_not_finite_are_refused_with_the_row(fused: Path) -> None:
    model, processor = load_model(fused)
    model = copy.deepcopy(model)
    rows = one_example(None, "a blue thing").select([0, 0]).remove_columns("id").add_column("id", ["whole", "lost"])

    class OneIsLost(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(hidden), 2)
            logits[1:, 0] = torch.inf
            return logits

    model.classifier = OneIsLost()
    for act in (predict_dataset, predictions_by_presence):
        with pytest.raises(ValueError, match=r"row 1 \(id 'lost'\): logits must be finite, got \[inf, 0.0\]; 1 of 2"):
            act(model, processor, rows)
    classify = ImageTextClassificationPipeline(model, processor, device="cpu")
    assert classify(text="a blue thing")["score"] == 0.5
    with pytest.raises(ValueError, match=r"logits must be finite, got \[inf, 0.0\] for an example"):
        classify([{"text": "a"}, {"text": "b"}], batch_size=2)


def test_zero_shot_refuses_logits_that_are_not_finite(fused: Path, tmp_path: Path) -> None:
    model, processor = load_model(unpack("aligner", tmp_path))
    classifier = ZeroShotClassifier(model, processor, ["blue", "red"], "a {} thing")
    with torch.no_grad():
        model.logit_scale.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"row 0 \(id 'x'\): logits must be finite, got \[nan, nan\]"):
        classifier.predict([None], ids=["x"])
