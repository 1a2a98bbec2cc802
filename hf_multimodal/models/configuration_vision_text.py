"""The configurations of the three families, and what they share. No torch is imported here."""

import math
import sys
from collections.abc import Collection, Iterable
from copy import deepcopy
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.dynamic_module_utils import custom_object_save, get_class_from_dynamic_module

# What of an example may be there, as it is told of everywhere, and what each shows: image, text.
PRESENCE_PATTERNS = {"both": (True, True), "image": (True, False), "text": (False, True), "neither": (False, False)}
MODALITIES = tuple(name for name, shown in PRESENCE_PATTERNS.items() if any(shown))  # what a model may read

IMAGE_POOLINGS = ("auto", "cls", "mean", "cls_mean")
TEXT_POOLINGS = ("auto", "cls", "mean", "last", "pooler")
PROJECTIONS = ("linear", "mlp")
TORCHVISION_PREFIX = "torchvision:"  # before the name of an architecture, where a checkpoint is named otherwise
FIXED_LENGTH_TEXT = ("siglip_text_model", "siglip2_text_model")  # they pool the last position of a fixed length
TAKEN = ("num_labels", "attn_implementation", "output_attentions")  # by transformers' configurations, as no fields
# What `pipeline()` runs for a person without the package. `AutoModel`, so that a model of another family is loaded
# and then refused by the pipeline in one sentence.
CUSTOM_PIPELINES = {
    "image-text-classification": {
        "impl": "pipeline_image_text_classification.ImageTextClassificationPipeline",
        "pt": ["AutoModel"],
    }
}


def check_choice(name: str, given: Any, allowed: Collection[str]) -> None:
    """Refuse what is none of the allowed names.

    Args:
        name: Of the field.
        given: Its value.
        allowed: Its allowed values.

    Raises:
        ValueError: `given` is none of them.
    """
    if given not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {given!r}.")


def loaded_table(module: str, name: str) -> Any:
    """A table of another file of this folder, empty unless that file is imported.

    The tables of fusions and losses stand in files that import torch. Importing the package imports them all; where
    this file has travelled to the Hub it stands alone until the model is built, which checks the same names.
    """
    return getattr(sys.modules.get(f"{__package__}.{module}"), name, {})


