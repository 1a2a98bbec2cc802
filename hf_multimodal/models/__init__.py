"""The models, their configurations and their processor: what travels to the Hub with every checkpoint."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_vision_text import AlignerConfig, FusionConfig, RobustFusionConfig
from .modeling_aligner import AlignerModel
from .modeling_fusion import FusionForImageTextClassification
from .modeling_recurrent_text import RecurrentTextConfig, RecurrentTextModel
from .modeling_robust_fusion import RobustFusionForImageTextClassification
from .modeling_torchvision import TorchvisionConfig, TorchvisionModel
from .pipeline_image_text_classification import ImageTextClassificationPipeline
from .processing_multimodal import MultimodalProcessor

__all__ = [
    "AlignerConfig",
    "AlignerModel",
    "FusionConfig",
    "FusionForImageTextClassification",
    "ImageTextClassificationPipeline",
    "MultimodalProcessor",
    "RecurrentTextConfig",
    "RecurrentTextModel",
    "RobustFusionConfig",
    "RobustFusionForImageTextClassification",
    "TorchvisionConfig",
    "TorchvisionModel",
]

for _model in (FusionForImageTextClassification, RobustFusionForImageTextClassification, AlignerModel):
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    AutoModel.register(_model.config_class, _model)
    AutoProcessor.register(_model.config_class, MultimodalProcessor)
for _model in (FusionForImageTextClassification, RobustFusionForImageTextClassification):
    AutoModelForSequenceClassification.register(_model.config_class, _model)
AutoModelForZeroShotImageClassification.register(AlignerConfig, AlignerModel)
for _config in (TorchvisionConfig, RecurrentTextConfig):  # code from the Hub may have registered its own before
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "image-text-classification", ImageTextClassificationPipeline, pt_model=AutoModel, type="multimodal"
)
