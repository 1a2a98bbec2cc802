"""`pipeline("image-text-classification")`: an image and a text together, either of which may be missing."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from types import GeneratorType
from typing import Any

from torch.utils.data import Dataset, Subset
from transformers import PreTrainedModel
from transformers.pipelines.text_classification import TextClassificationPipeline
from transformers.utils import logging

from .modeling_fusion import warn_of_missing

logger = logging.get_logger(__name__)

MODEL_TYPES = ["multimodal_fusion", "multimodal_robust_fusion"]
FUNCTIONS = ["sigmoid", "softmax", "none"]
SIDES = ("image", "text")


def as_examples(image: Any, text: Any) -> dict[str, Any] | list[dict[str, Any]]:
    """One example from an image and a text, or a list of them from lists of one length; what is None is left out."""
    sides = {name: side for name, side in zip(SIDES, (image, text), strict=True) if side is not None}
    if not sides:
        raise ValueError("give examples, image=, text=, or both of these; got nothing.")
    listed = [isinstance(side, Sequence) and not isinstance(side, str) for side in sides.values()]
    if not any(listed):
        return sides
    kinds = [type(side).__name__ for side in sides.values()]
    if not all(listed):
        raise ValueError(f"image and text must be either both lists or both single, got {' and '.join(kinds)}.")
    lengths = [len(side) for side in sides.values()]
    if len(set(lengths)) > 1:
        raise ValueError(f"image and text must be of one length, got {lengths}.")
    return [dict(zip(sides, values, strict=True)) for values in zip(*sides.values(), strict=True)]


def as_stream(inputs: Any) -> Any:
    """Bring tuples, data sets of `datasets` and other iterables into a form that `Pipeline` knows to be many."""
    if hasattr(inputs, "iloc"):
        raise TypeError(
            f"examples are dicts, and a {type(inputs).__name__} has none: give `.to_dict('records')` of it, with None "
            "in place of NaN."
        )
    if isinstance(inputs, (Mapping, str, list, GeneratorType, Dataset)):
        return inputs
    if isinstance(inputs, Sized) and hasattr(inputs, "__getitem__"):
        return Subset(inputs, range(len(inputs)))  # type: ignore[arg-type]  # rows by number are all it needs
    return (example for example in inputs) if isinstance(inputs, Iterable) else inputs


class ImageTextClassificationPipeline(TextClassificationPipeline):
    """Classify examples of an image and a text, of which any may lack one, with either classifier of this package.

    The scores are those of the model on that example alone, whatever stands beside it in its batch. `top_k`,
    `function_to_apply` and the form of the predictions are those of `pipeline("text-classification")`; where the model
    has `thresholds` of its own, each label also says whether it is `predicted`. For an example with neither a robust
    classifier predicts the class prior; a plain one warns of whatever is missing.

    Args:
        model: A fused or a robust classifier; it is put into evaluation mode.
        processor: The [`MultimodalProcessor`] that was saved with it.
        kwargs: Of `transformers.Pipeline` (`device`, `batch_size`, ...), and whatever a call takes.

    Raises:
        ValueError: If the model is of another type, or the processor does not read what the model reads.

    Example:

    >>> from transformers import BertConfig, BertTokenizer, ViTConfig, ViTImageProcessor
    >>> from hf_multimodal import MultimodalProcessor, RobustFusionConfig, RobustFusionForImageTextClassification
    >>> small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    >>> config = RobustFusionConfig(
    ...     vision_config=ViTConfig(image_size=8, patch_size=4, **small),
    ...     text_config=BertConfig(vocab_size=10, **small),
    ...     id2label={0: "cat", 1: "dog"},
    ... )
    >>> words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    >>> processor = MultimodalProcessor(ViTImageProcessor(size={"height": 8, "width": 8}), BertTokenizer(words))
    >>> classify = ImageTextClassificationPipeline(RobustFusionForImageTextClassification(config), processor)
    >>> classify({"image": None, "text": None}, top_k=None)
    [{'label': 'cat', 'score': 0.5}, {'label': 'dog', 'score': 0.5}]
    """

    _load_processor = True
    _load_tokenizer = False  # they come with the processor
    _load_image_processor = False

    def __init__(self, model: PreTrainedModel, processor: Any, **kwargs: Any) -> None:
        super().__init__(model=model, processor=processor, **kwargs)
        self.model.eval()

    def check_model_type(self, supported_models: Any) -> None:
        config = self.model.config
        if config.model_type not in MODEL_TYPES:
            raise ValueError(
                f"the model_type must be one of {MODEL_TYPES}, got {config.model_type!r} "
                f"({type(self.model).__name__})."
            )
        self.reads = [SIDES[column] for column in config.modalities]
        parts = [name for name, part in zip(SIDES, (self.image_processor, self.tokenizer), strict=True) if part]
        if not set(self.reads) <= set(parts):
            raise ValueError(f"the model reads {self.reads}, the processor {parts}.")

    def __call__(self, inputs: Any = None, *, image: Any = None, text: Any = None, **kwargs: Any) -> Any:
        """Classify one example or many.

        Args:
            inputs: A dict with `image` (an image) and `text` (a string), either of which may be None or left out; or
                a list, generator or data set of such dicts, whose other keys are not read.
            image: Instead of `inputs`, an image, or a list or column of images and Nones.
            text: Instead of `inputs`, a string, or a list or column of strings and Nones; of the same length as
                `image` where both are given.
            kwargs: `top_k`, how many labels, best first, None for all; `function_to_apply`, one of `sigmoid`,
                `softmax`, `none`, by default the one that the model's `problem_type` asks for; `batch_size`;
                `num_workers`; and arguments of the processor, as `max_length`.

        Returns:
            For one example `{"label": ..., "score": ...}`, or with `top_k` a list of these; for a list of examples a
            list, for anything else that is many an iterator over it. Of a multi-label model with `thresholds` in its
            configuration each also has `predicted`: whether the label's probability is at least its threshold.

        Raises:
            ValueError: If an example is no dict or has nothing that the model reads, or on an argument that is not
                allowed.
            TypeError: If an image is no image, a path or a URL for instance: nothing is opened or fetched. If a text
                is no string.
        """
        if inputs is None:
            inputs = as_examples(image, text)
        elif image is not None or text is not None:
            raise ValueError("give either examples or image= and text=, not both.")
        if isinstance(inputs, (list, tuple)) and not inputs:
            raise ValueError("there are no examples to classify.")
        return super().__call__(as_stream(inputs), **kwargs)

    def _sanitize_parameters(
        self, function_to_apply: Any = None, top_k: Any = "", **processor_kwargs: Any
    ) -> tuple[dict, dict, dict]:
        if function_to_apply is not None and function_to_apply not in FUNCTIONS:
            raise ValueError(f"function_to_apply must be one of {FUNCTIONS}, got {function_to_apply!r}.")
        # transformers' sign for "not given" is the empty string, since None means all
        if top_k != "" and top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k must be a whole number from 1 on, or None for all, got {top_k!r}.")
        return super()._sanitize_parameters(function_to_apply, top_k, **processor_kwargs)

    def preprocess(self, inputs: Any, **processor_kwargs: Any) -> dict[str, Any]:
        """The processor's tensors of one example; what is missing gets a blank, so that all have the same keys."""
        if not isinstance(inputs, Mapping):
            raise ValueError(
                f"an example is a dict with 'image' and 'text', either of which may be left out; got "
                f"{type(inputs).__name__}. A single one is given as image= or text=."
            )
        if not any(name in inputs for name in self.reads):
            raise ValueError(f"an example needs one of {self.reads}, got the keys {sorted(map(str, inputs))}.")
        unread = sorted(str(name) for name in inputs if name not in SIDES)
        for name in self.reads:
            if name not in inputs and unread:
                logger.warning_once(f"an example has no {name!r}, and its keys {unread} are not read.")
        text = inputs.get("text") if "text" in self.reads else None
        if text is not None and not isinstance(text, str):
            kind = type(text).__name__
            raise TypeError(
                f"the text of an example must be a string, or None if it is missing, got {text!r} ({kind})."
            )
        arguments = {"image": "images", "text": "text"}
        given = {arguments[name]: [inputs.get(name)] for name in self.reads}
        return dict(self.processor(**given, return_tensors="pt", **processor_kwargs))

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        config = self.model.config
        if config.model_type == "multimodal_fusion":
            for column in config.modalities:
                if not model_inputs["modality_mask"][:, column].all():
                    self._warn_of_missing(SIDES[column])
        return {"logits": self.model(**model_inputs).logits}

    def postprocess(self, model_outputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The scores, and where the model has thresholds, which labels hold.

        Raises:
            ValueError: If the logits are NaN or infinite.
        """
        if not model_outputs["logits"].isfinite().all():
            raise ValueError(
                f"logits must be finite, got {model_outputs['logits'].flatten().tolist()} for an example."
            )
        predictions = super().postprocess(model_outputs, *args, **kwargs)
        config = self.model.config
        thresholds = getattr(config, "thresholds", None)  # a model may have come with older code
        if thresholds is None or config.problem_type != "multi_label_classification":
            return predictions
        probabilities = model_outputs["logits"][0].double().sigmoid().tolist()
        holds = {config.id2label[k]: probabilities[k] >= limit for k, limit in enumerate(thresholds)}
        for prediction in predictions if isinstance(predictions, list) else [predictions]:
            prediction["predicted"] = holds[prediction["label"]]
        return predictions

    def _warn_of_missing(self, name: str) -> None:
        if len(self.reads) == 2:
            warn_of_missing(name)
        else:
            logger.warning_once(f"{name} is None: it is all that this classifier reads.")

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save the model with this pipeline's code, and the processor, which transformers leaves out.

        Args:
            save_directory: Folder, made if it is not there.
            kwargs: Of the `save_pretrained` of both.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)
