"""Freezing the first layers of the vision or the text model."""

from types import MethodType
from typing import Any

from torch import nn


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Find the repeated blocks of a vision or text model, in their order.

    Blocks are found by module and not by attribute path, which differs between model types and versions: the
    outermost modules that stand in a `ModuleList` or `Sequential` and are more than a torch layer; of these the most
    frequent type. That gives the layers of a transformer, the stages of ConvNeXt or Swin, the residual blocks of a
    ResNet. A model of bare torch layers in a row (VGG) gives these layers.

    Args:
        model: A vision or text model.

    Returns:
        The blocks; empty for a model without any (an LSTM).

    Example:

    >>> model = nn.Sequential(nn.Linear(2, 2), *(nn.TransformerEncoderLayer(4, 1) for _ in range(3)))
    >>> [type(block).__name__ for block in find_blocks(nn.ModuleDict({"encoder": model}))]
    ['TransformerEncoderLayer', 'TransformerEncoderLayer', 'TransformerEncoderLayer']
    """
    found: list[nn.Module] = []

    def walk(module: nn.Module) -> None:
        in_container = type(module) in (nn.ModuleList, nn.Sequential)
        for child in module.children():
            is_container = type(child) in (nn.ModuleList, nn.Sequential)
            if in_container and not is_container and any(True for _ in child.children()):
                found.append(child)
            else:
                walk(child)

    walk(model)
    if not found:
        rows = [list(module) for module in model.modules() if type(module) is nn.Sequential]
        longest = max(rows, key=len, default=[])
        return [layer for layer in longest if any(True for _ in layer.parameters())]
    types = [type(block) for block in found]
    return [block for block in found if type(block) is max(types, key=types.count)]


def freeze_layers(model: nn.Module, which: str, layers: int | str) -> int:
    """Freeze the first layers of one inner model, with everything that comes before them (embeddings, stem).

    Frozen modules get no gradient and stay in eval mode whatever `model.train()` says: their BatchNorm keeps its
    running statistics and their dropout is off.

    Args:
        model: A model with `vision_model` and `text_model`.
        which: `"vision"` or `"text"`.
        layers: Number of layers, or `"all"` for the whole inner model. 0 freezes nothing.

    Returns:
        The number of parameters frozen.

    Raises:
        ValueError: If there is no such inner model, or fewer layers than asked for.
    """
    inner = getattr(model, f"{which}_model", None)
    if inner is None:
        raise ValueError(f"cannot freeze {which} layers: the model has no {which}_model.")
    wanted = parse_layers(layers, f"freeze_{which}_layers")
    if wanted == 0:
        return 0
    parameters = dict(inner.named_parameters())
    if wanted == "all":
        frozen = set(parameters)
    else:
        blocks = find_blocks(inner)
        if wanted > len(blocks):
            raise ValueError(
                f"freeze_{which}_layers must be at most {len(blocks)}, the number of layers of "
                f"{type(inner).__name__}, or 'all', got {wanted}."
            )
        # Modules are registered in the order in which they run: all up to the last parameter of the last frozen block.
        last = list(blocks[wanted - 1].parameters())[-1]
        names = list(parameters)
        end = next(position for position, parameter in enumerate(parameters.values()) if parameter is last)
        frozen = set(names[: end + 1])
    for name in frozen:
        parameters[name].requires_grad_(False)
    for module in inner.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            keep_in_eval(module)
    return sum(parameters[name].numel() for name in frozen)


def parse_layers(layers: int | str, name: str) -> Any:
    """Check a number of layers as it comes from a command line.

    Args:
        layers: A number, its decimal digits, or `"all"`.
        name: Name of the option, for the error.

    Returns:
        An int, or `"all"`.

    Raises:
        ValueError: On anything else.

    Example:

    >>> parse_layers("8", "freeze_vision_layers"), parse_layers("all", "freeze_vision_layers")
    (8, 'all')
    """
    if layers == "all":
        return layers
    if str(layers).isdecimal():
        return int(layers)
    raise ValueError(f"{name} must be a number of layers or 'all', got {layers!r}.")


def keep_in_eval(module: nn.Module) -> None:
    """Hold a module and its parts in eval mode, whatever `train()` of a parent says."""
    for part in module.modules():
        part.training = False
    # On the instance, so that `train()` of any parent, which calls `train()` of its children, does not undo it.
    module.__dict__["train"] = MethodType(_stay, module)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module
