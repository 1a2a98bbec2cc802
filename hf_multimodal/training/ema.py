"""A running average of the weights, which is evaluated and kept in place of the last ones."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

EMA_FILE = "ema.safetensors"
STATISTICS = ("running_mean", "running_var")


class EMA(TrainerCallback):
    """Exponential moving average of a model's trainable parameters, taken after every optimizer step.

    The running statistics of BatchNorm are averaged with them: those of the last step do not belong to the average.

    On few and noisily labelled examples the average is better and better calibrated than the last step; see
    [Morales-Brotons et al., 2024](https://arxiv.org/abs/2411.18704).

    Args:
        model: The model that is trained.
        decay: What the average keeps of itself a step; it reaches back about 1 / (1 - decay) steps. Step t keeps at
            most (1 + t) / (10 + t), so that the random start of new parts is forgotten in a short run too.

    Example:

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> average = EMA(layer, decay=0.75)
    >>> _ = nn.init.ones_(layer.weight)
    >>> average.update(step=100)
    >>> with average.in_place():
    ...     layer.weight.item()
    0.25
    >>> layer.weight.item()
    1.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters: dict[str, torch.Tensor] = {
            **{name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad},
            **{name: buffer for name, buffer in model.named_buffers() if name.endswith(STATISTICS)},
        }
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Follow the model to its device."""
        for name, parameter in self.parameters.items():
            self.average[name] = self.average[name].to(parameter.device)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take one step's weights into the average."""
        self.update(state.global_step)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after this many steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Make the average the model's weights."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Lend the average to the model."""
        weights = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(weights[name])

    def save(self, checkpoint: str) -> None:
        """Write the average beside a checkpoint's weights."""
        save_file(self.average, Path(checkpoint, EMA_FILE))

    def load(self, checkpoint: str) -> None:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: If the checkpoint has no average.
            ValueError: If it is that of other parameters.
        """
        file = Path(checkpoint, EMA_FILE)
        if not file.is_file():
            raise FileNotFoundError(f"{checkpoint} was saved without an average of the weights: leave out ema_decay.")
        found = load_file(file)
        if found.keys() != self.average.keys():
            raise ValueError(
                f"{file} holds other parameters than are trained: {sorted(found.keys() ^ self.average)[:3]}."
            )
        for name, value in found.items():
            self.average[name].copy_(value)
