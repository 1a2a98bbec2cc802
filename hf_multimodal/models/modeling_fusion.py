"""The fused image+text classifier."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_fusion import FusionConfig
from .features import Features, warn_of_missing
from .fusion import FUSIONS, LateFusion
from .losses import classification_loss, in_target_units, warn_of_no_labels
from .modeling_vision_text import VisionTextPreTrainedModel
from .warm_start import Trained, common_fields, start_from

if TYPE_CHECKING:
    from .pipeline_image_text_classification import ImageTextClassificationPipeline  # noqa: F401  travels with it

# What an aligner has not, or in another width.
NEW_PARTS = ("visual_projection.", "text_projection.", "visual_token_", "text_token_", "fusion.", "classifier.")


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
        text_model_output: Likewise of the text model.
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

    def answer(self, features: Features) -> torch.Tensor:
        """(batch, num_labels) logits from what `encode` gives, as `forward` answers."""
        return in_target_units(self.classifier(self.fusion(features)), self.config)
