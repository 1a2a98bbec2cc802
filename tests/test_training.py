"""What training adds to `transformers.Trainer`: freezing, groups, sampling, resuming, LoRA, models from scratch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from conftest import TEXT_CONFIGS, VISION_CONFIGS, make_batch
from torch import nn
from transformers import AutoModel, TrainingArguments

from hf_multimodal import (
    FusionConfig,
    FusionForImageTextClassification,
    MultimodalCollator,
    MultimodalProcessor,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.controlled import make_controlled
from hf_multimodal.data.presence import PresenceRedraw
from hf_multimodal.evaluation.metrics import compute_metrics_for
from hf_multimodal.training.arguments import ModelArguments
from hf_multimodal.training.averaging import WeightAverage
from hf_multimodal.training.building import balanced_class_weights, build_model_and_processor
from hf_multimodal.training.checkpoints import find_checkpoint, remove_checkpoints
from hf_multimodal.training.freezing import find_blocks, freeze_layers
from hf_multimodal.training.from_scratch import text_part, train_tokenizer, vision_part
from hf_multimodal.training.lora import add_lora
from hf_multimodal.training.optimization import parameter_groups
from hf_multimodal.training.sampling import EpochSampler
from hf_multimodal.training.trainer import MultimodalTrainer

KIND = "single_label_classification"


def tiny_model(vision: str = "vit", text: str = "bert", **fields: Any) -> FusionForImageTextClassification:
    torch.manual_seed(0)
    config = FusionConfig(
        vision_config=VISION_CONFIGS[vision](),
        text_config=TEXT_CONFIGS[text](),
        hidden_size=16,
        num_labels=4,
        **fields,
    )
    return FusionForImageTextClassification(config)


# Freezing


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("vit", "ViTLayer", 2),
        ("deit", "DeiTLayer", 2),
        ("dinov2", "Dinov2Layer", 2),
        ("clip_vision_model", "CLIPEncoderLayer", 2),
        ("swin", "SwinStage", 2),
        ("convnext", "ConvNextStage", 2),
        ("resnet", "ResNetStage", 2),
        ("mobilenet_v2", "MobileNetV2InvertedResidual", 16),
        ("timm_wrapper", "BasicBlock", 4),
        ("torchvision:resnet18", "BasicBlock", 8),
        ("torchvision:mobilenet_v3_small", "InvertedResidual", 11),
        ("torchvision:vgg16", "Conv2d", 13),
        ("bert", "BertLayer", 2),
        ("distilbert", "TransformerBlock", 2),
        ("modernbert", "ModernBertEncoderLayer", 2),
        ("gpt2", "GPT2Block", 2),
        ("t5", "T5Block", 2),
        ("recurrent_text:lstm", None, 0),
    ],
)
def test_blocks_are_found_by_module(name: str, kind: str | None, count: int) -> None:
    model = tiny_model(vision=name) if name in VISION_CONFIGS else tiny_model(text=name)
    blocks = find_blocks(model.vision_model if name in VISION_CONFIGS else model.text_model)
    assert [type(block).__name__ for block in blocks] == [kind] * count


def test_the_first_layers_and_the_embeddings_are_frozen() -> None:
    model = tiny_model()
    frozen = freeze_layers(model, "vision", 1)
    names = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    blocks = find_blocks(model.vision_model)
    assert not any(parameter.requires_grad for parameter in blocks[0].parameters())
    assert all(parameter.requires_grad for parameter in blocks[1].parameters())
    assert all(name.startswith("vision_model.") for name in names)
    assert any("cls_token" in name for name in names) and any("patch_embeddings" in name for name in names)
    model.train()
    assert not blocks[0].training and blocks[1].training and model.training


def test_all_or_too_many_layers() -> None:
    model = tiny_model()
    freeze_layers(model, "text", "all")
    assert not any(parameter.requires_grad for parameter in model.text_model.parameters())
    assert not model.train().text_model.training
    with pytest.raises(ValueError, match=r"freeze_vision_layers must be at most 2, the number of layers of ViTModel"):
        freeze_layers(model, "vision", 3)
    with pytest.raises(ValueError, match=r"freeze_vision_layers must be a number of layers or 'all', got 'al'"):
        freeze_layers(model, "vision", "al")
    assert freeze_layers(model, "vision", 0) == 0
    single = FusionForImageTextClassification(FusionConfig(text_config=TEXT_CONFIGS["bert"](), hidden_size=16))
    with pytest.raises(ValueError, match="cannot freeze vision layers: the model has no vision_model"):
        freeze_layers(single, "vision", 1)


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    model = tiny_model(vision="resnet")
    freeze_layers(model, "vision", 1)
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    model(**make_batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    moved = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    trained = [norm.weight.requires_grad for norm in norms]
    assert moved == trained and any(moved) and not all(moved)


# Parameter groups


def test_every_trainable_parameter_is_in_its_group() -> None:
    model = tiny_model()
    freeze_layers(model, "vision", 1)
    groups = parameter_groups(model, learning_rate=2e-5, head_learning_rate=1e-3, weight_decay=0.01)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(parameter)]: group for group in groups for parameter in group["params"]}
    assert sorted(found) == sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert sum(len(group["params"]) for group in groups) == len(found)
    for name, group in found.items():
        inner = name.startswith(("vision_model.", "text_model."))
        assert group["lr"] == (2e-5 if inner else 1e-3), name
        is_fixed = name.endswith("bias") or "norm" in name.lower() or "projection.0" in name
        assert group["weight_decay"] == (0.0 if is_fixed else 0.01), name


@pytest.mark.parametrize("vision", ["resnet", "swin", "convnext", "torchvision:resnet18"])
def test_norms_of_any_kind_do_not_decay(vision: str) -> None:
    model = tiny_model(vision=vision)
    groups = parameter_groups(model, learning_rate=2e-5, head_learning_rate=1e-3, weight_decay=0.01)
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    weights = [parameter for norm in norms for parameter in norm.parameters()]
    assert len(weights) > 8 and {decays[id(parameter)] for parameter in weights} == {0.0}
    kernels = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert kernels and {decays[id(parameter)] for parameter in kernels} == {0.01}


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

    def __init__(self, folder: Path, robust: bool = False, weight_average: float = 0.0, **arguments: Any) -> None:
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
        redraw = PresenceRedraw(0) if robust else None
        fixed = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False}
        defaults = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-3, "save_steps": 4}
        names = [f"class_{index}" for index in range(4)]
        self.trainer = MultimodalTrainer(
            model=model_class(config),
            args=TrainingArguments(str(folder), **{**fixed, **defaults, **arguments}, label_names=["labels"]),
            data_collator=MultimodalCollator(self.processor, augment=ImageAugmentation(0), redraw=redraw),
            eval_collator=MultimodalCollator(self.processor),
            train_dataset=self.data,
            eval_dataset=self.data,
            compute_metrics=compute_metrics_for(KIND, names),
            head_learning_rate=1e-2,
            weight_average=weight_average,
        )

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    ("step", "family"),
    [
        (4, {}),  # in an epoch
        (6, {}),  # between two
        (8, {}),  # in the second
        (8, {"weight_average": 0.9}),
        (8, {"robust": True}),
    ],
)
def test_a_resumed_run_is_bit_identical(tmp_path: Path, step: int, family: dict[str, Any]) -> None:
    whole = Reader(tmp_path / "whole", save_strategy="steps", save_steps=step, **family)
    whole.trainer.train()
    resumed = Reader(tmp_path / "resumed", dataloader_num_workers=1, dataloader_persistent_workers=True, **family)
    torch.manual_seed(1)
    resumed.trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    expected, found = whole.weights(), resumed.weights()
    assert resumed.trainer.state.global_step == 12
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_average_of_the_weights_is_kept(tmp_path: Path) -> None:
    reader = Reader(tmp_path, weight_average=0.5)
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
    average = WeightAverage(norm, decay=0.5)
    norm.running_mean.fill_(4.0)
    norm.num_batches_tracked.fill_(7)
    average.update(step=100)
    average.copy_to_model()
    assert norm.running_mean.tolist() == [2.0, 2.0] and norm.num_batches_tracked == 7


def test_the_best_average_is_loaded(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "nll", "greater_is_better": False}
    strategies = {"eval_strategy": "epoch", "save_strategy": "epoch", "num_train_epochs": 3}
    reader = Reader(tmp_path, weight_average=0.9, **best, **strategies)
    reader.trainer.train()
    assert reader.trainer.evaluate()["eval_nll"] == pytest.approx(reader.trainer.state.best_metric, abs=1e-6)


def test_a_checkpoint_without_an_average_is_refused(tmp_path: Path) -> None:
    Reader(tmp_path, max_steps=4).trainer.train()
    with pytest.raises(FileNotFoundError, match="saved without an average of the weights"):
        Reader(tmp_path, max_steps=8, weight_average=0.9).trainer.train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-4")
        )


def test_evaluation_is_not_augmented_and_learning_rates_are_two(tmp_path: Path) -> None:
    reader = Reader(tmp_path, max_steps=2, lr_scheduler_type="constant")
    trained = [batch["pixel_values"] for batch in reader.trainer.get_train_dataloader()]
    plain = MultimodalCollator(reader.processor)([reader.data[index] for index in range(8)])["pixel_values"]
    assert torch.equal(next(iter(reader.trainer.get_eval_dataloader()))["pixel_values"], plain)
    assert not any(torch.equal(picture, other) for batch in trained for picture in batch for other in plain)
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
    with pytest.raises(ValueError, match=r"checkpoint-8' cannot be resumed, damaged: .*"):
        find_checkpoint(str(new), str(tmp_path))
    (old / "optimizer.pt").unlink()
    with pytest.raises(FileNotFoundError, match="no whole checkpoint in"):
        find_checkpoint("true", str(tmp_path))
    with pytest.raises(ValueError, match="cannot be resumed, optimizer.pt is missing or empty"):
        find_checkpoint(str(old), str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no folder 'gone'"):
        find_checkpoint("gone", str(tmp_path))
    (tmp_path / "checkpoint-notes").mkdir()
    remove_checkpoints(str(tmp_path))
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-notes"]


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


def test_a_named_config_is_built_at_random(tmp_path: Path) -> None:
    VISION_CONFIGS["vit"]().save_pretrained(tmp_path / "vit")
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    TEXT_CONFIGS["roberta"]().save_pretrained(tmp_path / "roberta")
    args = ModelArguments(from_scratch=True, vision_model=str(tmp_path / "vit"), text_model=str(tmp_path / "roberta"))
    model, processor = build_model_and_processor(args, ["a red square"], None, num_labels=2)
    assert type(model.vision_model).__name__ == "ViTModel" and type(model.text_model).__name__ == "RobertaModel"
    batch = MultimodalCollator(processor)([{"image": None, "text": "red " * 100, "label": 0, "id": "x"}])
    assert batch["input_ids"].shape[1] == 39  # of 40 positions RoBERTa leaves out the padding's
    assert model(**batch).logits.shape == (1, 2)


def test_word_vectors_start_the_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("red 1 2 3\nsquare 4 5 6\n")
    args = ModelArguments(from_scratch=True, modality="text", text_model="gru", word_vectors=str(path))
    model, processor = build_model_and_processor(args, ["a red square"] * 9, None, num_labels=2)
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


# LoRA


def test_lora_trains_small_matrices_and_merges_into_an_ordinary_model(tmp_path: Path) -> None:
    model = tiny_model(problem_type=KIND)
    freeze_layers(model, "text", 1)
    wrapped = add_lora(model, 2)
    trainable = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    inner = [name for name in trainable if "vision_model." in name or "text_model." in name]
    assert inner and all("lora_" in name and "attention" in name for name in inner)
    assert not any("text_model.encoder.layer.0" in name for name in inner)  # frozen before
    whole = {name.split(".")[2] for name in trainable if name not in inner}
    assert whole == {"visual_projection", "text_projection", "fusion", "classifier"}
    rates = parameter_groups(wrapped, learning_rate=1e-5, head_learning_rate=1e-2, weight_decay=0)
    assert [group["lr"] for group in rates] == [1e-2] * len(rates)

    optimizer = torch.optim.AdamW(rates)
    for _ in range(2):
        wrapped(**make_batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        optimizer.step()
    wrapped.eval()
    expected = wrapped(**make_batch()).logits
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(loaded.eval()(**make_batch()).logits, expected, atol=1e-5, rtol=0)


def test_lora_on_a_convolutional_model_and_on_a_frozen_one() -> None:
    wrapped = add_lora(tiny_model(vision="resnet"), 2)
    assert any("vision_model" in name and "lora_" in name for name, _ in wrapped.named_parameters())
    before = {name: value.clone() for name, value in wrapped.named_buffers() if "running" in name}
    wrapped.train()(**make_batch())
    assert before and all(torch.equal(dict(wrapped.named_buffers())[name], value) for name, value in before.items())
    model = tiny_model()
    freeze_layers(model, "vision", "all")
    freeze_layers(model, "text", "all")
    with pytest.raises(ValueError, match="lora_rank has no use where every pretrained layer is frozen"):
        add_lora(model, 2)


@pytest.mark.parametrize("vision", ["mobilenet_v2", "torchvision:mobilenet_v3_small"])
def test_lora_leaves_grouped_convolutions_and_an_inner_classifier_alone(tmp_path: Path, vision: str) -> None:
    model = tiny_model(vision=vision, problem_type=KIND)
    assert any(getattr(module, "groups", 1) > 1 for module in model.modules())
    wrapped = add_lora(model, 2)
    saved = {name for name, module in wrapped.named_modules() if type(module).__name__ == "ModulesToSaveWrapper"}
    parts = ("visual_projection", "text_projection", "fusion", "classifier")
    assert saved == {f"base_model.model.{part}" for part in parts}
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        wrapped(**make_batch(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
        optimizer.step()
    expected = wrapped.eval()(**make_batch()).logits
    wrapped.save_pretrained(tmp_path)  # what a checkpoint holds, and what the best one is restored from
    head = wrapped.get_submodule("base_model.model.classifier").modules_to_save["default"].weight
    trained = head.detach().clone()
    with torch.no_grad():
        head.zero_()
    wrapped.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(head, trained)
    found = wrapped.merge_and_unload()(**make_batch()).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
