"""python docs/scripts/draw_house.py

Draw the rooms of the package into docs/images/house.svg. A room imports only from rooms on the floors below it; a test
holds the imports of the package against `FLOORS`.
"""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

IMAGE = Path(__file__).parents[1] / "images" / "house.svg"
# From the top; each floor has its rooms side by side.
FLOORS: list[dict[str, str]] = [
    {"cli": "one file a command, each a recipe\nfrom flags to the folder of the run"},
    {"training": "what transformers' Trainer lacks: modality dropout,\nstack, feature cache, gradient cache, EMA"},
    {"inference": "predict, embed, search, zero-shot"},
    {"evaluation": "logits and labels in;\nmetrics, intervals, plots out"},
    {"data": "files and Hub data sets to rows, rows to batches;\nwhat is bad is decided here"},
    {
        "models": "travels to the Hub: models,\nfusions, losses, processor",
        "hub": "model cards, push,\nsafe files",
        "synthetic": "generated tasks\nwith known ceilings",
    },
    {"validation": "errors that name what was given, what is allowed and the nearest name"},
]
WIDTH, HEIGHT, GAP = 10.0, 1.0, 0.16
COLOURS = ["#bee3f8", "#c6f6d5", "#c6f6d5", "#c6f6d5", "#c6f6d5", "#fefcbf", "#edf2f7"]


def draw() -> Figure:
    """The floors, one above the other."""
    figure = Figure(figsize=(8.2, 6.2))
    axes = figure.add_axes((0, 0, 1, 1))
    top = len(FLOORS) * (HEIGHT + GAP)
    for level, (floor, colour) in enumerate(zip(FLOORS, COLOURS, strict=True)):
        bottom = top - (level + 1) * (HEIGHT + GAP)
        wide = (WIDTH - GAP * (len(floor) - 1)) / len(floor)
        for place, (room, words) in enumerate(floor.items()):
            left = place * (wide + GAP)
            shape = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": colour, "edgecolor": "#718096"}
            axes.add_patch(FancyBboxPatch((left, bottom), wide, HEIGHT, **shape))
            name = f"{room}.py" if room == "validation" else f"{room}/"
            alone = len(floor) == 1
            axes.text(
                left + 0.2,
                bottom + HEIGHT * (0.5 if alone else 0.85),
                name,
                va="center" if alone else "top",
                fontsize=12,
                fontweight="bold",
                family="monospace",
            )
            axes.text(
                left + (2.3 if alone else 0.2),
                bottom + HEIGHT * (0.5 if alone else 0.52),
                words,
                va="center" if alone else "top",
                fontsize=9.5 if alone else 8.5,
                linespacing=1.25,
            )
    axes.text(0, top + 0.12, "what a person runs: hf-multimodal, scripts/", fontsize=10, color="#2c5282")
    axes.annotate(
        "imports\nrun down\nonly",
        (WIDTH + 0.45, 0.3),
        (WIDTH + 0.45, top - 0.4),
        ha="center",
        va="center",
        fontsize=9,
        color="#4a5568",
        arrowprops={"arrowstyle": "->", "color": "#4a5568"},
    )
    axes.set(xlim=(-0.2, WIDTH + 1.0), ylim=(-0.05, top + 0.5))
    axes.set_axis_off()
    return figure


if __name__ == "__main__":
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["svg.hashsalt"] = "house"  # the same bytes each time
    draw().savefig(IMAGE, metadata={"Date": None})
    print(IMAGE)
