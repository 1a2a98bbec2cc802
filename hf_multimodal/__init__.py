"""Image+text models that are ordinary Hugging Face models. Importing it registers them with the auto classes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .data.collator import MultimodalCollator
from .models import (
    AlignerConfig,
    AlignerModel,
    FusionConfig,
    FusionForImageTextClassification,
    ImageTextClassificationPipeline,
    MultimodalProcessor,
    RecurrentTextConfig,
    RecurrentTextModel,
    RobustFusionConfig,
    RobustFusionForImageTextClassification,
    TorchvisionConfig,
    TorchvisionModel,
)

if TYPE_CHECKING:
    from .data.controlled_retrieval import make_retrieval, retrieval_ceiling
    from .data.counts import presence
    from .data.loading import load_data
    from .data.pair_collator import PairCollator
    from .data.pairs import group_pairs
    from .data.presence import PresenceRedraw
    from .data.splits import complete_splits
    from .evaluation.modules import IMAGE_TEXT_CLASSIFICATION
    from .evaluation.retrieval import retrieval_metrics
    from .inference.embedding import embed_images, embed_texts
    from .inference.predicting import predict_dataset
    from .inference.result_sheet import result_sheet
    from .inference.retriever import Retriever
    from .inference.zero_shot import ZeroShotClassifier
    from .sharing.tables import retrieval_table
    from .training.aligner_trainer import AlignerTrainer
    from .training.preparing import add_lengths
    from .training.sampling import EpochCallback
    from .training.stacking import fit_stack
    from .training.trainer import MultimodalTrainer

# Imported when asked for: datasets and scikit-learn come with them, and take as long as all the rest.
_LATER = {
    "AlignerTrainer": ".training.aligner_trainer",
    "EpochCallback": ".training.sampling",
    "IMAGE_TEXT_CLASSIFICATION": ".evaluation.modules",
    "MultimodalTrainer": ".training.trainer",
    "PairCollator": ".data.pair_collator",
    "PresenceRedraw": ".data.presence",
    "Retriever": ".inference.retriever",
    "ZeroShotClassifier": ".inference.zero_shot",
    "add_lengths": ".training.preparing",
    "complete_splits": ".data.splits",
    "embed_images": ".inference.embedding",
    "embed_texts": ".inference.embedding",
    "fit_stack": ".training.stacking",
    "group_pairs": ".data.pairs",
    "load_data": ".data.loading",
    "make_retrieval": ".data.controlled_retrieval",
    "predict_dataset": ".inference.predicting",
    "presence": ".data.counts",
    "result_sheet": ".inference.result_sheet",
    "retrieval_ceiling": ".data.controlled_retrieval",
    "retrieval_metrics": ".evaluation.retrieval",
    "retrieval_table": ".sharing.tables",
}

__all__ = [
    "AlignerConfig",
    "AlignerModel",
    "AlignerTrainer",
    "EpochCallback",
    "FusionConfig",
    "FusionForImageTextClassification",
    "IMAGE_TEXT_CLASSIFICATION",
    "ImageTextClassificationPipeline",
    "MultimodalCollator",
    "MultimodalProcessor",
    "MultimodalTrainer",
    "PairCollator",
    "PresenceRedraw",
    "RecurrentTextConfig",
    "RecurrentTextModel",
    "Retriever",
    "RobustFusionConfig",
    "RobustFusionForImageTextClassification",
    "TorchvisionConfig",
    "TorchvisionModel",
    "ZeroShotClassifier",
    "add_lengths",
    "complete_splits",
    "embed_images",
    "embed_texts",
    "fit_stack",
    "group_pairs",
    "load_data",
    "make_retrieval",
    "predict_dataset",
    "presence",
    "result_sheet",
    "retrieval_ceiling",
    "retrieval_metrics",
    "retrieval_table",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
