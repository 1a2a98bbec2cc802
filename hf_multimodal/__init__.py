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
    from .inference.retriever import Retriever
    from .inference.zero_shot import ZeroShotClassifier

# Imported when asked for: datasets and scikit-learn come with them, and take as long as all the rest.
_LATER = {"Retriever": ".inference.retriever", "ZeroShotClassifier": ".inference.zero_shot"}

__all__ = [
    "AlignerConfig",
    "AlignerModel",
    "FusionConfig",
    "FusionForImageTextClassification",
    "ImageTextClassificationPipeline",
    "MultimodalCollator",
    "MultimodalProcessor",
    "RecurrentTextConfig",
    "RecurrentTextModel",
    "Retriever",
    "RobustFusionConfig",
    "RobustFusionForImageTextClassification",
    "TorchvisionConfig",
    "TorchvisionModel",
    "ZeroShotClassifier",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name], __name__), name)
