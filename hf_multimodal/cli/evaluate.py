"""hf-multimodal evaluate --model runs/unique --data controlled:unique

Evaluation of a trained model: of a classifier on labelled data, alone or against another run, of others on pairs or
images.
"""

import warnings
from collections import Counter
from typing import Any

from datasets import Dataset

from hf_multimodal.cli.arguments import EvaluationArguments, LabelArguments, SourceArguments
from hf_multimodal.cli.evaluate_pairs import (
    evaluate_aligner,
    evaluate_answers,
    evaluate_generator,
    kept_metrics,
    make_output_folder,
)
from hf_multimodal.cli.rows import check, check_columns, chosen_rows, parse_for_model, run_arguments
from hf_multimodal.data.checks import (
    BadSample,
    BadSamplesError,
    describe_bad_samples,
    missing_columns,
    write_bad_samples,
)
from hf_multimodal.data.counts import presence
from hf_multimodal.data.images import value_range_of
from hf_multimodal.data.presence import MissingRate, take_away
from hf_multimodal.evaluation.bootstrap import bootstrap_intervals, paired_bootstrap
from hf_multimodal.evaluation.plots import plot_missing_curve
from hf_multimodal.evaluation.predictions import Predictions, read_predictions
from hf_multimodal.evaluation.report import write_run
from hf_multimodal.hub.runs import GENERATORS, VISION_LANGUAGE
from hf_multimodal.hub.tables import curve_table, markdown_table
from hf_multimodal.inference.missing_curve import missing_curve, predictions_by_presence
from hf_multimodal.inference.prediction import (
    class_names_of,
    load_model,
    modality_of,
    predict_dataset,
)

