"""python docs/scripts/draw_prediction.py [--model runs/robust]

Draw one example of a generated task and the predictions of a robust classifier for it: from image and text, from the
image alone, from the text alone, and from neither. The figure goes into docs/images/prediction.png. In the task the
colour of the shape tells one half of the class and a word of the sentence the other. Without a model one is
trained, which takes some minutes.
"""

import argparse
import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from datasets import Image
from matplotlib.figure import Figure
from transformers import AutoModel, AutoProcessor

import hf_multimodal  # noqa: F401  registers the models
from hf_multimodal.synthetic.classification import make_controlled

ROOT = Path(__file__).parents[2]
CLASS_NAMES = ["red, one", "red, two", "green, one", "green, two"]
BLUE, PALE, GREY = "#2b6cb0", "#cbd5e0", "#718096"


def train(folder: Path) -> None:
    """Train a robust classifier on the task, as a user would."""
    flags = ["--data", "controlled:unique", "--from_scratch", "--output_dir", str(folder)]
    subprocess.run([sys.executable, str(ROOT / "scripts" / "train_robust_fusion.py"), *flags], check=True)


def draw(folder: Path, output: Path, index: int) -> None:
    """Predict one test example four times and draw it.

    Args:
        folder: Of the trained model.
        output: The PNG.
        index: Of the example in the test split.
    """
    row = make_controlled("unique", size=index + 1, split="test").cast_column("image", Image())[index]
    image, text = row["image"], row["text"]
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    panels = {"image and text": (image, text), "image alone": (image, None), "text alone": (None, text)}
    panels["neither"] = (None, None)
    images, texts = zip(*panels.values(), strict=True)
    with torch.no_grad():
        logits = model(**processor(images=list(images), text=list(texts), return_tensors="pt")).logits
    figure = Figure(figsize=(9.6, 2.8), layout="constrained")
    axes = figure.subplots(1, 5, width_ratios=[1.25, 1, 1, 1, 1])
    axes[0].imshow(image)
    axes[0].set_title(f"true class: {CLASS_NAMES[row['label']]}", fontsize=10, loc="left")
    axes[0].set_xlabel("\n".join(textwrap.wrap(f"“{text}”", 30)), fontsize=9)
    axes[0].set_xticks([])
    axes[0].set_yticks([])
    for field, title, values in zip(axes[1:], panels, logits.softmax(-1).tolist(), strict=True):
        best = max(values)
        close = [value > best - 0.05 for value in values]
        field.barh(range(4), values, color=[BLUE if near else PALE for near in close], height=0.7)
        for place, value in enumerate(values):
            field.text(value + 0.03, place, f"{value:.2f}", va="center", fontsize=8.5)
        field.set_title(title, fontsize=10, fontweight="bold", loc="left")
        field.set(xlim=(0, 1.25), ylim=(3.6, -0.6), xticks=[0, 0.5, 1], xticklabels=["0", ".5", "1"], yticks=range(4))
        field.set_yticklabels(CLASS_NAMES if field is axes[1] else [], fontsize=9)
        field.tick_params(axis="y", length=0)
        field.tick_params(axis="x", colors=GREY, labelsize=8)
        field.spines[["top", "right", "left"]].set_visible(False)
        field.spines["bottom"].set_color(PALE)
    figure.supxlabel("probability of each class", fontsize=9, color=GREY, x=0.62)
    figure.savefig(output, dpi=110)


def main() -> None:
    """Train where no model is named, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a robust classifier of controlled:unique")
    parser.add_argument("--index", type=int, default=5, help="of the example in the test split")
    args = parser.parse_args()
    folder = args.model or ROOT / "runs" / "prediction"
    if args.model is None and not (folder / "metrics.json").exists():
        train(folder)
    draw(folder, ROOT / "docs" / "images" / "prediction.png", args.index)


if __name__ == "__main__":
    main()
