"""python benchmarks/fusions.py

All fusions on three controlled tasks, each with default settings. The table goes into docs/benchmarks.md.
"""

import argparse

from series import PAGE, controlled_job, run_series

from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.models.fusion import FUSIONS
from hf_multimodal.synthetic.classification import ceiling

TASKS = ("redundant", "synergy", "mixed")


def main() -> None:
    """Train, compare, write."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    jobs = {f"{task}-{fusion}": controlled_job(task, fusion) for fusion in FUSIONS for task in TASKS}
    rows = run_series("runs/controlled", jobs)

    def accuracies(fusion: str) -> list[float]:
        return [rows[f"{task}-{fusion}"]["metrics"]["test"]["accuracy"] for task in TASKS]

    majority = [rows[f"{task}-concat"]["metrics"]["test"]["majority_accuracy"] for task in TASKS]
    table = [[f"`{fusion}`", *accuracies(fusion)] for fusion in FUSIONS]
    table.append(["ceiling, both", *(ceiling(task, "both").accuracy for task in TASKS)])
    table.append(
        ["ceiling, better single", *(max(ceiling(task, m).accuracy for m in ("image", "text")) for task in TASKS)]
    )
    table.append(["majority class", *majority])
    text = markdown_table(table, ["fusion", *(f"`{task}`" for task in TASKS)])
    update_region(PAGE, "fusions", text)
    print(text)


if __name__ == "__main__":
    main()
