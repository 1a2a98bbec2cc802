"""Arguments of a robust classifier's training run, and the run with its baselines."""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from datasets import Dataset

from hf_multimodal.cli.baselines import baseline_rows, compare_with_baselines, parse_baselines
from hf_multimodal.cli.dry_run import dry_run
from hf_multimodal.cli.train_fusion import push_run, run_training
from hf_multimodal.cli.training_arguments import SHAPED_BY_FUSION, ModelArguments
from hf_multimodal.cli.training_command_line import parse_training_arguments
from hf_multimodal.data.counts import presence
from hf_multimodal.data.images import value_range_of
from hf_multimodal.data.presence import SHARES, ModalityDropout
from hf_multimodal.hub.card import write_card
from hf_multimodal.models import MultimodalProcessor, RobustFusionForImageTextClassification
from hf_multimodal.training.preparation import prepare_training_data
from hf_multimodal.training.run_folder import claim_output_dir
from hf_multimodal.validation import check_folder


@dataclass
class RobustModelArguments(ModelArguments):
    """The fused classifier's arguments, and each part of the recipe against missing modalities."""

    model_class: ClassVar[Any] = RobustFusionForImageTextClassification
    default_output_dir: ClassVar[str] = "runs/robust"

    modality_dropout: list[float] = field(
        default_factory=lambda: list(SHARES),
        metadata={
            "help": "Of all examples, shares that are to show the joint branch both, the image only and the text "
            "only. Those that came incomplete count; complete ones are hidden for the rest, drawn anew each epoch. "
            "1 0 0 hides nothing."
        },
    )
    unimodal_loss_weight: float = field(
        default=0.5, metadata={"help": "Weight of each unimodal head's loss beside the joint one."}
    )
    no_missing_embeddings: bool = field(
        default=False, metadata={"help": "Zeros in place of a missing modality instead of a learned embedding."}
    )
    no_stack: bool = field(
        default=False, metadata={"help": "Answer with the joint branch, neither stacked nor calibrated."}
    )
    from_fusion: str | None = field(  # type: ignore[misc]  # a plain fused classifier has none
        default=None, metadata={"help": "Start from a trained fused classifier: its folder, or its name on the Hub."}
    )
    baselines: bool = field(
        default=False, metadata={"help": "Also train the baselines on the same rows, and compare on the test rows."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        usual = {entry.name: entry.default for entry in fields(self)}
        for name in ("vision_model", "text_model", "from_scratch", *SHAPED_BY_FUSION):
            if self.from_fusion is not None and getattr(self, name) != usual[name]:
                raise ValueError(f"from_fusion brings its own {name}: leave it out.")
        if self.from_fusion is not None and self.baselines:
            raise ValueError(
                "baselines start from pretrained models or from scratch, so they cannot go with from_fusion."
            )
        if self.modality != "both":
            raise ValueError(f"modality must be 'both' for a robust classifier, got {self.modality!r}.")
        if self.from_fusion is not None:
            check_folder("from_fusion", self.from_fusion)
        ModalityDropout(0, self.modality_dropout)

    @property
    def fits_stack(self) -> bool:  # type: ignore[override]
        """Whether the stack is fitted on the validation rows after training."""
        return not self.no_stack

    def config_fields(self) -> dict[str, Any]:
        """Fields of the model's configuration."""
        return {
            **super().config_fields(),
            "unimodal_loss_weight": self.unimodal_loss_weight,
            "missing_embeddings": not self.no_missing_embeddings,
        }

    def dropout_for(self, rows: Dataset, seed: int) -> ModalityDropout | None:
        """What hides modalities from the joint branch in training."""
        return ModalityDropout.for_rows(presence(rows), seed, self.modality_dropout)


def train_robust(argv: list[str] | None = None, description: str | None = None) -> dict[str, Any]:
    """Do what `scripts/train_robust_fusion.py` does.

    Args:
        argv: Its flags; None means those of the process.
        description: Docstring of the script, shown by `--help`.

    Returns:
        What `metrics.json` holds, with `--baselines` also `baselines`, or the report of a dry run; an empty dict on
        all ranks but the first.
    """
    model_args, data_args, training_args, given = parse_training_arguments(argv, description, RobustModelArguments)
    output_dir = str(training_args.output_dir)
    assert isinstance(model_args, RobustModelArguments)
    if model_args.from_fusion is not None:  # which brings its processor, by whose range the images are checked
        brought = MultimodalProcessor.from_pretrained(model_args.from_fusion, trust_remote_code=False)
        value_range = value_range_of(brought)
        data_args.image_value_range = None if value_range is None else list(value_range)
    baselines = parse_baselines(given, output_dir) if model_args.baselines else {}
    with claim_output_dir(training_args, data_args.dry_run) as folder:
        data, bad_samples = prepare_training_data(data_args, model_args.modality, folder)
        rows = baseline_rows(data, bad_samples) if baselines else {}
        if data_args.dry_run:
            return dry_run(model_args, data_args, training_args, data, bad_samples)
        metrics = run_training(model_args, data_args, training_args, data, bad_samples, given)
        if baselines:
            metrics = metrics | compare_with_baselines(baselines, rows, bad_samples, output_dir)
            if metrics:
                write_card(output_dir)
        push_run(training_args)
        return metrics
