"""Command-line arguments of an aligner's training run."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from datasets import Dataset

from hf_multimodal.cli.training_arguments import (
    FROM_SCRATCH_DEFAULTS,
    TRAINING_DEFAULTS,
    USUAL_THRESHOLD,
    DataArguments,
    ModelArguments,
)
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.pair_collator import PairCollator
from hf_multimodal.models import AlignerModel, MultimodalProcessor
from hf_multimodal.models.configuration_aligner import PROJECTIONS
from hf_multimodal.models.contrastive_losses import LOSSES, TRIPLET_MININGS
from hf_multimodal.validation import check_choice


@dataclass
class AlignerModelArguments(ModelArguments):
    """Which aligner is built, and how its parts learn."""

    model_class: ClassVar[Any] = AlignerModel
    default_output_dir: ClassVar[str] = "runs/aligner"
    # Texts of like length in one batch would be hard negatives by their length alone.
    training_defaults: ClassVar[dict[str, Any]] = {
        **TRAINING_DEFAULTS,
        "per_device_train_batch_size": 128,
        "metric_for_best_model": "rsum",
        "train_sampling_strategy": "random",
    }
    from_scratch_defaults: ClassVar[dict[str, Any]] = {
        **{name: value for name, value in FROM_SCRATCH_DEFAULTS.items() if name == "num_train_epochs"},
        "projection_dim": 64,
    }
    reads_labels: ClassVar[bool] = False

    projection: str = field(default="linear", metadata={"help": f"One of {', '.join(PROJECTIONS)}."})
    projection_dim: int = field(default=256, metadata={"help": "Width of the common space."})
    loss: str = field(default="infonce", metadata={"help": f"One of {', '.join(LOSSES)}."})
    margin: float | None = field(
        default=None, metadata={"help": "Of triplet, margin_ranking and contrastive_pair. Default: the loss's own."}
    )
    triplet_mining: str = field(default="semi_hard", metadata={"help": f"One of {', '.join(TRIPLET_MININGS)}."})
    logit_scale_init_value: float | None = field(
        default=None, metadata={"help": "Logarithm of the scale at the start. Default: the loss's own."}
    )
    captions_per_image: int = field(
        default=1, metadata={"help": "Captions of each image in an epoch, drawn anew each time, in one batch."}
    )
    cache_chunk_size: int | None = field(
        default=None,
        metadata={"help": "Hold the activations of so many images at once, by gradient caching: large batches."},
    )
    early_stopping_patience: int = field(
        default=3, metadata={"help": "Stop after so many evaluations without a better validation rsum; 0: never."}
    )
    # What a classifier has and an aligner has not.
    modality: str = field(init=False, default="both")
    fusion: str = field(init=False, default="concat")
    hidden_size: int = field(init=False, default=0)
    dropout: float = field(init=False, default=0.0)
    label_smoothing: float = field(init=False, default=0.0)
    class_weights: str = field(init=False, default="none")
    oversample: bool = field(init=False, default=False)
    threshold: str = field(init=False, default=USUAL_THRESHOLD)
    no_target_scaling: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("projection", self.projection, PROJECTIONS)
        check_choice("loss", self.loss, LOSSES)
        check_choice("triplet_mining", self.triplet_mining, TRIPLET_MININGS)
        for name in ("captions_per_image", "cache_chunk_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")

    def config_fields(self) -> dict[str, Any]:
        """Fields of the model's configuration."""
        names = ("projection", "projection_dim", "loss", "margin", "triplet_mining", "logit_scale_init_value")
        return {name: getattr(self, name) for name in (*names, "image_pooling", "text_pooling")}

    def collator(self, processor: MultimodalProcessor, rows: Dataset, seed: int, **options: Any) -> PairCollator:
        """What makes batches to train on, of images with captions."""
        return PairCollator(processor, captions_per_image=self.captions_per_image, seed=seed, **options)


@dataclass
class AlignerDataArguments(DataArguments):
    """Where images and captions come from, and how a training run uses them."""

    image_id_column: str | None = field(
        default=None, metadata={"help": "Column that names each row's image. Default: the image's path."}
    )
    group_by: str | None = field(
        default=None, metadata={"help": "Column by which recalls are told apart, to see what aligns badly."}
    )
    # What is about labels, or about incomplete examples, which no aligner reads.
    label_column: list[str] | None = field(init=False, default=None)
    allow_untrained_classes: bool = field(init=False, default=False)
    problem_type: str | None = field(init=False, default=None)
    no_stratify: bool = field(init=False, default=False)
    missing: str | None = field(init=False, default=None)
    eval_missing: str | None = field(init=False, default=None)
    missing_seed: int = field(init=False, default=0)
    complete_only: bool = field(init=False, default=False)

    def load(self, **options: Any) -> LoadedData:
        """Load the data; of a controlled task no more rows than are wanted."""
        return super().load(pairs=True, image_id_column=self.image_id_column, group_column=self.group_by, **options)
