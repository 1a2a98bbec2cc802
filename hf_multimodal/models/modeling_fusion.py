"""The losses of classification, what both classifiers give, and the fused classifier."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple, logging

from .configuration_vision_text import FusionConfig, check_choice
from .fusion import FUSIONS, LateFusion
from .modeling_vision_text import Features, Trained, VisionTextPreTrainedModel, common_fields, start_from

if TYPE_CHECKING:
    from .pipeline_image_text_classification import ImageTextClassificationPipeline  # noqa: F401  travels with it

logger = logging.get_logger(__name__)

NO_LABEL = -100  # as for torch's losses and transformers' collators
# What an aligner has not, or in another width.
NEW_PARTS = ("visual_projection.", "text_projection.", "visual_token_", "text_token_", "fusion.", "classifier.")


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """Cross-entropy of (batch, classes) against class numbers (batch,), with the config's smoothing and weights.

    A class weight multiplies its examples' loss and the batch is averaged by its size, so that the gradient does not
    depend on how a batch is cut into accumulation steps.
    """
    labels = labels.long()
    loss = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
    if config.class_weights is not None:
        loss = loss * torch.tensor(config.class_weights, device=loss.device, dtype=loss.dtype)[labels]
    return loss[:, None]


def binary_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """Binary cross-entropy of (batch, labels) against 0 and 1."""
    weights = None
    if config.class_weights is not None:
        weights = torch.tensor(config.class_weights, device=logits.device, dtype=logits.dtype)
    return nn.functional.binary_cross_entropy_with_logits(
        logits, labels.to(logits.dtype), reduction="none", pos_weight=weights
    )


def squared_error(logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """Squared error of (batch, outputs) against (batch, outputs), or (batch,) where there is one output.

    In deviations of the training targets where the config has them, so that it is as large whatever their unit.
    """
    error = logits - labels.to(logits.dtype).view_as(logits)
    if config.target_deviation is not None:
        error = error / error.new_tensor(config.target_deviation)
    return error.square()


def in_target_units(outputs: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    """What a head puts out, about 0 and 1 wide, in the unit of the targets that it was trained on.

    Args:
        outputs: (batch, num_labels).
        config: Its `target_mean` and `target_deviation`; None leaves the outputs as they are.

    Example:

    >>> config = FusionConfig(num_labels=1, problem_type="regression", target_mean=[50.0], target_deviation=[20.0])
    >>> in_target_units(torch.tensor([[0.5]]), config)
    tensor([[60.]])
    """
    if config.target_mean is None or config.target_deviation is None:
        return outputs
    return outputs * outputs.new_tensor(config.target_deviation) + outputs.new_tensor(config.target_mean)


CLASSIFICATION_LOSSES = {
    "single_label_classification": cross_entropy,
    "multi_label_classification": binary_cross_entropy,
    "regression": squared_error,
}


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: FusionConfig, readable: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean loss over the labelled examples of a batch, a scalar in float32 or wider.

    What has no label counts neither above nor below the line: -100 and NaN in classification, NaN alone in
    regression, where -100 is a number like any other. Of an example that lacks some of its labels, the mean is taken
    over the others. Where nothing has a label the loss is 0, and so is its gradient.

    Args:
        logits: (batch, num_labels).
        labels: (batch,) class numbers; (batch, num_labels) of 0 to 1 for multi-label; (batch,) or (batch,
            num_labels) numbers for regression.
        config: Its `problem_type` is decided by the labels and filled in if it is None, as transformers does.
        readable: (batch,) bool, examples that these logits can tell of; others add 0 and count all the same, so that
            the gradient does not depend on who shares a batch with them. None means all.

    Raises:
        ValueError: On labels of another shape, and on the CPU, where looking at them makes no device wait, on labels
            that no class has.

    Example:

    >>> config = FusionConfig(num_labels=2)
    >>> logits = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
    >>> classification_loss(logits, torch.tensor([1, -100]), config)  # log(2): the second row has no label
    tensor(0.6931)
    """
    problem_type = config.problem_type
    if problem_type is None:
        classes = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem_type = "regression" if config.num_labels == 1 else classes
    _check_shape(labels, logits, problem_type)
    known = ~labels.isnan()
    if problem_type != "regression":
        known = known & (labels != NO_LABEL)
        _refuse_unknown_classes(labels, known, problem_type, logits.shape[-1])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = CLASSIFICATION_LOSSES[problem_type](logits, labels.masked_fill(~known, 0), config)
    if config.problem_type is None:  # only now: labels of a wrong shape decide nothing
        config.problem_type = problem_type
    known = known.view_as(losses)  # (batch, labels an example)
    losses = losses.masked_fill(~known, 0.0).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
    if readable is not None:
        losses = losses.masked_fill(~readable, 0.0)
    return losses.sum() / known.any(dim=-1).sum().clamp(min=1)


