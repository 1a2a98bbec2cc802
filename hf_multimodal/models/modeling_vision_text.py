"""The model that every family stands on: any vision model, any text model, projected to one width.

In order: what it gives (`Features`), how a batch is run, the model, and a start from a model of another family.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import torch
from torch import distributed, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

from .configuration_vision_text import FIXED_LENGTH_TEXT, VisionTextConfig, auto_map_of
from .inner_models import (
    TEXT_POOLERS,
    ImagePooling,
    accepted,
    build_model,
    check_sizes,
    freeze_unread,
    has_pooler,
    image_size_of,
    image_widths,
    load_model,
    longest_text,
    projection,
    run_rows,
    running_statistics,
    shared_dtype,
    text_pooling_of,
    text_width,
)

if TYPE_CHECKING:
    from .processing_multimodal import MultimodalProcessor  # noqa: F401  the processor travels with every model

Trained: TypeAlias = PreTrainedModel | str | os.PathLike

# What callers may ask of the inner models, by the name that transformers gives it; `keep_states` is ours.
ASKED = ("output_hidden_states", "output_attentions", "keep_states")
INTERPOLATE = "interpolate_pos_encoding"  # for images of another size than a vision transformer was trained on
# What `num_labels=1` usually comes from.
CROSS_ENCODER = (
    " CrossEncoder of sentence-transformers asks for one label: it scores pairs of texts, which no model here does."
)
WHERE = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download", "proxies")


class Encoded(NamedTuple):
    """One side of a batch; the rows that lack it are zeros throughout.

    Args:
        embeds: (batch, hidden), projected.
        tokens: (batch, length, hidden), projected, only for a fusion that reads tokens.
        token_mask: (batch, length) bool, True = token; only for a fusion that reads tokens.
        states: What the inner model gave, where it was asked for: `last_hidden_state`, `hidden_states` and
            `attentions`, these two tuples with an entry a layer.
    """

    embeds: torch.Tensor
    tokens: torch.Tensor | None = None
    token_mask: torch.Tensor | None = None
    states: tuple[Any, Any, Any] = (None, None, None)

    def model_output(self, pooled: torch.Tensor) -> BaseModelOutputWithPooling:
        """The states beside a pooled feature (batch, width)."""
        last, hidden_states, attentions = self.states
        return BaseModelOutputWithPooling(
            last_hidden_state=last, pooler_output=pooled, hidden_states=hidden_states, attentions=attentions
        )

    def asked_output(self) -> BaseModelOutputWithPooling | None:
        """The states beside `embeds`; None where neither hidden states nor attentions were asked for."""
        asked = any(part is not None for part in self.states[1:])
        return self.model_output(self.embeds) if asked else None


@dataclass
class Features:
    """Projected features of a batch. What the masks call absent is filled with zeros here, whatever it held.

    Args:
        embeds: (batch, 2, hidden), column 0 image, column 1 text.
        modality_mask: (batch, 2), 1 = present.
        image_tokens: (batch, patches, hidden), only for a fusion that reads tokens.
        image_token_mask: (batch, patches) bool, False throughout for an example without image.
        text_tokens: (batch, length, hidden), only for a fusion that reads tokens.
        text_token_mask: (batch, length) bool, False on padding too.
        vision_model_output: Hidden states and attentions of the vision model, where they were asked for.
        text_model_output: Hidden states and attentions of the text model, where they were asked for.
    """

    embeds: torch.Tensor
    modality_mask: torch.Tensor
    image_tokens: torch.Tensor | None = None
    image_token_mask: torch.Tensor | None = None
    text_tokens: torch.Tensor | None = None
    text_token_mask: torch.Tensor | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    text_model_output: BaseModelOutputWithPooling | None = None

    def __post_init__(self) -> None:
        self.embeds = self.embeds.masked_fill(~self.modality_mask[..., None].bool(), 0)
        if self.image_tokens is not None and self.image_token_mask is not None:
            self.image_tokens = self.image_tokens.masked_fill(~self.image_token_mask[..., None], 0)
        if self.text_tokens is not None and self.text_token_mask is not None:
            self.text_tokens = self.text_tokens.masked_fill(~self.text_token_mask[..., None], 0)

    def shown(self, image: bool, text: bool) -> "Features":
        """The same batch with nothing of the images, or of the texts, unless they are to be seen."""
        tokens = ((self.image_token_mask, image), (self.text_token_mask, text))
        image_tokens, text_tokens = (None if mask is None else mask & seen for mask, seen in tokens)
        seen = self.modality_mask * self.modality_mask.new_tensor([image, text])
        return replace(self, modality_mask=seen, image_token_mask=image_tokens, text_token_mask=text_tokens)


def check_mask(name: str, mask: torch.Tensor | None, batch: int) -> None:
    """Refuse a mask of presence that would be broadcast.

    Args:
        name: Of the argument.
        mask: (batch, 2), or None.
        batch: Number of examples.
    """
    if mask is not None and mask.shape != (batch, 2):
        raise ValueError(f"{name} must be of shape ({batch}, 2), a row an example, got {tuple(mask.shape)}.")


def states_of(output: Any, keep: bool) -> tuple[Any, Any, Any]:
    """What [`Encoded`] keeps of an inner model's output: nothing that was not asked for."""
    more = tuple(getattr(output, name, None) for name in ("hidden_states", "attentions"))  # not all models know them
    return (output.last_hidden_state, *more) if keep or more != (None, None) else (None, None, None)


