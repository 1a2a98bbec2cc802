"""What the models that stand on no other of this package have in common: whole checkpoints, and code that travels."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from .configuration_vision_text import auto_map_of


class _AutoMap(dict[str, Any]):
    """Names by which classes are found, one each.

    In saving, transformers takes any class with "Tokenizer" in its name for a tokenizer of texts, and enters a pair of
    a slow and a fast one, which no model is loaded by.
    """

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value if isinstance(value, str) else next(one for one in value if one is not None))


class CheckedModel(PreTrainedModel):
    """A model whose checkpoint is whole, finite and read from safetensors, or refused.

    Its code travels under all of its `auto_classes`.
    """

    auto_classes: ClassVar[tuple[str, ...]] = ("AutoModel",)

    def save_pretrained(self, save_directory: Any, save_original_format: bool = False, **kwargs: Any) -> None:
        """As in transformers, with the names by which its classes are found, and today's parameter names.

        transformers writes legacy names for ViT, Swin, DINOv2 and others, which `Trainer` cannot resume from.
        """
        self.config.auto_map = _AutoMap(auto_map_of(self))
        super().save_pretrained(save_directory, save_original_format=save_original_format, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        use_safetensors: bool | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, but a checkpoint that is not whole is an error, and no pickle is opened unasked.

        Args:
            pretrained_model_name_or_path: Folder, or name on the Hub.
            *args, output_loading_info, **kwargs: As in transformers.
            use_safetensors: False reads pickles as well, which can run code.

        Raises:
            ValueError: If weights are missing, left over, or not finite; the message names them.
        """
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *args,
            use_safetensors=use_safetensors is not False,
            output_loading_info=True,
            **kwargs,
        )
        if pretrained_model_name_or_path is None:
            return (model, info) if output_loading_info else model
        missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
        if missing or unexpected:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds no whole {cls.__name__}: missing {missing[:5]}, unexpected "
                f"{unexpected[:5]} ({len(missing)} and {len(unexpected)} in all). Take another checkpoint."
            )
        values = model.state_dict().items()
        broken = [name for name, value in values if value.is_floating_point() and not value.isfinite().all()]
        if broken:
            raise ValueError(
                f"{pretrained_model_name_or_path} holds weights that are NaN or infinite: {broken[:5]} "
                f"({len(broken)} tensors in all). Take another checkpoint."
            )
        return (model, info) if output_loading_info else model

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in torch, but of a weight with two names (tied embeddings) one is enough, as it is saved under one."""
        names = self.all_tied_weights_keys.items()
        tied = {name: state_dict[other] for name, other in names if name not in state_dict and other in state_dict}
        return super().load_state_dict({**state_dict, **tied}, *args, **kwargs)


class DecoderModel(CheckedModel, GenerationMixin):
    """A model around a decoder of transformers, its `text_model`, whose embeddings are its own."""

    text_model: Any
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _is_composite = True

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.text_model.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_output_embeddings(value)
