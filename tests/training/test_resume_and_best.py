"""Every vision and text model type in every family, under the plain `Trainer`: what is restored is what was saved.

transformers saves some models under the parameter names of the past and then restores them with nothing but a warning;
here that warning is an error (`conftest.py`).
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS, KeyWarnings, make_batch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, default_data_collator

from hf_multimodal import AlignerModel, FusionForImageTextClassification, RobustFusionForImageTextClassification

FAMILIES = {
    "fusion": (FusionForImageTextClassification, {"fusion": "cross_attention", "num_labels": 3}),
    "robust": (RobustFusionForImageTextClassification, {"num_labels": 3}),
    "aligner": (AlignerModel, {"loss": "sigmoid"}),
}
PAIRS = [("vit", "bert"), *((name, "bert") for name in VISION_CONFIGS), *(("vit", name) for name in TEXT_CONFIGS)]
# Often: the first family over all but two large models. Of the other two, whose inner models are built and saved by
# the same code: names of the past, BatchNorm, two names for one weight, a decoder, ours. `make test-slow` runs the
# rest.
LARGE = {("torchvision:vgg16", "bert"), ("torchvision:resnet50", "bert")}
OFTEN = {("vit", "bert"), ("swin", "bert"), ("dinov2", "bert"), ("resnet", "bert"), ("torchvision:resnet18", "bert")}
OFTEN |= {("vit", "t5"), ("vit", "gpt2"), ("vit", "recurrent_text:gru")}
OFTEN |= {("fusion", *pair) for pair in PAIRS if pair not in LARGE}
CASES = [
    pytest.param(family, *pair, marks=() if {pair, (family, *pair)} & OFTEN else pytest.mark.slow)
    for family in FAMILIES
    for pair in dict.fromkeys(PAIRS)
]
BEST, LAST = 2, 3
SCORES = {1: 0.1, BEST: 0.9, LAST: 0.3}

State = dict[str, torch.Tensor]


def state_of(model: PreTrainedModel) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


class Recorder(TrainerCallback):
    """Keep the weights of each step, and say which step was the best."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.states[state.global_step] = state_of(model)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        metrics["eval_score"] = SCORES[state.global_step]


def make_trainer(family: str, vision: str, text: str, folder: Path, seed: int) -> tuple[Trainer, Recorder]:
    model_class, fields = FAMILIES[family]
    torch.manual_seed(seed)
    config = model_class.config_class(
        vision_config=VISION_CONFIGS[vision](), text_config=TEXT_CONFIGS[text](), hidden_size=16, **fields
    )
    batch = make_batch(rows=4)
    batch["labels"] = torch.tensor([0, 1, 2, 0])
    pairs = {"return_loss": True} if family == "aligner" else {}
    if pairs:
        del batch["labels"]
    rows = [{name: value[row] for name, value in batch.items()} for row in range(4)]
    arguments = {"max_steps": LAST, "per_device_train_batch_size": 2, "learning_rate": 0.01, "optim": "sgd"}
    each_step = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    plain = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "prediction_loss_only": True}
    recorder = Recorder()
    trainer = Trainer(
        model_class(config),
        TrainingArguments(str(folder), **arguments, **each_step, **best, **plain),
        train_dataset=rows,
        eval_dataset=rows[:2],
        data_collator=lambda chosen: {**default_data_collator(chosen), **pairs},
        callbacks=[recorder],
    )
    return trainer, recorder


@pytest.mark.parametrize(("family", "vision", "text"), CASES)
def test_resumed_and_best_weights_are_those_that_were_saved(
    family: str, vision: str, text: str, tmp_path: Path
) -> None:
    trainer, whole = make_trainer(family, vision, text, tmp_path / "whole", seed=0)
    trainer.train()
    assert_equal(state_of(trainer.model), whole.states[BEST])
    assert any(not torch.equal(whole.states[BEST][name], tensor) for name, tensor in whole.states[LAST].items())

    resumed, rest = make_trainer(family, vision, text, tmp_path / "resumed", seed=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert sorted(rest.states) == [BEST, LAST]
    assert_equal(rest.states[LAST], whole.states[LAST])

    loaded, info = AutoModel.from_pretrained(tmp_path / "whole" / f"checkpoint-{LAST}", output_loading_info=True)
    assert type(loaded) is FAMILIES[family][0]
    assert not any(info.values()), info
    assert_equal(loaded.state_dict(), whole.states[LAST])


@pytest.mark.parametrize("vision", ["vit", "deit", "dinov2", "swin"])
def test_a_checkpoint_with_the_names_of_the_past_is_read(vision: str, tmp_path: Path) -> None:
    """What other code saves with `save_original_format=True`, the default of transformers."""
    trainer, _ = make_trainer("fusion", vision, "bert", tmp_path / "unused", seed=0)
    trainer.model.save_pretrained(tmp_path / "old", save_original_format=True)
    loaded, info = AutoModel.from_pretrained(tmp_path / "old", output_loading_info=True)
    assert not any(info.values()), info
    assert_equal(loaded.state_dict(), state_of(trainer.model))


@pytest.mark.keys_do_not_fit
def test_a_missing_weight_is_noticed_by_these_tests(no_warning_about_keys: KeyWarnings, tmp_path: Path) -> None:
    trainer, _ = make_trainer("fusion", "vit", "bert", tmp_path, seed=0)
    trainer.train()
    file = tmp_path / "checkpoint-1" / "model.safetensors"
    weights = load_file(file)
    del weights["vision_model.layernorm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing \['vision_model.layernorm.weight'\], unexpected \[\]"):
        AutoModel.from_pretrained(file.parent)
    make_trainer("fusion", "vit", "bert", tmp_path, seed=0)[0].train(resume_from_checkpoint=str(file.parent))
    loaded, resumed = no_warning_about_keys.messages
    assert "FusionForImageTextClassification LOAD REPORT" in loaded
    assert resumed == "There were missing keys in the checkpoint model loaded: ['vision_model.layernorm.weight']."