def _check_shape(labels: torch.Tensor, logits: torch.Tensor, problem_type: str) -> None:
    shape, size = tuple(labels.shape), tuple(logits.shape)
    fits = "num_labels or id2label of the model's configuration must fit the data"
    if problem_type == "single_label_classification" and shape != size[:1]:
        raise ValueError(
            f"labels of single-label classification are (batch,), got {shape} for {size[0]} rows: several labels an "
            "example are given as floats, or need problem_type 'multi_label_classification' in the configuration."
        )
    if problem_type == "multi_label_classification" and shape != size:
        advice = "numbers of classes are given as integers" if len(shape) == 1 else fits
        raise ValueError(f"labels of multi-label classification are {size}, got {shape}: {advice}.")
    if problem_type == "regression" and shape not in (size, size[:1] if size[1] == 1 else size):
        raise ValueError(f"labels of regression are {size}, got {shape}: {fits}.")


def _refuse_unknown_classes(labels: torch.Tensor, known: torch.Tensor, problem_type: str, num_labels: int) -> None:
    """Name the first label that is no class, unless a device would have to be waited for, or a graph be broken."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return
    single = problem_type == "single_label_classification"
    wrong = (labels < 0) | (labels > (num_labels - 1 if single else 1))
    if single:
        wrong = wrong | (labels != labels.floor())
    found = (known & wrong).nonzero()
    if not len(found):
        return
    row, *column = found[0].tolist()
    value = labels[row, *column].item()
    if single:
        raise ValueError(
            f"the label of row {row} of the batch is {value}, but the model has {num_labels} classes, 0 to "
            f"{num_labels - 1}: num_labels or id2label of its configuration must fit the data. {NO_LABEL} marks a row "
            "without a label."
        )
    raise ValueError(
        f"label {column[0]} of row {row} of the batch is {value}, but multi-label targets lie between 0 and 1; "
        f"{NO_LABEL} marks one that is not known."
    )


def warn_of_missing(name: str) -> None:
    """Say, once a process, that a plain classifier does without the image or the text."""
    logger.warning_once(
        f"{name} is None: this classifier was trained on both modalities and predicts from one alone. "
        "RobustFusionForImageTextClassification is made for missing ones."
    )


def warn_of_no_labels(lost: str) -> None:
    """Say, once a process, that a classifier is trained by another loss than its own.

    Args:
        lost: What of its own loss then goes unused.
    """
    logger.warning_once(
        f"labels is None in training: the model's own loss is not computed, and with it go {lost}. Trainer's "
        "label_smoothing_factor and compute_loss_func take the labels away: leave label_smoothing_factor at 0 and "
        "compute_loss_func out, and set label_smoothing and class_weights in the model's configuration."
    )


@dataclass
class ImageTextClassifierOutput(ModelOutput):
    """Output of the classifiers.

    Args:
        loss: Scalar, only where `labels` were given.
        logits: (batch, num_labels), before softmax or sigmoid.
        fused_embeds: (batch, fusion's output_size), what the classifier reads.
        image_embeds: (batch, hidden_size), zeros where there is no image.
        text_embeds: (batch, hidden_size), zeros where there is no text.
        modality_mask: (batch, 2), 1 = what this model really read.
        vision_model_output: The vision model's `last_hidden_state`, `hidden_states` and `attentions`, zeros for the
            rows that it did not read; only with `output_hidden_states` or `output_attentions`.
        text_model_output: The same of the text model.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    fused_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    modality_mask: torch.Tensor | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    text_model_output: BaseModelOutputWithPooling | None = None


class FusionForImageTextClassification(VisionTextPreTrainedModel):
    """Any vision model and any text model, fused and classified; with one of the two None, a single-modality model.

    Args:
        config: A [`FusionConfig`]; `config.fusion` names the entry of `FUSIONS`.

    Example:

    >>> from transformers import BertConfig, ViTConfig
    >>> from hf_multimodal import FusionConfig
    >>> small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> config = FusionConfig(
    ...     vision_config=ViTConfig(image_size=8, patch_size=4, **small),
    ...     text_config=BertConfig(vocab_size=10, **small),
    ...     hidden_size=8,
    ...     num_labels=3,
    ... )
    >>> model = FusionForImageTextClassification(config)
    >>> model(pixel_values=torch.zeros(2, 3, 8, 8), input_ids=torch.ones(2, 5, dtype=torch.long)).logits.shape
    torch.Size([2, 3])
    """

    config_class = FusionConfig
    auto_classes = ("AutoModel", "AutoModelForSequenceClassification")

    def __init__(self, config: FusionConfig) -> None:
        check_choice("fusion", config.fusion, FUSIONS)
        # One modality has nothing to fuse: one of late fusion's MLPs is all that is left.
        fusion_class = FUSIONS[config.fusion] if len(config.modalities) == 2 else LateFusion
        super().__init__(config, token_features=fusion_class.reads_tokens)
        self.fusion = fusion_class(config)
        self.classifier = nn.Linear(self.fusion.output_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_aligner(cls, model_or_folder: Trained, **kwargs: Any) -> "FusionForImageTextClassification":
        """Start from a trained aligner: its vision and text model, and its projections where the shapes agree.

        Args:
            model_or_folder: An `AlignerModel`, or a folder or Hub name of one.
            kwargs: Fields of the configuration (`num_labels`, `fusion`, ...); inner models, poolings and width are the
                aligner's unless given.

        Raises:
            TypeError: If a keyword is no field of the configuration.
            ValueError: If its weights are not those of an aligner (a peft model's, before it is merged).
        """
        cls.config_class.check_fields(kwargs)
        config = cls.config_class(**{**common_fields(model_or_folder), **kwargs})
        return start_from(model_or_folder, cls, config, NEW_PARTS)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        modality_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> ImageTextClassifierOutput:
        """Classify a batch.

        Args:
            input_ids: (batch, length).
            pixel_values: (batch, channels, height, width).
            attention_mask: (batch, length), 1 = real token.
            token_type_ids: (batch, length).
            modality_mask: (batch, 2), 1 = present, column 0 image, column 1 text.
            labels: (batch,) class numbers; (batch, num_labels) of 0 and 1 for multi-label; (batch,) or
                (batch, num_labels) numbers for regression. Without a `problem_type` in the config their type decides,
                as in transformers. What is -100 (in regression NaN) has no label: the loss is the mean over the
                examples that have one.

        Returns:
            [`ImageTextClassifierOutput`]

        Raises:
            ValueError: On labels of another shape, or, on the CPU, that no class has.
        """
        if not torch.compiler.is_compiling() and len(self.config.modalities) == 2:
            for name, value in (("pixel_values", pixel_values), ("input_ids", input_ids)):
                if value is None:
                    warn_of_missing(name)
        if labels is None and self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            warn_of_no_labels("its class weights and its label smoothing")
        features = self.encode(pixel_values, input_ids, attention_mask, token_type_ids, modality_mask, **kwargs)
        fused = self.fusion(features)
        logits = in_target_units(self.classifier(fused), self.config)
        return ImageTextClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            fused_embeds=fused,
            image_embeds=features.embeds[:, 0],
            text_embeds=features.embeds[:, 1],
            modality_mask=features.modality_mask,
            vision_model_output=features.vision_model_output,
            text_model_output=features.text_model_output,
        )

    def classify(self, features: Features) -> torch.Tensor:
        """(batch, num_labels) logits of what `encode` gives, the same as those of `forward`."""
        return in_target_units(self.classifier(self.fusion(features)), self.config)
