"""python scripts/predict.py --model runs/unique --data table.csv --output answers.csv

Predict a table, the unlabelled list of a sidecar-text folder (`--guid_tag_output` writes its `guid,tag` file), or one
example: `--image image.jpg`, `--text "words"` or both, with `--show answer.png` for an image of the answer.
"""

from typing import Any

from hf_multimodal.cli.chosen_rows import parse_arguments
from hf_multimodal.cli.predict import PredictionArguments, predict_data, predict_example
from hf_multimodal.cli.source_arguments import SourceArguments


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        The answer for one example, or counts of rows, bad samples and classes.
    """
    types = (PredictionArguments, SourceArguments)
    args, source = parse_arguments(types, argv, __doc__)
    if args.is_one_example:
        if source.data is not None:
            raise ValueError("give --data, or one example by --image and --text, not both.")
        return predict_example(args, source.on_bad_sample)
    return predict_data(*parse_arguments(types, argv, __doc__, {"on_bad_sample": "missing"}))


if __name__ == "__main__":
    main()
