"""The robust recipe in a few lines: by `MultimodalTrainer` unasked, with the plain `Trainer` by one callback."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_fusion_model import make_model
from test_plain_trainer import LABELS, PROCESSOR, TEXTS, make_robust, make_rows, said  # noqa: F401  a fixture
from transformers import Trainer, TrainingArguments

from hf_multimodal import (
    ModalityDropout,
    MultimodalCollator,
    MultimodalTrainer,
    MultimodalTrainingArguments,
    RobustFusionCallback,
    fit_stack,
    presence,
)
from hf_multimodal.data.augmentation import ImageAugmentation

QUIET: dict[str, Any] = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
QUIET |= {"num_train_epochs": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 4}


def train(folder: Path, model: Any, **options: Any) -> MultimodalTrainer:
    arguments = {name: options.pop(name) for name in ("fit_stack", "modality_dropout") if name in options}
    args = MultimodalTrainingArguments(str(folder), **QUIET, **arguments)
    rows = {"train_dataset": make_rows(), "eval_dataset": make_rows()}
    trainer = MultimodalTrainer(model, args, **{**rows, **options})
    trainer.train()
    return trainer


def states(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_what_was_done_by_hand_happens_unasked(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unasked = train(tmp_path / "a", make_robust(), processing_class=PROCESSOR)
    assert unasked.eval_collator.on_empty == "keep" and unasked.eval_collator.modality_dropout is None
    assert unasked.untrained_heads == []
    rows = make_rows()
    dropout = ModalityDropout.for_rows(presence(rows), seed=42)
    assert unasked.data_collator.modality_dropout == dropout
    torch.manual_seed(0)
    collator = MultimodalCollator(PROCESSOR, modality_dropout=dropout)
    by_hand = train(tmp_path / "b", make_robust(), data_collator=collator, fit_stack=False)
    assert not torch.equal(by_hand.model.stack.weights, unasked.model.stack.weights)
    fit_stack(by_hand.model, PROCESSOR, make_rows(), LABELS, batch_size=8)
    found, expected = states(unasked.model), states(by_hand.model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_plain_trainer_needs_one_callback(tmp_path: Path) -> None:
    seen: list[tuple[int, list[list[int]]]] = []

    class Watched(MultimodalCollator):
        def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super().__call__(rows)
            if "fusion_mask" in batch:
                seen.append((int(self.epoch), batch["fusion_mask"].tolist()))
            return batch

    rows = make_rows().add_column("index", list(range(8)))
    args = TrainingArguments(str(tmp_path), **QUIET, remove_unused_columns=False)
    model = make_robust()
    before = model.stack.weights.clone()
    callback = RobustFusionCallback(PROCESSOR, make_rows(), modality_dropout=(0.2, 0.4, 0.4))
    trainer = Trainer(model, args, Watched(PROCESSOR), rows, callbacks=[callback])
    trainer.train()
    assert [epoch for epoch, _ in seen] == [0, 0, 1, 1]
    hidden = [mask for _, batch in seen for mask in batch]
    assert [1, 0] in hidden and [0, 1] in hidden
    assert not torch.equal(model.stack.weights, before)


def test_rows_that_came_incomplete_count(tmp_path: Path) -> None:
    rows = make_rows(text=[None, *TEXTS[1:]])
    args = MultimodalTrainingArguments(str(tmp_path), **QUIET)
    trainer = MultimodalTrainer(make_robust(), args, train_dataset=rows, processing_class=PROCESSOR)
    dropout = trainer.data_collator.modality_dropout
    assert dropout == ModalityDropout.for_rows(presence(rows), seed=42)
    assert dropout.shares != ModalityDropout(42).shares


def test_evaluation_is_not_augmented(tmp_path: Path) -> None:
    collator = MultimodalCollator(PROCESSOR, augment=ImageAugmentation(0), modality_dropout=ModalityDropout(0))
    args = MultimodalTrainingArguments(str(tmp_path), **QUIET)
    trainer = MultimodalTrainer(make_robust(), args, collator, make_rows(), eval_dataset=make_rows())
    other = trainer.eval_collator
    assert (other.augment, other.modality_dropout, other.on_empty) == (None, None, "keep")
    assert collator.augment is not None and trainer.data_collator is collator and collator.on_empty == "error"


def test_shares_that_hide_nothing(tmp_path: Path) -> None:
    trainer = train(tmp_path, make_robust(), processing_class=PROCESSOR, modality_dropout=[1, 0, 0])
    mask = torch.ones(4, 2, dtype=torch.long)
    assert torch.equal(trainer.data_collator.modality_dropout(0, torch.arange(4), mask), mask)


def test_without_validation_rows_the_stack_stays(tmp_path: Path, said: Any) -> None:  # noqa: F811
    model = make_robust()
    before = model.stack.weights.clone()
    train(tmp_path, model, processing_class=PROCESSOR, eval_dataset=None)
    assert said("The stack is not fitted, for which eval_dataset is needed")
    assert torch.equal(model.stack.weights, before) and model.stack.prior.isfinite().all()


def test_arguments_that_have_no_use_are_refused(tmp_path: Path) -> None:
    args = MultimodalTrainingArguments(str(tmp_path), use_cpu=True, modality_dropout=[1, 0, 0])
    with pytest.raises(ValueError, match=r"modality_dropout \[1, 0, 0\] has no use: FusionForImageTextClassification"):
        MultimodalTrainer(make_model(), args, train_dataset=make_rows(), processing_class=PROCESSOR)
    with pytest.raises(TypeError, match="args must be MultimodalTrainingArguments, got TrainingArguments"):
        MultimodalTrainer(make_model(), TrainingArguments(str(tmp_path), use_cpu=True), processing_class=PROCESSOR)
    args = MultimodalTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="a data_collator is needed, or the processor as processing_class"):
        MultimodalTrainer(make_model(), args, train_dataset=make_rows())
    for name, value, message in (
        ("ema_decay", 1.0, r"ema_decay must lie in \[0, 1\), got 1.0"),
        ("gradient_cache_chunk_size", 0, "gradient_cache_chunk_size must be 1 or more, got 0"),
        ("label_smoothing_factor", 0.1, "label_smoothing_factor takes the labels away"),
        ("total_train_batch_size", 0, "must be a multiple of their number, 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            MultimodalTrainingArguments(str(tmp_path), use_cpu=True, **{name: value})
