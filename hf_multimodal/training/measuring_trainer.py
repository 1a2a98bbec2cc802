"""What `MultimodalTrainer` lacks for models that are measured on a whole split at once."""

from typing import Any

from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from hf_multimodal.training.trainer import MultimodalTrainer


class MeasuringTrainer(MultimodalTrainer):
    """A `MultimodalTrainer` that evaluates by `measure`, on all rows together, in each process of a distributed run.

    Args:
        *args, **kwargs: As for `MultimodalTrainer`.
    """

    def measure(self, model: Any, rows: Any, **options: Any) -> dict[str, float]:
        """The metrics of a model on some rows.

        Args:
            model: The model.
            rows: The rows.
            options: `batch_size` and `num_workers`.
        """
        raise NotImplementedError

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """What `measure` finds."""
        rows: Any = dataloader.dataset
        sizes = {"batch_size": self.args.eval_batch_size, "num_workers": self.args.dataloader_num_workers}
        found = self.measure(self.accelerator.unwrap_model(self.model), rows, **sizes)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(rows))
