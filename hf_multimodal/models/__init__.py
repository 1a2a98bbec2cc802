"""The models, their configurations and their processor: what travels to the Hub with every checkpoint."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_aligner import AlignerConfig
from .configuration_fusion import FusionConfig
from .configuration_recurrent_text import RecurrentTextConfig
from .configuration_robust_fusion import RobustFusionConfig
from .configuration_torchvision import TorchvisionConfig
from .modeling_aligner import AlignerModel
from .modeling_fusion import FusionForImageTextClassification
from .modeling_recurrent_text import RecurrentTextModel
from .modeling_robust_fusion import RobustFusionForImageTextClassification
from .modeling_torchvision import TorchvisionModel
from .pipeline_image_text_classification import ImageTextClassificationPipeline
from .processing_multimodal import MultimodalProcessor

CLASSIFIERS = (
    (FusionConfig, FusionForImageTextClassification),
    (RobustFusionConfig, RobustFusionForImageTextClassification),
)
ALIGNERS = ((AlignerConfig, AlignerModel),)
INNER_MODELS = ((TorchvisionConfig, TorchvisionModel), (RecurrentTextConfig, RecurrentTextModel))
for config_class, model_class in (*CLASSIFIERS, *ALIGNERS, *INNER_MODELS):
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
for config_class, model_class in CLASSIFIERS:
    AutoModelForSequenceClassification.register(config_class, model_class)
for config_class, model_class in ALIGNERS:
    AutoModelForZeroShotImageClassification.register(config_class, model_class)
for config_class, _ in (*CLASSIFIERS, *ALIGNERS):
    AutoProcessor.register(config_class, MultimodalProcessor)
PIPELINE_REGISTRY.register_pipeline(
    "image-text-classification", ImageTextClassificationPipeline, pt_model=AutoModel, type="multimodal"
)
