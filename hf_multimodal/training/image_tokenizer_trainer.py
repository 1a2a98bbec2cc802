"""What `MultimodalTrainer` lacks for an image tokenizer: evaluation by what it gives back."""

from typing import Any

from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from hf_multimodal.data.image_collators import ImageCollator
from hf_multimodal.inference.reconstruction import measure_reconstruction
from hf_multimodal.training.trainer import MultimodalTrainer


class ImageTokenizerTrainer(MultimodalTrainer):
    """A `MultimodalTrainer` whose examples are images alone.

    Args:
        *args, **kwargs: As for `MultimodalTrainer`; `data_collator` is an `ImageCollator`, or, where none is given,
            `processing_class` an image processor of transformers.
    """

    def make_collator(self, processor: Any) -> Any:
        """The collator of the training images."""
        return ImageCollator(processor)

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """What `measure_reconstruction` finds."""
        rows: Any = dataloader.dataset
        found = measure_reconstruction(
            self.accelerator.unwrap_model(self.model),
            self.data_collator.processor,
            rows,
            batch_size=self.args.eval_batch_size,
            num_workers=self.args.dataloader_num_workers,
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=len(rows))
