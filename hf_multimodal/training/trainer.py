"""What `transformers.Trainer` lacks for two pretrained models and a head, and no more."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from hf_multimodal.data.collator import MultimodalCollator
from hf_multimodal.hub.storage import replaced_files
from hf_multimodal.training.arguments import MultimodalTrainingArguments
from hf_multimodal.training.checkpoints import (
    MANIFEST,
    checkpoints,
    find_fault,
    last_checkpoint,
    remove_earlier_checkpoints,
    step_of,
    write_manifest,
)
from hf_multimodal.training.ema import EMA
from hf_multimodal.training.feature_cache import reading_features
from hf_multimodal.training.optimization import parameter_groups
from hf_multimodal.training.preparation import batching_lengths
from hf_multimodal.training.robust import dropout_of
from hf_multimodal.training.sampling import EpochCallback, EpochSampler
from hf_multimodal.training.sharing_trainer import SharingTrainer
from hf_multimodal.training.stacking import fit_stack, set_prior
from hf_multimodal.training.termination import Termination, start_worker

logger = logging.get_logger(__name__)

ROWS = "rows"  # of a training batch: which rows of the data set it holds


class WithRows:
    """A collator whose batches also say which rows they hold, so that a bad loss can name them.

    Args:
        collator: Makes the batch; rows without a column `index` give none.
    """

    def __init__(self, collator: Callable) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self.collator(rows)
        if all("index" in row for row in rows):
            batch[ROWS] = torch.tensor([row["index"] for row in rows])
        return batch


class MultimodalTrainer(SharingTrainer):
    """A `Trainer` for image+text models, which asks for no more than transformers' own.

    - `args.learning_rate` is for the pretrained parts, `args.head_learning_rate` for the rest.
    - Training a robust classifier hides modalities from its joint branch (`args.modality_dropout`) and fits its stack
      on `eval_dataset` at the end (`args.fit_stack`).
    - The order of the examples and the augmentation are functions of (seed, epoch, example), so a resumed run sees
      what the whole run would have seen.
    - Augmentation is for training only: evaluation uses `eval_collator`, which keeps rows that have nothing.
    - Both collators refuse labels that the model has not.
    - `group_by_length` goes without a column of lengths: the texts of the training rows are then measured.
    - With `args.ema_decay`, an exponential moving average of the weights is evaluated, chosen by and kept.
    - With `torch_compile`, a batch in which everything is present goes without `modality_mask`.
    - A checkpoint with missing or unexpected weights is an error, where `Trainer` warns and goes on. Each has a
      manifest, written last, by which a damaged one is known; older ones go only when the new one is whole.
    - A loss that is not finite stops the run before the step is taken, and no such weights are saved.
    - SIGTERM saves a checkpoint and exits with 143.
    - What goes to the Hub is as in [`SharingTrainer`].

    Args:
        model: A model of this package, or a peft model around one.
        args: A `MultimodalTrainingArguments`.
        data_collator: A `MultimodalCollator`; its `epoch` is kept up to date, its processor saved in checkpoints.
            None makes one of `processing_class`.
        processing_class: The `MultimodalProcessor`, where no collator is given.
        eval_collator: Collator for evaluation; None makes it of `data_collator`.
        *more, **kwargs: As for `Trainer`.

    Raises:
        TypeError: If `args` are transformers' own.
        ValueError: If there is neither a collator nor a processor, or an argument has no use with the model.

    Example:

    ```python
    args = MultimodalTrainingArguments("runs/robust", num_train_epochs=3)
    trainer = MultimodalTrainer(
        model, args, train_dataset=train_rows, eval_dataset=validation_rows, processing_class=processor
    )
    trainer.train()
    trainer.save_model()
    ```
    """

    args: MultimodalTrainingArguments
    data_collator: Any
    train_dataset: Any
    push_in_progress: Any

    def __init__(
        self,
        model: Any = None,
        args: MultimodalTrainingArguments | None = None,
        data_collator: Any = None,
        *more: Any,
        processing_class: Any = None,
        eval_collator: Callable | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, MultimodalTrainingArguments):
            raise TypeError(f"args must be MultimodalTrainingArguments, got {type(args).__name__}.")
        if data_collator is None:
            if processing_class is None:
                raise ValueError("a data_collator is needed, or the processor as processing_class.")
            data_collator = self.make_collator(processing_class)
        # Not on to `Trainer`: it looks for the tokenizer of a processor, which an image model's has not.
        super().__init__(model, args, data_collator, *more, **kwargs)
        self.eval_collator = self.evaluation_collator() if eval_collator is None else eval_collator
        for collator in (self.data_collator, self.eval_collator):
            if getattr(collator, "num_labels", 0) is None:
                collator.num_labels = self.model.config.num_labels  # type: ignore[union-attr]
        if (cache := getattr(self.data_collator, "token_cache", None)) is not None:
            cache.check(self.model.image_tokenizer, self.data_collator.processor.image_processor)
        self.robust = hasattr(self.model, "stack")
        self.untrained_heads: list[str] = []
        self._use_modality_dropout()
        self.epoch = self.data_collator.epoch
        self.add_callback(EpochCallback(self.epoch))
        self._last_rows: torch.Tensor | None = None
        self.termination = Termination()
        self.add_callback(self.termination)
        self.ema = EMA(self.model, self.args.ema_decay) if self.args.ema_decay else None
        if self.ema is not None:
            self.add_callback(self.ema)

    def make_collator(self, processor: Any) -> Any:
        """The collator of the training rows."""
        return MultimodalCollator(processor)

    def evaluation_collator(self) -> Any:
        """The collator of all other rows: the same without augmentation."""
        make = getattr(self.data_collator, "for_evaluation", None)
        return self.data_collator if make is None else make()

    def _use_modality_dropout(self) -> None:
        shares = self.args.modality_dropout
        if shares is not None and not self.robust:
            raise ValueError(
                f"modality_dropout {shares} has no use: {type(self.model).__name__} has no joint branch beside heads "
                "of their own. RobustFusionForImageTextClassification has."
            )
        if self.robust and isinstance(self.train_dataset, Dataset) and "index" not in self.train_dataset.column_names:
            self.train_dataset = self.train_dataset.add_column("index", list(range(len(self.train_dataset))))
        if self.robust and getattr(self.data_collator, "modality_dropout", None) is None:
            self.data_collator.modality_dropout = dropout_of(self.train_dataset, self.args.seed, shares)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer that `args.optim` names, over our parameter groups."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            kwargs["params"] = parameter_groups(
                model,
                learning_rate=self.args.learning_rate,
                head_learning_rate=self.args.head_learning_rate,
                weight_decay=self.args.weight_decay,
            )
            self.optimizer_cls_and_kwargs = (optimizer, kwargs)
        return super().create_optimizer(model)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Compiled, a model with BatchNorm learns its statistics only from batches without a mask."""
        if self.args.torch_compile and "modality_mask" in inputs:
            read = [name in inputs for name in ("pixel_values", "input_ids")]
            if inputs["modality_mask"][:, torch.tensor(read)].all():
                inputs = {name: value for name, value in inputs.items() if name != "modality_mask"}
        return super()._prepare_inputs(inputs)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy not in ("random", "group_by_length"):
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(
            len(dataset),
            seed,
            self.epoch,
            labels=list(dataset["label"]) if self.args.oversample else None,
            lengths=self._lengths(dataset) or self._measured(dataset),
            group_size=self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
        )

    def _get_eval_sampler(self, eval_dataset: Dataset) -> list[int]:
        lengths = self._lengths(eval_dataset) or [0] * len(eval_dataset)
        return np.argsort(lengths, kind="stable").tolist()  # metrics do not depend on the order

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Batches in the order of the data set, so that what `predict` returns is."""
        return self._get_dataloader(test_dataset, "test", self.args.eval_batch_size, SequentialSampler)

    def _lengths(self, dataset: Dataset) -> list[int] | None:
        name = self.args.length_column_name
        grouped = self.args.train_sampling_strategy == "group_by_length" and name in _columns(dataset)
        return list(dataset[name]) if grouped else None

    def _measured(self, dataset: Dataset) -> list[int] | None:
        """Lengths where the rows have no column of them; None where nothing is grouped, or no text is read."""
        tokenizer = getattr(self.data_collator.processor, "tokenizer", None)  # an image processor has none
        column = self.data_collator.text_column
        if self.args.train_sampling_strategy != "group_by_length" or tokenizer is None:
            return None
        if column not in _columns(dataset):
            raise ValueError(
                f"group_by_length needs texts in a column {column!r} or lengths in {self.args.length_column_name!r}; "
                f"the rows have {_columns(dataset) or 'no columns'}. train_sampling_strategy='random' needs neither."
            )
        return batching_lengths(dataset, tokenizer, column).tolist()

    def _get_dataloader(self, dataset: Dataset, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        collator = self.data_collator
        if not is_training:
            self.data_collator = self.eval_collator
        try:
            loader = super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.data_collator = collator
        # What an iterator draws for its workers would else come out of the generator that dropout draws from: workers
        # that live on are made once in a whole run, and once more in a resumed one.
        base = getattr(loader, "base_dataloader", loader)
        base.generator = torch.Generator()
        base.worker_init_fn = partial(start_worker, base.worker_init_fn, self.termination.training)
        if is_training:
            base.collate_fn = WithRows(base.collate_fn)
        return loader

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; what is left is the EMA of the weights if there is one, and a stack that fits the model."""
        cache = getattr(self.data_collator, "feature_cache", None)
        vision_model: Any = getattr(self.model, "vision_model", None)
        with (
            self.termination,
            contextlib.nullcontext() if cache is None else reading_features(vision_model, cache.layers),
        ):
            output = super().train(*args, **kwargs)
            self._refuse_infinite_weights()
        if self.ema is not None:
            self.ema.copy_to_model()
            self.remove_callback(self.ema)
            self.ema = None
        if self.robust:
            self._fit_stack()
        return output

    def _fit_stack(self) -> None:
        model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        labels = self.train_dataset[self.data_collator.label_column][:]
        if self.args.fit_stack and self.eval_dataset is not None:
            self.untrained_heads = fit_stack(
                model,
                self.data_collator.processor,
                self.eval_dataset,
                labels,
                batch_size=self.args.per_device_eval_batch_size,
                num_workers=self.args.dataloader_num_workers,
            )
        else:
            if self.args.fit_stack:
                logger.warning("The stack is not fitted, for which eval_dataset is needed: the joint branch predicts.")
            set_prior(model, labels)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the EMA if there is one.

        Raises:
            FloatingPointError: If a weight is not finite.
        """
        self._refuse_infinite_weights()
        with contextlib.nullcontext() if self.ema is None else self.ema.in_place():
            return super().evaluate(*args, **kwargs)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """One batch, forward and backward.

        Raises:
            FloatingPointError: If the loss is not finite; the weights are still those of the step before.
        """
        rows = self._last_rows = inputs.pop(ROWS, None)
        loss = self._forward_and_backward(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):  # `Trainer` looks at it too, and goes on
            raise FloatingPointError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}, at the learning rate "
                f"{self._get_learning_rate():.3g}{self._name_rows(rows)}. {self._last_checkpoint()} Lower the "
                "learning rate, or look at these rows."
            )
        return loss

    def _forward_and_backward(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any
    ) -> torch.Tensor:
        return super().training_step(model, inputs, num_items_in_batch)

    def _name_rows(self, rows: torch.Tensor | None) -> str:
        if rows is None:
            return ""
        numbers = rows.tolist()
        names: dict[int, str] = {}
        if "id" in getattr(self.train_dataset, "column_names", []):
            found = self.train_dataset.select_columns(["index", "id"])[:]
            names = dict(zip(found["index"], found["id"], strict=True))
        shown = [f"{row} (id {names[row]!r})" if row in names else str(row) for row in numbers[:10]]
        more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
        return f", on the rows {', '.join(shown)}{more}"

    def _last_checkpoint(self) -> str:
        kept = last_checkpoint(str(self.args.output_dir))
        return f"The last checkpoint is {kept}." if kept else "There is no checkpoint yet."

    def _refuse_infinite_weights(self) -> None:
        bad = [name for name, value in self.model.named_parameters() if not torch.isfinite(value).all()]
        if bad:
            rate = "" if self.lr_scheduler is None else f", at the learning rate {self._get_learning_rate():.3g}"
            raise FloatingPointError(
                f"after step {self.state.global_step}{rate}{self._name_rows(self._last_rows)}, weights are not "
                f"finite: {bad[:3]} ({len(bad)} in all). They are not saved. {self._last_checkpoint()} Lower the "
                "learning rate, or look at these rows."
            )

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save, show by a manifest that all is there, and only then remove older ones."""
        self._refuse_infinite_weights()
        run = self._get_output_dir(trial=trial)
        folder = Path(run, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        if self.args.should_save:
            (folder / MANIFEST).unlink(missing_ok=True)  # of a damaged checkpoint of this step
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            refused = isinstance(error, OSError) or re.search(r"writ|I/O|iostream|inline_container|space", str(error))
            if not refused:
                raise
            shutil.rmtree(folder, ignore_errors=True)
            number = getattr(error, "errno", None) or errno.ENOSPC  # torch and safetensors do not pass it on
            raise OSError(number, os.strerror(number), str(folder)) from error
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # each process has written its own generator state
        if self.args.should_save:
            write_manifest(folder)
            remove_earlier_checkpoints(run)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(run, save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.ema is not None:
            self.ema.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """Load the best whole checkpoint.

        Raises:
            ValueError: If the best is damaged, and there is no other.
        """
        best = self.state.best_model_checkpoint
        fault = find_fault(Path(best)) if not self.args.save_only_model else None
        if fault:
            other = self._best_whole_checkpoint()
            if other is None:
                raise ValueError(f"the best checkpoint {best} cannot be loaded, {fault}, and there is no other.")
            logger.warning(
                "The best checkpoint %s is passed over, %s: the best of the rest is %s.", best, fault, other
            )
            self.state.best_model_checkpoint = str(other)
            self.state.best_global_step = step_of(str(other))
        super()._load_best_model()
        if self.ema is not None:
            self.ema.load(self.state.best_model_checkpoint)

    def _best_whole_checkpoint(self) -> Path | None:
        name = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        scores = {entry["step"]: entry[name] for entry in self.state.log_history if name in entry}
        whole = [path for path in checkpoints(str(self.args.output_dir)) if find_fault(path) is None]
        scored = [path for path in whole if step_of(str(path)) in scores]
        choose = max if self.args.greater_is_better else min
        return choose(scored, key=lambda path: scores[step_of(str(path))], default=None)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save and output_dir in (None, self.args.output_dir):  # a checkpoint has its manifest
            with replaced_files(str(self.args.output_dir), last="config.json") as new:
                self._save_into(str(new), state_dict)
        else:
            self._save_into(str(output_dir or self.args.output_dir), state_dict)

    def _save_into(self, folder: str, state_dict: dict[str, Any] | None) -> None:
        token, self.args.hub_token = self.args.hub_token, None  # `Trainer` pickles its arguments beside the weights
        try:
            super()._save(folder, state_dict)
        finally:
            self.args.hub_token = token
        if self.args.should_save:
            if self.ema is not None:
                self.ema.save(folder)
            # Not as `processing_class`: `Trainer` looks for the tokenizer of one, which an image model's has not.
            self.data_collator.processor.save_pretrained(folder)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        if load_result.missing_keys or load_result.unexpected_keys:
            raise RuntimeError(
                f"the checkpoint does not fit the model: missing {load_result.missing_keys[:5]}, "
                f"unexpected {load_result.unexpected_keys[:5]} "
                f"({len(load_result.missing_keys)} and {len(load_result.unexpected_keys)} in all)."
            )


def _columns(dataset: Any) -> list[str]:
    return getattr(dataset, "column_names", [])  # a torch data set has none
