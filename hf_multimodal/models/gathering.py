"""The rows of all processes, for losses whose negatives come from everywhere."""

from typing import Any

import torch
from torch import distributed


def distributed_run() -> bool:
    """Whether there are several processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows)
        ctx.own = slice(distributed.get_rank() * len(rows), (distributed.get_rank() + 1) * len(rows))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient[ctx.own] * distributed.get_world_size()


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """(processes * batch, ...) from every process's (batch, ...); in a single process the rows as they are.

    The gradient is exact where every process computes the same loss from what it gathered, and gradients are then
    averaged over the processes, as DDP and FSDP do: two processes step as one does on both batches. As the losses are
    the same, the own slice times the number of processes is what summing the slices of all would give.

    All processes must call it, with batches of one size (`dataloader_drop_last=True`). Otherwise gloo ends the program
    with "Received data size doesn't match expected size", and NCCL waits for ever or returns rows without meaning.

    Args:
        rows: Of any dtype and device.

    Example:

    >>> gather_rows(torch.arange(3))
    tensor([0, 1, 2])
    """
    if not distributed_run():
        return rows
    return _Gather.apply(rows.contiguous())
