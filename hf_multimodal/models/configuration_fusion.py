"""Configuration of the fused image+text classifier."""

import math
from copy import deepcopy
from typing import Any

from .configuration_vision_text import VisionTextConfig
from .fusion import FUSIONS

# What `pipeline()` runs for a person without the package. `AutoModel`, so that a model of another family is loaded
# and then refused by the pipeline in one sentence.
CUSTOM_PIPELINES = {
    "image-text-classification": {
        "impl": "pipeline_image_text_classification.ImageTextClassificationPipeline",
        "pt": ["AutoModel"],
    }
}


class FusionConfig(VisionTextConfig):
    """Configuration of [`FusionForImageTextClassification`].

    Args:
        fusion: One of `concat`, `weighted_sum`, `gated`, `attention`, `cross_attention`, `bilinear`, `early`, `late`.
            A model of a single modality has nothing to fuse and reads it through an MLP whatever stands here.
        dropout: Probability, inside the fusion.
        fusion_layers: Layers of `cross_attention` and `early`.
        fusion_heads: Attention heads of the same two; divides `hidden_size`.
        label_smoothing: Share of each target spread over all classes (single-label only).
        class_weights: One factor a class for its examples' loss (single-label) or its positives' loss (multi-label).
        thresholds: One number between 0 and 1 a label, from which probability on it holds (multi-label); None is .5
            for every label. The logits do not depend on them.
        target_mean: One number an output (regression): the mean of the training targets. With `target_deviation` the
            heads learn targets of mean 0 and deviation 1, whatever the unit; logits and metrics are in that unit.
            None scales nothing.
        target_deviation: Likewise their standard deviations, above 0.

    Raises:
        ValueError: On an unknown fusion, a `label_smoothing` outside [0, 1), a `fusion_heads` that does not divide
            `hidden_size`, `class_weights`, `thresholds`, `target_mean` or `target_deviation` of another number than
            there are labels, a threshold that is no number between 0 and 1, or one of the last two without the other.

    Example:

    >>> config = FusionConfig(fusion="gated", id2label={0: "cat", 1: "dog"})
    >>> config.label2id
    {'cat': 0, 'dog': 1}
    """

    model_type = "multimodal_fusion"
    keys_to_ignore_at_inference = [
        "fused_embeds",
        "image_embeds",
        "text_embeds",
        "modality_mask",
        "vision_model_output",
        "text_model_output",
    ]

    fusion: str = "concat"
    dropout: float | int = 0.1
    fusion_layers: int = 2
    fusion_heads: int = 4
    label_smoothing: float | int = 0.0
    class_weights: list[float] | None = None
    thresholds: list[float] | None = None
    target_mean: list[float] | None = None
    target_deviation: list[float] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "custom_pipelines": deepcopy(CUSTOM_PIPELINES)}

    def __post_init__(self, **kwargs: Any) -> None:
        if not __name__.startswith("transformers_modules"):
            # `pipeline()` demands trust_remote_code of whoever has this field, even of who has the package.
            kwargs.pop("custom_pipelines", None)
        asked = kwargs.get("num_labels")
        if asked is not None and self.id2label is not None and asked != len(self.id2label):
            # A new head was asked for: they were the old classes'.
            self.class_weights = self.thresholds = self.target_mean = self.target_deviation = None
        super().__post_init__(**kwargs)
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {list(FUSIONS)}, got {self.fusion!r}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}.")
        if self.fusion in ("cross_attention", "early") and self.hidden_size % self.fusion_heads:
            raise ValueError(f"fusion_heads must divide hidden_size {self.hidden_size}, got {self.fusion_heads}.")
        if self.class_weights is not None and len(self.class_weights) != self.num_labels:
            raise ValueError(f"class_weights needs one number a label ({self.num_labels}), got {self.class_weights}.")
        if self.thresholds is not None:
            if len(self.thresholds) != self.num_labels:
                raise ValueError(f"thresholds needs one number a label ({self.num_labels}), got {self.thresholds}.")
            if not all(0 < threshold < 1 for threshold in self.thresholds):
                raise ValueError(f"thresholds must lie between 0 and 1, got {self.thresholds}.")
        if (self.target_mean is None) != (self.target_deviation is None):
            raise ValueError("target_mean and target_deviation go together: give both, or neither.")
        for name in ("target_mean", "target_deviation"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_labels:
                raise ValueError(f"{name} needs one number an output ({self.num_labels}), got {values}.")
        if self.target_deviation is not None and not all(
            0 < deviation < math.inf for deviation in self.target_deviation
        ):
            raise ValueError(f"target_deviation must be above 0, got {self.target_deviation}.")
