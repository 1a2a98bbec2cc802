"""What `MultimodalTrainer` lacks for an image tokenizer: evaluation by what it gives back."""

from typing import Any

from hf_multimodal.data.image_collators import ImageCollator
from hf_multimodal.inference.reconstruction import measure_reconstruction
from hf_multimodal.training.measuring_trainer import MeasuringTrainer


class ImageTokenizerTrainer(MeasuringTrainer):
    """A `MultimodalTrainer` whose examples are images alone.

    Args:
        *args, **kwargs: As for `MultimodalTrainer`; `data_collator` is an `ImageCollator`, or, where none is given,
            `processing_class` an image processor of transformers.
    """

    def make_collator(self, processor: Any) -> Any:
        """The collator of the training images."""
        return ImageCollator(processor)

    def measure(self, model: Any, rows: Any, **options: Any) -> dict[str, float]:
        """What `measure_reconstruction` finds."""
        return measure_reconstruction(model, self.data_collator.processor, rows, **options)
