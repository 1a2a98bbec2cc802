"""The order of the training examples, a pure function of (seed, epoch), and the epoch's way to the workers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EpochCallback(TrainerCallback):
    """Write the number of the epoch into a tensor in shared memory at the start of every epoch.

    The number is counted from the steps done, so a resumed run continues where it stopped. Workers that live through
    the whole run and the ranks of a distributed run see it alike, where `set_epoch` does not reach them.

    Args:
        epoch: A zero-dimensional integer tensor in shared memory, for instance `collator.epoch`.
    """

    def __init__(self, epoch: torch.Tensor) -> None:
        self.epoch = epoch

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the epoch before the first batch of it is asked for."""
        steps = max(1, -(-len(kwargs["train_dataloader"]) // args.gradient_accumulation_steps))
        self.epoch.fill_(state.global_step // steps)


class EpochSampler(Sampler[int]):
    """Shuffle, optionally oversample rare classes, and optionally put texts of like length into one batch.

    No generator is kept: the order is a function of (seed, epoch), so that it survives a resume in mid-epoch, and
    all ranks draw the same. With `lengths`, examples are sorted by length within stretches of 50 groups and the
    groups shuffled, a group being what one optimizer step sees on all ranks; so one rank with a doubled batch sees
    exactly what two ranks see.

    Args:
        size: Number of examples.
        seed: Seed of the run.
        epoch: Tensor that holds the current epoch.
        labels: Class of each example, to repeat each class until it is as frequent as the most frequent one.
        lengths: Text length of each example, for grouping.
        group_size: Examples of one optimizer step on all ranks.

    Example:

    >>> sampler = EpochSampler(4, seed=0, epoch=torch.tensor(0), labels=[0, 0, 0, 1])
    >>> order = list(sampler)
    >>> len(order), order.count(3), order == list(sampler)
    (6, 3, True)
    """

    def __init__(
        self,
        size: int,
        seed: int,
        epoch: torch.Tensor,
        *,
        labels: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        group_size: int = 1,
    ) -> None:
        self.size, self.seed, self.epoch, self.group_size = size, seed, epoch, group_size
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.classes = (
            None if labels is None else [np.flatnonzero(np.asarray(labels) == label) for label in np.unique(labels)]
        )

    def __len__(self) -> int:
        return self.size if self.classes is None else len(self.classes) * max(map(len, self.classes))

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self.seed, int(self.epoch)])
        order = np.arange(self.size) if self.classes is None else self._oversample(draw)
        order = draw.permutation(order)
        if self.lengths is not None:
            order = self._group(order, draw)
        return iter(order.tolist())

    def _oversample(self, draw: np.random.Generator) -> np.ndarray:
        assert self.classes is not None
        most = max(map(len, self.classes))
        # Whole copies of the class, then a part of one more, so that no example is left out or repeated by chance.
        return np.concatenate([np.resize(draw.permutation(members), most) for members in self.classes])

    def _group(self, order: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        assert self.lengths is not None
        groups_in_stretch = max(1, min(50, len(order) // (4 * self.group_size)))
        stretch = np.arange(len(order)) // (groups_in_stretch * self.group_size)
        order = order[np.lexsort((self.lengths[order], stretch))]
        whole = len(order) // self.group_size * self.group_size  # an incomplete group stays last
        groups = draw.permutation(order[:whole].reshape(-1, self.group_size))
        return np.concatenate([groups.reshape(-1), order[whole:]])
