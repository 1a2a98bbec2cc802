"""Any vision model in front of any decoder: texts that read images, and answers written behind them."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import can_return_tuple

from .checked_model import DecoderModel
from .configuration_vision_language import VisionLanguageConfig
from .inner_models import ImagePooling, accepted, build_model, image_size_of, image_widths, run_rows

if TYPE_CHECKING:
    from .processing_vision_language import VisionLanguageProcessor  # noqa: F401  travels with it


def check_decoder(config: Any) -> None:
    """Refuse what cannot write texts behind the embeddings of an image.

    Args:
        config: Of the decoder.

    Raises:
        ValueError: With the model type and the reason.
    """
    reason = None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        reason = "transformers has no causal language model of it"
    elif MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._is_stateful:
        reason = "its state runs through the padding, so an answer would change with its neighbours in the batch"
    if reason is not None:
        raise ValueError(f"a model of type {config.model_type!r} cannot be the decoder: {reason}.")


class VisionLanguageForConditionalGeneration(DecoderModel):
    """A vision model, a projector and a decoder: an image's tokens stand in a text like words.

    Each image takes the places of `image_seq_length` image tokens of a text. The vision model sees the images that
    there are and nothing else; texts without an image may stand in the same batch. After
    [Liu et al., 2023](https://arxiv.org/abs/2304.08485); the projector's two layers are those of
    [Liu et al., 2024](https://arxiv.org/abs/2310.03744).

    Args:
        config: The vision model, the decoder and the image token.

    Raises:
        ValueError: If a model cannot stand in its place; the message says why.

    Example:

    >>> vision = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    >>> vision |= {"intermediate_size": 16, "image_size": 16, "patch_size": 8}
    >>> text = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 20}
    >>> model = VisionLanguageForConditionalGeneration(VisionLanguageConfig(vision_config=vision, text_config=text))
    >>> question = torch.tensor([[19, 19, 19, 19, 3, 4]])  # four image tokens and two words
    >>> model(question, pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape
    torch.Size([1, 6, 20])
    """

    config_class = VisionLanguageConfig
    base_model_prefix = "vision_language"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    output_modalities = ("text",)
    accepts_loss_kwargs = True  # the loss is a mean over the tokens of all batches of a step
    _auto_class = "AutoModel"
    auto_classes: ClassVar[tuple[str, ...]] = ("AutoModel", "AutoModelForImageTextToText")
    _tied_weights_keys: ClassVar[dict[str, str]] = {}  # of its own; peft asks for those of the decoder where one is

    def __init__(self, config: VisionLanguageConfig) -> None:
        super().__init__(config)
        check_decoder(config.text_config)
        config.tie_word_embeddings = getattr(config.text_config, "tie_word_embeddings", False)  # where peft looks
        self.vision_model: Any = build_model(config.vision_config, "vision_config", "mean")
        self.text_model: Any = AutoModelForCausalLM.from_config(config.text_config)
        self._image_pooling = ImagePooling(self.vision_model, "auto")
        _, width = image_widths(self.vision_model, self._image_pooling)
        hidden = self.text_model.get_input_embeddings().embedding_dim
        # Initialised as torch does: with .02, transformers' usual deviation, learning stalls.
        self.projector = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            ACT2FN[config.projector_hidden_act],
            nn.Linear(hidden, hidden),
        )
        if config.image_seq_length is None:
            config.image_seq_length = self.count_image_tokens()
        self._can_compile_fullgraph = self.text_model._can_compile_fullgraph  # of `generate` with a static cache
        self._takes_positions = bool(accepted(self.text_model, ("position_ids",)))
        self.generation_config = GenerationConfig.from_model_config(config)
        self.generation_config.suppress_tokens = [config.image_token_id]
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Of the projector, as torch does; the models initialise themselves."""
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @torch.no_grad()
    def count_image_tokens(self, size: tuple[int, int] | None = None) -> int:
        """How many tokens the vision model gives for an image.

        Args:
            size: Height and width in pixels; None is that of its configuration, or 224 where it does not say.
        """
        was_training = self.vision_model.training
        self.vision_model.eval()
        _, tokens = self._run_vision(self._blank_image(size))
        self.vision_model.train(was_training)
        return tokens.shape[1]

    def _blank_image(self, size: tuple[int, int] | None = None) -> torch.Tensor:
        """(1, channels, height, width)"""
        weight = next(self.vision_model.parameters())
        height, width = size or image_size_of(self.config.vision_config)
        return torch.zeros(1, 3, height, width, dtype=weight.dtype, device=weight.device)

    def get_decoder(self) -> nn.Module:
        return self.text_model.get_decoder()

    def _run_vision(self, pixel_values: torch.Tensor, **kwargs: Any) -> tuple[Any, torch.Tensor]:
        """The vision model's output, and (images, tokens, its width) of it, without a class token."""
        run = partial(self.vision_model, **kwargs)
        output = run_rows(self.vision_model, run, {"pixel_values": pixel_values}, len(pixel_values))
        _, tokens = self._image_pooling(output)
        return output, tokens[:, int(self._image_pooling.has_class_token) :]

    @can_return_tuple
    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """What takes the places of the image tokens.

        Args:
            pixel_values: (images, channels, height, width), as the image processor gives them.
            kwargs: Of the vision model: `output_hidden_states`, `output_attentions`.

        Returns:
            What the vision model gives, with `pooler_output` (images, image_seq_length, width of the decoder's
            embeddings).

        Raises:
            ValueError: If the images are of another size, so that they have not as many tokens.
        """
        dtype = next(self.projector.parameters()).dtype
        output, tokens = self._run_vision(pixel_values.to(dtype), **kwargs)
        if tokens.shape[1] != self.config.image_seq_length:
            raise ValueError(
                f"an image has {self.config.image_seq_length} tokens (image_seq_length), and images of "
                f"{tuple(pixel_values.shape[2:])} pixels have {tokens.shape[1]}: take the processor saved with the "
                "model."
            )
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=self.projector(tokens),
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Read texts with images in them.

        Args:
            input_ids: (batch, length), as the processor gives them: each image is `image_seq_length` image tokens.
            attention_mask: (batch, length), 1 = real token; padding may stand on either side.
            pixel_values: (images, channels, height, width), all images of the batch in the order of their tokens.
            position_ids: (batch, length); without them they are counted from the first real token.
            past_key_values: The cache of what was read before.
            inputs_embeds: (batch, length, width), in place of `input_ids`; images are then in them already.
            labels: (batch, length) ids to be written, -100 where nothing is to be learned. The loss is their mean
                negative log-likelihood.
            num_items_in_batch: By how many labels the sum is divided, as `Trainer` gives it.
            kwargs: Of the decoder: `use_cache`, `logits_to_keep`, `output_hidden_states`, ... And `shift_labels`
                (batch, length), the labels moved to the tokens before them, in place of `labels`.

        Returns:
            `loss`, where labels were given, and `logits` (batch, length, vocabulary).

        Raises:
            ValueError: If there are not as many image tokens as the images take.
        """
        shift_labels = kwargs.pop("shift_labels", None)  # unnamed: `Trainer` would look for it in every batch
        if inputs_embeds is None:
            inputs_embeds = self._embed(input_ids, pixel_values)
        if self._takes_positions:
            unknown = position_ids is None and past_key_values is None
            if unknown and attention_mask is not None and attention_mask.ndim == 2:
                position_ids = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
            kwargs["position_ids"] = position_ids
        output = self.text_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, past_key_values=past_key_values, **kwargs
        )
        loss = None
        if labels is not None or shift_labels is not None:
            loss = self.loss_function(
                logits=output.logits,
                labels=labels,
                vocab_size=output.logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
                shift_labels=shift_labels,
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=output.logits,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def _embed(self, input_ids: Any, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """(batch, length, width), the images in their places."""
        embeds = self.get_input_embeddings()(input_ids)
        if pixel_values is None or not len(pixel_values):
            readers = (self.vision_model, self.projector)
            if self.training and any(each.requires_grad for part in readers for each in part.parameters()):
                # DDP and FSDP need a gradient of every parameter on every process.
                _, tokens = self._run_vision(self._blank_image())
                embeds = embeds + (self.projector(tokens).sum() * 0).to(embeds)
            return embeds
        features = self.get_image_features(pixel_values).pooler_output.to(embeds)
        places = input_ids == self.config.image_token_id
        if not torch.compiler.is_compiling() and places.sum() != features.shape[0] * features.shape[1]:
            raise ValueError(
                f"{len(features)} images take {features.shape[0] * features.shape[1]} image tokens (id "
                f"{self.config.image_token_id}), got {int(places.sum())}: does a text name as many images as there "
                "are, and was none of it cut?"
            )
        return embeds.masked_scatter(places[..., None], features)

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, pixel_values: Any = None, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """As in transformers; with a cache the images are read once."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
        return inputs

    def create_masks_for_generate(self, config: Any, **inputs: Any) -> Any:
        """For a static cache, as the decoder makes them: BLOOM has a way of its own."""
        make = getattr(self.text_model, "create_masks_for_generate", create_masks_for_generate)
        return make(config=config.text_config, **inputs)

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, input_ids: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """As in transformers, but the images of a text are repeated together, as its rows are."""
        pixel_values = kwargs.pop("pixel_values", None)
        if pixel_values is not None and expand_size > 1 and input_ids is not None:
            tokens = (input_ids == self.config.image_token_id).sum(dim=1)
            blocks = pixel_values.split((tokens // self.config.image_seq_length).tolist())
            pixel_values = torch.cat([block.repeat(expand_size, 1, 1, 1) for block in blocks])
        input_ids, found = super()._expand_inputs_for_generation(expand_size, input_ids=input_ids, **kwargs)
        return input_ids, found if pixel_values is None else {**found, "pixel_values": pixel_values}
