"""What training adds to `transformers.Trainer`: sampling, averaging, resuming; and models from scratch."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from torch import nn

from hf_multimodal import (
    FusionForImageTextClassification,
    MultimodalCollator,
    MultimodalProcessor,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.presence import ModalityDropout
from hf_multimodal.evaluation.metrics import compute_metrics_for
from hf_multimodal.synthetic.classification import make_controlled
from hf_multimodal.training.arguments import MultimodalTrainingArguments
from hf_multimodal.training.checkpoints import find_checkpoint, remove_earlier_checkpoints, set_checkpoints_aside
from hf_multimodal.training.construction import balanced_class_weights, build_model_and_processor
from hf_multimodal.training.ema import EMA
from hf_multimodal.training.from_scratch import text_part, train_tokenizer, vision_part
from hf_multimodal.training.sampling import EpochSampler
from hf_multimodal.training.trainer import MultimodalTrainer

KIND = "single_label_classification"


# Sampling


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    epoch = torch.tensor(0)
    sampler = EpochSampler(50, 1, epoch)
    first = list(sampler)
    assert sorted(first) == list(range(50)) and list(sampler) == first != list(range(50))
    epoch.fill_(1)
    assert list(sampler) != first
    assert list(EpochSampler(50, 1, torch.tensor(0))) == first != list(EpochSampler(50, 2, torch.tensor(0)))


def test_oversampling_repeats_whole_classes() -> None:
    labels = [0] * 7 + [1] * 3 + [2] * 1
    sampler = EpochSampler(11, 0, torch.tensor(0), labels=labels)
    order = list(sampler)
    assert len(sampler) == len(order) == 21
    counts = np.bincount(order, minlength=11)
    assert counts[:7].tolist() == [1] * 7 and sorted(counts[7:10]) == [2, 2, 3] and counts[10] == 7


def test_texts_of_like_length_share_a_group() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1003)
    order = list(EpochSampler(1003, 0, torch.tensor(0), lengths=lengths.tolist(), group_size=10))
    assert sorted(order) == list(range(1003))
    padded = sum(lengths[order[i : i + 10]].max() * len(order[i : i + 10]) for i in range(0, 1003, 10))
    shuffled = sum(lengths[i : i + 10].max() * len(lengths[i : i + 10]) for i in range(0, 1003, 10))
    assert padded < 1.1 * lengths.sum() < 1.6 * lengths.sum() < shuffled
    firsts = lengths[order[:1000:10]]
    assert abs(np.corrcoef(firsts, np.arange(100))[0, 1]) < 0.3  # short and long groups are mixed


# The trainer


class Reader:
    """Tiny data, a tiny model and a trainer over them."""

    def __init__(self, folder: Path, robust: bool = False, ema_decay: float = 0.0, **arguments: Any) -> None:
        self.data = make_controlled("unique", size=24)
        tokenizer = train_tokenizer(self.data["text"])
        _, image_processor = vision_part(None)
        image_processor.size = {"height": 32, "width": 32}
        self.processor = MultimodalProcessor(image_processor, tokenizer)
        text = hf.BertConfig(**{**TEXT_CONFIGS["bert"]().to_dict(), "vocab_size": len(tokenizer)})
        torch.manual_seed(0)
        model_class = RobustFusionForImageTextClassification if robust else FusionForImageTextClassification
        config = model_class.config_class(
            vision_config=VISION_CONFIGS["vit"](), text_config=text, hidden_size=16, num_labels=4, problem_type=KIND
        )
        modality_dropout = ModalityDropout(0) if robust else None
        fixed = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False}
        defaults = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-3, "save_steps": 4}
        names = [f"class_{index}" for index in range(4)]
        self.trainer = MultimodalTrainer(
            model=model_class(config),
            args=MultimodalTrainingArguments(
                str(folder),
                **{**fixed, **defaults, **arguments},
                label_names=["labels"],
                head_learning_rate=1e-2,
                ema_decay=ema_decay,
            ),
            data_collator=MultimodalCollator(
                self.processor, augment=ImageAugmentation(0), modality_dropout=modality_dropout
            ),
            eval_collator=MultimodalCollator(self.processor),
            train_dataset=self.data,
            eval_dataset=self.data,
            compute_metrics=compute_metrics_for(KIND, names),
        )

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    ("step", "family"),
    [
        (4, {}),  # in an epoch
        (6, {}),  # between two
        (8, {}),  # in the second
        (8, {"ema_decay": 0.9}),
        (8, {"robust": True}),
    ],
)
def test_a_resumed_run_is_bit_identical(tmp_path: Path, step: int, family: dict[str, Any]) -> None:
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "eval_strategy": "epoch"}
    whole = Reader(tmp_path / "whole", save_strategy="steps", save_steps=step, **workers, **family)
    whole.trainer.train()
    resumed = Reader(tmp_path / "resumed", **workers, **family)
    torch.manual_seed(1)
    resumed.trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    expected, found = whole.weights(), resumed.weights()
    assert resumed.trainer.state.global_step == 12
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_average_of_the_weights_is_kept(tmp_path: Path) -> None:
    reader = Reader(tmp_path, ema_decay=0.5)
    steps: list[dict[str, torch.Tensor]] = []

    class Recorder(hf.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            steps.append(reader.weights())

    reader.trainer.add_callback(Recorder())
    expected = reader.weights()
    reader.trainer.train()
    for step, weights in enumerate(steps, 1):
        share = 1 - min(0.5, (1 + step) / (10 + step))
        expected = {name: torch.lerp(expected[name], value, share) for name, value in weights.items()}
    assert all(torch.allclose(value, expected[name], atol=1e-6) for name, value in reader.weights().items())
    assert not torch.equal(reader.weights()["classifier.weight"], steps[-1]["classifier.weight"])


def test_the_statistics_of_batchnorm_are_averaged_too() -> None:
    norm = nn.BatchNorm1d(2)
    average = EMA(norm, decay=0.5)
    norm.running_mean.fill_(4.0)
    norm.num_batches_tracked.fill_(7)
    average.update(step=100)
    average.copy_to_model()
    assert norm.running_mean.tolist() == [2.0, 2.0] and norm.num_batches_tracked == 7


def test_the_best_average_is_loaded(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "nll", "greater_is_better": False}
    strategies = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3}
    reader = Reader(tmp_path, ema_decay=0.9, **best, **strategies)
    reader.trainer.train()
    assert reader.trainer.evaluate()["eval_nll"] == pytest.approx(reader.trainer.state.best_metric, abs=1e-6)


def test_a_checkpoint_without_an_average_is_refused(tmp_path: Path) -> None:
    Reader(tmp_path, max_steps=4).trainer.train()
    with pytest.raises(FileNotFoundError, match="saved without an average of the weights"):
        Reader(tmp_path, max_steps=8, ema_decay=0.9).trainer.train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-4")
        )


def test_evaluation_is_not_augmented_and_learning_rates_are_two(tmp_path: Path) -> None:
    reader = Reader(tmp_path, max_steps=2, lr_scheduler_type="constant")
    trained = [batch["pixel_values"] for batch in reader.trainer.get_train_dataloader()]
    plain = MultimodalCollator(reader.processor)([reader.data[index] for index in range(8)])["pixel_values"]
    assert torch.equal(next(iter(reader.trainer.get_eval_dataloader()))["pixel_values"], plain)
    assert not any(torch.equal(image, other) for batch in trained for image in batch for other in plain)
    reader.trainer.train()
    rates = [group["lr"] for group in reader.trainer.optimizer.param_groups]
    assert rates == [1e-3, 1e-3, 1e-2, 1e-2]


def test_a_checkpoint_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    reader = Reader(tmp_path, max_steps=4)
    reader.trainer.train()
    checkpoint = tmp_path / "checkpoint-4"
    weights = {name: tensor for name, tensor in reader.weights().items() if name != "classifier.bias"}
    from safetensors.torch import save_file

    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match=r"does not fit the model: missing \['classifier.bias'\], unexpected \[\]"):
        Reader(tmp_path, max_steps=8).trainer.train(resume_from_checkpoint=str(checkpoint))


def test_metrics_do_not_depend_on_length_grouping(tmp_path: Path) -> None:
    plain = Reader(tmp_path)
    metrics = plain.trainer.evaluate()
    grouped = Reader(tmp_path, train_sampling_strategy="group_by_length")
    lengths = list(range(24, 0, -1))
    found = grouped.trainer.evaluate(grouped.data.add_column("length", lengths))
    assert found["eval_nll"] == pytest.approx(metrics["eval_nll"], abs=1e-6)
    assert found["eval_count"] == 24
    answers = grouped.trainer.predict(grouped.data.add_column("length", lengths)).predictions
    assert answers == pytest.approx(plain.trainer.predict(plain.data).predictions, abs=1e-5)


def test_a_compiled_run_sees_no_mask_where_everything_is_present(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    whole = reader.trainer.data_collator([reader.data[index] for index in range(4)])
    partial = {**whole, "modality_mask": torch.tensor([[1, 1], [1, 0], [1, 1], [0, 1]])}
    texts = {name: value for name, value in whole.items() if name != "pixel_values"}
    texts["modality_mask"] = torch.tensor([[0, 1]] * 4)
    assert "modality_mask" in reader.trainer._prepare_inputs(whole)
    reader.trainer.args.torch_compile = True
    assert set(whole) - set(reader.trainer._prepare_inputs(whole)) == {"modality_mask"}
    assert "modality_mask" in reader.trainer._prepare_inputs(partial)
    assert "modality_mask" not in reader.trainer._prepare_inputs(texts)


# Checkpoints


def test_only_whole_checkpoints_are_resumed(tmp_path: Path) -> None:
    Reader(tmp_path, max_steps=8, save_steps=4).trainer.train()
    old, new = tmp_path / "checkpoint-4", tmp_path / "checkpoint-8"
    assert find_checkpoint(None, str(tmp_path)) is None
    assert find_checkpoint("true", str(tmp_path)) == str(new)
    content = (new / "model.safetensors").read_bytes()
    (new / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert find_checkpoint("true", str(tmp_path)) == str(old)
    half = rf"model.safetensors has {len(content) // 2} bytes, where {len(content)} were written"
    with pytest.raises(ValueError, match=rf"checkpoint-8' cannot be resumed, {half}\."):
        find_checkpoint(str(new), str(tmp_path))
    (old / "optimizer.pt").unlink()
    with pytest.raises(FileNotFoundError, match=f"no whole checkpoint in .*checkpoint-8: {half}; checkpoint-4: optim"):
        find_checkpoint("true", str(tmp_path))
    with pytest.raises(ValueError, match="cannot be resumed, optimizer.pt is missing or empty"):
        find_checkpoint(str(old), str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no folder 'gone'"):
        find_checkpoint("gone", str(tmp_path))
    (tmp_path / "checkpoint-notes").mkdir()
    set_checkpoints_aside(str(tmp_path))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-notes"]
    with pytest.raises(FileNotFoundError, match=r"in \['earlier-checkpoint-4', 'earlier-checkpoint-8'\]: rename one"):
        find_checkpoint("true", str(tmp_path))
    set_checkpoints_aside(str(tmp_path))  # of a run that left none
    remove_earlier_checkpoints(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-notes"]


# From scratch, class weights


def test_a_model_from_scratch_fits_its_tokenizer() -> None:
    texts = ["a red square", "two blue circles", None]
    for name in (None, "lstm"):
        config, tokenizer = text_part(name, texts)
        assert config.vocab_size == len(tokenizer) and config.pad_token_id == tokenizer.pad_token_id
    assert train_tokenizer(texts).vocab == train_tokenizer(texts).vocab
    assert vision_part("torchvision:resnet18")[0].architecture == "resnet18"
    with pytest.raises(ValueError, match="a tokenizer cannot be trained: there is no text"):
        train_tokenizer([None, ""])


build_from_scratch = partial(
    build_model_and_processor, FusionForImageTextClassification, from_scratch=True, num_labels=2
)


def test_a_named_config_is_built_at_random(tmp_path: Path) -> None:
    VISION_CONFIGS["vit"]().save_pretrained(tmp_path / "vit")
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    TEXT_CONFIGS["roberta"]().save_pretrained(tmp_path / "roberta")
    named = {"vision_model": str(tmp_path / "vit"), "text_model": str(tmp_path / "roberta")}
    model, processor = build_from_scratch(["a red square"], **named)
    assert type(model.vision_model).__name__ == "ViTModel" and type(model.text_model).__name__ == "RobertaModel"
    batch = MultimodalCollator(processor)([{"image": None, "text": "red " * 100, "label": 0, "id": "x"}])
    assert batch["input_ids"].shape[1] == 39  # of 40 positions RoBERTa leaves out the padding's
    assert model(**batch).logits.shape == (1, 2)


def test_images_are_kept_whole_where_asked(tmp_path: Path) -> None:
    VISION_CONFIGS["vit"]().save_pretrained(tmp_path)
    hf.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    for whole in (False, True):
        processor = build_from_scratch(["a red square"], vision_model=str(tmp_path), whole_images=whole)[1]
        assert processor.image_processor.do_center_crop is not whole


def test_word_vectors_start_the_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("red 1 2 3\nsquare 4 5 6\n")
    named = {"text_model": "gru", "word_vectors": str(path)}
    model, processor = build_from_scratch(["a red square"] * 9, reads="text", **named)
    rows = model.text_model.get_input_embeddings().weight
    assert rows[processor.tokenizer.convert_tokens_to_ids("square")].tolist() == [4, 5, 6]


def test_balanced_class_weights() -> None:
    assert balanced_class_weights([0, 0, 0, 1], KIND, 2) == pytest.approx([2 / 3, 2])
    rows = [[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    assert balanced_class_weights(rows, "multi_label_classification", 2) == pytest.approx([1 / 3, 3])
    with pytest.raises(ValueError, match="an example of each class; none has number 2"):
        balanced_class_weights([0, 1], KIND, 3)
    with pytest.raises(ValueError, match="problem_type is 'regression'"):
        balanced_class_weights([0.5], "regression", 1)
