"""The model that aligns images and texts in one space, for retrieval and zero-shot classification."""

import math
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import distributed, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_vision_text import AlignerConfig, check_choice
from .losses import LOSSES, SCALED_LOSSES, TRIPLET_MININGS, Pairs
from .modeling_vision_text import (
    Trained,
    VisionTextPreTrainedModel,
    check_mask,
    common_fields,
    distributed_run,
    start_from,
)

HIGHEST_LOGIT_SCALE = 4.60517  # just below log(100): rounded up, it would lie where clamping passes no gradient on
# What a classifier has not, or in another width.
NEW_PARTS = ("visual_projection.", "text_projection.", "scaling.")


@dataclass
class AlignerOutput(ModelOutput):
    """Output of [`AlignerModel`].

    Args:
        loss: Scalar, only where `return_loss` is True.
        logits_per_image: (images, texts), scaled cosines; in evaluation None where one of the two inputs is not given.
        logits_per_text: (texts, images), their transpose.
        text_embeds: (texts, projection_dim), of length 1; zeros for an example without text; None in evaluation
            without `input_ids`.
        image_embeds: (images, projection_dim), of length 1; zeros for an example without image; None in evaluation
            without `pixel_values`.
        text_model_output: The text model's `last_hidden_state`, `hidden_states` and `attentions`, zeros for the rows
            that it did not read; only with `output_hidden_states` or `output_attentions`.
        vision_model_output: The same of the vision model.
        modality_mask: (batch, 2), 1 = what was read; None where there are more images than texts or fewer.
        incomplete_pairs: Scalar, how many pairs the loss left out because they lack a side.
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None  # before the images', as in `CLIPOutput`
    image_embeds: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None
    modality_mask: torch.Tensor | None = None
    incomplete_pairs: torch.Tensor | None = None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows)
        ctx.own = slice(distributed.get_rank() * len(rows), (distributed.get_rank() + 1) * len(rows))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient[ctx.own] * distributed.get_world_size()


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """(processes * batch, ...) from every process's (batch, ...); in a single process the rows as they are.

    The gradient is exact where every process computes the same loss from what it gathered, and gradients are then
    averaged over the processes, as DDP and FSDP do: two processes step as one does on both batches. As the losses are
    the same, the own slice times the number of processes is what summing the slices of all would give.

    All processes must call it, with batches of one size (`dataloader_drop_last=True`). Otherwise gloo ends the program
    with "Received data size doesn't match expected size", and NCCL waits for ever or returns rows without meaning.

    Args:
        rows: Of any dtype and device.

    Example:

    >>> gather_rows(torch.arange(3))
    tensor([0, 1, 2])
    """
    if not distributed_run():
        return rows
    return _Gather.apply(rows.contiguous())


def to_unit_length(embeds: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; zeros, which stand for what is missing, stay zeros in every dtype."""
    return nn.functional.normalize(embeds, dim=-1, eps=max(1e-12, torch.finfo(embeds.dtype).tiny))


class Scaling(nn.Module):
    """Cosines to logits: a scale, stored as its logarithm and at most 100, and a bias where the loss has one.

    A loss that reads no logits teaches no scale, which is then a buffer.

    Args:
        config: An [`AlignerConfig`]; its `loss` decides.
    """

    logit_scale: torch.Tensor
    logit_bias: torch.Tensor | None

    def __init__(self, config: AlignerConfig) -> None:
        super().__init__()
        self.logit_bias = None
        for name, value in self.start(config).items():
            if name == "logit_bias" or config.loss in SCALED_LOSSES:
                setattr(self, name, nn.Parameter(torch.tensor(value)))
            else:
                self.register_buffer(name, torch.tensor(value))

    @staticmethod
    def start(config: AlignerConfig) -> dict[str, float]:
        """What the scalars are before training.

        Args:
            config: An [`AlignerConfig`].
        """
        scale = config.logit_scale_init_value
        if config.loss != "sigmoid":
            return {"logit_scale": 2.6592 if scale is None else float(scale)}
        scale = math.log(10) if scale is None else float(scale)
        return {"logit_scale": scale, "logit_bias": float(config.logit_bias_init_value)}

    @property
    def scale(self) -> torch.Tensor:
        """What cosines are multiplied by."""
        return self.logit_scale.exp().clamp(max=100)

    def forward(self, similarity: torch.Tensor) -> torch.Tensor:
        """Logits in the shape of the cosines."""
        logits = similarity * self.scale
        return logits if self.logit_bias is None else logits + self.logit_bias

    @torch.no_grad()
    def bring_back(self) -> None:
        """Bring a scale that a step has led beyond 100 back, as CLIP's training does.

        So it goes on learning, and whoever reads `logit_scale` sees what is used.
        """
        self.logit_scale.clamp_(max=HIGHEST_LOGIT_SCALE)


