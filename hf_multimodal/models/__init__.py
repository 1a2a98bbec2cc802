"""The models, their configurations and their processor: what travels to the Hub with every checkpoint."""

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor

from .configuration_fusion import FusionConfig
from .configuration_recurrent_text import RecurrentTextConfig
from .configuration_torchvision import TorchvisionConfig
from .modeling_fusion import FusionForImageTextClassification
from .modeling_recurrent_text import RecurrentTextModel
from .modeling_torchvision import TorchvisionModel
from .processing_multimodal import MultimodalProcessor

for config_class, model_class in (
    (FusionConfig, FusionForImageTextClassification),
    (TorchvisionConfig, TorchvisionModel),
    (RecurrentTextConfig, RecurrentTextModel),
):
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
AutoModelForSequenceClassification.register(FusionConfig, FusionForImageTextClassification)
AutoProcessor.register(FusionConfig, MultimodalProcessor)
