"""torchvision's image classifiers as vision models of transformers, and their configuration.

Both stand in one file, as the configuration measures its widths on the network.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from difflib import get_close_matches
from functools import cache
from typing import Any

import torch
from torch import nn
from torchvision import models
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

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
        with init.no_init_weights():
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
    _auto_class = "AutoConfig"

    architecture: str = "resnet18"
    image_size: int = 224
    hidden_size: int | None = None
    feature_channels: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_architecture(self.architecture)
        if self.hidden_size is None or self.feature_channels is None:
            self.hidden_size, self.feature_channels = probe_widths(self.architecture, self.image_size)
        super().__post_init__(**kwargs)


def keep_output(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
    """Forward hook that leaves the output on the module itself, where each data-parallel replica has its own."""
    module.kept_output = output


class TorchvisionModel(PreTrainedModel):
    """A torchvision classifier without its last linear layer, saved and loaded as any model of transformers.

    The pooled feature is exactly what that linear layer would have read, so torchvision's weights keep their meaning.
    Built from a configuration, it has torchvision's own initialisation; `from_torchvision` starts from pretrained
    weights. Gradient checkpointing is not supported.

    Args:
        config: Names the architecture.

    Raises:
        ValueError: If the configuration's `hidden_size` is not that of its architecture.

    Example:

    >>> model = TorchvisionModel(TorchvisionConfig(architecture="mobilenet_v3_small", image_size=64)).eval()
    >>> output = model(torch.zeros(2, 3, 64, 64))
    >>> output.last_hidden_state.shape, output.pooler_output.shape
    (torch.Size([2, 576, 2, 2]), torch.Size([2, 1024]))
    """

    config_class = TorchvisionConfig
    base_model_prefix = "torchvision_backbone"
    _auto_class = "AutoModel"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # a tuple, as in every vision model of transformers
    supports_gradient_checkpointing = False
    # Blocks with a residual connection, which a device map must keep on one device.
    _no_split_modules = [
        "AnyStage",
        "BasicBlock",
        "Bottleneck",
        "CNBlock",
        "EncoderBlock",
        "FusedMBConv",
        "InvertedResidual",
        "MBConv",
        "MaxVitLayer",
        "SwinTransformerBlock",
        "SwinTransformerBlockV2",
        "_DenseBlock",
        "_InvertedResidual",
    ]

    def __init__(self, config: TorchvisionConfig) -> None:
        super().__init__(config)
        loading = torch.get_default_device().type == "meta"
        # While loading, weights come from a checkpoint, and drawing them first would be wasted.
        with init.no_init_weights() if loading else nullcontext():
            self.network, hidden_size = build_network(config.architecture, config.image_size)
        if config.hidden_size != hidden_size:
            raise ValueError(
                f"hidden_size of {config.architecture} is {hidden_size}, the configuration has {config.hidden_size}: "
                "leave it out, and feature_channels with it."
            )
        if not loading:
            for tensor in self.network.state_dict(keep_vars=True).values():
                tensor._is_hf_initialized = True
        get_feature_layer(self.network).register_forward_hook(keep_output)
        self.post_init()

    @classmethod
    def from_torchvision(
        cls, architecture: str, weights: str | Mapping[str, torch.Tensor] = "DEFAULT", **config_kwargs: Any
    ) -> "TorchvisionModel":
        """Start from weights trained by torchvision; those of the last linear layer are left out.

        Args:
            architecture: Name of a torchvision classifier.
            weights: Name of pretrained weights, which torchvision downloads, as in `get_model_weights(architecture)`;
                or the state dict of such a network.
            config_kwargs: Fields of [`TorchvisionConfig`]. By default `image_size` is what named weights were
                evaluated at.

        Raises:
            ValueError: On an unknown name, or a state dict of another architecture.

        Example:

        >>> network = models.resnet18(num_classes=7)
        >>> model = TorchvisionModel.from_torchvision("resnet18", network.state_dict())
        >>> torch.equal(model.network.conv1.weight, network.conv1.weight)
        True
        """
        check_architecture(architecture)
        if isinstance(weights, str):
            available = models.get_model_weights(architecture).__members__
            if weights not in available:
                raise ValueError(f"weights of {architecture} must be one of {list(available)}, got {weights!r}.")
            entry = available[weights]
            config_kwargs.setdefault("image_size", entry.transforms().crop_size[0])
            state: Mapping[str, torch.Tensor] = models.get_model(architecture, weights=entry).state_dict()
        else:
            state = weights
        model = cls(TorchvisionConfig(architecture=architecture, **config_kwargs))
        keys = model.network.load_state_dict(state, strict=False)
        modules = dict(model.network.named_modules())
        unexpected = [
            key
            for key in keys.unexpected_keys
            if not isinstance(modules.get(key.rpartition(".")[0]), nn.Identity)
            and not key.startswith(("aux1.", "aux2.", "AuxLogits."))  # heads for training in GoogLeNet and Inception
        ]
        if keys.missing_keys or unexpected:
            raise ValueError(
                f"weights do not fit {architecture}: missing keys {keys.missing_keys}, unexpected keys {unexpected}."
            )
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # torchvision initialises in its constructors, not by type of layer. So whatever a checkpoint lacks (those
        # tensors carry no flag) is copied from a fresh network, all of it in the first call that meets such a layer.
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if all(getattr(tensor, "_is_hf_initialized", False) for tensor in own):
            return
        network, _ = build_network(self.config.architecture, self.config.image_size)
        fresh = network.state_dict()
        for name, tensor in self.network.state_dict(keep_vars=True).items():
            init.copy_(tensor, fresh[name])
            tensor._is_hf_initialized = True

    @can_return_tuple
    def forward(self, pixel_values: torch.FloatTensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Compute the features of a batch of images.

        Args:
            pixel_values: (batch, 3, height, width), normalised by ImageNet's mean and standard deviation.
            kwargs: `return_dict=False` asks for a tuple; the rest is what other vision models know and this one
                does not.

        Returns:
            `last_hidden_state`, the last feature map (batch, feature_channels, h, w), or for a ViT its tokens
            (batch, 1 + patches, feature_channels), the class token first; and `pooler_output` (batch, hidden_size).
        """
        pooled = self.network(pixel_values)
        layer = get_feature_layer(self.network)
        features: Any = layer.kept_output
        del layer.kept_output  # or the graph of this batch would live until the next one
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=pooled)


# Here and not where the package registers the others: this file may have travelled with a checkpoint, without it.
AutoModel.register(TorchvisionConfig, TorchvisionModel, exist_ok=True)