ALIGNER = "multimodal_aligner"
SHOWN_LABELS = 20
CLASSIFIERS = ("multimodal_fusion", "multimodal_robust_fusion")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        The metrics, and the difference to the other run.
    """
    flags = parse_for_model("evaluate", argv)
    return evaluate(flags.evaluation, flags.source, flags.labels)


def evaluate(args: EvaluationArguments, source: SourceArguments, labels: LabelArguments) -> dict[str, Any]:
    """Evaluate a model, print a table, and write what was asked for.

    Args:
        args: What is evaluated.
        source: The data.
        labels: Their labels.

    Returns:
        `test`: the metrics; with `against` also `difference`: for each metric ours, theirs, difference and interval;
        with `missing_curve` its points.

    Raises:
        ValueError: On data without a label column, an unknown label or another bad sample that the policy does not
            allow, or if the other predictions are of other rows.
    """
    if args.missing is not None:
        MissingRate.parse(args.missing)
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    if model.config.model_type == ALIGNER:
        return evaluate_aligner(args, source, model, processor)
    if model.config.model_type in GENERATORS:
        return evaluate_generator(args, source, model, processor)
    if model.config.model_type == VISION_LANGUAGE:
        return evaluate_answers(args, source, model, processor)
    if model.config.model_type not in CLASSIFIERS:
        known = " or ".join((ALIGNER, *CLASSIFIERS, *GENERATORS, VISION_LANGUAGE))
        raise ValueError(
            f"models to be evaluated are of type {known}, {args.model!r} is a {model.config.model_type}. Retriever "
            "and ZeroShotClassifier take CLIP and SigLIP."
        )
    for name in ("group_by", "image_id_column"):
        if getattr(args, name) is not None:
            raise ValueError(f"{name} is for aligners, and {args.model!r} is a {model.config.model_type}.")
    theirs = None if args.against is None else read_predictions(args.against, model.config.problem_type)
    names = class_names_of(model.config)
    options = {"label_names": names or None, "problem_type": model.config.problem_type}
    chosen = chosen_rows(args.model, args.split, source, labels, **options)
    missing = missing_columns(chosen, modality_of(model.config))
    if "label" not in chosen.columns:
        raise ValueError(f"{source.data}: {' Also, '.join(missing)}")
    check_columns(chosen, model.config, str(source.data))
    folder = None if args.output_dir is None else make_output_folder(args.output_dir)
    run = {} if args.missing is None or folder is None else run_arguments(str(folder))
    if run and run.get("eval_missing") != args.missing:
        raise ValueError(
            f"output_dir {str(folder)!r} is a run's, whose card would tell of {args.missing} as its test."
        )
    listing = None if folder is None else folder / "bad_samples.csv"
    before = chosen.splits["test"]
    unknown = unknown_labels(before, names)
    value_range = value_range_of(processor)
    try:
        chosen, bad_samples = check(source, chosen, modality_of(model.config), listing, image_value_range=value_range)
    except BadSamplesError as error:
        if unknown:
            error.add_note(unknown)
        raise
    if unknown:
        warnings.warn(f"{unknown} They are left out: the metrics are those of the other rows.", stacklevel=2)
    complete = rows = chosen.splits["test"]
    if args.missing is not None:
        rows = take_away(rows, before, MissingRate.parse(args.missing), args.missing_seed)
    predictions = predict_dataset(
        model,
        processor,
        rows,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        show_progress=True,
    )
    result: dict[str, Any] = {"test": predictions.metrics()}
    extra = {} if theirs is None else compare(predictions, theirs)
    if args.missing_curve:
        came = presence(complete)
        incomplete = int((~came).any(axis=1).sum())
        if incomplete:
            warnings.warn(
                f"{incomplete} of {len(complete)} rows came incomplete: at each rate of the curve they lack what they "
                "lacked before, and what would be left with nothing stays as it is.",
                stacklevel=2,
            )
        options = {"batch_size": args.batch_size, "num_workers": args.num_workers}
        runs = [predictions_by_presence(model, processor, complete, **options)]
        for name in args.curve_models:
            runs.append(predictions_by_presence(*load_model(name, None, args.trust_remote_code), complete, **options))
            if runs[-1]["both"].class_names != runs[0]["both"].class_names:
                raise ValueError(
                    f"curve_models: the classes of {name!r} are {runs[-1]['both'].class_names}, those of "
                    f"{args.model!r} are {runs[0]['both'].class_names}."
                )
        extra["missing_curve"] = missing_curve(runs, came)
    if folder is not None:
        kept = kept_metrics(folder, result["test"])
        intervals = kept.get("intervals", {}) | {"test": bootstrap_intervals(predictions)}
        result = write_run(folder, {"test": predictions}, extra=kept | extra | {"intervals": intervals})
        write_bad_samples(folder / "bad_samples.csv", bad_samples)
        if args.missing_curve:
            plot_missing_curve(extra["missing_curve"], folder / "missing_curve.png")
    print_metrics(result["test"], extra.get("difference", {}), bad_samples)
    if args.missing_curve:
        print(f"\n{curve_table(extra['missing_curve'])}")
    return result | extra


def unknown_labels(rows: Dataset, names: list[str]) -> str:
    """A sentence on the labels that are none of a model's classes, each with the number of its rows.

    Args:
        rows: As `load_data` gives them for the classes of the model.
        names: These classes; none for regression.

    Returns:
        The sentence; empty where the model knows all labels.
    """
    if not names or "faults" not in rows.column_names:
        return ""
    cells = [fault["value"] for found in rows["faults"] for fault in found if fault["column"] == "label"]
    counts = Counter(cell for cell in cells if cell)
    if not counts:
        return ""
    said = [f"{cell!r} ({count} row{'s' if count > 1 else ''})" for cell, count in counts.most_common(SHOWN_LABELS)]
    more = f" and {len(counts) - SHOWN_LABELS} more" if len(counts) > SHOWN_LABELS else ""
    return (
        f"{counts.total()} of {len(rows)} rows have a label that is none of the model's classes: "
        f"{', '.join(said)}{more}. Its classes are {names[:SHOWN_LABELS]}"
        f"{f' and {len(names) - SHOWN_LABELS} more' if len(names) > SHOWN_LABELS else ''}."
    )


def compare(predictions: Predictions, theirs: Predictions) -> dict[str, Any]:
    """Compare with another run's predictions of the same rows.

    Args:
        predictions: Ours.
        theirs: The other's.

    Returns:
        `difference`: by metric `ours`, `theirs`, `difference`, `low` and `high`.
    """
    found = paired_bootstrap(predictions, theirs)
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
        bad_samples: Counted at the end, the first of them named.
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
        print(f"\n{describe_bad_samples(bad_samples)}")
