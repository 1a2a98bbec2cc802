"""One face for every vision and text model: how it is built, what it returns, how its output becomes features."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_MAPPING,
)

from .configuration_vision_text import TORCHVISION_PREFIX

# Of transformers, by model type: those that AutoModel lacks, and those of which only the encoder is wanted. They are
# imported when one is asked for.
MODEL_CLASSES = {
    "aimv2_text_model": "Aimv2TextModel",
    "blip_text_model": "BlipTextModel",
    "blip_vision_model": "BlipVisionModel",
    "chinese_clip_text_model": "ChineseCLIPTextModel",
    "longt5": "LongT5EncoderModel",
    "metaclip_2_text_model": "MetaClip2TextModel",
    "metaclip_2_vision_model": "MetaClip2VisionModel",
    "mt5": "MT5EncoderModel",
    "siglip2_text_model": "Siglip2TextModel",
    "siglip_text_model": "SiglipTextModel",
    "t5": "T5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
# How `auto` pools the text models that were trained with a pooling of their own.
OWN_TEXT_POOLING = {
    "aimv2_text_model": "pooler",
    "blip_text_model": "pooler",
    "chinese_clip_text_model": "cls",
    "clip_text_model": "pooler",
    "metaclip_2_text_model": "pooler",
    "recurrent_text": "pooler",
    "siglip2_text_model": "pooler",
    "siglip_text_model": "pooler",
}
# Why a model type that could be built is refused. `benchmarks/model_types.py` tries every type of transformers and
# tells what is missing here.
DECODER = "it is an encoder with a decoder, which needs decoder_input_ids"
NEIGHBOURS = "so a text's feature would change with its neighbours in the batch"
NO_TOKENS = "it returns no last_hidden_state"
SEVERAL = "it is made of several models"
SOUND = "it makes sound"
TWO_IMAGES = "it matches two images"
UNFIT: dict[str, str] = {
    "blenderbot": DECODER,
    "blenderbot-small": DECODER,
    "blt": SEVERAL,
    "bros": "it also needs bbox",
    "canine": "it fails on texts of fewer tokens than it joins to one",
    "convbert": f"its convolutions read the padding, {NEIGHBOURS}",
    "deepseek_v4": "parts of it learn from long texts alone, and stop a training on several processes with short ones",
    "depth_pro": SEVERAL,
    "dia": SOUND,
    "dpr": NO_TOKENS,
    "efficientloftr": TWO_IMAGES,
    "fastspeech2_conformer": SOUND,
    "fastspeech2_conformer_with_hifigan": SOUND,
    "fsmt": "it returns scores of words in place of features",
    "funnel": f"its attention reads means that count the padding, {NEIGHBOURS}",
    "gradium_phonon_tts": SOUND,
    "hgnet_v2": NO_TOKENS,
    "higgs_audio_v2": SOUND,
    "imagegpt": "its tokens are the colours of an image",
    "layoutlmv2": "it also needs bbox, image",
    "lightglue": TWO_IMAGES,
    "lxmert": "it also needs visual_feats",
    "m2m_100": DECODER,
    "marian": DECODER,
    "mgp-str": NO_TOKENS,
    "minicpm_ocr_vision": "it also needs target_sizes",
    "minicpmv4_7_vision": "it also needs target_sizes",
    "mra": "without a CUDA kernel of its own its attention is zero",
    "musicgen": SOUND,
    "musicgen_melody": SOUND,
    "nllb-moe": DECODER,
    "nystromformer": f"its attention reads means that count the padding, {NEIGHBOURS}",
    "pegasus": DECODER,
    "pegasus_x": DECODER,
    "pixtral": "it joins the images of a batch into one sequence",
    "pocket_tts": SOUND,
    "prophetnet": DECODER,
    "reformer": "its attention sorts the tokens by chance",
    "sam3_lite_text_text_model": f"its convolutions read the padding, {NEIGHBOURS}",
    "switch_transformers": DECODER,
    "t5gemma": DECODER,
    "timesformer": "it reads video",
    "timm_backbone": NO_TOKENS,
    "vits": SOUND,
    "yoso": f"its attention reads the padding, {NEIGHBOURS}",
}
# Parameters that nothing reads which is pooled here, by a part of their name. They are frozen, since one without a
# gradient stops DDP, and built all the same, so that every weight of a saved model has its place.
UNREAD = ("mask_token", "indexer")  # the indexer of sparse attention chooses tokens, through which no gradient flows
GLOBAL_ATTENTION = ("query_global", "key_global", "value_global")
UNREAD_OF_TYPE: dict[str, tuple[str, ...]] = {
    "blip_text_model": ("crossattention",),
    "esm": ("contact_head",),
    "granite_docling_vision": ("deepstack_mergers", "fine"),
    "led": GLOBAL_ATTENTION,
    "lilt": ("layout_value", "layout_output", "layout_intermediate"),
    "longformer": GLOBAL_ATTENTION,
    "luke": ("entity_embeddings", "w2e_query", "e2w_query", "e2e_query"),
    "markuplm": ("xpath_unitseq2_embeddings",),
    "visual_bert": ("visual_token_type_embeddings", "visual_position_embeddings", "visual_projection"),
    "xlnet": ("mask_emb", "r_s_bias", "seg_embed"),  # segments tell a question from a passage: we have one text
}
# What a model pools with itself beside its `pooler`, by the beginning of the name. Nothing reads it where another
# pooling is chosen.
OWN_POOLING_OF_TYPE = {
    "aimv2_vision_model": "head",
    "chinese_clip_vision_model": "post_layernorm",
    "clip_vision_model": "post_layernorm",
    "convnext": "layernorm",
    "convnextv2": "layernorm",
    "metaclip_2_vision_model": "post_layernorm",
    "mlcd": "post_layernorm",
    "mlcd_vision_model": "post_layernorm",
    "siglip2_text_model": "head",
    "siglip_text_model": "head",
    "siglip_vision_model": "head",
    "torchvision_backbone": "network.classifier",
}
# Their `hidden_size` is not the width of what they return.
PROBED = (
    "gemma3n_vision",
    "granite_docling_vision",
    "sam2_hiera_det_model",
    "sam_hq_vision_model",
    "sam_vision_model",
    "timm_wrapper",
    "torchvision_backbone",
)
TEXT_WIDTHS = {"embedding_gemma2_text": "embedding_dim", "opt": "word_embed_proj_dim"}
SIDES = {"vision_config": ("pixel_values",), "text_config": ("input_ids", "attention_mask")}

POSITION_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")


def model_class_of(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that `AutoModel` would choose, or the one that does without a decoder.

    Raises:
        ValueError: If neither knows the model type.
    """
    if config.model_type in MODEL_CLASSES:
        return getattr(transformers, MODEL_CLASSES[config.model_type])
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"no model class is known for model_type {config.model_type!r} ({type(config).__name__}).")
    found = MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found  # Funnel has two, of which AutoModel takes the first


