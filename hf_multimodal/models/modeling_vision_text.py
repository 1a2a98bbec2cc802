"""The adapter that every model of this package stands on: any vision model, any text model, projected to one width."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .configuration_vision_text import VisionTextConfig
from .features import ASKED, Encoded, Features, asks_for_states, like_rows, map_tensors, states_of
from .inner_models import (
    TEXT_POOLERS,
    ImagePooling,
    accepted,
    build_model,
    has_pooler,
    image_size_of,
    image_widths,
    load_model,
    parts_of_like_length,
    projection,
    run_rows,
    running_statistics,
    shared_dtype,
    text_pooling_of,
)

if TYPE_CHECKING:
    from .processing_multimodal import MultimodalProcessor  # noqa: F401  the processor travels with every model


class VisionTextPreTrainedModel(PreTrainedModel):
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
    _supports_attention_backend = True
    _is_composite = True
    _auto_class = "AutoModel"
    auto_classes: ClassVar[tuple[str, ...]] = ("AutoModel",)

    def __init__(self, config: VisionTextConfig, token_features: bool = False) -> None:
        super().__init__(config)
        if config.vision_config is None and config.text_config is None:
            raise ValueError("a model needs a vision_config, a text_config, or both; both are None.")
        self.token_features = token_features
        self.vision_model: Any = None
        self.text_model: Any = None
        if config.vision_config is not None:
            self.vision_model = build_model(config.vision_config)
            self._image_pooling = ImagePooling(self.vision_model, config.image_pooling)
            width, token_width = image_widths(self.vision_model, self._image_pooling)
            self.visual_projection = projection(width, config.hidden_size)
            if token_features:
                self.visual_token_projection = projection(token_width, config.hidden_size)
        if config.text_config is not None:
            strategy = text_pooling_of(config.text_config, config.text_pooling)
            self.text_model = build_model(config.text_config, pooler=strategy == "pooler")
            if not has_pooler(self.text_model, strategy):
                raise ValueError(
                    f"text_pooling 'pooler' needs a text model that has one; {self.text_model.config.model_type!r} "
                    "does not: choose one of ['auto', 'cls', 'mean', 'last']."
                )
            self._text_pooler = TEXT_POOLERS[strategy]
            self._reads_mask = strategy != "pooler"  # a model's own pooler may look at padding
            self._text_inputs = accepted(self.text_model, ("token_type_ids", "use_cache"))
            width = self.text_model.config.hidden_size
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
        pooler = kwargs.get("text_pooling") == "pooler"
        vision = text = None
        if vision_model_name_or_path is not None:
            vision = load_model(vision_model_name_or_path, "vision_config", layers=vision_layers, dtype=dtype)
        if text_model_name_or_path is not None:
            text = load_model(text_model_name_or_path, "text_config", pooler=pooler, dtype=dtype)
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
    def from_pretrained(cls, *args: Any, use_safetensors: bool | None = None, **kwargs: Any) -> Any:
        """As in transformers, but weights are read from safetensors alone: a pickle can run code when it is opened.

        `use_safetensors=False` asks for pickles all the same.
        """
        return super().from_pretrained(*args, use_safetensors=use_safetensors is not False, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As in torch, but of a weight with two names (T5's embeddings) one is enough, as it is saved under one."""
        names = self.all_tied_weights_keys.items()
        tied = {name: state_dict[other] for name, other in names if name not in state_dict and other in state_dict}
        return super().load_state_dict({**state_dict, **tied}, *args, **kwargs)

    def encode(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        modality_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Features:
        """Project the features of every modality that is present; zeros stand where one is not.

        Args:
            pixel_values: (batch, channels, height, width), or None: no example has an image.
            input_ids: (batch, length), or None: no example has a text.
            attention_mask: (batch, length), 1 = real token; None means that all are.
            token_type_ids: (batch, length), for text models that take them.
            modality_mask: (batch, 2), 1 = present, column 0 image, column 1 text; None means that every given input
                is present. Whatever lies in a slot that is not present is never read.
            kwargs: `output_hidden_states` and `output_attentions` are handed to the inner models.

        Raises:
            ValueError: If there is neither an image nor a text input that this model reads.
        """
        image, text, mask = self._encode_sides(
            pixel_values, input_ids, attention_mask, token_type_ids, modality_mask, **kwargs
        )
        return Features(
            embeds=torch.stack([image.embeds, text.embeds.to(image.embeds.dtype)], dim=1),
            modality_mask=mask.long(),
            image_tokens=image.tokens,
            image_token_mask=image.token_mask,
            text_tokens=text.tokens,
            text_token_mask=text.token_mask,
            vision_model_output=image.asked_output(),
            text_model_output=text.asked_output(),
        )

    def _encode_sides(
        self,
        pixel_values: torch.Tensor | None,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        modality_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[Encoded, Encoded, torch.Tensor]:
        """Both sides, which may differ in length if there is no `modality_mask`, and the mask of what was read."""
        images = pixel_values if self.vision_model is not None else None
        texts = input_ids if self.text_model is not None else None
        given = images if images is not None else texts
        if given is None:
            models = {"pixel_values": self.vision_model, "input_ids": self.text_model}
            reads = [name for name, model in models.items() if model is not None]
            raise ValueError(f"forward needs one of the inputs that this model reads, {reads}; got none of them.")
        batch, device = given.shape[0], given.device
        mask = torch.ones(batch, 2, device=device, dtype=torch.long) if modality_mask is None else modality_mask
        here = torch.tensor([images is not None, texts is not None], device=device)
        mask = mask.to(device).bool() & here  # (batch, 2)
        # Without a mask all is present, and no row needs to be looked at.
        has_image, has_text = (None, None) if modality_mask is None else mask.unbind(dim=1)
        image = self._encode_images(images, has_image, batch, device, **kwargs)
        length = batch if texts is None else texts.shape[0]
        text = self._encode_texts(texts, attention_mask, token_type_ids, has_text, length, device, **kwargs)
        return image, text, mask

    def _encode_images(
        self,
        pixel_values: torch.Tensor | None,
        present: torch.Tensor | None,
        batch: int,
        device: torch.device,
        **kwargs: Any,
    ) -> Encoded:
        inputs = None if pixel_values is None else {"pixel_values": pixel_values}
        run = partial(self._run_vision, **{name: kwargs[name] for name in ASKED if name in kwargs})
        return self._encode_present(self.vision_model, run, inputs, present, batch, device)

    def _encode_texts(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        present: torch.Tensor | None,
        batch: int,
        device: torch.device,
        **kwargs: Any,
    ) -> Encoded:
        inputs = None
        if input_ids is not None:
            tokens_here = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            inputs = {"input_ids": input_ids, "attention_mask": tokens_here}
            if token_type_ids is not None and "token_type_ids" in self._text_inputs:
                inputs["token_type_ids"] = token_type_ids
        run = partial(self._run_text, **{name: kwargs[name] for name in ASKED if name in kwargs})
        return self._encode_present(self.text_model, run, inputs, present, batch, device)

    def _run_vision(self, pixel_values: torch.Tensor, keep_states: bool = False, **asked: Any) -> Encoded:
        pixel_values = pixel_values.to(self.vision_model.dtype)
        if pixel_values.dim() == 4:  # and not the states after frozen layers
            # Convolutions and pooling are faster so: a step of a small ResNet on a CPU by a factor of 1.2 to 1.7.
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        output = self.vision_model(pixel_values, **asked)
        pooled, tokens = self._image_pooling(output)
        embeds, states = self.visual_projection(pooled), states_of(output, keep_states)
        if not self.token_features:
            return Encoded(embeds, states=states)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return Encoded(embeds, self.visual_token_projection(tokens), mask, states)

    def _run_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, keep_states: bool = False, **inputs: Any
    ) -> Encoded:
        all_tokens = self.token_features or asks_for_states(self.text_model, {"keep_states": keep_states, **inputs})
        if self._reads_mask and not all_tokens and (parts := parts_of_like_length(attention_mask)):
            return self._run_text_parts(parts, input_ids=input_ids, attention_mask=attention_mask, **inputs)
        return self._run_text_at_once(attention_mask, keep_states, input_ids=input_ids, **inputs)

    def _run_text_parts(self, parts: list[tuple[torch.Tensor, int]], **inputs: Any) -> Encoded:
        """Shorter texts run together, without the padding that the longest of the batch asks for."""
        found = []
        for rows, length in parts:
            part = {name: value[rows, :length] for name, value in inputs.items()}
            found.append(self._run_text_at_once(**part).embeds)
        return Encoded(torch.cat(found)[torch.cat([rows for rows, _ in parts]).argsort()])

    def _run_text_at_once(self, attention_mask: torch.Tensor, keep_states: bool = False, **inputs: Any) -> Encoded:
        no_cache = {"use_cache": False} if "use_cache" in self._text_inputs else {}
        output = self.text_model(attention_mask=attention_mask, **inputs, **no_cache)
        embeds = self.text_projection(self._text_pooler(output, attention_mask))
        states = states_of(output, keep_states)
        if not self.token_features:
            return Encoded(embeds, states=states)
        return Encoded(embeds, self.text_token_projection(output.last_hidden_state), attention_mask.bool(), states)

    def _blank(
        self, image: bool, inputs: dict[str, torch.Tensor] | None, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """One row that stands for no picture (zeros) or no text (one padding token)."""
        if image:
            size = (
                (3, *image_size_of(self.config.vision_config)) if inputs is None else inputs["pixel_values"].shape[1:]
            )
            return {"pixel_values": torch.zeros(1, *size, device=device)}
        pad = getattr(self.config.text_config, "pad_token_id", None) or 0
        return {
            "input_ids": torch.full((1, 1), pad, device=device),
            "attention_mask": torch.ones(1, 1, dtype=torch.long, device=device),
        }

    def _encode_present(
        self,
        model: nn.Module | None,
        run: Callable[..., Encoded],
        inputs: dict[str, torch.Tensor] | None,
        present: torch.Tensor | None,
        batch: int,
        device: torch.device,
    ) -> Encoded:
        """Run one side on the rows that have it. `present` (batch,) bool; None means all rows of what is given.

        Eager: gather, run, scatter. Compiled or exported: all rows, with blanks in the place of absent ones.
        """
        if model is None:
            return self._nothing(batch, device, self.dtype)
        if inputs is None:
            return self._none_present(model, run, inputs, batch, device)
        if present is None:
            return run_rows(model, run, inputs, batch)
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            with running_statistics(model):
                encoded = run(**self._blank_absent(inputs, present, device))
            return Encoded(*map_tensors(lambda part: part.masked_fill(like_rows(~present, part), 0), tuple(encoded)))
        index = present.nonzero().squeeze(1)
        if len(index) == batch:
            return run_rows(model, run, inputs, batch)
        if not len(index):
            return self._none_present(model, run, inputs, batch, device)

        def scatter(part: torch.Tensor) -> torch.Tensor:
            part = part.unflatten(0, (len(index), -1))  # Swin's attentions have several windows a row
            return part.new_zeros(batch, *part.shape[1:]).index_copy(0, index, part).flatten(0, 1)

        rows = {name: value[index] for name, value in inputs.items()}
        return Encoded(*map_tensors(scatter, tuple(run_rows(model, run, rows, len(index)))))

    def _none_present(
        self,
        model: nn.Module,
        run: Callable[..., Encoded],
        inputs: dict[str, torch.Tensor] | None,
        batch: int,
        device: torch.device,
    ) -> Encoded:
        """No row has this side: no work in evaluation; in training one blank row times zero.

        Every parameter then has a gradient on every rank, which DDP and FSDP need.
        """
        if not self.training:
            return self._nothing(batch, device, self.dtype)
        with running_statistics(model):
            blank = run(**self._blank(model is self.vision_model, inputs, device))
        zero = blank.embeds.sum() * 0 + (0 if blank.tokens is None else blank.tokens.sum() * 0)
        embeds, tokens, mask, _ = self._nothing(batch, device, blank.embeds.dtype)
        return Encoded(embeds + zero, None if tokens is None else tokens + zero, mask)

    def _blank_absent(
        self, inputs: dict[str, torch.Tensor], present: torch.Tensor, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """All rows, with a blank in the place of every absent one."""
        blank = self._blank("pixel_values" in inputs, inputs, device)
        filled = {}
        for name, value in inputs.items():
            fill = blank.get(name, torch.zeros_like(value[:1]))
            if name == "attention_mask":  # one token to attend to
                fill = (torch.arange(value.shape[1], device=device) == 0)[None]
            filled[name] = torch.where(like_rows(present, value), value, fill.to(value.dtype))
        return filled

    def _nothing(self, batch: int, device: torch.device, dtype: torch.dtype) -> Encoded:
        """What stands for a modality that no row has."""
        width = self.config.hidden_size
        embeds = torch.zeros(batch, width, device=device, dtype=dtype)
        if not self.token_features:
            return Encoded(embeds)
        mask = torch.zeros(batch, 0, dtype=torch.bool, device=device)
        return Encoded(embeds, embeds.new_zeros(batch, 0, width), mask)
