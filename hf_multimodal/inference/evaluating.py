"""Evaluation of a trained model on labelled data, alone or against another run."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from hf_multimodal.data.arguments import SourceArguments
from hf_multimodal.data.checks import BadSample, write_bad_samples
from hf_multimodal.data.choices import check_choice
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.splits import complete_splits
from hf_multimodal.evaluation.bootstrap import paired_bootstrap
from hf_multimodal.evaluation.predictions import Predictions, read_predictions
from hf_multimodal.evaluation.report import markdown_table, write_run
from hf_multimodal.inference.predicting import class_names_of, load_model, modality_of, predict_dataset

SPLITS = ("all", "train", "validation", "test")


@dataclass
class EvaluationArguments:
    """What is evaluated, and what comes of it."""

    model: str = field(metadata={"help": "Folder of the run, or name of the model on the Hub."})
    split: str | None = field(
        default=None,
        metadata={
            "help": f"One of {', '.join(SPLITS)}; one that the data do not give is made as in training. Default: "
            "the test split that the data give, else all rows."
        },
    )
    against: str | None = field(
        default=None, metadata={"help": "predictions.csv of another run: adds the 95 % interval of the difference."}
    )
    output_dir: str | None = field(default=None, metadata={"help": "Folder for metrics, predictions and plots."})
    batch_size: int = field(default=64, metadata={"help": "Examples a forward pass."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode and tokenize."})

    def __post_init__(self) -> None:
        if self.split is not None:
            check_choice("split", self.split, SPLITS)


def choose_rows(data: LoadedData, split: str | None, source: SourceArguments) -> LoadedData:
    """Keep the rows that are evaluated, as the only split, named `test`.

    Args:
        data: As loaded.
        split: As in `EvaluationArguments`.
        source: How missing splits are made.

    Returns:
        The data with one split.

    Raises:
        ValueError: If there is no such split.
    """
    labelled = DatasetDict({name: rows for name, rows in data.splits.items() if name != "predict"})
    sources = {name: path for name, path in data.sources.items() if name in labelled}
    if split is None:
        split = "test" if "test" in labelled else "all"
    if split == "all":
        rows = replace(data, splits=labelled, sources=sources).all_rows()
    else:
        splits = complete_splits(labelled, **source.split_options)
        if split not in splits:
            raise ValueError(f"split must be one of {sorted(map(str, splits))}, which the data have, got {split!r}.")
        rows = splits[split]
    if source.max_predict_samples is not None:
        rows = rows.select(range(min(source.max_predict_samples, len(rows))))
    origin = data.sources.get(split) or next(iter(sources.values()))
    return replace(data, splits=DatasetDict(test=rows), sources={"test": origin})


def evaluate(args: EvaluationArguments, source: SourceArguments) -> dict[str, Any]:
    """Evaluate a model, print a table, and write what was asked for.

    Args:
        args: What is evaluated.
        source: The data.

    Returns:
        `test`: the metrics; with `against` also `difference`: for each metric ours, theirs, difference and interval.

    Raises:
        ValueError: On an unknown label or another bad sample that the policy does not allow, or if the other
            predictions are of other rows.
    """
    model, processor = load_model(args.model)
    names = class_names_of(model.config)
    data = source.load(label_names=names or None, problem_type=model.config.problem_type)
    chosen = choose_rows(data, args.split, source)
    folder = None if args.output_dir is None else Path(args.output_dir)
    chosen, bad_samples = source.check(chosen, modality_of(model.config), folder)
    predictions = predict_dataset(
        model,
        processor,
        chosen.splits["test"],
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        show_progress=True,
    )
    result: dict[str, Any] = {"test": predictions.metrics()}
    extra = compare(predictions, args.against) if args.against is not None else {}
    if folder is not None:
        result = write_run(folder, {"test": predictions}, extra=extra)
        write_bad_samples(folder / "bad_samples.csv", bad_samples)
    print_metrics(result["test"], extra.get("difference", {}), bad_samples)
    return result | extra


def compare(predictions: Predictions, against: str) -> dict[str, Any]:
    """Compare with another run's predictions of the same rows.

    Args:
        predictions: Ours.
        against: Path of the other's `predictions.csv`.

    Returns:
        `difference`: by metric `ours`, `theirs`, `difference`, `low` and `high`.
    """
    found = paired_bootstrap(predictions, read_predictions(against, predictions.problem_type))
    return {
        "difference": {
            name: {"ours": d.a, "theirs": d.b, "difference": d.difference, "low": d.low, "high": d.high}
            for name, d in found.items()
        }
    }


def print_metrics(metrics: dict[str, Any], difference: dict[str, Any], bad_samples: list[BadSample]) -> None:
    """Print metrics as tables.

    Args:
        metrics: Of one split.
        difference: Of `compare`; may be empty.
        bad_samples: Counted at the end.
    """
    rows = [[name, float(value)] for name, value in metrics.items() if isinstance(value, float)]
    print(f"{metrics['count']} rows\n\n{markdown_table(rows, ['metric', 'value'])}")
    if "per_class" in metrics:
        columns = list(next(iter(metrics["per_class"].values())))
        per_class = [[name, *values.values()] for name, values in metrics["per_class"].items()]
        print(f"\n{markdown_table(per_class, ['class', *columns])}")
    if difference:
        columns = ["metric", "ours", "theirs", "difference", "2.5 %", "97.5 %"]
        print(f"\n{markdown_table([[name, *values.values()] for name, values in difference.items()], columns)}")
    if bad_samples:
        print(f"\n{len(bad_samples)} bad samples")
