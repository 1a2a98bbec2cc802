"""Image+text models that are ordinary Hugging Face models. Importing it registers them with the auto classes."""

from .data.collator import MultimodalCollator
from .inference.retriever import Retriever
from .inference.zero_shot import ZeroShotClassifier
from .models import (
    AlignerConfig,
    AlignerModel,
    FusionConfig,
    FusionForImageTextClassification,
    MultimodalProcessor,
    RecurrentTextConfig,
    RecurrentTextModel,
    RobustFusionConfig,
    RobustFusionForImageTextClassification,
    TorchvisionConfig,
    TorchvisionModel,
)

__all__ = [
    "AlignerConfig",
    "AlignerModel",
    "FusionConfig",
    "FusionForImageTextClassification",
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
