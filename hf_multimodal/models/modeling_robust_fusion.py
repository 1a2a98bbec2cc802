"""The classifier that stays right and calibrated when an example lacks its image or its text, and its stack."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import TransformersKwargs, can_return_tuple

from .configuration_vision_text import PRESENCE_PATTERNS, RobustFusionConfig, check_choice
from .fusion import FUSIONS, LateFusion
from .modeling_fusion import ImageTextClassifierOutput, classification_loss, in_target_units, warn_of_no_labels
from .modeling_vision_text import (
    Features,
    Trained,
    VisionTextPreTrainedModel,
    check_mask,
    start_from,
    trained_fields,
)

HEADS = ("joint", "image", "text")
PATTERNS = tuple(sorted(PRESENCE_PATTERNS, key=lambda name: PRESENCE_PATTERNS[name][::-1]))  # image + 2 * text
KNOTS = 6
# What a fused classifier has not.
NEW_PARTS = ("unimodal.", "image_classifier.", "text_classifier.", "missing_embeddings.", "stack.")


def pattern_of(modality_mask: torch.Tensor) -> torch.Tensor:
    """Number of each row's pattern of presence, (batch,), an index of `PATTERNS`.

    Args:
        modality_mask: (batch, 2), 1 = present, column 0 image, column 1 text.
    """
    return modality_mask[:, 0].long() + 2 * modality_mask[:, 1].long()


def log_odds(logits: torch.Tensor) -> torch.Tensor:
    """How sure each prediction is: log of the first class's probability over that of all others, (batch, 1).

    The log-probability says the same, but float32 cannot tell .999999 from 1.

    Args:
        logits: (batch, classes).
    """
    first = logits.max(dim=1, keepdim=True)
    others = logits.scatter(1, first.indices, torch.finfo(logits.dtype).min)
    return first.values - others.logsumexp(dim=1, keepdim=True)


class Stack(nn.Module):
    """Weigh the logits of the heads, divide by a temperature, give the prior where nothing is there.

    Until it is fitted it is the identity on the joint head. All its numbers are float32 and stay so when the model is
    cast. A head that reads a missing modality has no weight. What is left is multiplied by a positive scale that
    depends on how sure it is, so that the first class stays the first. Stacked generalisation of
    [Wolpert, 1992](https://doi.org/10.1016/S0893-6080(05)80023-1), temperatures of
    [Guo et al., 2017](https://arxiv.org/abs/1706.04599), made to depend on the logits as by
    [Tomani et al., 2022](https://arxiv.org/abs/2102.12182).

    Args:
        num_labels: Width of the logits. The labels of a multi-label problem and the outputs of a regression have
            weights and temperatures of their own; classes share theirs, so that each column says the same.

    Example:

    >>> stack = Stack(num_labels=2)
    >>> heads = torch.tensor([[[1.0, 0.0], [0.0, 3.0], [0.0, 0.0]]])
    >>> stack(heads, torch.tensor([[1, 1]])), stack(heads, torch.tensor([[0, 0]]))
    (tensor([[1., 0.]]), tensor([[0., 0.]]))
    """

    weights: torch.Tensor
    temperatures: torch.Tensor
    knots: torch.Tensor
    scales: torch.Tensor
    prior: torch.Tensor

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        for name, value in self.identity(num_labels).items():
            self.register_buffer(name, value)

    @staticmethod
    def identity(num_labels: int) -> dict[str, torch.Tensor]:
        """What the buffers hold before the stack is fitted.

        Args:
            num_labels: Width of the logits.

        Returns:
            `weights` (patterns, heads, num_labels), `temperatures` (patterns, num_labels), `scales` (patterns, knots,
            num_labels) at the log-odds of the first class `knots` (patterns, knots), rising, with straight lines
            between them, and `prior` (num_labels,), the logits of an example without image and text.
        """
        weights = torch.zeros(len(PATTERNS), len(HEADS), num_labels)
        weights[:, 0] = 1.0
        return {
            "weights": weights,
            "temperatures": torch.ones(len(PATTERNS), num_labels),
            "knots": torch.arange(1.0 - KNOTS, 1.0).repeat(len(PATTERNS), 1),
            "scales": torch.ones(len(PATTERNS), KNOTS, num_labels),
            "prior": torch.zeros(num_labels),
        }

    def forward(self, heads: torch.Tensor, modality_mask: torch.Tensor) -> torch.Tensor:
        """(batch, num_labels), float32 or wider.

        Args:
            heads: (batch, heads, num_labels) raw logits, finite also where a head's modality is missing.
            modality_mask: (batch, 2), 1 = present.
        """
        pattern = pattern_of(modality_mask)
        scale = self.weights / self.temperatures[:, None]  # (patterns, heads, num_labels)
        heads = heads.to(torch.promote_types(heads.dtype, scale.dtype))
        logits = (scale[pattern] * heads).sum(dim=1)
        passed = ((log_odds(logits) - self.knots[pattern, :-1]) / self.knots.diff(dim=1)[pattern]).clamp(0, 1)
        rise = (passed[:, :, None] * self.scales.diff(dim=1)[pattern]).sum(dim=1)
        logits = logits * (self.scales[pattern, 0] + rise)
        return torch.where((pattern == 0)[:, None], self.prior.to(logits.dtype), logits)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Follow the model to a device, but not to another dtype: a temperature in bfloat16 has three digits."""
        before = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        return self


@dataclass
class RobustFusionOutput(ImageTextClassifierOutput):
    """Output of [`RobustFusionForImageTextClassification`]; its `logits` are those of the stack, float32 or wider.

    Args:
        joint_logits: (batch, num_labels), of the joint branch alone, as the three raw heads that the stack weighs.
        image_logits: (batch, num_labels), of the image alone; without meaning where there is none.
        text_logits: (batch, num_labels), of the text alone; without meaning where there is none.
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
        check_choice("fusion", config.fusion, FUSIONS)
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
            modality_mask: (batch, 2), 1 = present, column 0 image, column 1 text. The logits of an
                example with neither are the class prior.
            fusion_mask: (batch, 2), what of the present modalities the joint branch may read; for training, in
                evaluation it reads all.
            labels: (batch,) class numbers; (batch, num_labels) of 0 and 1 for multi-label; (batch,) or
                (batch, num_labels) numbers for regression. What is -100 (in regression NaN) has no label. An example
                with neither modality adds nothing to the loss.

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

    def classify(self, features: Features) -> torch.Tensor:
        """(batch, num_labels) logits of what `encode` gives, the same as those of `forward`."""
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
