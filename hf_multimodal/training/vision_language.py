"""From arguments to a vision-language model and its processor."""

from collections.abc import Iterable
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from hf_multimodal.inference.prediction import load_model
from hf_multimodal.models import (
    MultimodalProcessor,
    VisionLanguageConfig,
    VisionLanguageForConditionalGeneration,
    VisionLanguageProcessor,
    inner_models,
)
from hf_multimodal.models.processing_multimodal import image_processor_of
from hf_multimodal.models.processing_vision_language import IMAGE_TOKEN, TURN_BEGIN, TURN_END
from hf_multimodal.training.from_scratch import train_decoder_tokenizer
from hf_multimodal.training.generators import decoder_config

POSITIONS = 1024  # of a decoder from random weights, where no other length is asked for


def build_vision_language(
    texts: Iterable[str | None],
    *,
    vision_model: str | None = None,
    from_aligner: str | None = None,
    text_model: str | None = None,
    from_run: str | None = None,
    chat_template: str | None = None,
    decoder: str = "qwen3",
    hidden_size: int = 128,
    num_hidden_layers: int = 2,
    num_attention_heads: int = 4,
    dropout: float = 0.0,
    tokenizer: str | None = None,
    max_length: int | None = None,
    whole_images: bool = False,
    seed: int = 42,
) -> tuple[VisionLanguageForConditionalGeneration, VisionLanguageProcessor]:
    """A vision model, a new projector and a decoder, and their processor.

    The tokens that the chat template needs are added to the tokenizer, and the decoder's embeddings resized.

    Args:
        texts: The training texts, for a tokenizer from scratch.
        vision_model: Hub name or folder, or `torchvision:<name>`.
        from_aligner: A trained model of this package, whose vision model is taken.
        text_model: Hub name or folder of a causal language model; None starts a small one from random weights.
        from_run: A model of this family, in place of all these.
        chat_template: In Jinja; None is the tokenizer's own, or else ChatML.
        decoder: Model type of a decoder from random weights.
        hidden_size: Its width.
        num_hidden_layers: Its layers.
        num_attention_heads: Its attention heads.
        dropout: Its dropout.
        tokenizer: Its tokenizer, Hub name or folder; None trains one on the texts.
        max_length: Longest conversation in tokens; None is what the decoder reads.
        whole_images: Whether images are resized and not cropped.
        seed: Of the random weights.

    Raises:
        ValueError: If what lies there is no such model, or `max_length` is more than the decoder reads.
    """
    set_seed(seed)
    if from_run is not None:
        model, processor = load_model(from_run)
        if model.config.model_type != VisionLanguageConfig.model_type:
            raise ValueError(f"from_run {from_run!r} is a {model.config.model_type!r}, no vision-language model.")
        if whole_images:
            MultimodalProcessor(processor.image_processor).keep_whole_images()
        _set_length(processor, model, max_length)
        return model, processor
    source = str(from_aligner or vision_model)
    vision = inner_models.load_model(source, "vision_config", "mean")
    image_processor = image_processor_of(source)
    if whole_images:
        MultimodalProcessor(image_processor).keep_whole_images()
    if text_model is not None or tokenizer is not None:
        words: Any = AutoTokenizer.from_pretrained(text_model or tokenizer)
    else:
        words = train_decoder_tokenizer(texts)
    processor = VisionLanguageProcessor(image_processor, words, chat_template)
    if text_model is None:
        settings: dict[str, Any] = {
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "positions": max_length or POSITIONS,
            "dropout": dropout,
        }
        text_config = decoder_config(decoder, **settings)
        text_config.vocab_size = len(words)
        # At the usual .02 the attention of a narrow decoder is flat at the start, and stays so for long.
        text_config.initializer_range = hidden_size**-0.5
        text_config.bos_token_id = None
        language: Any = AutoModelForCausalLM.from_config(text_config)
    else:
        language = AutoModelForCausalLM.from_pretrained(text_model, use_safetensors=True, dtype=torch.float32)
        if len(words) > language.get_input_embeddings().num_embeddings:
            language.resize_token_embeddings(len(words))
    end = TURN_END if TURN_BEGIN in (processor.chat_template or "") else words.eos_token
    for name, value in (("eos", words.convert_tokens_to_ids(end)), ("pad", words.pad_token_id)):
        setattr(language.config, f"{name}_token_id", value)
    size = image_processor(images=Image.new("RGB", (64, 64)), return_tensors="pt")["pixel_values"].shape[2:]
    config = VisionLanguageConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_token_id=words.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=1,
    )
    model = VisionLanguageForConditionalGeneration(config)
    model.vision_model.load_state_dict(vision.state_dict())
    model.text_model.load_state_dict(language.state_dict())
    model.config.image_seq_length = processor.image_seq_length = model.count_image_tokens(tuple(size))
    model.generation_config.eos_token_id = language.config.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    _set_length(processor, model, max_length)
    return model, processor


def _set_length(processor: Any, model: Any, max_length: int | None) -> None:
    """Let the tokenizer know what the decoder reads."""
    tokenizer = processor.tokenizer
    most = getattr(model.config.text_config, "max_position_embeddings", tokenizer.model_max_length)
    if max_length is not None and max_length > most:
        raise ValueError(f"max_length must be at most {most}, which the decoder reads, got {max_length}.")
    tokenizer.model_max_length = min(tokenizer.model_max_length, most) if max_length is None else max_length