def unfitness(model_class: type[PreTrainedModel], config: PreTrainedConfig, side: str) -> str | None:
    """Why a model cannot stand on this side; None if it can, as far as its class and configuration tell.

    Args:
        model_class: Of the model.
        config: Of the model.
        side: `"vision_config"` or `"text_config"`.

    Example:

    >>> unfitness(transformers.FNetModel, transformers.FNetConfig(), "text_config")
    "it takes no attention_mask, so a text's feature would change with its neighbours in the batch"
    """
    if config.model_type in UNFIT:
        return UNFIT[config.model_type]
    for part in (side, "text_config", "vision_config", "backbone_config"):
        if isinstance(getattr(config, part, None), PreTrainedConfig):
            return f"it is made of several models: give its {part} instead"
    given = SIDES[side]
    parameters = inspect.signature(model_class.forward).parameters
    if given[0] not in parameters:
        return f"it reads no {given[0]}"
    other = "input_ids" if side == "vision_config" else "pixel_values"
    if other in parameters:
        return "it reads images and texts together"
    if not set(given) <= parameters.keys():
        return f"it takes no attention_mask, {NEIGHBOURS}"
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind in named]
    more = [name for name in needed if name not in ("self", *given)]
    if more:
        return f"it also needs {', '.join(more)}"
    if config.model_type == "xmod" and config.default_language is None:
        return "it needs a default_language in its configuration"
    modalities = model_class.input_modalities
    reads = {modalities} if isinstance(modalities, str) else set(modalities)
    strange = reads & {"audio", "time"} or reads == {"video"}
    return f"it reads {' and '.join(sorted(reads))}" if strange else None


