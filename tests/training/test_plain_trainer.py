"""The plain `Trainer` of transformers: options that go round a model's own loss, and grouping by length."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from datasets import Dataset, DatasetDict
from PIL import Image
from test_fusion_model import make_model
from test_processor import make_tokenizer
from test_readme import make_image_processor_for
from transformers import AutoModel, Trainer, TrainingArguments
from transformers.utils import logging

from hf_multimodal import (
    FusionForImageTextClassification,
    MultimodalCollator,
    MultimodalProcessor,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.training.arguments import MultimodalTrainingArguments
from hf_multimodal.training.preparation import add_lengths
from hf_multimodal.training.stacking import fit_stack, untrained_heads
from hf_multimodal.training.trainer import MultimodalTrainer

PROCESSOR = MultimodalProcessor(make_image_processor_for(32), make_tokenizer())
TEXTS = ["a dog", "a cat", "a red dog and a blue cat", "red", "a dog", "a cat", "blue", "a blue dog and a red cat"]
LABELS = [0, 1, 2, 0, 0, 1, 2, 1]
GROUPED = "group_by_length"


def make_rows(**columns: Any) -> Dataset:
    images = [Image.new("RGB", (10, 6), (20 * i, 10, 10)) for i in range(8)]
    ids = [f"r{i}" for i in range(8)]
    return Dataset.from_dict({"image": images, "text": TEXTS, "label": LABELS, "id": ids, **columns})


def make_robust(**fields: Any) -> Any:
    fields = {"problem_type": "single_label_classification", **fields}
    return make_model(family=RobustFusionForImageTextClassification, **fields)


def trainer_of(model: Any, folder: Path, rows: Any = None, kind: Any = Trainer, **options: Any) -> Any:
    given = {name: options.pop(name) for name in ("compute_loss_func",) if name in options}
    arguments = {"max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "save_strategy": "no"}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False}
    made = MultimodalTrainingArguments if kind is MultimodalTrainer else TrainingArguments
    args = made(str(folder), **{**arguments, **quiet, "weight_decay": 0.1, **options})
    rows = make_rows() if rows is None else rows
    return kind(model=model, args=args, data_collator=MultimodalCollator(PROCESSOR), train_dataset=rows, **given)


def joint_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(outputs.logits, labels)


def all_heads_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    heads = (outputs.joint_logits, outputs.image_logits, outputs.text_logits)
    return sum(torch.nn.functional.cross_entropy(logits, labels) for logits in heads)  # type: ignore[return-value]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    logging.get_logger("transformers").propagate = True
    logging.get_logger("hf_multimodal").propagate = True
    logging.warning_once.cache_clear()
    return lambda words: [record.message for record in caplog.records if words in record.message]


@pytest.mark.parametrize(
    ("option", "left_out"),
    [
        ({}, []),
        ({"label_smoothing_factor": 0.1}, ["image", "text"]),
        ({"compute_loss_func": joint_loss}, ["image", "text"]),
        ({"compute_loss_func": all_heads_loss}, []),
    ],
)
def test_heads_without_gradient_are_left_out_of_the_stack(option, left_out, tmp_path, said):
    model = make_robust()
    assert untrained_heads(model) == []  # nothing was trained: nothing is known
    trainer_of(model, tmp_path, **option).train()
    warned = said("labels is None in training")
    assert len(warned) == bool(option)
    if option:
        assert "losses of the image and the text head" in warned[0] and "set label_smoothing" in warned[0]
    model.save_pretrained(tmp_path)
    for one in (model, RobustFusionForImageTextClassification.from_pretrained(tmp_path)):  # loaded, it is known too
        assert fit_stack(one, PROCESSOR, make_rows(), LABELS) == left_out
        weights = one.stack.weights[1:, :, 0]
        assert weights.sum(dim=1) == pytest.approx(torch.ones(3), abs=1e-5)
        assert weights[:, 1:].any().item() == (not left_out)
    assert bool(said("training gave them no gradient: heads image, text")) == bool(left_out)


@pytest.mark.parametrize(
    ("missing", "fields", "left_out"),
    [("image", {}, ["image"]), ("text", {}, ["text"]), (None, {"unimodal_loss_weight": 0}, ["image", "text"])],
)
def test_heads_that_saw_no_example_are_left_out(missing, fields, left_out, tmp_path):
    rows = make_rows(**({} if missing is None else {missing: [None] * 8}))
    model = make_robust(**fields)
    trainer_of(model, tmp_path, rows).train()
    assert fit_stack(model, PROCESSOR, make_rows(), LABELS) == left_out
    for head in left_out:
        assert not model.stack.weights[1:, ("joint", "image", "text").index(head)].any()
    assert model.stack.weights[1:].sum(dim=1) == pytest.approx(torch.ones(3, 3), abs=1e-5)


def test_a_joint_head_without_gradient_is_left_out(tmp_path):
    def image_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs.image_logits, labels)

    model = make_robust()
    trainer_of(model, tmp_path, compute_loss_func=image_loss).train()
    assert fit_stack(model, PROCESSOR, make_rows(), LABELS) == ["joint", "text"]
    assert (model.stack.weights[[1, 3]] > 0).tolist() == [[[False] * 3, [True] * 3, [False] * 3]] * 2
    assert model.stack.weights[2].isfinite().all()  # a text alone: no head that reads it was trained


def test_new_heads_beside_a_trained_joint_one_are_left_out(tmp_path):
    fused = make_model(problem_type="single_label_classification")
    trainer_of(fused, tmp_path).train()
    model = RobustFusionForImageTextClassification.from_fusion(fused)
    assert untrained_heads(model) == ["image", "text"]
    trainer_of(model, tmp_path).train()
    assert untrained_heads(model) == []


def test_a_fused_model_without_labels_in_training_warns(batch, said):
    model = make_model()
    model.eval()(**batch)
    with torch.no_grad():
        model.train()(**batch)
    assert not said("labels is None")
    for _ in range(2):
        model(**batch)
    (warned,) = said("labels is None")
    assert "with it go its class weights and its label smoothing" in warned


@pytest.mark.parametrize("kind", [Trainer, MultimodalTrainer])
def test_labels_of_minus_100_train(kind, tmp_path):
    rows = make_rows(label=[-100, 1, -100, -100, 0, -100, -100, -100])
    options = {} if kind is Trainer else {"head_learning_rate": 1e-2}
    trainer = trainer_of(make_model(class_weights=[1.0, 2.0, 3.0]), tmp_path, rows, kind, logging_steps=1, **options)
    trainer.train()
    assert all(0 <= entry["loss"] < 10 for entry in trainer.state.log_history if "loss" in entry)


def test_a_label_that_the_model_has_not_is_named_by_its_row(tmp_path):
    rows = make_rows(label=[0, 1, 2, 3] * 2)
    with pytest.raises(ValueError, match="row . of the batch is 3, but the model has 3 classes, 0 to 2: num_labels"):
        trainer_of(make_model(), tmp_path, rows).train()
    ours = trainer_of(make_model(), tmp_path, rows, MultimodalTrainer)
    assert ours.data_collator.num_labels == 3
    with pytest.raises(ValueError, match="label of row 'r[37]', column 'label', is 3, but the model has 3 classes"):
        ours.train()


# Grouping by length


@pytest.mark.parametrize("kind", [Trainer, MultimodalTrainer])
def test_grouping_by_length_with_the_column_that_add_lengths_adds(kind, tmp_path):
    rows = add_lengths(DatasetDict(train=make_rows()), PROCESSOR.tokenizer)["train"]
    assert rows["length"][:] == [4, 4, 8, 3, 4, 4, 3, 8]
    options = {} if kind is Trainer else {"head_learning_rate": 1e-2}
    trainer = trainer_of(make_model(), tmp_path, rows, kind, train_sampling_strategy=GROUPED, **options)
    trainer.train()
    assert trainer.state.global_step == 2


def test_texts_are_measured_where_there_is_no_column_of_lengths(tmp_path):
    def order(rows: Any) -> list[int]:
        options = {"train_sampling_strategy": GROUPED, "per_device_train_batch_size": 2, "head_learning_rate": 1e-2}
        return list(trainer_of(make_model(), tmp_path, rows, MultimodalTrainer, **options)._get_train_sampler())

    measured = order(make_rows())
    assert measured == order(add_lengths(DatasetDict(train=make_rows()), PROCESSOR.tokenizer)["train"])
    assert {2, 7} in [set(measured[i : i + 2]) for i in range(0, 8, 2)]  # the long ones share a batch
    with pytest.raises(
        ValueError, match=r"needs texts in a column 'text' or lengths in 'length'; the rows have \['im"
    ):
        order(make_rows().remove_columns("text"))
    with pytest.raises(ValueError, match="the rows have no columns.*'random' needs neither"):
        order([{"text": "a", "image": None, "label": 0}])


# Names of classes


def test_id2label_names_the_classes(tmp_path):
    vision, text = str(tmp_path / "vision"), str(tmp_path / "text")
    AutoModel.from_config(VISION_CONFIGS["vit"]()).save_pretrained(vision)
    AutoModel.from_config(TEXT_CONFIGS["bert"]()).save_pretrained(text)
    names = {0: "cat", 1: "dog", 2: "bird"}
    for family in (FusionForImageTextClassification, RobustFusionForImageTextClassification):
        model = family.from_vision_text_pretrained(vision, text, id2label=names, hidden_size=16)
        model.save_pretrained(tmp_path)
        for config in (model.config, family.from_pretrained(tmp_path).config):
            assert config.num_labels == 3 and config.id2label == names
            assert config.label2id == {"cat": 0, "dog": 1, "bird": 2}
    for wrong in (["cat", "dog"], {1: "cat", 2: "dog"}):
        with pytest.raises(ValueError, match=r"by their numbers from 0 on, as dict\(enumerate\(names\)\) does, got"):
            family.from_vision_text_pretrained(vision, text, id2label=wrong)
