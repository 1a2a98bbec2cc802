"""Command-line arguments of a training run."""

import os
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from datasets import Dataset

from hf_multimodal.cli.source_arguments import SourceArguments
from hf_multimodal.data.checks import MODALITIES
from hf_multimodal.data.collator import MultimodalCollator
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.presence import MissingRate, ModalityDropout
from hf_multimodal.hub.runs import CardArguments
from hf_multimodal.models import FusionForImageTextClassification, MultimodalProcessor
from hf_multimodal.models.configuration_vision_text import IMAGE_POOLINGS, TEXT_POOLINGS
from hf_multimodal.models.fusion import FUSIONS
from hf_multimodal.models.processing_multimodal import check_value_range
from hf_multimodal.training.freezing import parse_layers
from hf_multimodal.training.from_scratch import RECURRENT_CELLS
from hf_multimodal.validation import check_choice, check_folder, did_you_mean

CLASS_WEIGHTS = ("none", "balanced")
TUNED = "tuned"
USUAL_THRESHOLD = "0.5"

# Where these differ from transformers' own: a run that measures itself each epoch, keeps the best and can be resumed.
TRAINING_DEFAULTS: dict[str, Any] = {
    "learning_rate": None,  # filled in by `ModelArguments.learning_rates`
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "nll",
    "save_total_limit": 1,
    "restore_callback_states_from_checkpoint": True,
    "report_to": "none",
    "hub_strategy": "end",  # what is pushed is the run's whole folder, which only then stands
    "logging_nan_inf_filter": False,
    "remove_unused_columns": False,
    "train_sampling_strategy": "group_by_length",
    "dataloader_num_workers": min(4, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))),
    "dataloader_persistent_workers": True,
    "use_cpu": not torch.accelerator.is_available(),
}
# Small random models: larger batches, more epochs, and a common space no wider than they are.
FROM_SCRATCH_DEFAULTS: dict[str, Any] = {"per_device_train_batch_size": 64, "num_train_epochs": 4, "hidden_size": 64}
SHAPED_BY_FUSION = (
    "hidden_size",
    "dropout",
    "vision_layers",
    "image_pooling",
    "text_pooling",
    "fusion",
)  # what a trained fused classifier brings


