"""Command-line arguments of an evaluation, of classifiers and of aligners."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_multimodal.cli.chosen_rows import SPLITS
from hf_multimodal.data.presence import MissingRate
from hf_multimodal.hub.runs import with_label_accuracy
from hf_multimodal.hub.storage import make_folder
from hf_multimodal.inference.prediction import LoadingArguments
from hf_multimodal.training.run_folder import refuse_folder
from hf_multimodal.validation import check_choice, check_folder

ABOUT_TEST = ("difference", "missing_curve", "baselines")  # entries of metrics.json that go with its `test`


@dataclass
class EvaluationArguments(LoadingArguments):
    """What is evaluated, and what comes of it."""

    model: str = field(metadata={"help": "Folder of the run, or name of the model on the Hub."})
    split: str | None = field(
        default=None,
        metadata={
            "help": f"One of {', '.join(SPLITS)}; one that the data do not give is made as in training. Default: "
            "the test split that the data give, or that training made if the run.yaml beside the model names the same "
            "data, else all rows. Column names and split options are taken from that run.yaml unless given."
        },
    )
    against: str | None = field(
        default=None, metadata={"help": "predictions.csv of another run: adds the 95 %% interval of the difference."}
    )
    missing: str | None = field(
        default=None,
        metadata={"help": "Take images or texts away, as --eval_missing in training: image:0.5, text:0.9, both:0.7."},
    )
    missing_seed: int = field(default=0, metadata={"help": "Seed of who lacks what."})
    missing_curve: bool = field(
        default=False,
        metadata={"help": "Also evaluate with images, texts or either taken away from 0 to 100 %% of the rows."},
    )
    curve_models: list[str] = field(
        default_factory=list, metadata={"help": "Runs of the same recipe with other seeds, for the curve's bands."}
    )
    group_by: str | None = field(
        default=None, metadata={"help": "Of an aligner: column by which recalls are told apart."}
    )
    image_id_column: str | None = field(
        default=None,
        metadata={"help": "Of an aligner: column that names each row's image. Default: as in its run, or the path."},
    )
    output_dir: str | None = field(default=None, metadata={"help": "Folder for metrics, predictions and plots."})
    batch_size: int = field(default=64, metadata={"help": "Examples a forward pass."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode and tokenize."})

    def __post_init__(self) -> None:
        if self.split is not None:
            check_choice("split", self.split, SPLITS)
        if self.curve_models and not self.missing_curve:
            raise ValueError("curve_models are for --missing_curve.")
        if self.missing is not None:
            MissingRate.parse(self.missing)
        for name in self.curve_models:
            check_folder("curve_models", name)

    def make_folder(self) -> Path | None:
        """Where the files go; None writes none.

        Raises:
            OSError: If it cannot be made, or a run writes into it.
        """
        if self.output_dir is None:
            return None
        folder = make_folder(self.output_dir, "--output_dir")
        refuse_folder(folder)
        return folder

    def kept_metrics(self, test: Mapping[str, Any]) -> dict[str, Any]:
        """What the folder's `metrics.json` tells of anything but the test rows, such as the run itself.

        Args:
            test: The new metrics; with the same as before, what else was found on the test rows is kept too.
        """
        file = Path(self.output_dir or ".", "metrics.json")
        found = json.loads(file.read_text(encoding="utf-8")) if self.output_dir and file.is_file() else {}
        if "label_accuracy" in test:
            found = with_label_accuracy(found)
        before = found.get("test")  # of an older run it may lack what is measured today
        same = before is not None and all(test.get(name) == value for name, value in before.items())
        outdated = () if same else ABOUT_TEST
        return {name: entry for name, entry in found.items() if name not in ("test", *outdated)}
