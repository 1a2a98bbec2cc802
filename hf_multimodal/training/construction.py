"""From arguments to a model and its processor."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, TrainingArguments, set_seed
from transformers.utils import logging

from hf_multimodal.data.loading import LoadedData
from hf_multimodal.evaluation.metrics import metric_names
from hf_multimodal.evaluation.retrieval import retrieval_metrics
from hf_multimodal.hub.pickles import refuse_pickled_model
from hf_multimodal.models import MultimodalProcessor
from hf_multimodal.models.processing_multimodal import padding_of
from hf_multimodal.training.aligner_trainer import flat_metrics
from hf_multimodal.training.freezing import freeze_layers
from hf_multimodal.training.from_scratch import text_part, vision_part
from hf_multimodal.training.lora import add_lora
from hf_multimodal.training.word_vectors import initialise_embeddings
from hf_multimodal.validation import check_choice

# What a trained fused classifier brings.
SHAPED_BY_FUSION = ("hidden_size", "dropout", "vision_layers", "image_pooling", "text_pooling", "fusion")

logger = logging.get_logger(__name__)


def balanced_class_weights(labels: Sequence[Any], problem_type: str, num_labels: int) -> list[float]:
    """Weights that make rare classes count as much as frequent ones.

    Args:
        labels: The training labels: class numbers, or multi-hot rows for multi-label.
        problem_type: As in the model's configuration.
        num_labels: Number of classes.

    Returns:
        For one label an example: n / (classes x count), which averages to 1 over the examples. For multi-label: what
        the positives of a label weigh, negatives / positives.

    Raises:
        ValueError: For regression, or if a class has no example.

    Example:

    >>> balanced_class_weights([0, 0, 0, 1], "single_label_classification", 2)
    [0.6666666666666666, 2.0]
    """
    if problem_type == "regression":
        raise ValueError("class_weights 'balanced' needs classes, but problem_type is 'regression'.")
    if problem_type == "multi_label_classification":
        counts = np.asarray(labels).sum(axis=0)
    else:
        counts = np.bincount(labels, minlength=num_labels)
    if not counts.all():
        raise ValueError(
            f"class_weights 'balanced' needs an example of each class; none has number {counts.argmin()}."
        )
    if problem_type == "multi_label_classification":
        return ((len(labels) - counts) / counts).tolist()
    return (len(labels) / (num_labels * counts)).tolist()


def build_model_and_processor(
    model_class: Any,
    texts: Iterable[str | None],
    *,
    vision_model: str | None = None,
    text_model: str | None = None,
    from_scratch: bool = False,
    from_fusion: str | None = None,
    reads: str = "both",
    word_vectors: str | None = None,
    vision_layers: int | None = None,
    freeze_vision_layers: str = "0",
    freeze_text_layers: str = "0",
    lora_rank: int = 0,
    max_length: int | None = None,
    whole_images: bool = False,
    image_value_range: Any = None,
    seed: int = 42,
    **config: Any,
) -> tuple[Any, MultimodalProcessor]:
    """Build what a training starts from.

    Args:
        model_class: Of this package.
        texts: The training texts, for a tokenizer from scratch.
        vision_model: Hub name or folder, or `torchvision:<name>`.
        text_model: Hub name or folder; from scratch also `lstm` or `gru`.
        from_scratch: Random weights, of small models where none are named.
        from_fusion: A trained fused classifier, which brings both models, the processor and its configuration.
        reads: `both`, `image` or `text`: the other side is not built.
        word_vectors: File of vectors that the embeddings of a text model from scratch start from.
        vision_layers: Number of the first vision layers that are kept; None keeps all.
        freeze_vision_layers: Number of layers, or `all`.
        freeze_text_layers: The same for the text model.
        lora_rank: Rank of LoRA matrices; 0 trains the weights themselves.
        max_length: Longest text in tokens; None means what the text model reads.
        whole_images: Whether images are resized and not cropped.
        image_value_range: Of the processor, unless a fused classifier brings its own.
        seed: Of the random weights.
        **config: Fields of the model's configuration (`id2label`, `problem_type`, `fusion`, ...).

    Returns:
        The model, frozen where asked, a peft model with LoRA, and its processor.

    Raises:
        ValueError: If more layers are to be frozen than there are, or `max_length` is more than the model reads.
    """
    set_seed(seed)
    sees_images, sees_texts = reads != "text", reads != "image"
    if from_scratch:
        vision_config, image_processor = vision_part(vision_model) if sees_images else (None, None)
        text_config, tokenizer = text_part(text_model, texts, word_vectors) if sees_texts else (None, None)
        if tokenizer is not None:
            tokenizer.init_kwargs["padding"] = padding_of(text_config)
        processor = MultimodalProcessor(image_processor, tokenizer, image_value_range=image_value_range)
        model = model_class(model_class.config_class(vision_config=vision_config, text_config=text_config, **config))
        if word_vectors is not None:
            share = initialise_embeddings(model.text_model, tokenizer, word_vectors)
            logger.info("%.1f %% of the tokens start from the vectors of %s.", 100 * share, word_vectors)
    elif from_fusion is not None:
        refuse_pickled_model(from_fusion)
        _check_trained(from_fusion, config)
        processor = MultimodalProcessor.from_pretrained(from_fusion, trust_remote_code=False)
        brought = (*SHAPED_BY_FUSION, "id2label", "num_labels")
        # Without class weights or thresholds of its own the run has none, whatever the fused one had.
        given = {"class_weights": None, "thresholds": None} | {
            name: value for name, value in config.items() if name not in brought
        }
        model = model_class.from_fusion(from_fusion, **given)
    else:
        names = (vision_model, text_model)
        processor = MultimodalProcessor.from_vision_text_pretrained(*names, image_value_range=image_value_range)
        model = model_class.from_vision_text_pretrained(*names, vision_layers=vision_layers, **config)
    if whole_images:
        processor.keep_whole_images()
    if max_length is not None and processor.tokenizer is not None:
        if max_length > processor.tokenizer.model_max_length:
            longest = processor.tokenizer.model_max_length
            raise ValueError(f"max_length must be at most {longest}, which the text model reads, got {max_length}.")
        processor.tokenizer.model_max_length = max_length
    for side, layers in (("vision", freeze_vision_layers), ("text", freeze_text_layers)):
        if layers != "0":
            freeze_layers(model, side, layers)
    return (add_lora(model, lora_rank) if lora_rank else model), processor


def _check_trained(folder: str, fields: dict[str, Any]) -> None:
    trained = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for name in ("problem_type", "id2label", "num_labels"):
        theirs = getattr(trained, name)
        if theirs is not None and fields.get(name, theirs) != theirs:
            raise ValueError(f"{folder} was trained with {name} {theirs!r}, but the data have {fields[name]!r}.")


def label_config(
    data: LoadedData,
    *,
    label_smoothing: float = 0.0,
    class_weights: str = "none",
    threshold: float | None = None,
    scale_targets: bool = True,
) -> dict[str, Any]:
    """What the labels of a data set say of a classifier's configuration.

    Args:
        data: The data.
        label_smoothing: Share of each target spread over all classes.
        class_weights: `balanced` weighs classes by inverse frequency, `none` all alike.
        threshold: Multi-label: the probability from which on a label holds; None is .5.
        scale_targets: Whether a regression's targets are scaled by mean and deviation of the training rows.

    Raises:
        ValueError: If `label_smoothing` is asked for where an example has no single class.
    """
    if label_smoothing and data.problem_type != "single_label_classification":
        raise ValueError(f"label_smoothing needs one class an example, but problem_type is {data.problem_type!r}.")
    config: dict[str, Any] = {"problem_type": data.problem_type, "label_smoothing": label_smoothing}
    config |= {"id2label": data.id2label} if data.id2label else {"num_labels": 1}
    if data.problem_type == "regression":
        config |= target_scale(data.splits["train"]["label"][:], not scale_targets)
    if threshold is not None:
        config["thresholds"] = [threshold] * len(data.id2label)
    if class_weights == "balanced" and not data.refusals:  # a dry run goes on although a class has no row
        labels = data.splits["train"]["label"][:]
        config["class_weights"] = balanced_class_weights(labels, data.problem_type, len(data.id2label))
    return config


def check_best_metric(training_args: TrainingArguments, problem_type: str | None) -> None:
    """Refuse to choose the best model by what no evaluation gives, which transformers sees only after an epoch.

    Args:
        training_args: Their `metric_for_best_model`; for a regression the usual `nll` becomes `mse`.
        problem_type: Of a classifier; None of an aligner.

    Raises:
        ValueError: If there is no such metric.
    """
    if problem_type is None:
        one = torch.ones(1, 1)
        given = flat_metrics(retrieval_metrics(one, one, torch.tensor([0])))
        names = [name for name in given if not name.endswith(("_queries", "_pool"))]
    else:
        names = ["loss", *metric_names(problem_type)]
    if problem_type == "regression" and training_args.metric_for_best_model == "nll":
        training_args.metric_for_best_model = "mse"
    if training_args.metric_for_best_model is not None:
        check_choice("metric_for_best_model", training_args.metric_for_best_model.removeprefix("eval_"), names)


def target_scale(targets: Sequence[float], off: bool = False) -> dict[str, list[float] | None]:
    """The configuration's `target_mean` and `target_deviation`, from training rows.

    Args:
        targets: (rows,) numbers in the user's unit.
        off: Scale nothing.

    Example:

    >>> target_scale([10.0, 30.0]), target_scale([5.0, 5.0])["target_deviation"]
    ({'target_mean': [20.0], 'target_deviation': [10.0]}, [1.0])
    """
    if off:
        return {"target_mean": None, "target_deviation": None}
    values = np.asarray(targets, dtype=np.float64)
    deviation = float(values.std())
    return {"target_mean": [float(values.mean())], "target_deviation": [deviation if deviation > 0 else 1.0]}


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Numbers of all and of trainable parameters."""
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }
