"""Parameter groups: pretrained parts learn slowly, new parts fast, norms and biases without weight decay."""

from typing import Any

from torch import nn
from transformers import Trainer

PRETRAINED_PARTS = ("vision_model.", "text_model.")
ADDED_BY_PEFT = ("lora_", "trainable_tokens_")  # matrices, and rows of tokens that were added


def parameter_groups(
    model: nn.Module, *, learning_rate: float, head_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups for an optimizer.

    Parameters of `vision_model` and `text_model` get `learning_rate`; all others, and what peft adds, which starts
    from nothing as well, get `head_learning_rate`. Decaying are those of transformers' own rule, which goes by names,
    less all of normalisation layers of any kind and all vectors and scalars.

    Args:
        model: The model, or a peft model around it.
        learning_rate: For the pretrained parts.
        head_learning_rate: For projections, fusion, classifier and LoRA matrices.
        weight_decay: Of all parameters but norms and biases.

    Returns:
        At most four groups, none of them empty: pretrained before new, decaying before not decaying.
    """
    decaying = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]  # reads no self
    decaying -= {
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim < 2 or "Norm" in type(module).__name__
    }
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (is_new, is_fixed): [] for is_new in (False, True) for is_fixed in (False, True)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            starts_anew = any(part in name for part in ADDED_BY_PEFT)
            is_new = starts_anew or not name.removeprefix("base_model.model.").startswith(PRETRAINED_PARTS)
            groups[is_new, name not in decaying].append(parameter)
    return [
        {
            "params": parameters,
            "lr": head_learning_rate if is_new else learning_rate,
            "weight_decay": 0.0 if is_fixed else weight_decay,
        }
        for (is_new, is_fixed), parameters in groups.items()
        if parameters
    ]