class AlignerModel(VisionTextPreTrainedModel):
    """Any vision model and any text model, projected into one space in which what belongs together is near.

    It gives what `CLIPModel` gives, so what is written for CLIP runs on it. A pair that lacks a side is neither
    pulled nor pushed; captions of one image (`image_ids`) are never negatives of each other. In training, the
    negatives come from all processes, with gradients, so that two processes step as one does on both batches.

    Args:
        config: An [`AlignerConfig`] with a vision and a text configuration; `config.loss` names the entry of `LOSSES`.

    Raises:
        ValueError: If one of the two configurations is None.

    Example:

    >>> from transformers import BertConfig, ViTConfig
    >>> from hf_multimodal import AlignerConfig
    >>> small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> config = AlignerConfig(
    ...     vision_config=ViTConfig(image_size=8, patch_size=4, **small),
    ...     text_config=BertConfig(vocab_size=10, **small),
    ...     projection_dim=4,
    ... )
    >>> model = AlignerModel(config).eval()
    >>> images, texts = torch.zeros(2, 3, 8, 8), torch.ones(3, 5, dtype=torch.long)
    >>> model(pixel_values=images, input_ids=texts).logits_per_image.shape
    torch.Size([2, 3])
    >>> mask = torch.tensor([[1, 1], [1, 0]])  # the second pair has no text
    >>> output = model(pixel_values=images, input_ids=texts[:2], modality_mask=mask, return_loss=True)
    >>> output.loss.item(), output.incomplete_pairs.item()
    (0.0, 1)
    """

    config_class = AlignerConfig
    auto_classes = ("AutoModel", "AutoModelForZeroShotImageClassification")

    def __init__(self, config: AlignerConfig) -> None:
        if config.vision_config is None or config.text_config is None:
            missing = "vision_config" if config.vision_config is None else "text_config"
            raise ValueError(f"{missing} is None: there is nothing to align.")
        check_choice("loss", config.loss, LOSSES)
        check_choice("triplet_mining", config.triplet_mining, TRIPLET_MININGS)
        super().__init__(config)
        if config.projection == "mlp":
            for layers in (self.visual_projection, self.text_projection):
                layers.extend([nn.GELU(), nn.Linear(config.projection_dim, config.projection_dim)])
        self.scaling = Scaling(config)  # a module, as peft forgets parameters that stand alone
        self._loss = LOSSES[config.loss]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.scaling:
            for name, value in module.start(self.config).items():
                init.constant_(getattr(module, name), value)

    @property
    def logit_scale(self) -> torch.Tensor:
        """Logarithm of the scale."""
        return self.scaling.logit_scale

    @property
    def logit_bias(self) -> torch.Tensor | None:
        """What is added to the scaled cosines; None unless the loss is `sigmoid`."""
        return self.scaling.logit_bias

    @classmethod
    def from_fusion(cls, model_or_folder: Trained, **kwargs: Any) -> "AlignerModel":
        """Start from a trained classifier: its vision and text model, and its projections where the shapes agree.

        Args:
            model_or_folder: A classifier of this package, or a folder or Hub name of one.
            kwargs: Fields of the configuration (`projection_dim`, `loss`, ...); the rest is the classifier's.

        Raises:
            TypeError: If a keyword is no field of the configuration.
            ValueError: If the classifier reads one modality only, or its weights are those of a peft model.
        """
        cls.config_class.check_fields(kwargs)
        fields = common_fields(model_or_folder)
        fields["projection_dim"] = fields.pop("hidden_size")  # given under either name, another width counts
        return start_from(model_or_folder, cls, cls.config_class(**{**fields, **kwargs}), NEW_PARTS)

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        modality_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> BaseModelOutputWithPooling:
        """Embed images.

        Args:
            pixel_values: (images, channels, height, width).
            modality_mask: (images, 2), whose column 0 tells which images are there.

        Returns:
            Its `pooler_output` is (images, projection_dim), of length 1, or zeros where there is no image. The rest is
            the vision model's own: `last_hidden_state`, and `hidden_states` and `attentions` where they are asked for.
        """
        check_mask("modality_mask", modality_mask, pixel_values.shape[0])
        present = None if modality_mask is None else modality_mask[:, 0].to(pixel_values.device).bool()
        rows, device = pixel_values.shape[0], pixel_values.device
        image = self._encode_images(pixel_values, present, rows, device, keep_states=True, **kwargs)
        return image.model_output(to_unit_length(image.embeds))

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        modality_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> BaseModelOutputWithPooling:
        """Embed texts.

        Args:
            input_ids: (texts, length).
            attention_mask: (texts, length), 1 = real token.
            token_type_ids: (texts, length), for text models that take them.
            modality_mask: (texts, 2), whose column 1 tells which texts are there.

        Returns:
            Its `pooler_output` is (texts, projection_dim), of length 1, or zeros where there is no text. The rest is
            the text model's own: `last_hidden_state`, and `hidden_states` and `attentions` where they are asked for.
        """
        check_mask("modality_mask", modality_mask, input_ids.shape[0])
        present = None if modality_mask is None else modality_mask[:, 1].to(input_ids.device).bool()
        rows, device = input_ids.shape[0], input_ids.device
        text = self._encode_texts(
            input_ids, attention_mask, token_type_ids, present, rows, device, keep_states=True, **kwargs
        )
        return text.model_output(to_unit_length(text.embeds))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        modality_mask: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> AlignerOutput:
        """Embed images and texts and compare each with each.

        Args:
            input_ids: (texts, length).
            pixel_values: (images, channels, height, width).
            attention_mask: (texts, length), 1 = real token.
            token_type_ids: (texts, length), for text models that take them.
            modality_mask: (batch, 2), 1 = present, column 0 image, column 1 text. The logits of what is missing are
                those of a cosine of 0.
            image_ids: (texts,) or (images,), a number an image, the same in all processes: pairs of equal numbers are
                no negatives of each other.
            return_loss: Whether images and texts are pairs to learn from: row r and row r, or, with n times as many
                texts as images, image r and the n texts from n * r on. Each image then runs once.

        Returns:
            [`AlignerOutput`]

        Raises:
            ValueError: If there are more images than texts or fewer and a mask is given, or if the loss is asked for
                and the texts are not as many as the images or several times as many, or `image_ids` are not as many.
        """
        lengths = [side.shape[0] for side in (pixel_values, input_ids) if side is not None]
        paired = modality_mask is not None or return_loss
        if paired and lengths[:1] != lengths[-1:] and (modality_mask is not None or lengths[1] % lengths[0]):
            raise ValueError(
                f"a modality_mask and a loss need as many images as texts, got {lengths[0]} and {lengths[1]}; "
                "without a mask a loss also takes several texts for each image."
            )
        image, text, mask = self._encode_sides(
            pixel_values, input_ids, attention_mask, token_type_ids, modality_mask, **kwargs
        )
        image_embeds = to_unit_length(image.embeds)
        text_embeds = to_unit_length(text.embeds).to(image_embeds.dtype)
        loss = incomplete = None
        if return_loss:
            whole = modality_mask is None and pixel_values is not None and input_ids is not None
            loss, incomplete = self.contrastive_loss(image_embeds, text_embeds, None if whole else mask, image_ids)
        # One input alone has nothing to be compared with, and the first output is what pipelines take for the feature.
        # In training every output stays, with a gradient of zero, which several processes need.
        shown = {"image": self.training or pixel_values is not None, "text": self.training or input_ids is not None}
        logits = self.scaling(image_embeds @ text_embeds.T) if all(shown.values()) else None
        return AlignerOutput(
            loss=loss,
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.T,
            text_embeds=text_embeds if shown["text"] else None,
            image_embeds=image_embeds if shown["image"] else None,
            text_model_output=text.asked_output(),
            vision_model_output=image.asked_output(),
            modality_mask=mask.long() if image_embeds.shape[0] == text_embeds.shape[0] else None,
            incomplete_pairs=incomplete,
        )

    def contrastive_loss(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        modality_mask: torch.Tensor | None = None,
        image_ids: torch.Tensor | None = None,
        cells: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of embeddings, in training over those of all processes; first a scale beyond 100 is brought back.

        Args:
            image_embeds: (images, projection_dim), of length 1.
            text_embeds: (n * images, projection_dim), of length 1; rows n * r to n * r + n - 1 belong to image r.
            modality_mask: (images, 2), 1 = present.
            image_ids: (n * images,) or (images,), as in `forward`.
            cells: How many similarities are held at once, as in [`Pairs`].

        Returns:
            The loss, float32 or wider, and the number of pairs that it left out.
        """
        device = image_embeds.device
        captions = len(text_embeds) // len(image_embeds)
        complete = None
        if modality_mask is not None:
            complete = modality_mask.to(device).bool().all(dim=1).repeat_interleave(captions)
        elif self.training and distributed_run():  # another process may have a mask
            complete = torch.ones(len(text_embeds), dtype=torch.bool, device=device)
        if image_ids is not None:
            image_ids = torch.as_tensor(image_ids, device=device)
            if image_ids.shape == image_embeds.shape[:1]:
                image_ids = image_ids.repeat_interleave(captions)
            if image_ids.shape != text_embeds.shape[:1]:
                raise ValueError(
                    f"image_ids must be a number for each of the {len(text_embeds)} texts or of the "
                    f"{len(image_embeds)} images, got the shape {tuple(image_ids.shape)}."
                )
        image_embeds = image_embeds.repeat_interleave(captions, dim=0)
        if self.training:
            self.scaling.bring_back()
            image_embeds, text_embeds = gather_rows(image_embeds), gather_rows(text_embeds)
            complete = None if complete is None else gather_rows(complete)
            image_ids = None if image_ids is None else gather_rows(image_ids)
        if image_ids is None and captions > 1:
            image_ids = torch.arange(len(text_embeds), device=device) // captions
        incomplete = torch.zeros((), dtype=torch.long, device=device) if complete is None else (~complete).sum()
        if device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere looking means waiting
            complete = None if incomplete == 0 else complete
            image_ids = None if image_ids is None or len(image_ids.unique()) == len(image_ids) else image_ids
        wide = torch.promote_types(image_embeds.dtype, torch.float32)
        images, texts = image_embeds.to(wide), text_embeds.to(wide)
        scaling = self.scaling
        pairs = Pairs(images, texts, scaling.scale, scaling.logit_bias, complete, image_ids, cells)
        return self._loss(pairs, self.config), incomplete
