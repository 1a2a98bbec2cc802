"""python scripts/evaluate.py --model runs/unique --data controlled:unique

Evaluate a trained model on labelled data. `--against other/predictions.csv` adds the 95 % interval of the difference
to another run on the same rows; `--output_dir` writes metrics, predictions and plots.
"""

from typing import Any

from hf_multimodal.cli.chosen_rows import parse_arguments
from hf_multimodal.cli.evaluate import evaluate
from hf_multimodal.cli.evaluation_arguments import EvaluationArguments
from hf_multimodal.cli.source_arguments import SourceArguments


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        The metrics, and the difference to the other run.
    """
    args, source = parse_arguments((EvaluationArguments, SourceArguments), argv, __doc__)
    return evaluate(args, source)


if __name__ == "__main__":
    main()
