"""The configuration of a text-to-image model. No torch is imported here."""

from copy import deepcopy
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .configuration_image_tokenizer import ImageTokenizerConfig
from .configuration_vision_text import to_config


class TextToImageConfig(PreTrainedConfig):
    """Configuration of [`TextToImageModel`].

    The decoder's vocabulary is `[text ids | begin of image | image ids]`; its `vocab_size` follows from the parts.

    Args:
        text_config: Configuration (object or dict with `model_type`) of a decoder of transformers: GPT-2, Llama, Qwen.
        image_tokenizer_config: Configuration (object or dict) of the image tokenizer.
        text_vocab_size: Number of ids of the text tokenizer. None means the decoder's own `vocab_size`.
        prompt_length: Text tokens before an image. Shorter texts are padded to it, so that every token of an image has
            the same position in all examples.
        text_dropout: Share of training examples whose text is replaced by the empty one, which guidance needs.
        pad_token_id: Of the text tokenizer; the empty text is made of it.

    Raises:
        ValueError: If a part lacks, `text_vocab_size`, `prompt_length` or `pad_token_id` is out of range, the decoder
            reads fewer positions than a prompt and an image have, or `text_dropout` lies outside [0, 1).

    Example:

    >>> parts = {"text_config": {"model_type": "gpt2"}, "image_tokenizer_config": {"image_size": 32}}
    >>> config = TextToImageConfig(**parts, text_vocab_size=100, prompt_length=8)
    >>> config.begin_of_image_token_id, config.image_token_offset, config.text_config.vocab_size
    (100, 101, 613)
    """

    model_type = "multimodal_text_to_image"
    sub_configs: ClassVar[dict[str, type]] = {
        "text_config": AutoConfig,
        "image_tokenizer_config": ImageTokenizerConfig,
    }
    keys_to_ignore_at_inference = ["past_key_values", "hidden_states", "attentions"]

    text_config: Any = None
    image_tokenizer_config: Any = None
    text_vocab_size: int | None = None
    prompt_length: int = 32
    text_dropout: float | int = 0.1
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None:
            self.text_config = {"model_type": "gpt2"}
        if self.image_tokenizer_config is None:
            self.image_tokenizer_config = {}
        # Copies: the decoder's vocabulary is written into its configuration.
        text: Any = deepcopy(to_config(self.text_config))
        self.text_config = text
        if isinstance(self.image_tokenizer_config, dict):
            self.image_tokenizer_config = ImageTokenizerConfig.from_dict(self.image_tokenizer_config)
        images = self.image_tokenizer_config
        if self.text_vocab_size is None:
            self.text_vocab_size = text.vocab_size
        for name in ("text_vocab_size", "prompt_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if self.pad_token_id is None or not 0 <= self.pad_token_id < self.text_vocab_size:
            raise ValueError(
                f"pad_token_id must be one of the {self.text_vocab_size} text ids, since the empty text is made of "
                f"it, got {self.pad_token_id}."
            )
        if not 0 <= self.text_dropout < 1:
            raise ValueError(f"text_dropout must lie in [0, 1), got {self.text_dropout}.")
        text.vocab_size = self.image_token_offset + images.vocab_size
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # GPT-2's own lies beyond a smaller vocabulary
            setattr(text, name, None)
        positions = getattr(text, "max_position_embeddings", None)
        if positions is not None and positions < self.sequence_length:
            raise ValueError(
                f"the decoder reads {positions} positions (max_position_embeddings), and {self.prompt_length} text "
                f"tokens, begin of image and {images.num_image_tokens} image tokens are {self.sequence_length}."
            )
        super().__post_init__(**kwargs)

    @property
    def begin_of_image_token_id(self) -> int:
        """The id behind the text's."""
        return self.text_vocab_size or 0

    @property
    def image_token_offset(self) -> int:
        """What is added to an image token's id in the decoder's vocabulary."""
        return self.begin_of_image_token_id + 1

    @property
    def sequence_length(self) -> int:
        """Positions of a prompt and an image together."""
        return self.prompt_length + 1 + self.image_tokenizer_config.num_image_tokens