@dataclass
class ModelArguments(CardArguments):
    """Which model is built, how its parts learn, and what its card says of it."""

    model_class: ClassVar[Any] = FusionForImageTextClassification
    default_output_dir: ClassVar[str] = "runs/fusion"
    training_defaults: ClassVar[dict[str, Any]] = TRAINING_DEFAULTS
    from_scratch_defaults: ClassVar[dict[str, Any]] = FROM_SCRATCH_DEFAULTS
    reads_labels: ClassVar[bool] = True
    fits_stack: ClassVar[bool] = False
    from_fusion: ClassVar[str | None] = None

    vision_model: str | None = field(
        default=None,
        metadata={
            "help": "Hub name or folder of the vision model, or torchvision:<name> (torchvision:resnet50). Not needed "
            "with --from_scratch."
        },
    )
    text_model: str | None = field(
        default=None,
        metadata={
            "help": "Hub name or folder of the text model. Not needed with --from_scratch, which also knows lstm and "
            "gru; --word_vectors starts their embeddings."
        },
    )
    from_scratch: bool = field(
        default=False,
        metadata={"help": "Random weights and a WordPiece tokenizer trained on the texts; small models unless named."},
    )
    modality: str = field(
        default="both", metadata={"help": f"One of {', '.join(MODALITIES)}: a single one builds and runs only that."}
    )
    fusion: str = field(default="concat", metadata={"help": f"One of {', '.join(FUSIONS)}."})
    word_vectors: str | None = field(
        default=None,
        metadata={"help": "File of word2vec, GloVe or fastText vectors to start the embeddings from (from_scratch)."},
    )
    hidden_size: int = field(default=256, metadata={"help": "Width of the space that both are projected into."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout inside the fusion."})
    vision_layers: int | None = field(
        default=None, metadata={"help": "Keep only the first N layers of the vision model; by default all."}
    )
    image_pooling: str = field(default="auto", metadata={"help": f"One of {', '.join(IMAGE_POOLINGS)}."})
    text_pooling: str = field(default="auto", metadata={"help": f"One of {', '.join(TEXT_POOLINGS)}."})
    freeze_vision_layers: str = field(
        default="0", metadata={"help": "Freeze the first N layers and the embeddings of the vision model, or 'all'."}
    )
    freeze_text_layers: str = field(default="0", metadata={"help": "The same for the text model."})
    lora_rank: int = field(
        default=0, metadata={"help": "Train LoRA matrices of this rank instead of the pretrained weights; 0: no LoRA."}
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of projections, fusion, classifier and LoRA; --learning_rate is for the pretrained "
            "parts. Defaults: 1e-3 and 2e-5; with --from_scratch 1e-3 for all."
        },
    )
    label_smoothing: float = field(default=0.0, metadata={"help": "Share of each target spread over all classes."})
    class_weights: str = field(default="none", metadata={"help": "'balanced' weighs classes by inverse frequency."})
    no_target_scaling: bool = field(
        default=False,
        metadata={
            "help": "Regression: learn the targets as they are, not scaled by mean and deviation of the training rows."
        },
    )
    oversample: bool = field(default=False, metadata={"help": "Repeat rare classes until all are equally frequent."})
    threshold: str = field(
        default=USUAL_THRESHOLD,
        metadata={
            "help": "Multi-label: the probability from which on a label is said to hold, a number for all labels, or "
            "'tuned': for each label that of the best F1 on the validation rows. Saved in the model's configuration."
        },
    )
    ema_decay: float = field(
        default=0.0,
        metadata={
            "help": "Evaluate and keep a running average of the weights with this decay a step (0.98); 0: none."
        },
    )
    early_stopping_patience: int = field(
        default=3, metadata={"help": "Stop after so many evaluations without a better validation NLL; 0: never."}
    )
    accept_other_processes: bool = field(
        default=False,
        metadata={
            "help": "Resume a checkpoint that another number of processes wrote; its random numbers are not those of "
            "the whole run."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("modality", self.modality, MODALITIES)
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("image_pooling", self.image_pooling, IMAGE_POOLINGS)
        check_choice("text_pooling", self.text_pooling, TEXT_POOLINGS)
        check_choice("class_weights", self.class_weights, CLASS_WEIGHTS)
        for side, modality in (("vision", "image"), ("text", "text")):
            name, freeze = f"{side}_model", f"freeze_{side}_layers"
            used = self.modality in ("both", modality)
            if parse_layers(getattr(self, freeze), freeze) and not used:
                raise ValueError(f"{freeze} {getattr(self, freeze)!r} has no use with modality {self.modality!r}.")
            if used and not (self.from_scratch or self.from_fusion) and getattr(self, name) is None:
                raise ValueError(f"{name} is needed for modality {self.modality!r} unless from_scratch is set.")
            if not used and getattr(self, name) is not None:
                raise ValueError(f"{name} {getattr(self, name)!r} has no use with modality {self.modality!r}.")
            if getattr(self, name) is not None:
                check_folder(name, getattr(self, name))
        self._check_recurrent_cell()
        if self.modality != "both" and self.fusion != "concat":
            raise ValueError(f"fusion {self.fusion!r} has no use with modality {self.modality!r}.")
        for name, useless in (("text_pooling", "image"), ("image_pooling", "text")):
            if self.modality == useless and getattr(self, name) != "auto":
                raise ValueError(f"{name} {getattr(self, name)!r} has no use with modality {useless!r}.")
        if self.vision_layers is not None and (self.from_scratch or self.modality == "text"):
            raise ValueError("vision_layers needs a pretrained vision model.")
        if self.word_vectors is not None and not (self.from_scratch and self.modality != "image"):
            raise ValueError("word_vectors needs from_scratch and a text model.")
        if self.class_weights != "none" and self.oversample:
            raise ValueError(
                "class_weights 'balanced' and oversample correct the same imbalance, so that both together turn it "
                "round: leave one of them out."
            )
        if self.threshold != TUNED and not 0 < _number(self.threshold) < 1:
            raise ValueError(f"threshold must be a number between 0 and 1, or {TUNED!r}, got {self.threshold!r}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be 0 or more, got {self.lora_rank}.")
        if self.lora_rank and self.from_scratch:
            raise ValueError("lora_rank needs pretrained weights, so it cannot go with from_scratch.")

    @property
    def fixed_threshold(self) -> float | None:
        """What `threshold` names for all labels; None where it is the usual one, or tuned."""
        return None if self.threshold == TUNED or float(self.threshold) == 0.5 else float(self.threshold)

    def _check_recurrent_cell(self) -> None:
        """Refuse what would else be looked for on the Hub."""
        name = self.text_model
        if name in RECURRENT_CELLS and not self.from_scratch:
            raise ValueError(f"text_model {name!r} has no pretrained weights: it needs from_scratch.")
        if name is not None and name not in RECURRENT_CELLS and "/" not in name and not os.path.isdir(name):
            hint = did_you_mean(name, RECURRENT_CELLS)
            if hint:
                raise ValueError(f"text_model {name!r} is neither a folder nor one of {list(RECURRENT_CELLS)}.{hint}")

    def config_fields(self) -> dict[str, Any]:
        """Fields of the model's configuration."""
        return {
            "hidden_size": self.hidden_size,
            "dropout": self.dropout,
            "image_pooling": self.image_pooling,
            "text_pooling": self.text_pooling,
            "fusion": self.fusion,
            "label_smoothing": self.label_smoothing,
        }

    def dropout_for(self, rows: Dataset, seed: int) -> ModalityDropout | None:
        """What hides modalities from the joint branch in training; a plain fused classifier has none."""
        return None

    def collator(self, processor: MultimodalProcessor, rows: Dataset, seed: int, **options: Any) -> MultimodalCollator:
        """What makes batches to train on.

        Args:
            processor: The model's.
            rows: All that it is trained on.
            seed: Of all that is drawn.
            options: Further arguments of `MultimodalCollator`.
        """
        return MultimodalCollator(processor, modality_dropout=self.dropout_for(rows, seed), **options)

    def learning_rates(self, learning_rate: float | None) -> tuple[float, float]:
        """Fill in what the user left open.

        Args:
            learning_rate: Value of `--learning_rate`, None where not given.

        Returns:
            Learning rates of the pretrained parts and of the head.

        Example:

        >>> ModelArguments(from_scratch=True).learning_rates(None)
        (0.001, 0.001)
        >>> ModelArguments(vision_model="v", text_model="t").learning_rates(5e-5)
        (5e-05, 0.001)
        """
        body = (1e-3 if self.from_scratch else 2e-5) if learning_rate is None else learning_rate
        head = self.head_learning_rate
        if head is None:
            head = body if self.from_scratch else 1e-3
        return body, head


@dataclass
class DataArguments(SourceArguments):
    """Where the examples come from, and how a training run uses them."""

    max_length: int | None = field(default=None, metadata={"help": "Longest text in tokens. Default: the model's."})
    feature_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for what frozen vision layers make of each image: computed once for all epochs and all "
            "runs that share it."
        },
    )
    augment: bool = field(default=False, metadata={"help": "Random crop, flip and light colour on training images."})
    whole_images: bool = field(
        default=False,
        metadata={"help": "Resize images to what the vision model reads and cut nothing off their borders."},
    )
    image_value_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "The values of black and of white in images of 16-bit or 32-bit integers or floats: 0 4095 for 12 "
            "bits. Default: 0 65535 for 16 bits, 0 1 for floats, 0 255 for others. Images of 8 bits need none."
        },
    )
    cached_augmentations: int = field(
        default=4,
        metadata={
            "help": "With augment and feature_cache: so many augmented versions of each training image are kept, "
            "and epochs take them in turn."
        },
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only the first N training examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only the first N validation examples."})
    missing: str | None = field(
        default=None,
        metadata={
            "help": "Take images or texts away from training and validation rows: image:0.5 from half of them, "
            "text:0.9, or both:0.7, where half of these 70 %% lack the image and half the text."
        },
    )
    eval_missing: str | None = field(default=None, metadata={"help": "The same for the test rows."})
    missing_seed: int = field(default=0, metadata={"help": "Seed of who lacks what."})
    complete_only: bool = field(
        default=False, metadata={"help": "Train only on examples that have both an image and a text."}
    )
    fit_on_validation: bool = field(
        default=False,
        metadata={"help": "Final fit, all choices made: train on the validation rows too, keep the last step."},
    )
    allow_untrained_classes: bool = field(
        default=False, metadata={"help": "Train although a class has no training row, so that it cannot be learned."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Replace the finished run in output_dir, which is an error without this flag."},
    )
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Report on data and model, run one step, write nothing; exit status 2 if the run would not start."
        },
    )
    # The flag is transformers' own, which means the names of the model's inputs; `parse_training_arguments` moves it.
    label_names: list[str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cached_augmentations < 1:
            raise ValueError(f"cached_augmentations must be 1 or more, got {self.cached_augmentations}.")
        check_value_range(self.image_value_range)
        for rate in (self.missing, self.eval_missing):
            if rate is not None:
                MissingRate.parse(rate)

    def load(self, **options: Any) -> LoadedData:
        """Load the data; of a controlled task no more rows than are wanted."""
        sizes = {"train_size": self.max_train_samples, "validation_size": self.max_eval_samples}
        sizes = {name: size for name, size in sizes.items() if size is not None}
        labels = {"label_names": self.label_names, "untrained_names": self.allow_untrained_classes}
        return super().load(**sizes, **labels, **options)


def _number(text: str) -> float:
    """What a text says, NaN where it says no number."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
