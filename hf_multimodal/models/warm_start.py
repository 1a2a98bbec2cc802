"""A model of one family that starts from a trained model of another."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, TypeAlias

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .configuration_vision_text import VisionTextConfig

Trained: TypeAlias = PreTrainedModel | str | os.PathLike


def trained_fields(trained: Trained) -> dict[str, Any]:
    """The configuration of a trained model, but for what names its class.

    Args:
        trained: The model, or a folder or Hub name of one.

    Raises:
        ValueError: If it is neither, as a peft model.
    """
    named = ("model_type", "architectures", "auto_map", "transformers_version")
    if isinstance(trained, PreTrainedModel):
        config = trained.config.to_dict()
    elif not isinstance(trained, str | os.PathLike):
        raise ValueError(
            f"a {type(trained).__name__} is neither a model of transformers nor a folder or name of one; a peft model "
            "is merged first, by merge_and_unload()."
        )
    else:
        config, _ = PreTrainedConfig.get_config_dict(trained)
    return {name: value for name, value in config.items() if name not in named}


def common_fields(trained: Trained) -> dict[str, Any]:
    """What of the configuration of a trained model every family has: the inner models, their pooling and the width.

    Args:
        trained: The model, or a folder or Hub name of one.
    """
    config = trained_fields(trained)
    if "projection_dim" in config:  # as an aligner calls it
        config["hidden_size"] = config["projection_dim"]
    common = {field.name for field in fields(VisionTextConfig)} - {field.name for field in fields(PreTrainedConfig)}
    return {name: value for name, value in config.items() if name in common}


@contextlib.contextmanager
def unreported() -> Iterator[None]:
    """Keep transformers from warning of new weights where they are meant to be new."""
    logger = logging.get_logger("transformers.modeling_utils")
    logger.addFilter(_not_of_loading)
    try:
        yield
    finally:
        logger.removeFilter(_not_of_loading)


def _not_of_loading(record: Any) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def start_from(
    trained: Trained, model_class: type[PreTrainedModel], config: PreTrainedConfig, new_parts: tuple[str, ...]
) -> Any:
    """Build a model with all weights that a trained one has in the same shape; the rest is new.

    Args:
        trained: The model, whose device and dtype are kept, or a folder or Hub name of one.
        model_class: Of the model to build.
        config: Of the model to build.
        new_parts: Beginnings of the names of the weights that may be new.

    Returns:
        A model of `model_class`, in evaluation mode.

    Raises:
        ValueError: If the trained model lacks any other weight, as a peft model does before it is merged.
    """
    if isinstance(trained, PreTrainedModel):
        model = model_class(config)
        own = model.state_dict()
        state = {
            name: value
            for name, value in trained.state_dict().items()
            if name in own and value.shape == own[name].shape
        }
        model.load_state_dict(state, strict=False)
        new = own.keys() - state.keys()
        model = model.to(device=trained.device, dtype=trained.dtype).eval()
    else:
        with unreported():
            model, info = model_class.from_pretrained(
                trained, config=config, ignore_mismatched_sizes=True, output_loading_info=True
            )
        new = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    lost = sorted(name for name in new if not name.startswith(new_parts))
    if lost:
        whose = type(trained).__name__ if isinstance(trained, PreTrainedModel) else str(trained)
        raise ValueError(f"{whose} has not the weights that {model_class.__name__} starts from: missing {lost[:3]}.")
    return model
