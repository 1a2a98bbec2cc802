"""hf-multimodal demo

Train three classifiers on generated data whose best possible accuracy is known: on images alone, on texts alone and
on both. Neither alone can pass .475, together they reach .9025.
"""

from pathlib import Path

from transformers import AutoModel, AutoProcessor

from hf_multimodal.cli import train_fusion
from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.synthetic.classification import ceiling

TOLERANCE = 0.03


def main(argv: list[str] | None = None) -> list[list]:
    """Train, evaluate, load back, compare.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        Rows of modality, accuracy, ceiling and points between the two.
    """
    args = CommandLine(COMMANDS["demo"], argv).parse().demo
    flags = ["--overwrite_output_dir"] if args.overwrite_output_dir else []
    flags += ["--data", "controlled:unique", "--from_scratch", "--max_train_samples", "6000"]
    flags += ["--max_eval_samples", "1000", "--max_predict_samples", "4000"]
    table = []
    for modality in ("image", "text", "both"):
        folder = Path(args.output_dir, modality)
        print(f"\n{modality}: training", flush=True)
        metrics = train_fusion.main([*flags, "--modality", modality, "--output_dir", str(folder)])
        accuracy, best = metrics["test"]["accuracy"], ceiling("unique", modality).accuracy
        table.append([modality, accuracy, best, f"{100 * (accuracy - best):+.1f}"])
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        print(f"{modality}: {folder} loads as {type(model).__name__} and {type(processor).__name__}", flush=True)
    print("\n" + markdown_table(table, ["input", "accuracy", "ceiling", "points"]))
    far = [row[0] for row in table if abs(row[1] - row[2]) > TOLERANCE]
    if far:
        raise SystemExit(f"further than {100 * TOLERANCE:.0f} points from the ceiling: {', '.join(far)}")
    return table
