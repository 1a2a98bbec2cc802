"""python benchmarks/zero_shot.py [--rows 2000] [-- more flags of train_aligner.py]

Classes by their names alone, on generated images: shape and colour, by templates that no caption has. One aligner
saw every combination of the two in training, the other never a red circle, a green square, a blue triangle or a yellow
cross. Every image shows both plainly, so the ceiling is 1; the baseline predicts the class that is most frequent
among the same images. The first run is that of alignment_losses.py: give both the same flags. The table goes into
docs/benchmarks.md.
"""

import argparse

import numpy as np
from alignment_losses import FOLDER, job
from series import PAGE, aligner_digest, run_series

from hf_multimodal import ZeroShotClassifier
from hf_multimodal.cli.train_aligner import main as train_aligner
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.synthetic.rendering import IMAGE_CHANNELS
from hf_multimodal.synthetic.retrieval import RETRIEVAL_TASKS, ZERO_SHOT_TEMPLATES, make_retrieval

NAMES = {"retrieval": "infonce", "retrieval_held_out": "infonce-held-out"}  # runs by task


def main() -> None:
    """Train, classify, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--print_only", action="store_true", help="leave docs/benchmarks.md as it is, as for a trial")
    parser.add_argument("more", nargs="*", help="flags that replace the defaults, after --")
    args = parser.parse_args()
    jobs = {NAMES[task]: [*job(task, "infonce"), *args.more] for task in RETRIEVAL_TASKS}
    run_series(FOLDER, jobs, run=train_aligner, recipe=aligner_digest(), leaves="metrics.json")

    rows = make_retrieval(args.rows, split="test")
    images = rows.select_columns(["image"])[:]["image"]
    labels = {kind: np.array(rows[kind][:]) for kind in ZERO_SHOT_TEMPLATES}
    held_out = np.array(rows["held_out"][:])
    subsets = {"all": np.full(len(rows), True), "the four combinations": held_out, "the other twelve": ~held_out}
    seen = {"retrieval": "all sixteen", "retrieval_held_out": "all but four"}
    table = []
    for task, run in NAMES.items():
        model, processor = load_model(f"{FOLDER}/{run}")
        right = {}
        for kind, templates in ZERO_SHOT_TEMPLATES.items():
            classifier = ZeroShotClassifier(model, processor, IMAGE_CHANNELS[kind], templates)
            right[kind] = classifier.predict(images).predicted == labels[kind]
        right["both"] = right["shape"] & right["colour"]
        for name, chosen in subsets.items():
            accuracies = [float(hits[chosen].mean()) for hits in right.values()]
            table.append([seen[task], name, int(chosen.sum()), *accuracies])
    both = labels["shape"] * len(IMAGE_CHANNELS["colour"]) + labels["colour"]
    for name, chosen in subsets.items():
        usual = [float(np.bincount(values[chosen]).max() / chosen.sum()) for values in (*labels.values(), both)]
        table.append(["most frequent class", name, int(chosen.sum()), *usual])
    table.append(["ceiling", "all", len(rows), 1.0, 1.0, 1.0])
    text = markdown_table(
        table, ["combinations in training", "test images", "number", "shape", "colour", "both right"]
    )
    if not args.print_only:
        update_region(PAGE, "zero-shot", text)
    print(text)


if __name__ == "__main__":
    main()
