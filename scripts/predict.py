"""python scripts/predict.py --model runs/unique --data table.csv --output answers.csv

Predict a table, the unlabelled list of a lab folder (`--lab_output` writes its `guid,tag` file), or one example:
`--image picture.jpg`, `--text "words"` or both, with `--show answer.png` for a picture of the answer.
"""

from typing import Any

from hf_multimodal.data.arguments import SourceArguments
from hf_multimodal.inference.answering import PredictionArguments, answer_data, answer_example
from hf_multimodal.inference.choosing import parse_arguments


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
        return answer_example(args, source.on_bad_sample)
    return answer_data(*parse_arguments(types, argv, __doc__, {"on_bad_sample": "missing"}))


if __name__ == "__main__":
    main()
