"""Configuration of the classifier that stays right when an example lacks its image or its text."""

from typing import Any

from .configuration_fusion import FusionConfig


class RobustFusionConfig(FusionConfig):
    """Configuration of [`RobustFusionForImageTextClassification`].

    Args:
        unimodal_loss_weight: Weight of the loss of each unimodal head beside the joint one; 0 does not train them.
        missing_embeddings: Whether a learned vector stands in the joint branch where a modality is missing; zeros do
            if not.

    Raises:
        ValueError: If `unimodal_loss_weight` is negative, or for what [`FusionConfig`] refuses.

    Example:

    >>> RobustFusionConfig().unimodal_loss_weight
    0.5
    """

    model_type = "multimodal_robust_fusion"
    keys_to_ignore_at_inference = [
        *FusionConfig.keys_to_ignore_at_inference,
        "joint_logits",
        "image_logits",
        "text_logits",
    ]

    unimodal_loss_weight: float | int = 0.5
    missing_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.unimodal_loss_weight < 0:
            raise ValueError(f"unimodal_loss_weight must be 0 or more, got {self.unimodal_loss_weight}.")
