"""The configuration of a vision-language model. No torch is imported here."""

from copy import deepcopy
from typing import Any, ClassVar

from transformers import AutoConfig

from .configuration_vision_text import TravellingConfig, to_config


class VisionLanguageConfig(TravellingConfig):
    """Configuration of [`VisionLanguageForConditionalGeneration`].

    Args:
        vision_config: Configuration (object or dict with `model_type`) of any vision model.
        text_config: Configuration (object or dict with `model_type`) of any decoder of transformers.
        image_token_id: The id whose places in a text are taken by an image's tokens; None is the last one of the
            decoder's vocabulary. It is read and never written.
        image_seq_length: Tokens of an image; None counts them by running the vision model.
        projector_hidden_act: Activation between the two layers of the projector.

    Raises:
        ValueError: If a part lacks, or `image_token_id` or `image_seq_length` is out of range.

    Example:

    >>> parts = {"vision_config": {"model_type": "vit"}, "text_config": {"model_type": "llama", "vocab_size": 100}}
    >>> VisionLanguageConfig(**parts).image_token_id
    99
    """

    model_type = "multimodal_vision_language"
    sub_configs: ClassVar[dict[str, type]] = {"vision_config": AutoConfig, "text_config": AutoConfig}
    keys_to_ignore_at_inference = ["past_key_values", "hidden_states", "attentions"]

    image_token_id: int | None = None
    image_seq_length: int | None = None
    projector_hidden_act: str = "gelu"

    def __post_init__(self, **kwargs: Any) -> None:
        # As transformers compares a configuration with that of no arguments, there has to be one.
        self.vision_config = deepcopy(to_config(self.vision_config or {"model_type": "vit"}))
        self.text_config = deepcopy(to_config(self.text_config or {"model_type": "llama"}))
        vocabulary = self.text_config.get_text_config().vocab_size
        if self.image_token_id is None:
            self.image_token_id = vocabulary - 1
        if not 0 <= self.image_token_id < vocabulary:
            raise ValueError(
                f"image_token_id must be one of the decoder's {vocabulary} ids, got {self.image_token_id}: add the "
                "token to the tokenizer, and resize the decoder's embeddings."
            )
        if self.image_seq_length is not None and self.image_seq_length < 1:
            raise ValueError(f"image_seq_length must be 1 or more, got {self.image_seq_length}.")
        super().__post_init__(**kwargs)
