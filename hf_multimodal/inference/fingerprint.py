"""Which model made an embedding: a hash of what decides it."""

import hashlib
import json
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_multimodal.data.images import value_range_of

VOLATILE = {"transformers_version", "_name_or_path", "_commit_hash", "dtype", "torch_dtype", "auto_map"}
VOLATILE |= {"architectures", "custom_pipelines", "processor_class"}  # what saving, loading and casting change


def fingerprint(model: PreTrainedModel, processor: Any) -> dict[str, str]:
    """Hash a model's weights, its configuration, and its processor's settings and vocabulary.

    It survives saving and loading, and using the processor (which sets padding and truncation inside the tokenizer).

    Args:
        model: Any model; a tensor in another precision is another tensor.
        processor: Its processor, with `image_processor` and `tokenizer`.

    Returns:
        `weights`, `configuration` and `processor`, 32 hexadecimal digits each.
    """
    weights = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    tokenizer = processor.tokenizer
    if hasattr(tokenizer, "backend_tokenizer"):
        words = json.loads(tokenizer.backend_tokenizer.to_str())
        words = {name: part for name, part in words.items() if name not in ("padding", "truncation")}
    else:
        words = tokenizer.get_vocab()
    images = _lasting(processor.image_processor.to_dict())
    decisive = [images, words, tokenizer.model_max_length, tokenizer.padding_side]
    value_range = value_range_of(processor)
    decisive += [] if value_range is None else [value_range]  # without one, what it was before there were any
    return {
        "weights": weights.hexdigest(),
        "configuration": _hash(_lasting(model.config.to_dict())),
        "processor": _hash(decisive),
    }


def _lasting(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {name: _lasting(value) for name, value in settings.items() if name not in VOLATILE}


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
