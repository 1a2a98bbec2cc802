"""Image tokenizers and text-to-image models from arguments: configurations, image processors and tokenizers."""

from typing import Any

from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, CLIPImageProcessor, PreTrainedConfig, set_seed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from hf_multimodal.inference.prediction import load_model
from hf_multimodal.models import (
    ImageTokenizerConfig,
    ImageTokenizerModel,
    TextToImageConfig,
    TextToImageModel,
    TextToImageProcessor,
)
from hf_multimodal.training.from_scratch import train_tokenizer
from hf_multimodal.training.preparation import token_lengths
from hf_multimodal.validation import check_choice

LONGEST_PROMPT = 64  # where no other is asked for
DROPOUTS = ("attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop")  # as decoders call theirs


def image_processor_for(image_size: int, whole_images: bool = False) -> CLIPImageProcessor:
    """What brings any image to a square, with values between -1 and 1.

    Args:
        image_size: Height and width in pixels.
        whole_images: Stretch images and cut nothing off; else the middle is cut out.
    """
    square = {"height": image_size, "width": image_size}
    scale = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if whole_images:
        return CLIPImageProcessor(size=square, do_center_crop=False, **scale)
    return CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=square, **scale)


def build_image_tokenizer(
    seed: int, whole_images: bool = False, **settings: Any
) -> tuple[ImageTokenizerModel, CLIPImageProcessor]:
    """A new image tokenizer and its image processor.

    Args:
        seed: Of the weights.
        whole_images: As for `image_processor_for`.
        settings: Fields of `ImageTokenizerConfig`.
    """
    set_seed(seed)
    model = ImageTokenizerModel(ImageTokenizerConfig(**settings))
    return model, image_processor_for(model.config.image_size, whole_images)


def decoder_config(
    decoder: str,
    *,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    positions: int,
    dropout: float = 0.0,
) -> PreTrainedConfig:
    """The configuration of a small decoder.

    Args:
        decoder: Model type of transformers.
        hidden_size: Width; the inner one is four times as much.
        num_hidden_layers: Layers.
        num_attention_heads: Attention heads.
        positions: How many positions it has to read.
        dropout: Of whatever dropouts it has.

    Raises:
        ValueError: On a model type that transformers does not know.

    Example:

    >>> config = decoder_config(
    ...     "llama", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, positions=80
    ... )
    >>> config.hidden_size, config.intermediate_size, config.num_key_value_heads
    (32, 128, 4)
    """
    check_choice("decoder", decoder, CONFIG_MAPPING_NAMES)
    config = AutoConfig.for_model(decoder)
    wanted: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "max_position_embeddings": positions,
        "intermediate_size": 4 * hidden_size,
        "num_key_value_heads": num_attention_heads,
        "head_dim": hidden_size // num_attention_heads,
        **dict.fromkeys(DROPOUTS, dropout),
    }
    if getattr(config, "activation_function", None) == "gelu_new":
        wanted["activation_function"] = "gelu_pytorch_tanh"  # the same in one kernel: .8 of a step's time
    settings = {name: value for name, value in wanted.items() if hasattr(config, name)}
    return AutoConfig.for_model(decoder, **settings)


def build_text_to_image(
    image_tokenizer: str,
    rows: Dataset,
    *,
    decoder: str,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    dropout: float,
    tokenizer: str | None,
    prompt_length: int | None,
    text_dropout: float,
    image_value_range: Any = None,
    seed: int,
) -> tuple[TextToImageModel, TextToImageProcessor]:
    """A new text-to-image model over a trained image tokenizer, and its processor.

    Args:
        image_tokenizer: Folder or Hub name.
        rows: For training, with `text`.
        decoder: Model type of transformers.
        hidden_size: Width of the decoder.
        num_hidden_layers: Its layers.
        num_attention_heads: Its attention heads.
        dropout: Its dropout.
        tokenizer: Hub name or folder; None trains one on the texts.
        prompt_length: Text tokens of a prompt; None is that of the longest text, at most `LONGEST_PROMPT`.
        text_dropout: As in `TextToImageConfig`.
        image_value_range: Of the processor.
        seed: Of the weights.

    Raises:
        ValueError: If what lies there is no image tokenizer.
    """
    trained, image_processor = load_model(image_tokenizer)
    if trained.config.model_type != ImageTokenizerConfig.model_type:
        raise ValueError(
            f"image_tokenizer {image_tokenizer!r} is a {trained.config.model_type!r}: `hf-multimodal "
            "train-image-tokenizer` makes one."
        )
    words: Any = train_tokenizer(rows["text"][:]) if tokenizer is None else AutoTokenizer.from_pretrained(tokenizer)
    if words.pad_token is None:
        words.pad_token = words.eos_token
    if prompt_length is None:
        prompt_length = min(int(token_lengths(rows, words).max(initial=1)), LONGEST_PROMPT)
    text_config = decoder_config(
        decoder,
        hidden_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=num_attention_heads,
        positions=prompt_length + 1 + trained.config.num_image_tokens,
        dropout=dropout,
    )
    set_seed(seed)
    model = TextToImageModel(
        TextToImageConfig(
            text_config=text_config,
            image_tokenizer_config=trained.config,
            text_vocab_size=len(words),
            prompt_length=prompt_length,
            text_dropout=text_dropout,
            pad_token_id=words.pad_token_id,
        )
    )
    model.image_tokenizer.load_state_dict(trained.state_dict())
    processor = TextToImageProcessor(
        image_processor, words, image_value_range=image_value_range, prompt_length=prompt_length
    )
    return model, processor
