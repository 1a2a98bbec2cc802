"""torchvision's image classifiers as vision models of transformers."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torchvision import models
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_torchvision import TorchvisionConfig, build_network, check_architecture, get_feature_layer


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
