"""What `transformers.Trainer` lacks for two pretrained models and a head, and no more."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import Trainer

from hf_multimodal.training.averaging import WeightAverage
from hf_multimodal.training.optimization import parameter_groups
from hf_multimodal.training.sampling import EpochCallback, EpochSampler


class MultimodalTrainer(Trainer):
    """A `Trainer` with two learning rates, stateless sampling, and errors where checkpoints do not fit.

    - `args.learning_rate` is for the pretrained parts, `head_learning_rate` for the rest.
    - The order of the examples and the augmentation are functions of (seed, epoch, example), so a resumed run sees
      what the whole run would have seen.
    - Augmentation is for training only: evaluation uses `eval_collator`.
    - With `weight_average`, a running average of the weights is evaluated, chosen by and kept.
    - With `torch_compile`, a batch in which everything is present goes without `modality_mask`.
    - A checkpoint with missing or unexpected weights is an error, where `Trainer` warns and goes on.

    Args:
        head_learning_rate: For all parameters outside the vision and the text model.
        eval_collator: Collator for evaluation; None means `data_collator`.
        data_collator: A `MultimodalCollator`; its `epoch` is kept up to date, its processor saved in checkpoints.
        oversample: Repeat the examples of rare classes until every class is as frequent as the most frequent one.
        weight_average: Decay of the average a step, for instance 0.98; 0 keeps the weights as they are.
        *args, **kwargs: As for `Trainer`.
    """

    data_collator: Any

    def __init__(
        self,
        *args: Any,
        head_learning_rate: float,
        eval_collator: Callable | None = None,
        oversample: bool = False,
        weight_average: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.head_learning_rate = head_learning_rate
        self.eval_collator = self.data_collator if eval_collator is None else eval_collator
        self.oversample = oversample
        self.epoch = self.data_collator.epoch
        self.add_callback(EpochCallback(self.epoch))
        self.average = WeightAverage(self.model, weight_average) if weight_average else None
        if self.average is not None:
            self.add_callback(self.average)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the optimizer that `args.optim` names, over our parameter groups."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            kwargs["params"] = parameter_groups(
                model,
                learning_rate=self.args.learning_rate,
                head_learning_rate=self.head_learning_rate,
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
            labels=list(dataset["label"]) if self.oversample else None,
            lengths=self._lengths(dataset),
            group_size=self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
        )

    def _get_eval_sampler(self, eval_dataset: Dataset) -> list[int]:
        lengths = self._lengths(eval_dataset) or [0] * len(eval_dataset)
        return np.argsort(lengths, kind="stable").tolist()  # metrics do not depend on the order

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Batches in the order of the data set, so that the answers of `predict` are."""
        return self._get_dataloader(test_dataset, "test", self.args.eval_batch_size, SequentialSampler)

    def _lengths(self, dataset: Dataset) -> list[int] | None:
        name = self.args.length_column_name
        grouped = self.args.train_sampling_strategy == "group_by_length" and name in dataset.column_names
        return list(dataset[name]) if grouped else None

    def _get_dataloader(self, dataset: Dataset, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        collator = self.data_collator
        if not is_training:
            self.data_collator = self.eval_collator
        try:
            return super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        finally:
            self.data_collator = collator

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; what is left is the average of the weights if there is one."""
        output = super().train(*args, **kwargs)
        if self.average is not None:
            self.average.copy_to_model()
            self.remove_callback(self.average)
            self.average = None
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the average if there is one."""
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            return super().evaluate(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average is not None:
            self.average.load(self.state.best_model_checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            if self.average is not None:
                self.average.save(output_dir or self.args.output_dir)
            # Not as `processing_class`: `Trainer` looks for the tokenizer of one, which an image model's has not.
            self.data_collator.processor.save_pretrained(output_dir or self.args.output_dir)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        if load_result.missing_keys or load_result.unexpected_keys:
            raise RuntimeError(
                f"the checkpoint does not fit the model: missing {load_result.missing_keys[:5]}, "
                f"unexpected {load_result.unexpected_keys[:5]} "
                f"({len(load_result.missing_keys)} and {len(load_result.unexpected_keys)} in all)."
            )
