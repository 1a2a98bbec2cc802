"""Configuration of the model that aligns images and texts in one space."""

import math
from typing import Any, ClassVar

from .configuration_vision_text import VisionTextConfig
from .contrastive_losses import LOSSES, TRIPLET_MININGS

PROJECTIONS = ("linear", "mlp")


class AlignerConfig(VisionTextConfig):
    """Configuration of [`AlignerModel`].

    Args:
        projection_dim: Width of the common space; `hidden_size` is another name for it.
        projection: From either model's feature to that space: `linear`, or `mlp` with one hidden layer.
        loss: One of `infonce`, `sigmoid`, `triplet`, `contrastive_pair`, `margin_ranking`.
        logit_scale_init_value: Logarithm of the scale at the start. None means log(10) for `sigmoid`, as in SigLIP,
            and 2.6592 for the rest, as in CLIP. Only `infonce` and `sigmoid` learn it.
        logit_bias_init_value: Bias at the start; only `sigmoid` has one. -10, as in SigLIP, makes the many negatives
            of the first steps cost little.
        margin: Of `triplet` and `margin_ranking` in cosine, of `contrastive_pair` in Euclidean distance. None means
            the one of the loss: .2, .2 and 1.
        triplet_mining: Which negatives `triplet` takes: `semi_hard`, `all` or `hard`.

    Raises:
        ValueError: On an unknown `projection`, `loss` or `triplet_mining`, a `projection_dim` or a `margin` that is
            not positive, a `logit_scale_init_value` that is no logarithm of a scale of at most 100, or for what
            [`VisionTextConfig`] refuses.

    Example:

    >>> config = AlignerConfig(projection_dim=64)
    >>> config.hidden_size, config.loss
    (64, 'infonce')
    """

    model_type = "multimodal_aligner"
    attribute_map: ClassVar[dict[str, str]] = {"hidden_size": "projection_dim"}
    keys_to_ignore_at_inference = [
        "logits_per_image",
        "logits_per_text",
        "modality_mask",
        "incomplete_pairs",
        "vision_model_output",
        "text_model_output",
    ]

    hidden_size: ClassVar[int]  # type: ignore[misc]  # no field of its own any more: `attribute_map` answers
    projection_dim: int = 256
    projection: str = "linear"
    loss: str = "infonce"
    logit_scale_init_value: float | int | None = None
    logit_bias_init_value: float | int = -10.0
    margin: float | int | None = None
    triplet_mining: str = "semi_hard"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name, allowed in (("projection", PROJECTIONS), ("loss", LOSSES), ("triplet_mining", TRIPLET_MININGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}.")
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim must be 1 or more, got {self.projection_dim}.")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise ValueError(f"margin must be more than 0, got {self.margin}.")
        scale = self.logit_scale_init_value
        if scale is not None and not -math.inf < scale <= math.log(100):
            raise ValueError(f"logit_scale_init_value is a logarithm, at most log(100) = 4.605, got {scale}.")
        if not math.isfinite(self.logit_bias_init_value):
            raise ValueError(f"logit_bias_init_value must be finite, got {self.logit_bias_init_value}.")
