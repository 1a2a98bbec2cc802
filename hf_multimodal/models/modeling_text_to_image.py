"""A decoder that writes image tokens after text tokens: generation, guidance and likelihoods of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation import LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from .checked_model import DecoderModel
from .configuration_text_to_image import TextToImageConfig
from .modeling_image_tokenizer import ImageTokenizerModel

if TYPE_CHECKING:
    from .processing_text_to_image import TextToImageProcessor  # noqa: F401  travels with it

IGNORED = ("token_type_ids", "generation_mode", "modality_mask")  # what pipelines and processors hand on besides


class ImageTokensOnly(LogitsProcessor):
    """Let image tokens alone through, and make them a distribution of their own.

    Args:
        offset: The first image token's id.

    Example:

    >>> ImageTokensOnly(2)(None, torch.zeros(1, 4))
    tensor([[   -inf,    -inf, -0.6931, -0.6931]])
    """

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) to the same."""
        images = scores[:, self.offset :].log_softmax(dim=-1)  # a beam's sum is the likelihood of the image's tokens
        return functional.pad(images, (self.offset, 0), value=-torch.inf)


class TextToImageModel(DecoderModel):
    """A DALL-E: any decoder of transformers over `[text tokens | begin of image | image tokens]`.

    It holds its image tokenizer as a frozen part. The loss is the mean negative log-likelihood of the image tokens. In
    generation exactly as many image tokens follow as an image has, and no other token can. After
    [Ramesh et al., 2021](https://arxiv.org/abs/2102.12092); guidance is that of
    [Ho and Salimans, 2022](https://arxiv.org/abs/2207.12598).

    Args:
        config: The decoder, the image tokenizer and the prompt.

    Example:

    >>> decoder = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2}
    >>> parts = {"text_config": decoder, "image_tokenizer_config": {"image_size": 16, "hidden_size": 8}}
    >>> model = TextToImageModel(TextToImageConfig(**parts, text_vocab_size=10, prompt_length=3)).eval()
    >>> prompt = torch.tensor([[0, 4, 7, 10]])  # two words behind one padding token, and begin of image
    >>> model.generate(prompt).shape, model(prompt, pixel_values=torch.zeros(1, 3, 16, 16)).loss.shape
    (torch.Size([1, 20]), torch.Size([]))
    """

    config_class = TextToImageConfig
    base_model_prefix = "text_to_image"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    output_modalities = ("image",)
    accepts_loss_kwargs = False  # the loss is a mean over the batch, whose images have as many tokens each
    _auto_class = "AutoModel"
    auto_classes: ClassVar[tuple[str, ...]] = ("AutoModel", "AutoModelForMultimodalLM")

    def __init__(self, config: TextToImageConfig) -> None:
        super().__init__(config)
        self.text_model: Any = AutoModelForCausalLM.from_config(config.text_config)
        self.image_tokenizer = ImageTokenizerModel(config.image_tokenizer_config)
        self.image_tokenizer.requires_grad_(False)
        tokens = config.image_tokenizer_config.num_image_tokens
        self.generation_config = GenerationConfig(
            max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=config.pad_token_id
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The parts initialise themselves."""

    def train(self, mode: bool = True) -> "TextToImageModel":
        """As in torch; the image tokenizer stays in evaluation, so that its codebook does not move."""
        super().train(mode)
        self.image_tokenizer.eval()
        return self

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        """In evaluation, and then in the mode of before, whatever happens."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; loading makes parameters anew, so the image tokenizer is frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.image_tokenizer.requires_grad_(False)
        return loaded

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Refuse: image ids stand behind the text's, and would be taken for others.

        Raises:
            ValueError: If another number is asked for than there is.
        """
        if new_num_tokens not in (None, self.config.text_config.vocab_size):
            raise ValueError(
                f"the vocabulary is text ids, begin of image and image ids, {self.config.text_config.vocab_size} in "
                f"all, and cannot be resized, got {new_num_tokens}: build a TextToImageConfig of another "
                "text_vocab_size."
            )
        return self.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_token_ids: torch.Tensor | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Write the next token, or, where images are given, tell how likely they are.

        Args:
            input_ids: (batch, prompt_length + 1), as the processor gives them: padding, text, begin of image. Without
                images any sequence of the decoder's ids, as in `generate`.
            attention_mask: Of `input_ids`; the processor's is 1 throughout, since padding is read as what stands for
                the empty text.
            pixel_values: (batch, channels, height, width), images to learn from; their tokens are computed.
            image_token_ids: (batch, rows, columns) or (batch, tokens), the same images' tokens from a cache.
            return_loss: Whether the loss is wanted, where there are images.
            kwargs: Of the decoder: `past_key_values`, `use_cache`, `position_ids`, `inputs_embeds`,
                `output_hidden_states`, ...

        Returns:
            `loss`, where images were given, and `logits` over the decoder's vocabulary: (batch, tokens, vocabulary),
            one row a token of the image, or (batch, length, vocabulary) without images.

        Raises:
            ValueError: If the prompt is not of the configuration's length, or there are not as many images as texts.
        """
        kwargs = {name: value for name, value in kwargs.items() if name not in IGNORED}
        if pixel_values is None and image_token_ids is None:
            return self.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        if image_token_ids is None:
            image_token_ids = self.image_tokens(pixel_values)
        images = image_token_ids.flatten(1)
        tokens = images.shape[1]
        prompts: Any = self._check_prompt(input_ids, images)
        if self.training and self.config.text_dropout:
            prompts = self._drop_texts(prompts)
        sequence = torch.cat([prompts, images + self.config.image_token_offset], dim=1)[:, :-1]
        output = self.text_model(input_ids=sequence, logits_to_keep=tokens, **{"use_cache": False, **kwargs})
        loss = None
        if return_loss:
            logits = output.logits[:, :, self.config.image_token_offset :]
            loss = functional.cross_entropy(logits.flatten(0, 1).float(), images.flatten())
        return CausalLMOutputWithPast(
            loss=loss, logits=output.logits, hidden_states=output.hidden_states, attentions=output.attentions
        )

    def _check_prompt(self, input_ids: torch.Tensor | None, images: torch.Tensor) -> torch.Tensor:
        length, tokens = self.config.prompt_length + 1, self.config.image_tokenizer_config.num_image_tokens
        if input_ids is None or input_ids.shape[1] != length:
            raise ValueError(
                f"input_ids must be (batch, {length}), a prompt of {length - 1} text tokens and begin of image, as "
                f"the processor makes them, got {None if input_ids is None else tuple(input_ids.shape)}."
            )
        if images.shape != (len(input_ids), tokens):
            raise ValueError(
                f"{len(input_ids)} texts need as many images of {tokens} tokens, got {tuple(images.shape)}."
            )
        return input_ids

    def empty_prompt(self, rows: int) -> torch.Tensor:
        """(rows, prompt_length + 1), the prompt of no text."""
        prompt = torch.full((rows, self.config.prompt_length + 1), self.config.pad_token_id, device=self.device)
        prompt[:, -1] = self.config.begin_of_image_token_id
        return prompt

    def _drop_texts(self, input_ids: torch.Tensor) -> torch.Tensor:
        dropped = torch.rand(len(input_ids), 1, device=input_ids.device) < self.config.text_dropout
        return torch.where(dropped, self.empty_prompt(1).to(input_ids), input_ids)

    @torch.no_grad()
    def image_tokens(self, pixel_values: Any) -> torch.Tensor:
        """The tokens (batch, rows, columns) of images (batch, channels, height, width)."""
        return self.image_tokenizer.encode(pixel_values)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write the tokens of an image after each prompt, as transformers generates.

        Args:
            inputs: Prompts (batch, prompt_length + 1), as the processor gives them; also as `input_ids`. Image tokens
                may follow, with which the image then begins.
            generation_config: As in transformers.
            logits_processor: Further ones; that image tokens alone are drawn comes last.
            kwargs: As in transformers: `do_sample`, `top_k`, `top_p`, `temperature`, `num_return_sequences`,
                `num_beams`, ... `guidance_scale` above 1 moves each step away from what the empty text would give.

        Returns:
            (batch * num_return_sequences, prompt_length + 1 + image tokens) ids of the decoder, or what
            `return_dict_in_generate` asks for.

        Raises:
            ValueError: On prompts that are no such or hidden in part, more new tokens than an image has left, a
                `guidance_scale` below 1, or guidance with beams.
        """
        kwargs = {name: value for name, value in kwargs.items() if name not in IGNORED}
        prompts = kwargs.get("input_ids") if inputs is None else inputs
        asked = {name: _asked(name, kwargs, generation_config, self.generation_config) for name in ASKED}
        left = self.config.image_tokenizer_config.num_image_tokens
        if prompts is not None:
            left -= self._begun(prompts)
            if kwargs.get("attention_mask") is None:  # transformers would hide the padding, which training reads
                kwargs["attention_mask"] = torch.ones_like(prompts)
            elif not kwargs["attention_mask"].all():
                raise ValueError(
                    "attention_mask must be 1 throughout, as the processor gives it: padding is read as any token."
                )
        wanted = asked["max_new_tokens"]
        if wanted is not None and wanted > left and "max_new_tokens" in kwargs:
            raise ValueError(f"{left} image tokens are left to write, got max_new_tokens={wanted}.")
        wanted = left if wanted is None else min(wanted, left)
        kwargs |= {"max_new_tokens": wanted, "min_new_tokens": wanted}
        scale = asked["guidance_scale"]
        if scale is not None and scale < 1:
            raise ValueError(f"guidance_scale must be 1 or more, where 1 is none, got {scale}.")
        if scale is not None and scale > 1:
            if (asked["num_beams"] or 1) > 1:
                raise ValueError(
                    "guidance_scale has no use with beams, whose cache it cannot follow: num_beams must be 1."
                )
            if prompts is not None and kwargs.get("negative_prompt_ids") is None:
                empty = self.empty_prompt(len(prompts))
                empty = torch.cat([empty, prompts[:, empty.shape[1] :]], dim=1)
                kwargs["negative_prompt_ids"] = empty.repeat_interleave(asked["num_return_sequences"] or 1, dim=0)
                kwargs["negative_prompt_attention_mask"] = torch.ones_like(kwargs["negative_prompt_ids"])
        processors = LogitsProcessorList([*(logits_processor or ()), ImageTokensOnly(self.config.image_token_offset)])
        return super().generate(inputs, generation_config, processors, **kwargs)

    def _begun(self, prompts: torch.Tensor) -> int:
        """How many image tokens follow a prompt already.

        Raises:
            ValueError: If begin of image does not stand where this model reads it.
        """
        place, begin = self.config.prompt_length, self.config.begin_of_image_token_id
        begun = prompts.shape[1] - place - 1
        if not 0 <= begun < self.config.image_tokenizer_config.num_image_tokens:
            raise ValueError(
                f"a prompt has {place + 1} ids, and with image tokens behind it fewer than "
                f"{self.config.sequence_length}, got {prompts.shape[1]}: take the processor saved with the model."
            )
        if (prompts[:, place] != begin).any():
            raise ValueError(
                f"begin of image, id {begin}, must stand at place {place} of a prompt, got "
                f"{prompts[:5, place].tolist()}: is the tokenizer another than the model's, or its vocabulary larger?"
            )
        return begun

    def decode_image_tokens(self, sequences: torch.Tensor) -> torch.Tensor:
        """The images (batch, channels, height, width) of what `generate` wrote (batch, length)."""
        tokens = self.config.image_tokenizer_config.num_image_tokens
        return self.image_tokenizer.decode(sequences[:, -tokens:] - self.config.image_token_offset)

    def generate_images(
        self,
        processor: Any,
        texts: str | Sequence[str | None],
        num_images_per_prompt: int = 1,
        guidance_scale: float = 3.0,
        top_k: int = 50,
        seed: int | None = None,
        batch_size: int = 64,
        truncation: bool = False,
        **kwargs: Any,
    ) -> list[Image.Image]:
        """Draw images for texts.

        Args:
            processor: The `TextToImageProcessor`.
            texts: A text, or several; None is the empty one.
            num_images_per_prompt: Images a text.
            guidance_scale: How far each step is moved away from the empty text; 1 is not at all.
            top_k: How many of the likeliest tokens are drawn from; 0 is all.
            seed: Same seed, same images, on one machine and with one `batch_size`. None goes on with torch's state.
            batch_size: Images a forward pass.
            truncation: Cut texts that are longer than a prompt; else they are an error.
            kwargs: Of `generate`.

        Returns:
            Images, those of a text after each other.

        Raises:
            ValueError: On fewer than one image a text, or for what the processor and `generate` refuse.
        """
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt must be 1 or more, got {num_images_per_prompt}.")
        texts = [texts] if isinstance(texts, str) else list(texts)
        prompts = processor(text=texts, truncation=truncation, return_tensors="pt").input_ids
        prompts = prompts.repeat_interleave(num_images_per_prompt, dim=0).to(self.device)
        options = {"do_sample": True, "guidance_scale": guidance_scale, "top_k": top_k, **kwargs}
        images: list[Image.Image] = []
        devices = [] if self.device.type == "cpu" else [self.device]
        fork = torch.random.fork_rng(devices, enabled=seed is not None, device_type=self.device.type)
        with fork, self._evaluated():
            if seed is not None:
                torch.manual_seed(seed)
            for part in prompts.split(batch_size):
                found = self.generate(part, attention_mask=torch.ones_like(part), **options)
                pixels = self.decode_image_tokens(found)
                images += processor.post_process_multimodal_output(pixels, generation_mode="image")
        return images

    @torch.no_grad()
    def score(self, input_ids: torch.Tensor, image_token_ids: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
        """How likely each image is, given each text.

        Args:
            input_ids: (texts, prompt_length + 1), as the processor gives them.
            image_token_ids: (images, rows, columns), as `image_tokens` gives them.
            batch_size: Pairs a forward pass.

        Returns:
            (images, texts) log-likelihood of an image's tokens, in nats.
        """
        images, texts = len(image_token_ids), len(input_ids)
        input_ids, image_token_ids = input_ids.to(self.device), image_token_ids.to(self.device)
        rows = torch.cartesian_prod(torch.arange(images), torch.arange(texts)).to(self.device)  # (pairs, 2)
        found = []
        with self._evaluated():
            for part in rows.split(batch_size):
                tokens = image_token_ids[part[:, 0]].flatten(1)
                output = self(input_ids[part[:, 1]], image_token_ids=tokens)
                logits = output.logits[..., self.config.image_token_offset :].float()
                chosen = logits.log_softmax(dim=-1).gather(2, tokens[:, :, None])
                found.append(chosen.sum(dim=(1, 2)))
        return torch.cat(found).view(images, texts)


ASKED = ("max_new_tokens", "guidance_scale", "num_beams", "num_return_sequences")


def _asked(name: str, kwargs: dict[str, Any], *configs: GenerationConfig | None) -> Any:
    """A setting of a generation: given by name, by its configuration, or by the model's."""
    values = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
    return next((value for value in values if value is not None), None)
