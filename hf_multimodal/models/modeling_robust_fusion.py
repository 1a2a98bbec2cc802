"""The classifier that stays right and calibrated when an example lacks its image or its text."""

from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import TransformersKwargs, can_return_tuple

from .configuration_robust_fusion import RobustFusionConfig
from .encoding import check_mask
from .features import Features
from .fusion import FUSIONS, LateFusion
from .losses import classification_loss, in_target_units, warn_of_no_labels
from .modeling_fusion import ImageTextClassifierOutput
from .modeling_vision_text import VisionTextPreTrainedModel
from .stack import Stack
from .warm_start import Trained, start_from, trained_fields

# What a fused classifier has not.
NEW_PARTS = ("unimodal.", "image_classifier.", "text_classifier.", "missing_embeddings.", "stack.")


@dataclass
class RobustFusionOutput(ImageTextClassifierOutput):
    """Output of [`RobustFusionForImageTextClassification`]; its `logits` are those of the stack, float32 or wider.

    Args:
        joint_logits: (batch, num_labels), of the joint branch alone, as the three raw heads that the stack weighs.
        image_logits: (batch, num_labels), of the image alone; without meaning where there is none.
        text_logits: (batch, num_labels), likewise of the text.
    """

    joint_logits: torch.Tensor | None = None
    image_logits: torch.Tensor | None = None
    text_logits: torch.Tensor | None = None


