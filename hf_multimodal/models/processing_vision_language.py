"""Conversations with images in them to the tokens and pixels of a vision-language model."""

from typing import Any

from transformers import ProcessorMixin

IMAGE_TOKEN = "<image>"
TURN_BEGIN, TURN_END = "<|im_start|>", "<|im_end|>"
# ChatML. What the assistant says, its end included, stands between the marks of a generation: that alone is learned.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}{% endgeneration %}"
    "{% elif message['content'] is string %}{{ message['content'] + '<|im_end|>' }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{{ '<|im_end|>' }}"
    "{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class VisionLanguageProcessor(ProcessorMixin):
    """Texts and images for [`VisionLanguageForConditionalGeneration`].

    `<image>` in a text is written out as the tokens of an image. The tokenizer pads on the left, as generation needs,
    and gets the tokens that it lacks; the decoder's embeddings must then be resized to `len(processor.tokenizer)`.

    Args:
        image_processor: Of the vision model.
        tokenizer: Of the decoder.
        chat_template: None takes the tokenizer's own, or else ChatML.
        image_seq_length: Tokens of an image, as in the model's configuration.
        added_tokens: Ids of tokens that the decoder did not know before; those that are added now join them.

    Raises:
        ValueError: If a part lacks, or `image_seq_length` is below 1.
    """

    _auto_class = "AutoProcessor"

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        image_seq_length: int = 1,
        added_tokens: list[int] | None = None,
    ) -> None:
        if image_processor is None or tokenizer is None:
            raise ValueError("a vision-language processor needs an image_processor and a tokenizer.")
        if image_seq_length < 1:
            raise ValueError(f"image_seq_length must be 1 or more, got {image_seq_length}.")
        chat_template = chat_template or tokenizer.chat_template or CHAT_TEMPLATE
        if isinstance(chat_template, dict):  # several, by name
            chat_template = chat_template.get("default") or next(iter(chat_template.values()))
        lacking = [IMAGE_TOKEN, *((TURN_BEGIN, TURN_END) if chat_template == CHAT_TEMPLATE else ())]
        lacking = [token for token in lacking if token not in tokenizer.get_vocab()]
        if lacking:
            tokenizer.add_tokens(lacking, special_tokens=True)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or TURN_END
        tokenizer.padding_side = "left"
        self.image_seq_length = image_seq_length
        self.added_tokens = [*(added_tokens or []), *tokenizer.convert_tokens_to_ids(lacking)]
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """What stands in a text for an image."""
        return self.image_token * self.image_seq_length
