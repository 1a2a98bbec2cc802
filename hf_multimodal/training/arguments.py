"""The arguments of a training, with what this package adds to those of transformers."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

USUAL_BATCH_SIZE: int = TrainingArguments.per_device_train_batch_size  # where none is given


@dataclass(repr=False)  # transformers' own masks the token
class MultimodalTrainingArguments(TrainingArguments):
    """`TrainingArguments` with a second learning rate, a total batch size, an EMA, and modality dropout.

    Every argument of transformers means what it means there, and has the default that it has there, but for
    `remove_unused_columns`, which would take the images away.

    Args:
        head_learning_rate: Of all parameters outside the vision and the text model, whose own is `learning_rate`.
        total_train_batch_size: Examples of a step on all processes together, before gradient accumulation; sets
            `per_device_train_batch_size`. The same number means the same training on any number of processes.
        oversample: Repeat the examples of rare classes until every class is as frequent as the most frequent one.
        ema_decay: Evaluate, choose by and keep an exponential moving average of the weights with this decay a step,
            for instance 0.98; 0 keeps the weights as they are.
        modality_dropout: Of all examples, the shares that show the joint branch of a robust classifier both, the
            image only and the text only; complete examples are hidden for what is lacking, drawn anew each epoch.
            None means .7 .15 .15 for a robust classifier, and nothing for others.
        fit_stack: Whether the stack of a robust classifier is fitted on `eval_dataset` after training.
        gradient_cache_chunk_size: Images of an aligner's batch whose activations are held at once; None holds all.

    Raises:
        ValueError: If a value is outside its range, the total is no multiple of the number of processes or
            contradicts `per_device_train_batch_size`, or `label_smoothing_factor` is set.

    Example:

    >>> args = MultimodalTrainingArguments("runs/mine", total_train_batch_size=64, use_cpu=True)
    >>> args.per_device_train_batch_size, args.head_learning_rate, args.remove_unused_columns
    (64, 0.001, False)
    """

    head_learning_rate: float = field(
        default=1e-3, metadata={"help": "Learning rate of all parameters outside the vision and the text model."}
    )
    total_train_batch_size: int | None = field(
        default=None, metadata={"help": "Examples of a step on all processes together."}
    )
    oversample: bool = field(default=False, metadata={"help": "Repeat rare classes until all are equally frequent."})
    ema_decay: float = field(
        default=0.0, metadata={"help": "Decay a step of the average of the weights that is kept; 0: none."}
    )
    modality_dropout: list[float] | None = field(
        default=None, metadata={"help": "Shares that show a robust classifier both, image only, text only."}
    )
    fit_stack: bool = field(default=True, metadata={"help": "Fit the stack of a robust classifier after training."})
    gradient_cache_chunk_size: int | None = field(
        default=None, metadata={"help": "Images of an aligner's batch whose activations are held at once."}
    )
    per_device_train_batch_size: int = field(
        default=USUAL_BATCH_SIZE, metadata={"help": "Examples of a step on each process."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Leave out columns that the model's forward does not name, as the images."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_smoothing_factor:
            raise ValueError(
                "label_smoothing_factor takes the labels away from the model, so that its own loss never sees them: "
                "use --label_smoothing, or label_smoothing of the model's configuration."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")
        if self.gradient_cache_chunk_size is not None and self.gradient_cache_chunk_size < 1:
            raise ValueError(f"gradient_cache_chunk_size must be 1 or more, got {self.gradient_cache_chunk_size}.")
        if self.total_train_batch_size is not None:
            self._share_batch(self.total_train_batch_size)

    def _share_batch(self, total: int) -> None:
        share, rest = divmod(total, self.world_size)
        if rest or share < 1:
            raise ValueError(
                f"total_train_batch_size is for all processes together and must be a multiple of their number, "
                f"{self.world_size}, got {total}."
            )
        if self.per_device_train_batch_size not in (share, USUAL_BATCH_SIZE):
            raise ValueError(
                f"total_train_batch_size {total} on {self.world_size} processes and per_device_train_batch_size "
                f"{self.per_device_train_batch_size} contradict each other: leave one of them out."
            )
        self.per_device_train_batch_size = share
