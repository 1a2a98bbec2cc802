"""The models, their configurations and their processor: what travels to the Hub with every checkpoint."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_image_tokenizer import ImageTokenizerConfig
from .configuration_text_to_image import TextToImageConfig
from .configuration_vision_language import VisionLanguageConfig
from .configuration_vision_text import AlignerConfig, FusionConfig, RobustFusionConfig
from .modeling_aligner import AlignerModel
from .modeling_fusion import FusionForImageTextClassification
from .modeling_image_tokenizer import ImageTokenizerModel
from .modeling_recurrent_text import RecurrentTextConfig, RecurrentTextModel
from .modeling_robust_fusion import RobustFusionForImageTextClassification
from .modeling_text_to_image import TextToImageModel
from .modeling_torchvision import TorchvisionConfig, TorchvisionModel
from .modeling_vision_language import VisionLanguageForConditionalGeneration
from .pipeline_image_text_classification import ImageTextClassificationPipeline
from .processing_multimodal import MultimodalProcessor
from .processing_text_to_image import TextToImageProcessor
from .processing_vision_language import VisionLanguageProcessor

__all__ = [
    "AlignerConfig",
    "AlignerModel",
    "FusionConfig",
    "FusionForImageTextClassification",
    "ImageTextClassificationPipeline",
    "ImageTokenizerConfig",
    "ImageTokenizerModel",
    "MultimodalProcessor",
    "RecurrentTextConfig",
    "RecurrentTextModel",
    "RobustFusionConfig",
    "RobustFusionForImageTextClassification",
    "TextToImageConfig",
    "TextToImageModel",
    "TextToImageProcessor",
    "TorchvisionConfig",
    "TorchvisionModel",
    "VisionLanguageConfig",
    "VisionLanguageForConditionalGeneration",
    "VisionLanguageProcessor",
]

for _model in (FusionForImageTextClassification, RobustFusionForImageTextClassification, AlignerModel):
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    AutoModel.register(_model.config_class, _model)
    AutoProcessor.register(_model.config_class, MultimodalProcessor)
for _model in (FusionForImageTextClassification, RobustFusionForImageTextClassification):
    AutoModelForSequenceClassification.register(_model.config_class, _model)
AutoModelForZeroShotImageClassification.register(AlignerConfig, AlignerModel)
for _model in (ImageTokenizerModel, TextToImageModel, VisionLanguageForConditionalGeneration):
    AutoConfig.register(_model.config_class.model_type, _model.config_class)
    AutoModel.register(_model.config_class, _model)
AutoProcessor.register(TextToImageConfig, TextToImageProcessor)
AutoProcessor.register(VisionLanguageConfig, VisionLanguageProcessor)
AutoModelForImageTextToText.register(VisionLanguageConfig, VisionLanguageForConditionalGeneration)
AutoModelForMultimodalLM.register(TextToImageConfig, TextToImageModel)
# `pipeline()` looks into the table of names, which `register` leaves as it is, and says that the model is not known.
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[TextToImageConfig.model_type] = TextToImageModel.__name__
for _config in (TorchvisionConfig, RecurrentTextConfig):  # code from the Hub may have registered its own before
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "image-text-classification", ImageTextClassificationPipeline, pt_model=AutoModel, type="multimodal"
)
