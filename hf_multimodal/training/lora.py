"""LoRA through peft: small matrices on the pretrained models, everything else trained in full."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from hf_multimodal.training.freezing import keep_in_eval


def add_lora(model: nn.Module, rank: int, new_tokens: Sequence[int] = ()) -> Any:
    """Put LoRA matrices on the attention of the pretrained models; what is not pretrained is trained in full.

    Only layers that are not frozen get matrices. A model without attention (a convolutional one) gets them on all
    its linear and convolutional layers, but for grouped convolutions. BatchNorm of the pretrained models stays in
    eval.

    Args:
        model: A model with `vision_model` and `text_model`.
        rank: Rank of the matrices.
        new_tokens: Ids that the decoder did not know before. Their embeddings and their rows of its output are
            trained; of a decoder whose output has a bias (Phi, GPT-J) all of both, which are tied no longer.

    Returns:
        A peft model; its `merge_and_unload()` gives an ordinary model back. The adapter alone is not enough where the
        vision model has BatchNorm, whose statistics it does not hold, or a part called `classifier`.

    Raises:
        ImportError: Without peft.
        ValueError: If all pretrained layers are frozen.
    """
    try:
        from peft import LoraConfig, get_peft_model
        from peft.utils import ModulesToSaveWrapper
    except ImportError as error:
        raise ImportError("lora_rank needs peft: pip install 'hf_multimodal[lora]'.") from error

    targets: list[str] = []
    for part in ("vision_model", "text_model"):
        if getattr(model, part) is not None:
            targets += [f"{part}.{name}" for name in _lora_targets(getattr(model, part))]
    if not targets:
        raise ValueError("lora_rank has no use where every pretrained layer is frozen.")
    new_parts = [
        name
        for name, child in model.named_children()
        if name not in ("vision_model", "text_model") and any(True for _ in child.parameters())
    ]
    rows: dict[str, list[int]] = {}
    if new_tokens:
        embeddings, output = _embedding_names(model)
        if getattr(model.get_submodule(output), "bias", None) is None:
            rows = {embeddings: list(new_tokens), output: list(new_tokens)}  # if they are tied, peft ties these too
        else:  # which peft leaves out of an output some rows of which are trained
            new_parts += [embeddings, output]
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=targets,
        modules_to_save=new_parts,
        trainable_token_indices=rows or None,
    )
    wrapped = get_peft_model(model, config)
    for module in wrapped.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, nn.Conv2d):  # MobileNet pads by what it reads off its convolutions
            for name in ("stride", "kernel_size", "dilation"):
                setattr(module, name, getattr(base, name))
    # peft finds `modules_to_save` by the end of their names, and a vision model may hold a `network.classifier`.
    for path, module in list(wrapped.named_modules()):
        place = path.removeprefix("base_model.model.")
        if isinstance(module, ModulesToSaveWrapper) and place not in new_parts:
            wrapped.set_submodule(path, module.original_module)
            for name, parameter in module.original_module.named_parameters():
                parameter.requires_grad_("lora_" in name)
    for part in ("vision_model", "text_model"):  # statistics that moved would not be in the adapter's checkpoints
        for module in (getattr(model, part) or nn.Module()).modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                keep_in_eval(module)
    return wrapped


def _embedding_names(model: Any) -> tuple[str, str]:
    """Of the embeddings of tokens and of the layer that writes them."""
    names = {module: name for name, module in model.named_modules()}
    return names[model.get_input_embeddings()], names[model.get_output_embeddings()]


def _lora_targets(model: nn.Module) -> list[str]:
    layers = {
        name: module
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D", "Conv2d")
        and module.weight.requires_grad
        and getattr(module, "groups", 1) == 1
    }
    attention = [
        name
        for name, module in layers.items()
        if ("attention" in name or "attn" in name) and type(module).__name__ != "Conv2d"
    ]
    return attention or list(layers)
