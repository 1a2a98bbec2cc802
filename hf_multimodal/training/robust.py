"""The training of a robust classifier: what its joint branch is shown, and its stack at the end."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_multimodal.data.counts import presence
from hf_multimodal.data.presence import SHARES, ModalityDropout
from hf_multimodal.training.sampling import EpochCallback
from hf_multimodal.training.stacking import fit_stack


def dropout_of(rows: Any, seed: int, shares: Sequence[float] | None = None) -> ModalityDropout:
    """The modality dropout of training rows; what came incomplete counts.

    Args:
        rows: The training rows. Of a data set that is not of `datasets` it is not known what came incomplete.
        seed: Of the run.
        shares: Of all examples, that are to show both, the image only and the text only; None means .7 .15 .15.
    """
    if isinstance(rows, Dataset) and {"image", "text"} <= set(rows.column_names):
        return ModalityDropout.for_rows(presence(rows), seed, shares or SHARES)
    return ModalityDropout(seed, shares or SHARES)


class RobustFusionCallback(TrainerCallback):
    """Trains a robust classifier with transformers' own `Trainer` as `MultimodalTrainer` does.

    It hides modalities from the joint branch, anew in each epoch, and fits the stack on validation rows at the end of
    training, after the best checkpoint was loaded.

    Args:
        processor: The model's; the data collator of the `Trainer` is a `MultimodalCollator` of it.
        validation_rows: Labelled rows that the stack is fitted on.
        modality_dropout: Of all examples, shares that show both, the image only and the text only; None means
            .7 .15 .15.

    Example:

    ```python
    args = TrainingArguments("runs/robust", num_train_epochs=3, remove_unused_columns=False)
    callback = RobustFusionCallback(processor, validation_rows)
    trainer = Trainer(model, args, MultimodalCollator(processor), train_rows, callbacks=[callback])
    trainer.train()
    ```
    """

    def __init__(
        self, processor: Any, validation_rows: Dataset, modality_dropout: Sequence[float] | None = None
    ) -> None:
        self.processor, self.validation_rows, self.shares = processor, validation_rows, modality_dropout

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the collator what to hide."""
        loader = kwargs["train_dataloader"]
        self.collator = loader.collate_fn
        self.collator.modality_dropout = dropout_of(loader.dataset, args.seed, self.shares)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the collator the epoch, in all its workers."""
        EpochCallback(self.collator.epoch).on_epoch_begin(args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Fit the stack."""
        model = getattr(kwargs["model"], "module", kwargs["model"])
        labels = kwargs["train_dataloader"].dataset[self.collator.label_column][:]
        fit_stack(model, self.processor, self.validation_rows, labels, batch_size=args.per_device_eval_batch_size)
