"""Image+text models that are ordinary Hugging Face models.

Importing this package registers them with the auto classes. The names below are imported when they are asked for, and
the registration waits for transformers, so that `import hf_multimodal` alone is quick.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_multimodal.data.collator import MultimodalCollator
    from hf_multimodal.data.conversation_collator import ConversationCollator
    from hf_multimodal.data.counts import presence
    from hf_multimodal.data.image_collators import CaptionCollator, ImageCollator
    from hf_multimodal.data.loading import load_data
    from hf_multimodal.data.pair_collator import PairCollator
    from hf_multimodal.data.pairs import group_pairs
    from hf_multimodal.data.presence import ModalityDropout
    from hf_multimodal.data.splits import complete_splits
    from hf_multimodal.evaluation.metrics import classification_metrics, multilabel_metrics, regression_metrics
    from hf_multimodal.evaluation.modules import IMAGE_TEXT_CLASSIFICATION
    from hf_multimodal.evaluation.retrieval import retrieval_metrics
    from hf_multimodal.hub.tables import retrieval_table
    from hf_multimodal.inference.embedding import embed_images, embed_texts
    from hf_multimodal.inference.prediction import predict_dataset, predict_table
    from hf_multimodal.inference.result_sheet import result_sheet
    from hf_multimodal.inference.retriever import Retriever
    from hf_multimodal.inference.zero_shot import ZeroShotClassifier
    from hf_multimodal.models import (
        AlignerConfig,
        AlignerModel,
        FusionConfig,
        FusionForImageTextClassification,
        ImageTextClassificationPipeline,
        ImageTokenizerConfig,
        ImageTokenizerModel,
        MultimodalProcessor,
        RecurrentTextConfig,
        RecurrentTextModel,
        RobustFusionConfig,
        RobustFusionForImageTextClassification,
        TextToImageConfig,
        TextToImageModel,
        TextToImageProcessor,
        TorchvisionConfig,
        TorchvisionModel,
        VisionLanguageConfig,
        VisionLanguageForConditionalGeneration,
        VisionLanguageProcessor,
    )
    from hf_multimodal.synthetic.questions import make_questions
    from hf_multimodal.synthetic.retrieval import make_retrieval, retrieval_ceiling
    from hf_multimodal.training.aligner_trainer import AlignerTrainer
    from hf_multimodal.training.arguments import MultimodalTrainingArguments
    from hf_multimodal.training.image_tokenizer_trainer import ImageTokenizerTrainer
    from hf_multimodal.training.preparation import add_lengths
    from hf_multimodal.training.robust import RobustFusionCallback
    from hf_multimodal.training.sampling import EpochCallback
    from hf_multimodal.training.stacking import fit_stack
    from hf_multimodal.training.token_cache import TokenCache
    from hf_multimodal.training.trainer import MultimodalTrainer

_MODULES = {
    "AlignerConfig": ".models",
    "AlignerModel": ".models",
    "AlignerTrainer": ".training.aligner_trainer",
    "CaptionCollator": ".data.image_collators",
    "ConversationCollator": ".data.conversation_collator",
    "EpochCallback": ".training.sampling",
    "FusionConfig": ".models",
    "FusionForImageTextClassification": ".models",
    "IMAGE_TEXT_CLASSIFICATION": ".evaluation.modules",
    "ImageCollator": ".data.image_collators",
    "ImageTextClassificationPipeline": ".models",
    "ImageTokenizerConfig": ".models",
    "ImageTokenizerModel": ".models",
    "ImageTokenizerTrainer": ".training.image_tokenizer_trainer",
    "ModalityDropout": ".data.presence",
    "MultimodalCollator": ".data.collator",
    "MultimodalProcessor": ".models",
    "MultimodalTrainer": ".training.trainer",
    "MultimodalTrainingArguments": ".training.arguments",
    "PairCollator": ".data.pair_collator",
    "RecurrentTextConfig": ".models",
    "RecurrentTextModel": ".models",
    "Retriever": ".inference.retriever",
    "RobustFusionCallback": ".training.robust",
    "RobustFusionConfig": ".models",
    "RobustFusionForImageTextClassification": ".models",
    "TextToImageConfig": ".models",
    "TextToImageModel": ".models",
    "TextToImageProcessor": ".models",
    "TokenCache": ".training.token_cache",
    "TorchvisionConfig": ".models",
    "TorchvisionModel": ".models",
    "VisionLanguageConfig": ".models",
    "VisionLanguageForConditionalGeneration": ".models",
    "VisionLanguageProcessor": ".models",
    "ZeroShotClassifier": ".inference.zero_shot",
    "add_lengths": ".training.preparation",
    "classification_metrics": ".evaluation.metrics",
    "complete_splits": ".data.splits",
    "embed_images": ".inference.embedding",
    "embed_texts": ".inference.embedding",
    "fit_stack": ".training.stacking",
    "group_pairs": ".data.pairs",
    "load_data": ".data.loading",
    "make_questions": ".synthetic.questions",
    "make_retrieval": ".synthetic.retrieval",
    "multilabel_metrics": ".evaluation.metrics",
    "predict_dataset": ".inference.prediction",
    "predict_table": ".inference.prediction",
    "presence": ".data.counts",
    "regression_metrics": ".evaluation.metrics",
    "result_sheet": ".inference.result_sheet",
    "retrieval_ceiling": ".synthetic.retrieval",
    "retrieval_metrics": ".evaluation.retrieval",
    "retrieval_table": ".hub.tables",
}

__all__ = [
    "AlignerConfig",
    "AlignerModel",
    "AlignerTrainer",
    "CaptionCollator",
    "ConversationCollator",
    "EpochCallback",
    "FusionConfig",
    "FusionForImageTextClassification",
    "IMAGE_TEXT_CLASSIFICATION",
    "ImageCollator",
    "ImageTextClassificationPipeline",
    "ImageTokenizerConfig",
    "ImageTokenizerModel",
    "ImageTokenizerTrainer",
    "ModalityDropout",
    "MultimodalCollator",
    "MultimodalProcessor",
    "MultimodalTrainer",
    "MultimodalTrainingArguments",
    "PairCollator",
    "RecurrentTextConfig",
    "RecurrentTextModel",
    "Retriever",
    "RobustFusionCallback",
    "RobustFusionConfig",
    "RobustFusionForImageTextClassification",
    "TextToImageConfig",
    "TextToImageModel",
    "TextToImageProcessor",
    "TokenCache",
    "TorchvisionConfig",
    "TorchvisionModel",
    "VisionLanguageConfig",
    "VisionLanguageForConditionalGeneration",
    "VisionLanguageProcessor",
    "ZeroShotClassifier",
    "add_lengths",
    "classification_metrics",
    "complete_splits",
    "embed_images",
    "embed_texts",
    "fit_stack",
    "group_pairs",
    "load_data",
    "make_questions",
    "make_retrieval",
    "multilabel_metrics",
    "predict_dataset",
    "predict_table",
    "presence",
    "regression_metrics",
    "result_sheet",
    "retrieval_ceiling",
    "retrieval_metrics",
    "retrieval_table",
]


class _RegisterAfterTransformers(MetaPathFinder):
    """Imports our models, which registers them, as soon as transformers has been imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Find transformers as the next finder does, and let its import end with that of our models."""
        if name != "transformers":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: Any) -> None:
                execute(module)
                import_module("hf_multimodal.models")

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


if "transformers" in sys.modules:
    import_module("hf_multimodal.models")
else:
    sys.meta_path.insert(0, _RegisterAfterTransformers())


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
