"""Tiny random configurations of every vision and text model type that the tests run over; all offline, on CPU."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers as hf

from hf_multimodal import RecurrentTextConfig, TorchvisionConfig

# Programs that tests run as processes of their own: to look for doctests in them is to run them.
collect_ignore = ["author.py", "hide_package.py", "stranger.py", "two_ranks.py", "two_ranks_codebook.py"]

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
PATCHES = {"image_size": 32, "patch_size": 16, **SMALL}
VOCABULARY = 64
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, **SMALL}

VISION_CONFIGS = {
    "vit": lambda: hf.ViTConfig(**PATCHES),
    "deit": lambda: hf.DeiTConfig(**PATCHES),
    "vit_mae": lambda: hf.ViTMAEConfig(**PATCHES),
    "dinov2": lambda: hf.Dinov2Config(**PATCHES),
    "clip_vision_model": lambda: hf.CLIPVisionConfig(**PATCHES),
    "siglip_vision_model": lambda: hf.SiglipVisionConfig(**PATCHES),
    "swin": lambda: hf.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
    ),
    "convnext": lambda: hf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32),
    "resnet": lambda: hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "mobilenet_v2": lambda: hf.MobileNetV2Config(image_size=32, depth_multiplier=0.1),
    "efficientnet": lambda: hf.EfficientNetConfig(
        image_size=32, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128
    ),
    "timm_wrapper": lambda: hf.TimmWrapperConfig(
        architecture="resnet10t", model_args={"channels": (8, 8, 8, 8), "stem_width": 8}
    ),
    "torchvision:resnet18": lambda: TorchvisionConfig(architecture="resnet18"),
    "torchvision:resnet50": lambda: TorchvisionConfig(architecture="resnet50"),
    "torchvision:efficientnet_b0": lambda: TorchvisionConfig(architecture="efficientnet_b0"),
    "torchvision:mobilenet_v3_small": lambda: TorchvisionConfig(architecture="mobilenet_v3_small"),
    "torchvision:vgg16": lambda: TorchvisionConfig(architecture="vgg16"),
}
TEXT_CONFIGS = {
    "bert": lambda: hf.BertConfig(**TEXT),
    "roberta": lambda: hf.RobertaConfig(pad_token_id=1, **TEXT),
    "albert": lambda: hf.AlbertConfig(embedding_size=8, **TEXT),
    "mobilebert": lambda: hf.MobileBertConfig(embedding_size=8, intra_bottleneck_size=8, **TEXT),
    "distilbert": lambda: hf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=16, max_position_embeddings=40
    ),
    "modernbert": lambda: hf.ModernBertConfig(pad_token_id=0, cls_token_id=1, sep_token_id=2, **TEXT),
    "xlm-roberta": lambda: hf.XLMRobertaConfig(pad_token_id=1, **TEXT),
    "mpnet": lambda: hf.MPNetConfig(pad_token_id=1, **TEXT),
    "clip_text_model": lambda: hf.CLIPTextConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2, **TEXT),
    "aimv2_text_model": lambda: hf.Aimv2TextConfig(eos_token_id=2, **TEXT),
    "chinese_clip_text_model": lambda: hf.ChineseCLIPTextConfig(**TEXT),
    "siglip_text_model": lambda: hf.SiglipTextConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2, **TEXT),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCABULARY, n_positions=40, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
    ),
    "qwen2": lambda: hf.Qwen2Config(num_key_value_heads=1, pad_token_id=0, **TEXT),
    "t5": lambda: hf.T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2),
    "mt5": lambda: hf.MT5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2),
    "recurrent_text:lstm": lambda: RecurrentTextConfig(
        vocab_size=VOCABULARY, embedding_size=8, hidden_size=16, num_hidden_layers=1, cell="lstm"
    ),
    "recurrent_text:gru": lambda: RecurrentTextConfig(
        vocab_size=VOCABULARY, embedding_size=8, hidden_size=16, num_hidden_layers=2, cell="gru"
    ),
}


def make_batch(rows: int = 4, length: int = 6, size: int = 32, seed: int = 0) -> dict[str, torch.Tensor]:
    """Images and texts without meaning; row r of four has length - r real tokens."""
    draw = torch.Generator().manual_seed(seed)
    attention_mask = (torch.arange(length) < length - torch.arange(rows)[:, None] % (length - 1)).long()
    input_ids = torch.randint(3, VOCABULARY, (rows, length), generator=draw)
    return {
        "pixel_values": torch.randn(rows, 3, size, size, generator=draw),
        "input_ids": input_ids.where(attention_mask.bool(), torch.tensor(0)),
        "attention_mask": attention_mask,
    }


# Of `from_pretrained`, for the three families (an inner model may leave a head of its pretraining), and of `Trainer`.
KEYS_DO_NOT_FIT = re.compile(
    r"(FusionForImageTextClassification|AlignerModel|ImageTokenizerModel|TextToImageModel)\S* LOAD REPORT|"
    r"There were (missing|unexpected) keys in the checkpoint"
)


class KeyWarnings(logging.Handler):
    """What transformers says of weights that are missing or left over."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if KEYS_DO_NOT_FIT.search(record.getMessage()):
            self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def no_warning_about_keys(request: pytest.FixtureRequest) -> Iterator[KeyWarnings]:
    """Weights that are missing or left over are an error, where transformers warns and goes on with random ones.

    A test whose weights shall not fit says so: `@pytest.mark.keys_do_not_fit`.
    """
    handler = KeyWarnings()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    if request.node.get_closest_marker("keys_do_not_fit") is None:
        assert handler.messages == []


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return make_batch()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data and weights; tests that need it say so when it is absent."""
    folder = os.environ.get("HF_MULTIMODAL_DATA")
    if not folder:
        pytest.skip("HF_MULTIMODAL_DATA is not set: no real data or pretrained weights to test with")
    return Path(folder)


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    """The model, with every dropout at 0, in place."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model
