"""Configuration of torchvision's image classifiers as vision models, and the networks that it stands for."""

from difflib import get_close_matches
from functools import cache
from typing import Any

import torch
from torch import nn
from torchvision import models
from transformers import PreTrainedConfig
from transformers.initialization import no_init_weights

# The first of these children that a network has puts out its last feature map (`encoder`: its last tokens).
# `permute` stands before `features`, whose output in a Swin has its channels last.
FEATURE_LAYERS = (
    "permute",
    "features",
    "layer4",
    "layers",
    "trunk_output",
    "conv5",
    "inception5b",
    "Mixed_7c",
    "blocks",
    "encoder",
)

TORCHVISION_PREFIX = "torchvision:"  # before the name of an architecture, where a checkpoint is named otherwise


def check_architecture(architecture: str) -> None:
    """Raise if no torchvision classifier is called so, or it has no linear layer to read the feature from.

    Raises:
        ValueError: With the closest names, where there are any.
    """
    if architecture.startswith("squeezenet"):
        raise ValueError(f"{architecture} has no linear layer, so it has no pooled feature: take another one.")
    names = models.list_models(module=models, exclude="squeezenet*")
    if architecture not in names:
        close = get_close_matches(architecture, names, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"architecture must be one of {names}, got {architecture!r}.{hint}")


def build_network(architecture: str, image_size: int) -> tuple[nn.Module, int]:
    """Build a torchvision classifier with torchvision's own initialisation and without its last linear layer.

    Real tensors are built even where the default device is `meta`, since some architectures read values while they
    are built.

    Args:
        architecture: A name that [`check_architecture`] accepts.
        image_size: Height and width of the images, which transformers are built for.

    Returns:
        The network, which maps (batch, 3, height, width) to (batch, hidden_size), and that hidden_size.

    Example:

    >>> network, hidden_size = build_network("resnet18", image_size=224)
    >>> network.fc, hidden_size
    (Identity(), 512)
    """
    options: dict[str, Any] = {}
    if architecture.startswith("vit_"):
        options = {"image_size": image_size}
    elif architecture.startswith("maxvit_"):
        options = {"input_size": (image_size, image_size)}
    elif architecture in ("googlenet", "inception_v3"):
        # Their weights were trained on another scale of pixels, which `transform_input` makes of the usual one.
        options = {"aux_logits": False, "init_weights": True, "transform_input": True}
    device = torch.get_default_device()
    with torch.device("cpu" if device.type == "meta" else device):
        network = models.get_model(architecture, weights=None, **options)
    *_, (name, last) = (named for named in network.named_modules() if isinstance(named[1], nn.Linear))
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network, last.in_features


def get_feature_layer(network: nn.Module) -> nn.Module:
    """Return the part of a network that puts out its last feature map, or its last tokens."""
    layer = next(getattr(network, name) for name in FEATURE_LAYERS if hasattr(network, name))
    return layer[-1] if isinstance(layer, nn.ModuleList) else layer


@cache
def probe_widths(architecture: str, image_size: int) -> tuple[int, int]:
    """Measure `hidden_size` and `feature_channels` on shapes alone: no weight is drawn, nothing is computed.

    Raises:
        ValueError: If the images are too small for the network, or of a size that it cannot divide.
    """
    features: list[torch.Tensor] = []
    try:
        with no_init_weights():
            network, hidden_size = build_network(architecture, image_size)
        network.to("meta").eval()
        get_feature_layer(network).register_forward_hook(lambda module, args, output: features.append(output))
        network(torch.empty(1, 3, image_size, image_size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(f"{architecture} cannot read images of image_size={image_size}: {error}") from error
    return hidden_size, features[0].shape[1 if features[0].dim() == 4 else 2]


class TorchvisionConfig(PreTrainedConfig):
    """Configuration of [`TorchvisionModel`].

    Args:
        architecture: Name of a torchvision classifier, as in `torchvision.models.list_models()`; all but squeezenet.
        image_size: Height and width of the images. A ViT or MaxViT is built for this size and reads no other.
        hidden_size: Width of `pooler_output`. Measured where not given.
        feature_channels: Channels of the feature map, or width of the tokens, in `last_hidden_state`. Equal to
            `hidden_size` except where the classifier has layers of its own (AlexNet, VGG, MobileNetV3). Measured where
            not given.

    Raises:
        ValueError: On an unknown architecture, one without a linear layer, or an image size that it cannot read.

    Example:

    >>> config = TorchvisionConfig(architecture="mobilenet_v3_small")
    >>> config.hidden_size, config.feature_channels
    (1024, 576)
    """

    model_type = "torchvision_backbone"

    architecture: str = "resnet18"
    image_size: int = 224
    hidden_size: int | None = None
    feature_channels: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_architecture(self.architecture)
        if self.hidden_size is None or self.feature_channels is None:
            self.hidden_size, self.feature_channels = probe_widths(self.architecture, self.image_size)
        super().__post_init__(**kwargs)
