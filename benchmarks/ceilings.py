"""python benchmarks/ceilings.py

The seven controlled tasks with default settings: 16,000 training examples, 8,000 fresh test draws, models from
scratch. The table goes into docs/benchmarks.md.
"""

import argparse
from math import sqrt

from series import PAGE, controlled_job, run_series

from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.synthetic.classification import CONTROLLED_TASKS, ceiling


def main() -> None:
    """Train, compare, write."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = run_series("runs/controlled", {f"{task}-concat": controlled_job(task) for task in CONTROLLED_TASKS})
    table = []
    for task, row in zip(CONTROLLED_TASKS, rows.values(), strict=True):
        bound, test = ceiling(task, "both"), row["metrics"]["test"]
        error = sqrt(bound.accuracy * (1 - bound.accuracy) / test["count"])
        table.append(
            [
                f"`{task}`",
                test["majority_accuracy"],
                ceiling(task, "image").accuracy,
                ceiling(task, "text").accuracy,
                bound.accuracy,
                test["accuracy"],
                f"{100 * (test['accuracy'] - bound.accuracy):+.2f} ± {196 * error:.2f}",
                bound.nll,
                test["nll"],
                round(row["seconds"]),
            ]
        )
    columns = [
        "task",
        "majority",
        "ceiling, image",
        "ceiling, text",
        "ceiling, both",
        "fused",
        "points from the ceiling ± sampling error",
        "ceiling's NLL",
        "fused NLL",
        "seconds",
    ]
    text = markdown_table(table, columns)
    update_region(PAGE, "ceilings", text)
    print(text)


if __name__ == "__main__":
    main()