def to_config(config: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig | None:
    """Turn the dict that stands in a `config.json` into the configuration that it describes.

    Raises:
        ValueError: If the dict names no `model_type`, or one that transformers does not know.
    """
    if not isinstance(config, dict):
        return config
    given = dict(config)
    model_type = given.pop("model_type", None)
    if model_type is None:
        raise ValueError(f"a vision_config or text_config given as a dict needs a model_type, got {sorted(config)}.")
    return AutoConfig.for_model(model_type, **given)


def own_reference(instance: Any) -> str:
    """Where code from the Hub finds the class of a model or configuration: `file.Class`."""
    own = type(instance)
    return f"{own.__module__.split('.')[-1]}.{own.__name__}"


def auto_map_of(model: Any) -> dict[str, str]:
    """Where code from the Hub finds a model's class, its configuration's, and those of inner models of ours."""
    found = dict.fromkeys(model.auto_classes, own_reference(model)) | {"AutoConfig": own_reference(model.config)}
    for side in ("vision_config", "text_config"):
        inner = getattr(model.config, side, None)
        if getattr(inner, "_auto_class", None) is not None:  # no model of transformers: its code goes along
            found[side] = own_reference(inner)
    return found


class TravellingConfig(PreTrainedConfig):
    """A configuration of two models, either of which may be one of ours, whose code then travels with it."""

    vision_config: Any = None
    text_config: Any = None

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        """As in transformers; where this file has travelled to the Hub, so has the code of our own inner models.

        A repository holds the code of one only if its model has one, and `auto_map` then names it beside the other
        classes.
        """
        settings, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if __name__.startswith("transformers_modules"):  # whoever loads this has agreed to run the repository's code
            for side in ("vision_config", "text_config"):
                if side in settings.get("auto_map", {}):
                    reference = settings["auto_map"][side]
                    own = get_class_from_dynamic_module(reference, pretrained_model_name_or_path, **kwargs)
                    AutoConfig.register(own.model_type, own, exist_ok=True)
        return settings, unused

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """As in transformers, with the code of the inner models that are ours."""
        super().save_pretrained(save_directory, **kwargs)
        for inner in (self.vision_config, self.text_config):
            if getattr(inner, "_auto_class", None) is not None:
                custom_object_save(inner, save_directory)


class VisionTextConfig(TravellingConfig):
    """A vision model and a text model of any type; either may be None, which makes a single-modality model.

    Args:
        vision_config: Configuration (object or dict with `model_type`) of the vision model.
        text_config: Configuration (object or dict with `model_type`) of the text model.
        hidden_size: Width of the space into which the features of both are projected.
        image_pooling: How an image's tokens become one vector: `cls`, `mean` (over the patches), `cls_mean` (both
            side by side), or `auto`: the model's own way.
        text_pooling: How token features become one vector: `cls`, `mean` (over real tokens), `last` (real token),
            `pooler` (the model's own, which is built only for this choice), or `auto`: `last` for decoders, the
            model's own for CLIP, SigLIP and recurrent models, `mean` for the rest.

    Raises:
        ValueError: If `image_pooling` or `text_pooling` is none of these, or `id2label` leaves out a number.
    """

    sub_configs: ClassVar[dict[str, type]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: PreTrainedConfig | dict[str, Any] | None = None
    text_config: PreTrainedConfig | dict[str, Any] | None = None
    hidden_size: int = 256
    image_pooling: str = "auto"
    text_pooling: str = "auto"
    initializer_range: float = 0.02
    if TYPE_CHECKING:  # taken by every configuration of transformers, where they are no fields
        num_labels: int = 2
        attn_implementation: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = to_config(self.vision_config)
        self.text_config = to_config(self.text_config)
        check_choice("image_pooling", self.image_pooling, IMAGE_POOLINGS)
        check_choice("text_pooling", self.text_pooling, TEXT_POOLINGS)
        # One of the two label maps alone is completed: transformers leaves the other None or at LABEL_0.
        id2label, label2id = self.id2label, self.label2id  # type: ignore[has-type]
        if id2label is None and label2id is not None:
            id2label = {int(index): name for name, index in label2id.items()}
        if id2label is not None:
            if not isinstance(id2label, dict) or sorted(map(int, id2label)) != list(range(len(id2label))):
                raise ValueError(
                    "id2label names the classes by their numbers from 0 on, as dict(enumerate(names)) does, got "
                    f"{id2label!r}."
                )
            label2id = {name: int(index) for index, name in id2label.items()}
        self.id2label, self.label2id = id2label, label2id
        super().__post_init__(**kwargs)

    @classmethod
    def check_fields(cls, names: Iterable[str]) -> None:
        """Refuse what is no field: a configuration would keep it and save it, a misspelt name as well as a token.

        Args:
            names: Of keyword arguments that are meant to be fields.

        Raises:
            TypeError: If one of them is none.

        Example:

        >>> VisionTextConfig.check_fields(["num_labels", "text_poling"])
        Traceback (most recent call last):
        ...
        TypeError: 'text_poling' is no field of VisionTextConfig. Did you mean 'text_pooling'?
        """
        known = [*(field.name for field in fields(cls)), *cls.attribute_map, *TAKEN]
        for name in names:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                hint = " A token comes from HF_TOKEN or `hf auth login`." if name == "token" else hint
                raise TypeError(f"{name!r} is no field of {cls.__name__}.{hint}")

    @property
    def modalities(self) -> tuple[int, ...]:
        """Columns of `modality_mask` that this model reads: 0 image, 1 text. A bare config counts as both."""
        has = (self.vision_config is not None, self.text_config is not None)
        return tuple(column for column in (0, 1) if has[column] or not any(has))


class FusionConfig(VisionTextConfig):
    """Configuration of [`FusionForImageTextClassification`].

    Args:
        fusion: Name of a fusion, an entry of `FUSIONS` in `fusion.py`. A model of a single modality has nothing to
            fuse and reads it through an MLP whatever stands here.
        dropout: Probability, inside the fusion.
        fusion_layers: Layers of a fusion that reads tokens (`cross_attention`, `early`).
        fusion_heads: Attention heads of these layers; divides `hidden_size`.
        label_smoothing: Share of each target spread over all classes (single-label only).
        class_weights: One factor a class for its examples' loss (single-label) or its positives' loss (multi-label).
        thresholds: One number between 0 and 1 a label, from which probability on it holds (multi-label); None is .5
            for every label. The logits do not depend on them.
        target_mean: One number an output (regression): the mean of the training targets. With `target_deviation` the
            heads learn targets of mean 0 and deviation 1, whatever the unit; logits and metrics are in that unit.
            None scales nothing.
        target_deviation: One number an output (regression), above 0: the standard deviation of the training targets.

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
        if fusions := loaded_table("fusion", "FUSIONS"):
            check_choice("fusion", self.fusion, fusions)
            if fusions[self.fusion].reads_tokens and self.hidden_size % self.fusion_heads:
                raise ValueError(f"fusion_heads must divide hidden_size {self.hidden_size}, got {self.fusion_heads}.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}.")
        for name in ("class_weights", "thresholds", "target_mean", "target_deviation"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_labels:
                each = "an output" if name.startswith("target_") else "a label"
                raise ValueError(f"{name} needs one number {each} ({self.num_labels}), got {values}.")
        if self.thresholds is not None and not all(0 < threshold < 1 for threshold in self.thresholds):
            raise ValueError(f"thresholds must lie between 0 and 1, got {self.thresholds}.")
        if (self.target_mean is None) != (self.target_deviation is None):
            raise ValueError("target_mean and target_deviation go together: give both, or neither.")
        if self.target_deviation is not None and not all(
            0 < deviation < math.inf for deviation in self.target_deviation
        ):
            raise ValueError(f"target_deviation must be above 0, got {self.target_deviation}.")


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


class AlignerConfig(VisionTextConfig):
    """Configuration of [`AlignerModel`].

    Args:
        projection_dim: Width of the common space; `hidden_size` is another name for it.
        projection: From either model's feature to that space: `linear`, or `mlp` with one hidden layer.
        loss: Name of a loss, an entry of `LOSSES` in `losses.py`.
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

    hidden_size: ClassVar[int]  # type: ignore[misc]  # no field: `attribute_map` reads projection_dim
    projection_dim: int = 256
    projection: str = "linear"
    loss: str = "infonce"
    logit_scale_init_value: float | int | None = None
    logit_bias_init_value: float | int = -10.0
    margin: float | int | None = None
    triplet_mining: str = "semi_hard"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_choice("projection", self.projection, PROJECTIONS)
        if losses := loaded_table("losses", "LOSSES"):
            check_choice("loss", self.loss, losses)
            check_choice("triplet_mining", self.triplet_mining, loaded_table("losses", "TRIPLET_MININGS"))
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim must be 1 or more, got {self.projection_dim}.")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise ValueError(f"margin must be more than 0, got {self.margin}.")
        scale = self.logit_scale_init_value
        if scale is not None and not -math.inf < scale <= math.log(100):
            raise ValueError(f"logit_scale_init_value is a logarithm, at most log(100) = 4.605, got {scale}.")
        if not math.isfinite(self.logit_bias_init_value):
            raise ValueError(f"logit_bias_init_value must be finite, got {self.logit_bias_init_value}.")
