"""Large batches of pairs on small memory: the activations of one chunk at a time, the negatives of the whole batch."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch.utils.checkpoint import get_device_states, set_device_states

from hf_multimodal.models.modeling_aligner import AlignerOutput

CELLS = 2**20  # similarities held at once: a few arrays of 4 MB


class RandomState:
    """The state of the random generators, to draw the same dropout again.

    Args:
        inputs: Tensors on the devices whose generators are meant; that of the CPU always is.
    """

    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(*inputs.values())

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Within, draw what was drawn after this state was taken; afterwards, go on as if nothing had been drawn."""
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states)
            yield


def backward_in_chunks(
    model: Any,
    inputs: dict[str, Any],
    chunk_size: int,
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
) -> AlignerOutput:
    """Add to the parameters the gradient of a whole batch's loss, holding the activations of one chunk at a time.

    First the embeddings of all chunks are computed without a graph, then the loss of the whole batch and its gradient
    with respect to the embeddings, then each chunk runs again, with the same dropout, and passes its part of that
    gradient on. The loss and the gradients are those of `model(**inputs, return_loss=True).loss.backward()`, at the
    price of a second forward pass. Gradient caching, from [Gao et al., 2021](https://arxiv.org/abs/2101.06983). The
    loss too holds some rows of its similarities at a time, so that memory does not grow with the square of the batch.

    BatchNorm that learns its statistics sees them a chunk at a time, and each chunk twice: freeze it. Under DDP all
    processes need as many chunks; gradients are exchanged once, in the last of them.

    Args:
        model: An `AlignerModel`, or DDP's or `torch.compile`'s wrapper of one.
        inputs: Of its `forward`, all on the model's device.
        chunk_size: Images that run at once, each with its texts.
        backward: What takes the gradient of the loss; a `Trainer` passes its accelerator's, which scales.

    Returns:
        `loss`, detached, and `incomplete_pairs`.

    Raises:
        ValueError: If `chunk_size` is not positive, or the inputs differ in length.

    Example:

    >>> from transformers import BertConfig, ViTConfig
    >>> from hf_multimodal import AlignerConfig, AlignerModel
    >>> small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> vision, text = ViTConfig(image_size=8, patch_size=4, **small), BertConfig(vocab_size=10, **small)
    >>> model = AlignerModel(AlignerConfig(vision_config=vision, text_config=text)).eval()
    >>> inputs = {"pixel_values": torch.randn(4, 3, 8, 8), "input_ids": torch.arange(8).view(4, 2)}
    >>> loss = backward_in_chunks(model, inputs, chunk_size=3).loss
    >>> torch.allclose(loss, model(**inputs, return_loss=True).loss)
    True
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be 1 or more, got {chunk_size}.")
    rows = {
        name: inputs[name] for name in inputs if name not in ("image_ids", "return_loss") and inputs[name] is not None
    }
    lengths = {name: len(value) for name, value in rows.items()}
    count = lengths.get("pixel_values", max(lengths.values(), default=0))
    if not count or any(length % count for length in lengths.values()):
        raise ValueError(f"inputs must have rows, and all as many or several texts for each image, got {lengths}.")
    each = {name: length // count for name, length in lengths.items()}
    chunks = [
        {name: value[start * each[name] : (start + chunk_size) * each[name]] for name, value in rows.items()}
        for start in range(0, count, chunk_size)
    ]

    states, images, texts, masks = [], [], [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(RandomState(chunk))
            output = model(**chunk)
            images.append(output.image_embeds)
            texts.append(output.text_embeds)
            masks.append(output.modality_mask)
    image_embeds, text_embeds = (torch.cat(parts).requires_grad_() for parts in (images, texts))

    mask = None if masks[0] is None else torch.cat(masks)  # several texts an image are all there
    loss, incomplete = extract_model_from_parallel(model).contrastive_loss(
        image_embeds, text_embeds, mask, inputs.get("image_ids"), CELLS
    )
    backward(loss)

    gradients = [
        embeds.grad.split([len(part) for part in parts])  # type: ignore[union-attr]
        for embeds, parts in ((image_embeds, images), (text_embeds, texts))
    ]
    for number, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
        exchange = number == len(chunks) - 1 or not hasattr(model, "no_sync")
        with contextlib.nullcontext() if exchange else model.no_sync(), state.again():
            output = model(**chunk)
            image_part = (output.image_embeds * gradients[0][number]).sum()
            text_part = (output.text_embeds * gradients[1][number]).sum()
            # The scale has its gradient already; DDP waits for it all the same.
            (image_part + text_part + 0 * output.logits_per_image.sum()).backward()
    return AlignerOutput(loss=loss.detach(), incomplete_pairs=incomplete)
