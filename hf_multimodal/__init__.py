"""Image+text models that are ordinary Hugging Face models. Importing it registers them with the auto classes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_multimodal.data.collator import MultimodalCollator
from hf_multimodal.models import (
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
    from hf_multimodal.data.counts import presence
    from hf_multimodal.data.loading import load_data
    from hf_multimodal.data.pair_collator import PairCollator
    from hf_multimodal.data.pairs import group_pairs
    from hf_multimodal.data.presence import ModalityDropout
    from hf_multimodal.data.splits import complete_splits
    from hf_multimodal.evaluation.modules import IMAGE_TEXT_CLASSIFICATION
    from hf_multimodal.evaluation.retrieval import retrieval_metrics
    from hf_multimodal.hub.tables import retrieval_table
    from hf_multimodal.inference.embedding import embed_images, embed_texts
    from hf_multimodal.inference.prediction import predict_dataset
    from hf_multimodal.inference.result_sheet import result_sheet
    from hf_multimodal.inference.retriever import Retriever
    from hf_multimodal.inference.zero_shot import ZeroShotClassifier
    from hf_multimodal.synthetic.retrieval import make_retrieval, retrieval_ceiling
    from hf_multimodal.training.aligner_trainer import AlignerTrainer
    from hf_multimodal.training.preparation import add_lengths
    from hf_multimodal.training.sampling import EpochCallback
    from hf_multimodal.training.stacking import fit_stack
    from hf_multimodal.training.trainer import MultimodalTrainer

# Imported when asked for: datasets and scikit-learn come with them, and take as long as all the rest.
_LATER = {
    "AlignerTrainer": ".training.aligner_trainer",
    "EpochCallback": ".training.sampling",
    "IMAGE_TEXT_CLASSIFICATION": ".evaluation.modules",
    "MultimodalTrainer": ".training.trainer",
    "PairCollator": ".data.pair_collator",
    "ModalityDropout": ".data.presence",
    "Retriever": ".inference.retriever",
    "ZeroShotClassifier": ".inference.zero_shot",
    "add_lengths": ".training.preparation",
    "complete_splits": ".data.splits",
    "embed_images": ".inference.embedding",
    "embed_texts": ".inference.embedding",
    "fit_stack": ".training.stacking",
    "group_pairs": ".data.pairs",
    "load_data": ".data.loading",
    "make_retrieval": ".synthetic.retrieval",
    "predict_dataset": ".inference.prediction",
    "presence": ".data.counts",
    "result_sheet": ".inference.result_sheet",
    "retrieval_ceiling": ".synthetic.retrieval",
    "retrieval_metrics": ".evaluation.retrieval",
    "retrieval_table": ".hub.tables",
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
    "ModalityDropout",
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