def check_fits(model_class: type[PreTrainedModel], config: PreTrainedConfig, side: str) -> None:
    """Refuse a model whose feature would be wrong, or which would fail in its first forward.

    Args:
        model_class: Of the model.
        config: Of the model.
        side: `"vision_config"` or `"text_config"`.

    Raises:
        ValueError: With the model type and the reason.
    """
    reason = unfitness(model_class, config, side)
    if reason is not None:
        which = side.removesuffix("_config")
        raise ValueError(
            f"a model of type {config.model_type!r} cannot be the {which} model: {reason}. "
            "docs/model_types.md of hf_multimodal lists the types that can."
        )


def settle_config(config: PreTrainedConfig) -> None:
    """Switch off, in place, what makes a feature depend on chance or on the length of the batch.

    ViT-MAE hides three quarters of the patches at random, in evaluation as well. BigBird attends to random blocks as
    soon as the batch is long enough.
    """
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0
    if getattr(config, "attention_type", None) == "block_sparse":
        config.attention_type = "original_full"


def in_order(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before ViT-MAE's forward: the noise by which it shuffles the patches leaves them in their order."""
    pixel_values = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
    if pixel_values.dim() != 4:  # states after frozen layers
        return args, kwargs
    rows, _, height, width = pixel_values.shape
    high, wide = model.embeddings.patch_embeddings.patch_size
    order = torch.arange((height // high) * (width // wide), device=pixel_values.device)
    return args, {**kwargs, "noise": order.expand(rows, -1)}


def without_padding(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Before MobileBERT's forward: the embedding of padding is zero, as what stands beyond the end of a text.

    Each token of MobileBERT reads the embeddings of its two neighbours.
    """
    kwargs = dict(kwargs)
    embeds = model.embeddings.word_embeddings(kwargs.pop("input_ids"))
    kwargs["inputs_embeds"] = embeds * kwargs["attention_mask"][..., None].to(embeds.dtype)
    return args, kwargs


BEFORE_FORWARD: dict[str, Callable[..., Any]] = {"vit_mae": in_order, "mobilebert": without_padding}


def freeze_unread(model: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """Freeze, in place, the parameters that nothing reads which is pooled here.

    Args:
        model: As built or loaded.
        pooling: `auto` or `pooler` where what the model itself pools is read.
    """
    unread = (*UNREAD, *UNREAD_OF_TYPE.get(model.config.model_type, ()))
    own = ("pooler.", f"{OWN_POOLING_OF_TYPE.get(model.config.model_type, 'pooler')}.")
    for name, parameter in model.named_parameters():
        if name.startswith(own):
            parameter.requires_grad_(pooling in ("auto", "pooler"))
        elif any(part in unread for part in name.split(".")):
            parameter.requires_grad_(False)
    return model


def make_causal(model: PreTrainedModel) -> None:
    """Let each token see those before it, which AIMv2's text model forgets where no text of a batch is padded."""
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = True


def settled(model: PreTrainedModel, pooling: str) -> PreTrainedModel:
    """A new model as it is to be used: without a parameter to train in vain, and with what its type asks for."""
    if model.config.model_type == "aimv2_text_model":
        make_causal(model)
    if model.config.model_type in BEFORE_FORWARD:
        model.register_forward_pre_hook(BEFORE_FORWARD[model.config.model_type], with_kwargs=True)
    return freeze_unread(model, pooling)


def pooler_arguments(model_class: type[PreTrainedModel], config: PreTrainedConfig, pooler: bool) -> dict[str, Any]:
    """Leave out the dense tanh pooler where nobody reads it: an unused parameter trips DDP.

    Poolers of another kind (Swin's mean, BEiT's) are part of the pretrained features and stay.
    """
    if pooler or "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
        return {}
    with torch.device("meta"):
        built = getattr(model_class(config), "pooler", None)  # CvT's takes the argument and has none
    return {"add_pooling_layer": False} if isinstance(getattr(built, "dense", None), nn.Linear) else {}


def build_model(config: PreTrainedConfig, side: str, pooling: str) -> PreTrainedModel:
    """Build a vision or text model at random from its configuration.

    Args:
        config: Any configuration that `AutoModel` knows, ours, or one of those in `MODEL_CLASSES`.
        side: `"vision_config"` or `"text_config"`.
        pooling: `auto` or `pooler` where what the model itself pools is read. Its dense pooler is built for `pooler`.

    Raises:
        ValueError: If the model cannot stand on this side.
    """
    model_class = model_class_of(config)
    check_fits(model_class, config, side)
    settle_config(config)
    if not model_class._supports_sdpa and config._attn_implementation not in (None, "eager"):
        config._attn_implementation = "eager"  # asked for the whole model; a convolutional one has no attention
    arguments = pooler_arguments(model_class, config, pooling == "pooler")
    arguments["dtype"] = torch.get_default_dtype()  # that of the whole model, not that of the inner one's checkpoint
    return settled(model_class._from_config(config, **arguments), pooling)


class MismatchedSizesError(ValueError, RuntimeError):
    """A checkpoint whose weights have other sizes than the configuration asks for.

    A `RuntimeError`, as transformers raises, and a `ValueError`, as are all mistakes that a user can mend.
    """


def check_sizes(name_or_path: Any, info: Any, hint: str = "") -> None:
    """Refuse a checkpoint whose weights have other sizes than the configuration asks for.

    Args:
        name_or_path: Folder, or name on the Hub.
        info: What transformers says of the loading with `ignore_mismatched_sizes=True`.
        hint: What else to say; begins with a space.

    Raises:
        MismatchedSizesError: If there are any; the message names three of them.
    """
    found = sorted((name, tuple(given), tuple(asked)) for name, given, asked in info["mismatched_keys"])
    if found:
        shown = ", ".join(f"{name} is {given} and should be {asked}" for name, given, asked in found[:3])
        raise MismatchedSizesError(
            f"{name_or_path} does not fit the configuration that it is loaded with: {shown} ({len(found)} in all). "
            "Undo what was changed in config.json, or take another checkpoint; `ignore_mismatched_sizes=True` "
            f"of from_pretrained starts them anew.{hint}"
        )


def load_model(
    name_or_path: str,
    side: str,
    pooling: str = "auto",
    layers: int | None = None,
    dtype: str | torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Load pretrained weights; of a two-sided checkpoint (CLIP, SigLIP, one of this package's), the named side.

    Neither code that lies beside the weights nor pickled weights are loaded.

    Args:
        name_or_path: Hub name or folder, or `torchvision:resnet50` for one of torchvision's own.
        side: `"vision_config"` or `"text_config"`.
        pooling: The `image_pooling` or `text_pooling` that the model is loaded for.
        layers: Keep only so many of the first layers; None means all.
        dtype: As in `from_pretrained`; `"auto"` is that of the checkpoint.

    Raises:
        ValueError: If the model cannot stand on this side, there are not so many layers, or the model's configuration
            does not count them, the checkpoint lacks weights or has others in other sizes, or is of a model of this
            package that has not this side.
    """
    if name_or_path.startswith(TORCHVISION_PREFIX):
        if layers is not None:
            raise ValueError(f"the layers of {name_or_path} cannot be cut to the first {layers}: leave that out.")
        if "torchvision_backbone" not in CONFIG_MAPPING:  # code from the Hub, of a model with another vision model
            raise ValueError(f"{name_or_path} is loaded where hf_multimodal is installed and imported.")
        torchvision_model: Any = MODEL_MAPPING[CONFIG_MAPPING["torchvision_backbone"]]
        return torchvision_model.from_torchvision(name_or_path.removeprefix(TORCHVISION_PREFIX))
    config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    if config.model_type.startswith("multimodal_"):
        return side_of_trained(name_or_path, side, pooling, layers, dtype)
    loading: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    loading["ignore_mismatched_sizes"] = True  # refused below, by a message that names them
    if getattr(config, side, None) is not None:
        config = getattr(config, side)
        prefix = side.replace("config", "model")
        loading["key_mapping"] = {rf"^{prefix}\.": ""}  # which some classes take off themselves
    if layers is not None:
        most = getattr(config, "num_hidden_layers", 0)
        if not 0 < layers <= most:
            raise ValueError(
                f"of {name_or_path} the first {layers} layers cannot be kept: num_hidden_layers is {most}."
            )
        config.num_hidden_layers = layers
    model_class = model_class_of(config)
    check_fits(model_class, config, side)
    settle_config(config)
    if side == "text_config":
        pooling = text_pooling_of(config, pooling)
    arguments = pooler_arguments(model_class, config, pooling == "pooler")
    model, info = model_class.from_pretrained(name_or_path, config=config, **loading, **arguments)
    check_sizes(name_or_path, info)
    lost = sorted(name for name in info["missing_keys"] if "pooler" not in name)
    if lost:
        raise ValueError(
            f"{name_or_path} is no {type(model).__name__}: it lacks {len(lost)} weights, such as {lost[0]}."
        )
    if Path(name_or_path).is_dir():  # the configuration travels, and where the folder lies is nobody's business
        model.config._name_or_path = Path(name_or_path).resolve().name
    return settled(model, pooling)


def side_of_trained(
    name_or_path: str, side: str, pooling: str, layers: int | None, dtype: str | torch.dtype
) -> PreTrainedModel:
    """The vision or the text model of a trained model of this package, as `load_model` gives it."""
    if layers is not None:
        raise ValueError(f"the layers of {name_or_path}, a model of this package, cannot be cut: leave that out.")
    trained = AutoModel.from_pretrained(name_or_path, dtype=dtype, use_safetensors=True)
    model = getattr(trained, side.replace("config", "model"))
    if model is None:
        raise ValueError(f"{name_or_path} has no {side}.")
    if side == "text_config":
        pooling = text_pooling_of(model.config, pooling)
    return freeze_unread(model, pooling)


def shared_dtype(dtype: str | torch.dtype, models: list[PreTrainedModel]) -> torch.dtype:
    """The dtype that is named, or for `"auto"` the one that all models have.

    Raises:
        ValueError: If it is `"auto"` and they have several.
    """
    if dtype != "auto":
        return getattr(torch, dtype) if isinstance(dtype, str) else dtype
    found = {model.dtype for model in models}
    if len(found) > 1:
        names = sorted(str(one).removeprefix("torch.") for one in found)
        raise ValueError(f"dtype='auto' needs checkpoints of one dtype, got {names}: name the one you want.")
    return found.pop()


def accepted(model: nn.Module, names: tuple[str, ...]) -> frozenset[str]:
    """Which of the named arguments the model's `forward` takes."""
    return frozenset(names) & set(inspect.signature(model.forward).parameters)


def longest_text(model: nn.Module) -> int | None:
    """Number of tokens that a text model has learned positions for; None where it has no table of them.

    RoBERTa and its kin count from behind the number of the padding, so they read fewer than their table has rows.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.split(".")[-1] in POSITION_TABLES:
            before = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - before
    return None


def image_size_of(config: PreTrainedConfig) -> tuple[int, int]:
    """(height, width) of the images that a vision model takes; 224 where its configuration does not say."""
    size = getattr(config, "image_size", None)
    if size is None and config.model_type == "timm_wrapper":
        size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[1:]
    if size is None:
        return 224, 224
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def to_tokens(hidden: torch.Tensor) -> torch.Tensor:
    """(batch, length, width) from that or from a feature map (batch, width, rows, columns)."""
    return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden


class ImagePooling:
    """Pooled feature and tokens of a vision model's output, whichever shape it has.

    With `auto` the pooled feature is the model's own; else the mean over a feature map; else the class token, if the
    model has one; else the mean over tokens. `mean` leaves the class token out, `cls_mean` puts it beside the mean.

    Args:
        model: The vision model.
        choice: `auto`, `cls`, `mean` or `cls_mean`.

    Raises:
        ValueError: If the choice needs a class token and the model has none.
    """

    def __init__(self, model: nn.Module, choice: str = "auto") -> None:
        # AIMv2's head has a class token that stands among no patches.
        names = [name.split(".")[-1] for name, _ in model.named_parameters() if not name.startswith("head.")]
        self.has_class_token = "cls_token" in names or "class_embedding" in names
        self.choice = choice
        if choice in ("cls", "cls_mean") and not self.has_class_token:
            raise ValueError(
                f"image_pooling {choice!r} needs a class token, which {type(model).__name__} has not: choose "
                "'auto' or 'mean'."
            )

    def __call__(self, output: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, width) and (batch, length, token width)."""
        hidden = output.last_hidden_state
        tokens = to_tokens(hidden)
        if self.choice != "auto":
            parts = [tokens[:, 0]] if self.choice != "mean" else []
            if self.choice != "cls":
                parts.append(tokens[:, int(self.has_class_token) :].mean(dim=1))
            return torch.cat(parts, dim=-1), tokens
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1), tokens
        if hidden.ndim == 3 and self.has_class_token:
            return tokens[:, 0], tokens
        return tokens.mean(dim=1), tokens


@contextlib.contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Let BatchNorm use its running statistics: blank rows and single rows would spoil those of the batch."""
    layers = [
        layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training
    ]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


def run_rows(model: nn.Module, run: Callable[..., Any], inputs: dict[str, torch.Tensor], rows: int) -> Any:
    """Run on real rows; a lone row has no batch statistics of its own."""
    if rows > 1:
        return run(**inputs)
    with running_statistics(model):
        return run(**inputs)


def class_token(output: Any, mask: torch.Tensor) -> torch.Tensor:
    """(batch, width), the first token."""
    return output.last_hidden_state[:, 0]


def masked_mean(output: Any, mask: torch.Tensor) -> torch.Tensor:
    """(batch, width), the mean over the tokens that the mask (batch, length) marks; zeros where it marks none."""
    tokens = output.last_hidden_state
    weights = mask[..., None].to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def last_real_token(output: Any, mask: torch.Tensor) -> torch.Tensor:
    """(batch, width), the last token that the mask marks, whichever side the padding is on."""
    tokens = output.last_hidden_state
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    last = (mask * positions).argmax(dim=1)
    return tokens[torch.arange(tokens.shape[0], device=tokens.device), last]


def own_pooler(output: Any, mask: torch.Tensor) -> torch.Tensor:
    """(batch, width), what the model itself pools."""
    return output.pooler_output


TEXT_POOLERS: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "cls": class_token,
    "mean": masked_mean,
    "last": last_real_token,
    "pooler": own_pooler,
}


def text_pooling_of(config: PreTrainedConfig, choice: str) -> str:
    """The strategy that `auto` stands for, given the text model's configuration."""
    if choice != "auto":
        return choice
    if config.model_type in OWN_TEXT_POOLING:
        return OWN_TEXT_POOLING[config.model_type]
    is_decoder = (
        config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    return "last" if is_decoder else "mean"


def has_pooler(model: PreTrainedModel, strategy: str) -> bool:
    """Whether the model can do what the pooling strategy asks of it."""
    own = OWN_TEXT_POOLING.get(model.config.model_type) == "pooler" or getattr(model, "pooler", None) is not None
    return strategy != "pooler" or own


def projection(width: int, hidden_size: int) -> nn.Sequential:
    """LayerNorm, so that the two models' features have one scale, and a linear map to the common width."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden_size))


def image_widths(model: PreTrainedModel, pooling: ImagePooling) -> tuple[int, int]:
    """Widths of the pooled feature and of the tokens: from the configuration, or else seen by trying.

    Convolutional configurations name their width in many ways or not at all, so those models are run on one blank
    image (on the meta device during `from_pretrained`, hence free), and so are some whose name tells another width.
    """
    config = model.config
    if config.model_type == "torchvision_backbone" and pooling.choice == "auto":
        return config.hidden_size, config.feature_channels
    hidden_size = getattr(config, "hidden_size", None)
    if isinstance(hidden_size, int) and config.model_type not in PROBED:
        return (2 if pooling.choice == "cls_mean" else 1) * hidden_size, hidden_size
    sized = hasattr(config, "image_size") or config.model_type == "timm_wrapper"
    height, width = image_size_of(config) if sized else (64, 64)
    weight = next(model.parameters())
    training = model.training
    model.eval()
    with torch.no_grad():
        blank = torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype)
        pooled, tokens = pooling(model(blank))
    model.train(training)
    return pooled.shape[-1], tokens.shape[-1]


def text_width(config: PreTrainedConfig) -> int:
    """Width of the token features of a text model."""
    return getattr(config, TEXT_WIDTHS.get(config.model_type, "hidden_size"))
