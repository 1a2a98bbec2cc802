"""The end of a run from outside: SIGTERM saves a checkpoint and exits with 143."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

logger = logging.get_logger(__name__)


class Termination(TrainerCallback):
    """Save a checkpoint at the end of the step and exit, when the process is told to end.

    Schedulers of clusters send SIGTERM some time before they kill. The processes of a run ask each other after every
    step, so all save and leave at the same one, whichever of them was told. At the end of an epoch what the epoch ends
    with is done first, so that the run that goes on lacks no evaluation.

    Used as a context around the training, it listens; outside it a SIGTERM ends the process at once, as ever. One that
    came too late for a checkpoint, after the last one, does so when the training is over.
    """

    def __init__(self) -> None:
        self.told = False
        self.leaving = False
        self.previous: Any = None
        self.training = torch.zeros((), dtype=torch.bool).share_memory_()  # which the workers see

    def __enter__(self) -> "Termination":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            self.previous = signal.signal(signal.SIGTERM, self._listen)
        self.training.fill_(True)
        return self

    def __exit__(self, *error: object) -> None:
        self.training.fill_(False)
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)
            self.previous = None
            if self.told and not self.leaving:
                signal.raise_signal(signal.SIGTERM)

    def _listen(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for the checkpoint, where any process was told."""
        if not self._any_told(args):
            return
        self.leaving = True
        steps = max(1, -(-len(kwargs["train_dataloader"]) // args.gradient_accumulation_steps))
        epoch_ends = control.should_training_stop or state.global_step % steps == 0
        if not epoch_ends:
            control.should_save = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """At the end of an epoch, save after what is done there."""
        if self.leaving:
            control.should_save = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save after an evaluation in which a process was told."""
        if self._any_told(args):
            self.leaving = control.should_save = True

    def _any_told(self, args: TrainingArguments) -> bool:
        told = torch.tensor(int(self.told), device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
        return bool(told)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leave, now that the checkpoint stands."""
        if self.leaving:
            logger.warning(
                "Told to end: checkpoint-%d is saved, go on with --resume_from_checkpoint.", state.global_step
            )
            raise SystemExit(128 + signal.SIGTERM)


def start_worker(then: Callable[[int], None] | None, training: torch.Tensor, worker: int) -> None:
    """Start a worker of a data loader: while training goes on it stays when the whole job is told to end.

    Afterwards it ends as any other process does. Python itself tells it to when an error ends the main process, and
    waits until it has.

    Args:
        then: What else a worker starts with.
        training: Whether training goes on, in shared memory.
        worker: Its number.
    """

    def listen(number: int, frame: FrameType | None) -> None:
        if not training:
            os._exit(0)  # torch takes any other status for a fault

    signal.signal(signal.SIGTERM, listen)
    if then is not None:
        then(worker)
