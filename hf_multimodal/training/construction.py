"""From arguments to a model and its processor."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel, TrainingArguments, set_seed
from transformers.utils import logging

from hf_multimodal.cli.training_arguments import SHAPED_BY_FUSION, USUAL_THRESHOLD, DataArguments, ModelArguments
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
    args: ModelArguments,
    texts: Iterable[str | None],
    max_length: int | None,
    whole_images: bool = False,
    image_value_range: Any = None,
    **config_kwargs: Any,
) -> tuple[PreTrainedModel, MultimodalProcessor]:
    """Build what a training run starts from.

    Args:
        args: The choices.
        texts: The training texts, for a tokenizer from scratch.
        max_length: Longest text in tokens; None means what the text model reads.
        whole_images: Whether images are resized and not cropped.
        image_value_range: Of the processor, unless a fused classifier brings its own.
        config_kwargs: Further fields of the configuration (`id2label`, `problem_type`, `class_weights`, ...).

    Returns:
        The model, frozen where asked, and its processor; both with one side only for a single modality.

    Raises:
        ValueError: If more layers are to be frozen than there are, or `max_length` is more than the model reads.
    """
    fields = {**args.config_fields(), **config_kwargs}
    sees_images, sees_texts = args.modality != "text", args.modality != "image"
    if args.from_scratch:
        vision_config, image_processor = vision_part(args.vision_model) if sees_images else (None, None)
        vectors = args.word_vectors
        text_config, tokenizer = text_part(args.text_model, texts, vectors) if sees_texts else (None, None)
        if tokenizer is not None:
            tokenizer.init_kwargs["padding"] = padding_of(text_config)
        processor = MultimodalProcessor(image_processor, tokenizer, image_value_range=image_value_range)
        config = args.model_class.config_class(vision_config=vision_config, text_config=text_config, **fields)
        model = args.model_class(config)
        if vectors is not None:
            share = initialise_embeddings(model.text_model, tokenizer, vectors)
            logger.info("%.1f %% of the tokens start from the vectors of %s.", 100 * share, vectors)
    elif args.from_fusion is not None:
        refuse_pickled_model(args.from_fusion)
        _check_trained(args.from_fusion, fields)
        processor = MultimodalProcessor.from_pretrained(args.from_fusion, trust_remote_code=False)
        brought = (*SHAPED_BY_FUSION, "id2label", "num_labels")
        # Without class weights or thresholds of its own the run has none, whatever the fused one had.
        given = {"class_weights": None, "thresholds": None} | {
            name: value for name, value in fields.items() if name not in brought
        }
        model = args.model_class.from_fusion(args.from_fusion, **given)
    else:
        names = (args.vision_model, args.text_model)
        processor = MultimodalProcessor.from_vision_text_pretrained(*names, image_value_range=image_value_range)
        model = args.model_class.from_vision_text_pretrained(*names, vision_layers=args.vision_layers, **fields)
    if whole_images:
        processor.keep_whole_images()
    if max_length is not None and processor.tokenizer is not None:
        if max_length > processor.tokenizer.model_max_length:
            longest = processor.tokenizer.model_max_length
            raise ValueError(f"max_length must be at most {longest}, which the text model reads, got {max_length}.")
        processor.tokenizer.model_max_length = max_length
    for side, layers in (("vision", args.freeze_vision_layers), ("text", args.freeze_text_layers)):
        if layers != "0":
            freeze_layers(model, side, layers)
    return model, processor


def _check_trained(folder: str, fields: dict[str, Any]) -> None:
    trained = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    for name in ("problem_type", "id2label", "num_labels"):
        theirs = getattr(trained, name)
        if theirs is not None and fields.get(name, theirs) != theirs:
            raise ValueError(f"{folder} was trained with {name} {theirs!r}, but the data have {fields[name]!r}.")


def build_for_data(
    model_args: ModelArguments, data_args: DataArguments, data: LoadedData, seed: int
) -> tuple[PreTrainedModel, MultimodalProcessor]:
    """Build model and processor for the classes and texts of a data set.

    Args:
        model_args: Choices of the model.
        data_args: Its `max_length`, `whole_images` and `image_value_range`.
        data: The data.
        seed: Of the random weights.

    Returns:
        The model, a peft model where LoRA is asked for, and the processor.

    Raises:
        ValueError: If `label_smoothing` is asked for where an example has no single class, or a `threshold` where it
            has one.
    """
    fields = _label_fields(model_args, data) if model_args.reads_labels else {}
    set_seed(seed)
    texts = data.splits["train"]["text"]
    fields |= {"whole_images": data_args.whole_images, "image_value_range": data_args.image_value_range}
    model, processor = build_model_and_processor(model_args, texts, data_args.max_length, **fields)
    return (add_lora(model, model_args.lora_rank) if model_args.lora_rank else model), processor


def _label_fields(model_args: ModelArguments, data: LoadedData) -> dict[str, Any]:
    """What the labels of a data set say of a classifier's configuration."""
    if model_args.label_smoothing and data.problem_type != "single_label_classification":
        raise ValueError(f"label_smoothing needs one class an example, but problem_type is {data.problem_type!r}.")
    if model_args.threshold != USUAL_THRESHOLD and data.problem_type != "multi_label_classification":
        raise ValueError(
            f"threshold is for labels of which several may hold, but problem_type is {data.problem_type!r}."
        )
    if model_args.oversample and data.problem_type != "single_label_classification":
        raise ValueError(f"oversample needs one class an example, but problem_type is {data.problem_type!r}.")
    if model_args.no_target_scaling and data.problem_type != "regression":
        raise ValueError(f"no_target_scaling is for regression, but problem_type is {data.problem_type!r}.")
    fields: dict[str, Any] = {"problem_type": data.problem_type}
    fields |= {"id2label": data.id2label} if data.id2label else {"num_labels": 1}
    if data.problem_type == "regression":
        fields |= target_scale(data.splits["train"]["label"][:], model_args.no_target_scaling)
    if model_args.fixed_threshold is not None:
        fields["thresholds"] = [model_args.fixed_threshold] * len(data.id2label)
    if model_args.class_weights == "balanced" and not data.refusals:  # a dry run goes on although a class has no row
        labels = data.splits["train"]["label"][:]
        fields["class_weights"] = balanced_class_weights(labels, data.problem_type, len(data.id2label))
    return fields


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
