"""What every configuration of this package shares: a vision configuration and a text configuration."""

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .configuration_recurrent_text import RecurrentTextConfig
from .configuration_torchvision import TorchvisionConfig

# Ours, by model type: under remote code `AutoConfig` does not know them.
OWN_CONFIGS: dict[str, type[PreTrainedConfig]] = {
    config.model_type: config for config in (TorchvisionConfig, RecurrentTextConfig)
}
IMAGE_POOLINGS = ("auto", "cls", "mean", "cls_mean")
TAKEN = ("num_labels", "attn_implementation", "output_attentions")  # by transformers' configurations, as no fields
FIXED_LENGTH_TEXT = ("siglip_text_model", "siglip2_text_model")  # they pool the last position of a fixed length
TEXT_POOLINGS = ("auto", "cls", "mean", "last", "pooler")


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
    if model_type in OWN_CONFIGS:
        return OWN_CONFIGS[model_type](**given)
    return AutoConfig.for_model(model_type, **given)


class VisionTextConfig(PreTrainedConfig):
    """A vision model and a text model of any type; either may be None, which makes a single-modality model.

    Args:
        vision_config: Configuration (object or dict with `model_type`) of the vision model.
        text_config: Likewise of the text model.
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

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_config = to_config(self.vision_config)
        self.text_config = to_config(self.text_config)
        if self.image_pooling not in IMAGE_POOLINGS:
            raise ValueError(f"image_pooling must be one of {list(IMAGE_POOLINGS)}, got {self.image_pooling!r}.")
        if self.text_pooling not in TEXT_POOLINGS:
            raise ValueError(f"text_pooling must be one of {list(TEXT_POOLINGS)}, got {self.text_pooling!r}.")
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
