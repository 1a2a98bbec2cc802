"""The adapter that every model of this package stands on: any vision model, any text model, projected to one width."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from .configuration_vision_text import FIXED_LENGTH_TEXT, VisionTextConfig
from .encoding import Encoder
from .inner_models import (
    TEXT_POOLERS,
    ImagePooling,
    accepted,
    build_model,
    freeze_unread,
    has_pooler,
    image_widths,
    load_model,
    longest_text,
    projection,
    shared_dtype,
    text_pooling_of,
    text_width,
)

if TYPE_CHECKING:
    from .processing_multimodal import MultimodalProcessor  # noqa: F401  the processor travels with every model

WHERE = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download", "proxies")


def check_keys(name_or_path: Any, info: Any, families: Sequence[Any], **where: Any) -> None:
    """Refuse a checkpoint whose weights are not those that its own configuration asks for.

    Args:
        name_or_path: Folder, or name on the Hub.
        info: What transformers says of the loading. Keys that were asked for by another configuration than the
            checkpoint's, or another class, may be missing or left over.
        families: Classes of which one saved it; that of another class is not looked at.
        where: Revision, token and so on.

    Raises:
        ValueError: If weights are missing or left over.
    """
    missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
    if not missing and not unexpected:
        return
    settings, _ = PreTrainedConfig.get_config_dict(name_or_path, **where)
    family = next((one for one in families if one.__name__ in (settings.get("architectures") or ())), None)
    if family is None:
        return
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        own = family(family.config_class.from_dict(settings)).state_dict().keys()
    missing, unexpected = missing & own, unexpected - own
    if missing or unexpected:
        raise ValueError(
            f"{name_or_path} holds no whole {family.__name__}: its weights are not those that its configuration asks "
            f"for, missing {sorted(missing)[:5]}, unexpected {sorted(unexpected)[:5]} ({len(missing)} and "
            f"{len(unexpected)} in all). Take another checkpoint, or save the model again."
        )


def check_finite(name_or_path: Any, model: nn.Module) -> None:
    """Refuse weights that are NaN or infinite; those that are still on a disk are not looked at.

    Args:
        name_or_path: Where they are from, for the message.
        model: The model that was loaded.

    Raises:
        ValueError: If there are any; the message names their tensors.
    """
    broken = [
        name
        for name, value in model.state_dict().items()
        if value.is_floating_point() and value.itemsize > 1 and not value.is_meta and not value.isfinite().all()
    ]
    if broken:
        raise ValueError(
            f"{name_or_path} holds weights that are NaN or infinite: {broken[:5]} ({len(broken)} tensors in all). The "
            "training diverged, or the file was damaged: take another checkpoint."
        )


class VisionTextPreTrainedModel(Encoder, PreTrainedModel):
    """Vision model, text model and projections; each model runs only on the rows that have its modality.

    Leaves call `super().__init__`, add their own parts and call `post_init()` last.

    Args:
        config: Its `vision_config` and `text_config` are built; one of them may be None.
        token_features: Whether `encode` also returns projected tokens.

    Raises:
        ValueError: If both configurations are None, or a pooling asks for what the model lacks.
    """

    config_class = VisionTextConfig
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the losses are means over the batch; Trainer need not rescale them
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _is_composite = True
    _auto_class = "AutoModel"
    auto_classes: ClassVar[tuple[str, ...]] = ("AutoModel",)

    def __init__(self, config: VisionTextConfig, token_features: bool = False) -> None:
        super().__init__(config)
        if config.vision_config is None and config.text_config is None:
            raise ValueError("a model needs a vision_config, a text_config, or both; both are None.")
        for name in ("class_weights", "thresholds", "target_mean", "target_deviation"):
            if len(getattr(config, name, None) or ()) not in (0, config.num_labels):
                setattr(config, name, None)  # a new head was asked for by other labels: they were the old classes'
        self.token_features = token_features
        self.vision_model: Any = None
        self.text_model: Any = None
        self._text_pooling = config.text_pooling
        if config.vision_config is not None:
            self.vision_model = build_model(config.vision_config, "vision_config", config.image_pooling)
            self._image_pooling = ImagePooling(self.vision_model, config.image_pooling)
            width, token_width = image_widths(self.vision_model, self._image_pooling)
            self.visual_projection = projection(width, config.hidden_size)
            if token_features:
                self.visual_token_projection = projection(token_width, config.hidden_size)
        if config.text_config is not None:
            self._text_pooling = strategy = text_pooling_of(config.text_config, config.text_pooling)
            self.text_model = build_model(config.text_config, "text_config", strategy)
            if not has_pooler(self.text_model, strategy):
                raise ValueError(
                    f"text_pooling 'pooler' needs a text model that has one; {self.text_model.config.model_type!r} "
                    "does not: choose one of ['auto', 'cls', 'mean', 'last']."
                )
            self._text_pooler = TEXT_POOLERS[strategy]
            self._reads_mask = strategy != "pooler"  # a model's own pooler may look at padding
            fixed = self.text_model.config.model_type in FIXED_LENGTH_TEXT
            self._text_length = self.text_model.config.max_position_embeddings if fixed else None
            self._longest_text = longest_text(self.text_model)
            self._text_inputs = accepted(self.text_model, ("token_type_ids", "use_cache"))
            width = text_width(self.text_model.config)
            self.text_projection = projection(width, config.hidden_size)
            if token_features:
                self.text_token_projection = projection(width, config.hidden_size)
        else:
            self.main_input_name = "pixel_values"
        self._share_configs()

    def _share_configs(self) -> None:
        """The inner models read their configuration from this model's, so that a change reaches both."""
        for model, name in ((self.vision_model, "vision_config"), (self.text_model, "text_config")):
            if model is not None:
                getattr(self.config, name)._attn_implementation = model.config._attn_implementation
                model.config = getattr(self.config, name)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_model_name_or_path: str | None = None,
        text_model_name_or_path: str | None = None,
        vision_layers: int | None = None,
        **kwargs: Any,
    ) -> "VisionTextPreTrainedModel":
        """Start from pretrained weights of a vision model, a text model, or both; the rest is new.

        Args:
            vision_model_name_or_path: Hub name or folder, or None for a text model. Of a CLIP-like checkpoint the
                vision side is taken. `torchvision:resnet50` and the like are torchvision's own weights.
            text_model_name_or_path: Likewise for text.
            vision_layers: Keep only so many of the first layers of the vision model. The last ones are the most
                particular to what it was trained for.
            kwargs: Fields of the configuration (`num_labels`, `fusion`, ...), `attn_implementation`, and `dtype` for
                the whole model, where `"auto"` is that of the checkpoints; without it everything is float32.

        Raises:
            TypeError: If a keyword is no field of the configuration.
            ValueError: If both names are None, the vision model has not so many layers, `dtype` is `"auto"` and the
                checkpoints differ in theirs, or a `device_map` is given.
        """
        if "device_map" in kwargs:
            raise ValueError("device_map is for from_pretrained of a saved model; move this one with .to(device).")
        cls.config_class.check_fields(kwargs)
        dtype = kwargs.pop("dtype", torch.float32)
        poolings = {side: kwargs.get(f"{side}_pooling", "auto") for side in ("image", "text")}
        vision = text = None
        if vision_model_name_or_path is not None:
            vision = load_model(
                vision_model_name_or_path, "vision_config", poolings["image"], layers=vision_layers, dtype=dtype
            )
        if text_model_name_or_path is not None:
            text = load_model(text_model_name_or_path, "text_config", poolings["text"], dtype=dtype)
        config = cls.config_class(
            vision_config=None if vision is None else vision.config,
            text_config=None if text is None else text.config,
            **kwargs,
        )
        model = cls(config)
        model.vision_model, model.text_model = vision, text
        model._share_configs()
        return model.to(shared_dtype(dtype, [inner for inner in (vision, text) if inner is not None]))

    def get_input_embeddings(self) -> nn.Module:
        return (self.vision_model if self.text_model is None else self.text_model).get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        (self.vision_model if self.text_model is None else self.text_model).set_input_embeddings(value)

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], **kwargs: Any) -> None:
        """As in transformers, but one for all leaves out inner models that have no choice (convolutional ones)."""
        if isinstance(attn_implementation, str):
            inner = {"vision_config": self.vision_model, "text_config": self.text_model}
            names = ["", *(name for name, model in inner.items() if model is not None and model._supports_sdpa)]
            attn_implementation = dict.fromkeys(names, attn_implementation)
        super().set_attn_implementation(attn_implementation, **kwargs)

    def save_pretrained(self, save_directory: Any, save_original_format: bool = False, **kwargs: Any) -> None:
        """As in transformers, but with today's parameter names unless asked otherwise.

        transformers writes legacy names for ViT, Swin, DINOv2 and others, and `Trainer` then fails to restore them
        with only a warning.
        """
        module = type(self).__module__.split(".")[-1]
        config_class = type(self.config)
        self.config.auto_map = {
            "AutoConfig": f"{config_class.__module__.split('.')[-1]}.{config_class.__name__}",
            **{auto_class: f"{module}.{type(self).__name__}" for auto_class in self.auto_classes},
        }
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
        """As in transformers, but a checkpoint that is not whole is an error, where transformers warns and goes on.

        Its weights must be those that its own configuration asks for, no fewer and no more, and finite. What another
        configuration brings (`loss="sigmoid"`, a new head) starts anew, as in transformers. Weights are read from
        safetensors alone: a pickle can run code when it is opened. `use_safetensors=False` asks for pickles all the
        same.

        Args:
            pretrained_model_name_or_path: Folder, or name on the Hub.
            *args, output_loading_info, **kwargs: As in transformers.
            use_safetensors: As above.

        Raises:
            ValueError: If weights are missing, left over, or not finite; the message names them.
            RuntimeError: If they are of other sizes than `config` asks for; transformers logs a table of them.
        """
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                use_safetensors=use_safetensors is not False,
                output_loading_info=True,
                **kwargs,
            )
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise RuntimeError(
                f"{pretrained_model_name_or_path}: the configuration asks for weights of other sizes than these, "
                "which the table above names. `ignore_mismatched_sizes=True` starts them anew. CrossEncoder of "
                "sentence-transformers asks for one label: it scores pairs of texts, which no model here does."
            ) from error
        if pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None:
            where = {name: kwargs[name] for name in WHERE if name in kwargs}
            check_keys(
                pretrained_model_name_or_path, info, (cls, *VisionTextPreTrainedModel.__subclasses__()), **where
            )
            check_finite(pretrained_model_name_or_path, model)
        model._freeze_unread()
        return (model, info) if output_loading_info else model

    def _freeze_unread(self) -> None:
        """Freeze what nothing reads: loading makes every parameter learn, whatever it did when it was built."""
        for model, pooling in ((self.vision_model, self.config.image_pooling), (self.text_model, self._text_pooling)):
            if model is not None:
                freeze_unread(model, pooling)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in torch, but of a weight with two names (T5's embeddings) one is enough, as it is saved under one."""
        names = self.all_tied_weights_keys.items()
        tied = {name: state_dict[other] for name, other in names if name not in state_dict and other in state_dict}
        return super().load_state_dict({**state_dict, **tied}, *args, **kwargs)
