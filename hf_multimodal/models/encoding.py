"""What a batch goes through before a fusion: each inner model runs on the rows that have its modality."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from .features import ASKED, Encoded, Features, asks_for_states, like_rows, map_tensors, states_of
from .gathering import distributed_run
from .inner_models import accepted, image_size_of, parts_of_like_length, run_rows, running_statistics

INTERPOLATE = "interpolate_pos_encoding"  # for images of another size than a vision transformer was trained on


def check_mask(name: str, mask: torch.Tensor | None, batch: int) -> None:
    """Refuse a mask of presence that would be broadcast.

    Args:
        name: Of the argument.
        mask: (batch, 2), or None.
        batch: Number of examples.
    """
    if mask is not None and mask.shape != (batch, 2):
        raise ValueError(f"{name} must be of shape ({batch}, 2), a row an example, got {tuple(mask.shape)}.")


class Encoder:
    """The part of a `VisionTextPreTrainedModel` that turns inputs into features."""

    config: Any
    device: torch.device
    dtype: torch.dtype
    training: bool
    token_features: bool
    vision_model: Any
    text_model: Any
    visual_projection: Any
    visual_token_projection: Any
    text_projection: Any
    text_token_projection: Any
    _image_pooling: Callable[[Any], tuple[torch.Tensor, torch.Tensor]]
    _text_pooler: Callable[[Any, torch.Tensor], torch.Tensor]
    _text_inputs: frozenset[str]
    _reads_mask: bool
    _text_length: int | None
    _longest_text: int | None

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
