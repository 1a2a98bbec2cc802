"""hf-multimodal predict --model runs/unique --data table.csv --output predictions.csv

Predictions for a table, a folder or one example.
"""

import warnings
from pathlib import Path
from typing import Any

from hf_multimodal.cli.arguments import LabelArguments, PredictionArguments, SourceArguments
from hf_multimodal.cli.rows import check, check_columns, chosen_rows, parse_for_model
from hf_multimodal.data.checks import write_bad_samples
from hf_multimodal.data.images import open_image, value_range_of
from hf_multimodal.data.sidecar_text import write_guid_tag_list
from hf_multimodal.evaluation.plots import plot_prediction
from hf_multimodal.evaluation.predictions import Predictions, write_predictions
from hf_multimodal.hub.storage import make_folder
from hf_multimodal.inference.prediction import (
    class_names_of,
    load_model,
    modality_of,
    one_example,
    predict_dataset,
)


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        The prediction of one example, or counts of rows, bad samples and classes.
    """
    flags = parse_for_model("predict", argv)
    if flags.prediction.is_one_example:
        if flags.source.data is not None:
            raise ValueError("give --data, or one example by --image and --text, not both.")
        return predict_example(flags.prediction, flags.source.on_bad_sample or "error")
    flags.source.on_bad_sample = flags.source.on_bad_sample or "missing"
    return predict_data(flags.prediction, flags.source, flags.labels)


def predict_example(args: PredictionArguments, on_bad_sample: str = "error") -> dict[str, Any]:
    """Predict one example, print its probabilities, and draw it where asked.

    Args:
        args: With `image`, `text` or both.
        on_bad_sample: Under `missing` an image that cannot be read is left out with a warning, and even an example
            with nothing left is predicted, as a row of a table is.

    Returns:
        `predicted`: the class, the list of labels, or the value; `probabilities` by class, empty for regression.

    Raises:
        BadImageError: If the image cannot be read, under another policy than `missing`.
        ValueError: If the model does not read what is given, or nothing is given.
    """
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    modality = modality_of(model.config)
    for name, value in (("image", args.image), ("text", args.text)):
        if value is not None and modality not in ("both", name):
            raise ValueError(f"{name} is given, but the model reads {modality} only.")
    on_bad_image = "missing" if on_bad_sample == "missing" else "error"
    predictions = predict_dataset(model, processor, one_example(args.image, args.text), on_bad_image=on_bad_image)
    if not (predictions.has_image[0] or predictions.has_text[0]):
        warnings.warn(
            "nothing is left of the example: the prediction is what the model says without any.", stacklevel=2
        )
    names = predictions.class_names
    result = {
        "predicted": tag_of(predictions, 0),
        "probabilities": dict(zip(names, predictions.probabilities[0].tolist(), strict=True)),
    }
    print(f"predicted: {result['predicted']}")
    for name, probability in result["probabilities"].items():
        print(f"{probability:7.4f}  {name}")
    if args.show is not None:
        image = open_image(args.image) if args.image is not None and predictions.has_image[0] else None
        values = predictions.outputs[0]
        make_folder(Path(args.show).parent, "--show")
        options: dict[str, Any] = {"problem_type": predictions.problem_type, "value_range": value_range_of(processor)}
        options["thresholds"] = getattr(model.config, "thresholds", None)
        plot_prediction(image, args.text, names, values, args.show, **options)
    return result


def predict_data(args: PredictionArguments, source: SourceArguments, labels: LabelArguments) -> dict[str, Any]:
    """Predict all rows of a table, or the list without labels of a sidecar-text folder, and write the predictions.

    Args:
        args: Where the predictions go.
        source: The data; bad samples are kept and flagged under the policy `missing`.
        labels: Their labels, which are not read.

    Returns:
        `rows`, `bad_samples`, `neither` (rows with neither image nor text), and the number of rows by `predicted`
        class.

    Raises:
        ValueError: If the data have no column of what the model reads, unless it is a robust classifier and they have
            the other one.
    """
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    modality = modality_of(model.config)
    options = {"label_names": class_names_of(model.config) or None, "problem_type": model.config.problem_type}
    options["keep_columns"] = True
    rows = chosen_rows(args.model, args.split, source, labels, prediction=True, **options)
    check_columns(rows, model.config, str(source.data))
    output = Path(args.output or "predictions.csv")
    if output.is_dir():
        raise IsADirectoryError(f"{str(output)!r} is a folder: name a file with --output, such as {output / 'a.csv'}.")
    make_folder(output.parent, "--output")
    if args.guid_tag_output is not None:
        make_folder(Path(args.guid_tag_output).parent, "--guid_tag_output")
    listing = output.with_suffix(".bad_samples.csv")
    options = {"prediction": True, "image_value_range": value_range_of(processor)}
    chosen, bad_samples = check(source, rows, modality, listing, **options)
    predictions = predict_dataset(
        model,
        processor,
        chosen.splits["predict"],
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        show_progress=True,
    )
    renamed = write_predictions(output, predictions, chosen.own_rows("predict"))
    write_bad_samples(listing, bad_samples)
    tags = [tag_of(predictions, row) for row in range(len(predictions.ids))]
    if args.guid_tag_output is not None:
        tags_of_rows = ["|".join(tag) if isinstance(tag, list) else str(tag) for tag in tags]
        write_guid_tag_list(args.guid_tag_output, predictions.ids, tags_of_rows)
    result: dict[str, Any] = {
        "rows": len(tags),
        "bad_samples": len(bad_samples),
        "neither": int((~predictions.has_image & ~predictions.has_text).sum()),
    }
    if predictions.problem_type == "single_label_classification":
        result["predicted"] = {name: tags.count(name) for name in predictions.class_names}
    print(f"{result['rows']} rows, written to {output}; {result['bad_samples']} bad samples.")
    if renamed:
        print(
            "Columns of the data under another name: " + ", ".join(f"{name} as {new}" for name, new in renamed.items())
        )
    return result


def tag_of(predictions: Predictions, row: int) -> Any:
    """The prediction of one row: the class name, the names of all labels, or the value."""
    predicted: Any = predictions.predicted[row]
    if predictions.problem_type == "regression":
        return float(predicted)
    if predictions.problem_type == "multi_label_classification":
        return [name for name, holds in zip(predictions.class_names, predicted, strict=True) if holds]
    return predictions.class_names[int(predicted)]
