"""What `MultimodalTrainer` lacks for an aligner: gradient caching, and evaluation by retrieval."""

from typing import Any

import torch

from hf_multimodal.data.pair_collator import PairCollator
from hf_multimodal.evaluation.retrieval import DIRECTIONS
from hf_multimodal.inference.retrieval_measures import measure_retrieval
from hf_multimodal.training.gradient_cache import backward_in_chunks
from hf_multimodal.training.measuring_trainer import MeasuringTrainer


def flat_metrics(found: dict[str, Any]) -> dict[str, float]:
    """What `retrieval_metrics` found as one flat dict, the direction before each name; groups are left out."""
    ways = {f"{way}_{name}": value for way in DIRECTIONS for name, value in found[way].items()}
    return {"rsum": found["rsum"], **ways}


class AlignerTrainer(MeasuringTrainer):
    """A `MultimodalTrainer` whose examples are images with captions.

    Evaluation searches the whole validation split, as one pool; in a distributed run each process does so, since
    recall is not the mean of recalls in smaller pools.

    Args:
        *args, **kwargs: As for `MultimodalTrainer`; `data_collator` is a `PairCollator`, the data sets are those of
            `group_pairs`. `args.gradient_cache_chunk_size` trains large batches on small memory.
    """

    def make_collator(self, processor: Any) -> Any:
        """The collator of the training pairs."""
        return PairCollator(processor)

    def _forward_and_backward(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any
    ) -> torch.Tensor:
        """In chunks if so asked."""
        if self.args.gradient_cache_chunk_size is None:
            return super()._forward_and_backward(model, inputs, num_items_in_batch)
        model.train()
        share = self.current_gradient_accumulation_steps
        output = backward_in_chunks(
            model,
            self._prepare_inputs(inputs),
            self.args.gradient_cache_chunk_size,
            backward=lambda loss: self.accelerator.backward(loss / share),
        )
        assert output.loss is not None
        return output.loss / share

    def measure(self, model: Any, rows: Any, **options: Any) -> dict[str, float]:
        """Recalls and ranks in both directions, the pool beside them, and their rsum."""
        collator = self.data_collator
        options["feature_cache"] = collator.feature_cache
        return flat_metrics(measure_retrieval(model, collator.processor, rows, **options))