def asks_for_states(model: torch.nn.Module, asked: dict[str, Any]) -> bool:
    """Whether an inner model gives its states, because it is asked to here or by its configuration."""
    given = {name: asked.get(name) for name in ASKED}
    return any(getattr(model.config, name, False) if value is None else value for name, value in given.items())


def like_rows(rows: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(batch,) or (batch, 1) shaped to broadcast over the rows of `other`."""
    return rows.view(-1, *[1] * (other.ndim - 1))


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], parts: Any) -> Any:
    """The tensors of nested tuples, each put through the function; None stays None."""
    if isinstance(parts, tuple):
        return tuple(map_tensors(function, part) for part in parts)
    return None if parts is None else function(parts)


def distributed_run() -> bool:
    """Whether there are several processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def parts_of_like_length(attention_mask: torch.Tensor) -> list[tuple[torch.Tensor, int]]:
    """Split the texts of a batch by length, where that saves a quarter of the work or more.

    A batch is padded to its longest text. On a CPU 256 captions of flickr8k run in .6 of the time in eight parts.

    Args:
        attention_mask: (texts, length), 1 = real token.

    Returns:
        Row numbers and length of each part, of 32 texts or more. No part if there is little to save, while a graph is
        traced, and on other devices than a CPU, which are better used by one large batch.

    Example:

    >>> mask = torch.ones(64, 20)
    >>> mask[::2, 5:] = 0
    >>> [(rows[:3].tolist(), length) for rows, length in parts_of_like_length(mask)]
    [([0, 2, 4], 5), ([1, 3, 5], 20)]
    """
    count, longest = attention_mask.shape
    traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    if traced or attention_mask.device.type != "cpu" or (number := min(8, count // 32)) < 2:
        return []
    lengths = (attention_mask * torch.arange(1, longest + 1)).amax(dim=1).clamp(min=1)  # to the last real token
    parts = lengths.argsort(stable=True).chunk(number)
    found = [(rows, int(lengths[rows[-1]])) for rows in parts]
    return found if sum(len(rows) * length for rows, length in found) <= 0.75 * count * longest else []


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
            text_model_name_or_path: Hub name or folder, or None for a vision model. Of a CLIP-like checkpoint the text
                side is taken.
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
            ValueError: If there is neither an image nor a text input that this model reads, or not as many of one as
                of the other, or a mask of another shape.
        """
        read = ((pixel_values, self.vision_model), (input_ids, self.text_model))
        lengths = [side.shape[0] for side, model in read if side is not None and model is not None]
        if lengths[:1] != lengths[-1:]:
            raise ValueError(
                f"an example has one image and one text, got {lengths[0]} images and {lengths[1]} texts: only an "
                "aligner compares each with each."
            )
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
        check_mask("modality_mask", modality_mask, batch)
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
        asked = {name: kwargs[name] for name in ASKED if name in kwargs}
        if kwargs.get(INTERPOLATE):
            if not accepted(self.vision_model, (INTERPOLATE,)):
                name = type(self.vision_model).__name__
                raise ValueError(f"{name} has no position encodings that could be interpolated.")
            asked[INTERPOLATE] = True
        run = partial(self._run_vision, **asked)
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
            self._check_length(input_ids)
            tokens_here = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            if self._text_length is not None and (short := self._text_length - input_ids.shape[1]) > 0:
                config = self.config.text_config  # SigLIP's model reads the last position of a fixed length
                input_ids = nn.functional.pad(input_ids, (0, short), value=config.pad_token_id)
                tokens_here = nn.functional.pad(tokens_here, (0, short), value=int(attention_mask is None))
            inputs = {"input_ids": input_ids, "attention_mask": tokens_here}
            if token_type_ids is not None and "token_type_ids" in self._text_inputs:
                inputs["token_type_ids"] = token_type_ids
        run = partial(self._run_text, **{name: kwargs[name] for name in ASKED if name in kwargs})
        return self._encode_present(self.text_model, run, inputs, present, batch, device)

    def _check_length(self, input_ids: torch.Tensor) -> None:
        """Say that texts are too long before the text model ends in an error about the sizes of tensors."""
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return
        longest, length = self._longest_text, input_ids.shape[1]
        if longest is not None and length > longest:
            raise ValueError(
                f"input_ids are {length} tokens long, and the text model ({self.text_model.config.model_type}) reads "
                f"{longest}: leave the processor's truncation on, and max_length and tokenizer.model_max_length at no "
                "more than that."
            )

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
        """One row that stands for no image (zeros) or no text (one padding token)."""
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
        """No row has this side: no work in evaluation by one process; else one blank row times zero.

        Every parameter then has a gradient on every rank, which DDP and FSDP need, and where FSDP has spread a model
        over ranks, they gather it together, in evaluation as well.
        """
        if not self.training and not distributed_run():
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

    def save_pretrained(self, save_directory: Any, save_original_format: bool = False, **kwargs: Any) -> None:
        """As in transformers, but with today's parameter names unless asked otherwise.

        transformers writes legacy names for ViT, Swin, DINOv2 and others, and `Trainer` then fails to restore them
        with only a warning.

        The code that travels follows from the configuration: that of this class, and that of an inner model of ours.
        """
        self.config.auto_map = auto_map_of(self)
        super().save_pretrained(save_directory, save_original_format=save_original_format, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        use_safetensors: bool | None = None,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, but a checkpoint that is not whole is an error, where transformers warns and goes on.

        Its weights must be those that its own configuration asks for, no fewer and no more, and finite. What another
        configuration brings (`loss="sigmoid"`, a new head) starts anew, as in transformers. Weights are read from
        safetensors alone: a pickle can run code when it is opened. `use_safetensors=False` asks for pickles all the
        same.

        Args:
            pretrained_model_name_or_path: Folder, or name on the Hub.
            *args, output_loading_info, ignore_mismatched_sizes, **kwargs: As in transformers.
            use_safetensors: False reads pickles as well.

        Raises:
            ValueError: If weights are missing, left over, or not finite; the message names them.
            MismatchedSizesError: If they are of other sizes than the configuration asks for; the message names them.
        """
        model, info = super().from_pretrained(
            pretrained_model_name_or_path,
            *args,
            use_safetensors=use_safetensors is not False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by a message that names them
            **kwargs,
        )
        if not ignore_mismatched_sizes:
            check_sizes(pretrained_model_name_or_path, info, CROSS_ENCODER if model.config.num_labels == 1 else "")
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
        config, _ = VisionTextConfig.get_config_dict(trained)
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
        ValueError: If the trained model lacks any other weight, as a peft model does before it is merged, or has one
            of another size.
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
        sizes = [row for row in info["mismatched_keys"] if not row[0].startswith(new_parts)]
        check_sizes(trained, {"mismatched_keys": sizes})
        new = {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
    lost = sorted(name for name in new if not name.startswith(new_parts))
    if lost:
        whose = type(trained).__name__ if isinstance(trained, PreTrainedModel) else str(trained)
        raise ValueError(f"{whose} has not the weights that {model_class.__name__} starts from: missing {lost[:3]}.")
    return model