class RobustFusionForImageTextClassification(VisionTextPreTrainedModel):
    """A fused classifier for examples of which any may lack its image, its text, or both.

    A joint branch reads both modalities, with a learned embedding in the place of a missing one; two unimodal heads
    read one each; a stack, fitted on validation after training, weighs and calibrates the three for each pattern of
    presence. What lies in the slot of a missing modality reaches no output. Training hides modalities from the joint
    branch only (`fusion_mask`), as in the modality dropout of [Neverova et al., 2014](https://arxiv.org/abs/1501.00102),
    so the unimodal heads learn from everything that is there.

    Args:
        config: A [`RobustFusionConfig`] with a vision and a text configuration.

    Raises:
        ValueError: If one of the two configurations is None.

    Example:

    >>> from transformers import BertConfig, ViTConfig
    >>> from hf_multimodal import RobustFusionConfig
    >>> small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> config = RobustFusionConfig(
    ...     vision_config=ViTConfig(image_size=8, patch_size=4, **small),
    ...     text_config=BertConfig(vocab_size=10, **small),
    ...     hidden_size=8,
    ...     num_labels=3,
    ... )
    >>> model = RobustFusionForImageTextClassification(config).eval()
    >>> images, texts = torch.zeros(2, 3, 8, 8), torch.ones(2, 5, dtype=torch.long)
    >>> mask = torch.tensor([[1, 1], [0, 1]])  # the second example has no image
    >>> logits = model(pixel_values=images, input_ids=texts, modality_mask=mask).logits
    >>> images[1] = torch.nan
    >>> torch.equal(model(pixel_values=images, input_ids=texts, modality_mask=mask).logits, logits)
    True
    """

    config_class = RobustFusionConfig
    auto_classes = ("AutoModel", "AutoModelForSequenceClassification")
    _keep_in_fp32_modules_strict = ("stack",)

    def __init__(self, config: RobustFusionConfig) -> None:
        if config.vision_config is None or config.text_config is None:
            missing = "vision_config" if config.vision_config is None else "text_config"
            raise ValueError(f"{missing} is None: a model of one modality is a FusionForImageTextClassification.")
        fusion_class = FUSIONS[config.fusion]
        super().__init__(config, token_features=fusion_class.reads_tokens)
        self.fusion = fusion_class(config)
        self.classifier = nn.Linear(self.fusion.output_size, config.num_labels)
        self.unimodal = LateFusion(config)  # an MLP a modality, as in a model of that modality alone
        self.image_classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.text_classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.missing_embeddings = nn.Embedding(2, config.hidden_size) if config.missing_embeddings else None
        self.stack = Stack(config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.stack:
            for name, value in module.identity(self.config.num_labels).items():
                init.copy_(getattr(module, name), value)

    @classmethod
    def from_fusion(cls, model_or_folder: Trained, **kwargs: Any) -> "RobustFusionForImageTextClassification":
        """Start from a trained fused classifier: all its weights are kept, the unimodal heads and the rest are new.

        Args:
            model_or_folder: A `FusionForImageTextClassification`, or a folder or Hub name of one.
            kwargs: Fields of the configuration that shall differ (`unimodal_loss_weight`, ...).

        Raises:
            TypeError: If a keyword is no field of the configuration.
            ValueError: If the classifier reads one modality only, or its weights are not those of a fused classifier
                (a peft model's, before it is merged).
        """
        cls.config_class.check_fields(kwargs)
        config = cls.config_class(**{**trained_fields(model_or_folder), **kwargs})
        return start_from(model_or_folder, cls, config, NEW_PARTS)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        modality_mask: torch.Tensor | None = None,
        fusion_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> RobustFusionOutput:
        """Classify a batch.

        Args:
            input_ids: (batch, length), or None: no example has a text.
            pixel_values: (batch, channels, height, width), or None: no example has an image.
            attention_mask: (batch, length), 1 = real token.
            token_type_ids: (batch, length).
            modality_mask: (batch, 2), 1 = present, column 0 image, column 1 text. An example with neither is answered
                with the class prior.
            fusion_mask: (batch, 2), what of the present modalities the joint branch may read; for training, in
                evaluation it reads all.
            labels: As for `FusionForImageTextClassification`. An example with neither modality adds nothing to the
                loss.

        Returns:
            [`RobustFusionOutput`]

        Raises:
            ValueError: On labels of another shape, or, on the CPU, that no class has.
        """
        if labels is None and self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            warn_of_no_labels("its class weights, its label smoothing and the losses of the image and the text head")
        features = self.encode(pixel_values, input_ids, attention_mask, token_type_ids, modality_mask, **kwargs)
        present = features.modality_mask
        check_mask("fusion_mask", fusion_mask, present.shape[0])
        shown = present if fusion_mask is None or not self.training else fusion_mask.to(present)
        joint_mask = present * shown
        heads, fused = self.heads(features, joint_mask)
        joint, image, text = heads.unbind(dim=1)
        return RobustFusionOutput(
            loss=None if labels is None else self._loss(heads, labels, joint_mask, present),
            logits=self.stack(heads, joint_mask),
            joint_logits=joint,
            image_logits=image,
            text_logits=text,
            fused_embeds=fused,
            image_embeds=features.embeds[:, 0],
            text_embeds=features.embeds[:, 1],
            modality_mask=present,
            vision_model_output=features.vision_model_output,
            text_model_output=features.text_model_output,
        )

    def answer(self, features: Features) -> torch.Tensor:
        """(batch, num_labels) logits from what `encode` gives, as `forward` answers."""
        return self.stack(self.heads(features, features.modality_mask)[0], features.modality_mask)

    def heads(self, features: Features, joint_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The raw logits that the stack weighs.

        Args:
            features: What `encode` gives.
            joint_mask: (batch, 2), within the features' mask: what the joint branch reads.

        Returns:
            (batch, 3, num_labels), heads joint, image, text, of a regression in the unit of the targets, and the
            (batch, fusion's output_size) that the joint classifier reads.
        """
        fused = self.fusion(self._joint_features(features, joint_mask.bool()))
        image, text = self.unimodal(features).chunk(2, dim=-1)
        logits = (self.classifier(fused), self.image_classifier(image), self.text_classifier(text))
        return torch.stack([in_target_units(head, self.config) for head in logits], dim=1), fused

    def _joint_features(self, features: Features, mask: torch.Tensor) -> Features:
        """What the joint branch reads: `mask` (batch, 2) bool of it, missing embeddings in place of the rest.

        A slot that holds a missing embedding counts as present, so that every fusion reads it.
        """
        tokens = {"image_token_mask": features.image_token_mask, "text_token_mask": features.text_token_mask}
        masks: dict[str, Any] = {
            name: None if tokens_here is None else tokens_here & mask[:, column, None]
            for column, (name, tokens_here) in enumerate(tokens.items())
        }
        if self.missing_embeddings is None:
            return replace(features, modality_mask=mask.long(), **masks)
        # Called and not read, since weights that a device map offloads are there only during a call.
        missing = self.missing_embeddings(torch.arange(2, device=mask.device)).to(features.embeds)
        embeds = torch.where(mask[..., None], features.embeds, missing)
        return replace(features, embeds=embeds, modality_mask=torch.ones_like(features.modality_mask), **masks)

    def _loss(
        self,
        heads: torch.Tensor,
        labels: torch.Tensor,
        joint_mask: torch.Tensor,
        present: torch.Tensor,
    ) -> torch.Tensor:
        """Each head's loss over the examples that it can read, all divided by the number of labelled ones."""
        readable = (joint_mask.any(dim=1), present[:, 0], present[:, 1])
        weights = (1.0, self.config.unimodal_loss_weight, self.config.unimodal_loss_weight)
        terms = [
            weight * classification_loss(logits, labels, self.config, here.bool())
            for logits, here, weight in zip(heads.unbind(dim=1), readable, weights, strict=True)
        ]
        return torch.stack(terms).sum()
