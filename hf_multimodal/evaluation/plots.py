"""Images of a run: its history, its confusion matrix, and one prediction with its image, text and probabilities.

Each function draws on a `Figure` of its own, without pyplot and its global state, and returns it.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from PIL import Image

from hf_multimodal.evaluation.drawing import GREY, blank, box, cut, literal, rgb, save, wrap
from hf_multimodal.evaluation.fonts import ems, families_for
from hf_multimodal.evaluation.thresholds import decide

BLUE, ORANGE, GREEN = "#2b6cb0", "#dd6b20", "#2f855a"
NAME_EMS = 15.0  # a longer class name is cut in its middle on an axis
TEXT_EMS, TEXT_LINES = 60.0, 14
MOST_BARS = 30
LOSSES = {"nll": "validation NLL", "mse": "validation squared error"}
MISSING_LABELS = {"image": "no image", "text": "no text", "both": "half no image, half no text"}
SCORES = {"accuracy": "accuracy", "label_accuracy": "label accuracy", "macro_f1": "macro-F1", "mAP": "mAP"}
SCORES |= {"r2": "R²", "pearson": "Pearson's r"}
SCORES |= {"image_to_text_recall_at_1": "R@1, image to text", "text_to_image_recall_at_1": "R@1, text to image"}


def plot_history(log_history: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """Training loss and validation scores over epochs.

    Of two evaluations at one epoch the first is drawn: the second is that of the best checkpoint, loaded at the end.

    Args:
        log_history: `trainer.state.log_history`.
        path: PNG to write; None writes nothing.

    Returns:
        The figure: left axes losses, with the lowest validation value marked, right axes scores.

    Example:

    >>> figure = plot_history([{"loss": 1.0, "epoch": 0.5}, {"eval_nll": 0.9, "eval_accuracy": 0.6, "epoch": 1.0}])
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [1.0]
    """
    figure = Figure(figsize=(9.6, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = _series(log_history, "loss")
    _line(left, losses, "training loss", GREY, marker="o" if len(losses) == 1 else "")
    for key, label in LOSSES.items():
        points = _series(log_history, f"eval_{key}")
        _line(left, points, label, BLUE, marker="o")
        if points:
            best = min(points, key=lambda epoch: (points[epoch], epoch))
            left.axvline(best, color=BLUE, linestyle=":", linewidth=1, label=f"lowest, epoch {best:g}")
    for (key, label), color in zip(
        SCORES.items(), (BLUE, BLUE, ORANGE, GREEN, BLUE, ORANGE, BLUE, ORANGE), strict=True
    ):
        _line(right, _series(log_history, f"eval_{key}"), label, color, marker="o")
    majority = [
        value
        for name in ("accuracy", "label_accuracy")
        for value in _series(log_history, f"eval_majority_{name}").values()
    ]
    if majority:
        right.axhline(majority[-1], color=GREY, linestyle="--", linewidth=1, label="majority class")
    for axes, title in ((left, "Loss"), (right, "Validation")):
        axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}  # where no line is
            axes.legend(**below, ncols=3, columnspacing=1.2, frameon=False, fontsize=9)
        else:
            axes.text(0.5, 0.5, "nothing logged", ha="center", va="center", color=GREY, transform=axes.transAxes)
    save(figure, path)
    return figure


def plot_confusion(matrix: npt.ArrayLike, class_names: Sequence[str], path: str | Path | None = None) -> Figure:
    """Confusion matrix: counts in the cells, each row coloured by its shares.

    Args:
        matrix: (K, K) counts, true class by row, predicted class by column.
        class_names: The K names.
        path: PNG to write; None writes nothing.

    Returns:
        The figure; its first axes hold the heat map of shares and one text a cell.

    Raises:
        ValueError: The matrix is not K by K.

    Example:

    >>> figure = plot_confusion([[3, 1], [0, 0]], ["cat", "dog"])
    >>> figure.axes[0].images[0].get_array().tolist(), [text.get_text() for text in figure.axes[0].texts]
    ([[0.75, 0.25], [0.0, 0.0]], ['3', '1', '0', '0'])
    """
    counts = np.asarray(matrix)
    size = len(class_names)
    if counts.shape != (size, size):
        raise ValueError(f"matrix must have shape ({size}, {size}) for {size} classes, got {counts.shape}.")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.62 * size, 3.4, 12.5))
    names = _short_names(class_names)
    longest = max(map(ems, names), default=0.0) * 10 / 72  # inches, at 10 points
    turned = longest > 0.92 * side / max(size, 1)
    below = 0.7 * longest if turned else 0.1
    figure = Figure(figsize=(side + longest + 1.4, side + 0.6 + below), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(size), names, rotation=40 if turned else 0, ha="right" if turned else "center")
    if turned:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    axes.set_yticks(range(size), names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    digits = len(str(int(counts.max()))) if counts.size else 1
    points = min(11.0, side / max(size, 1) * 72 / (0.75 * max(digits, 3)))
    for row in range(size):
        for column in range(size):
            ink = "white" if shares[row, column] > 0.55 else "#1a202c"
            faint = 0.35 if counts[row, column] == 0 else 1.0
            cell = f"{counts[row, column]:g}"
            axes.text(column, row, cell, ha="center", va="center", color=ink, alpha=faint, fontsize=points)
    edge = axes.inset_axes((1 + 0.12 / side, 0, 0.17 / side, 1))  # as tall as the matrix, whatever the layout does
    bar = figure.colorbar(image, cax=edge, label="share of the true class")
    bar.outline.set_visible(False)  # type: ignore[operator]
    literal([*axes.get_xticklabels(), *axes.get_yticklabels()], families_for(*names))
    save(figure, path)
    return figure


def plot_missing_curve(points: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """Scores against the share of the rows that lack something.

    Args:
        points: As `missing_curve` gives them: `missing`, `rate`, and by metric `mean` and `sd`.
        path: PNG to write; None writes nothing.

    Returns:
        The figure: left axes the score, right axes the loss, a line for each kind of missing with a band of one
        standard deviation on either side, and the majority class where there is one.

    Example:

    >>> score = {"mean": 0.9, "sd": 0.0}
    >>> points = [{"missing": "image", "rate": rate, "accuracy": score} for rate in (0.0, 1.0)]
    >>> plot_missing_curve(points).axes[0].lines[0].get_xdata().tolist()
    [0.0, 100.0]
    """
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    for axes, names in zip(figure.subplots(1, 2), (SCORES, LOSSES), strict=True):
        metric = next((name for name in names if name in points[0]), None)
        if metric is None:
            axes.set_visible(False)
            continue
        for kind, color in zip(("image", "text", "both"), (BLUE, ORANGE, GREEN), strict=True):
            own = [point for point in points if point["missing"] == kind]
            rates = np.array([100 * point["rate"] for point in own])
            mean, sd = (np.array([point[metric][key] for point in own]) for key in ("mean", "sd"))
            axes.plot(rates, mean, color=color, marker="o", markersize=4, label=MISSING_LABELS[kind])
            axes.fill_between(rates, mean - sd, mean + sd, color=color, alpha=0.2, linewidth=0)
        if metric.endswith("accuracy") and f"majority_{metric}" in points[0]:
            height = points[0][f"majority_{metric}"]["mean"]
            axes.axhline(height, color=GREY, linestyle=":", linewidth=1, label="majority class")
        axes.set_xlabel("rows that lack something, %")
        axes.set_ylabel(names[metric].removeprefix("validation "))
    drawn = next(axes for axes in figure.axes if axes.get_visible())
    labels = drawn.get_legend_handles_labels()
    figure.legend(*labels, loc="outside upper center", ncols=len(labels[1]), frameon=False, fontsize=9)
    save(figure, path)
    return figure


def plot_prediction(
    image: Image.Image | None,
    text: str | None,
    class_names: Sequence[str],
    probabilities: npt.ArrayLike,
    path: str | Path | None = None,
    *,
    problem_type: str = "single_label_classification",
    thresholds: Sequence[float] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """One example and its answer: image, text, predicted class and a bar for each probability.

    Args:
        image: The image in any mode; None draws a box that says "no image".
        text: The text; None or blank draws "no text".
        class_names: The K names.
        probabilities: (K,); for regression the one predicted value.
        path: PNG to write; None writes nothing.
        problem_type: As in `metrics.METRICS`: the predicted class is the most probable one, every label from its
            threshold on, or the value.
        thresholds: (K,), of a multi-label problem; None is .5 for every label.
        value_range: The processor's `image_value_range`, so that the image is drawn as the model saw it.

    Returns:
        The figure; its axes are the image, the bars (sorted, best on top, at most 30; none for regression) and
        the text; the answer is its title.

    Raises:
        ValueError: Names and probabilities differ in number, or a value of the image lies outside the range.

    Example:

    >>> figure = plot_prediction(None, "a fine day", ["bad", "good"], [0.2, 0.8])
    >>> figure.axes[0].texts[0].get_text(), figure.axes[2].texts[0].get_text(), figure.get_suptitle()
    ('no image', 'a fine day', 'predicted: good')
    """
    values = np.asarray(probabilities, dtype=np.float64).ravel()
    regression = problem_type == "regression"
    if not regression and len(values) != len(class_names):
        raise ValueError(f"{len(class_names)} classes need as many probabilities, got {len(values)}.")
    lines = wrap(text, TEXT_EMS, TEXT_LINES) if text and text.strip() else []
    chosen = None if regression else _chosen(values, problem_type, thresholds)
    title = wrap(_answer(values, class_names, chosen), 44.0, 3)
    order = [] if regression else np.argsort(-values, kind="stable")[:MOST_BARS].tolist()
    upper, lower = max(3.0, 0.26 * len(order) + 0.6), 0.3 + 0.19 * max(len(lines), 1)
    figure = Figure(figsize=(9.2, upper + lower + 0.2 + 0.26 * len(title)), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(upper, lower), width_ratios=(1, 1.1))
    field = figure.add_subplot(grid[0, :] if regression else grid[0, 0])
    drawn: list[Text] = [figure.suptitle("\n".join(title), x=0.01, ha="left", fontsize=14)]
    if image is None:
        box(field, "no image")
    else:
        field.imshow(rgb(image, value_range))
        field.set_axis_off()
    if chosen is not None:
        bars = figure.add_subplot(grid[0, 1])
        names = _short_names(class_names)
        _draw_bars(bars, [names[k] for k in order], values[order], chosen[order])
        if len(order) < len(values):
            bars.set_title(f"the {len(order)} most probable of {len(values)} classes", fontsize=9, color=GREY)
        drawn += bars.get_yticklabels()
    words = figure.add_subplot(grid[1, :])
    if lines:
        blank(words)
        block = words.text(0.012, 0.5, "\n".join(lines), va="center", fontsize=10.5, linespacing=1.3)
        block.set_in_layout(False)  # an overlong line must not squeeze the image
        drawn.append(block)
    else:
        box(words, "no text")
    families = families_for(*lines, *title, *class_names)
    literal(drawn, families)
    if len(families) == 1:  # fallback fonts come in one weight
        drawn[0].set_fontweight("bold")
    save(figure, path)
    return figure


def _chosen(
    values: npt.NDArray[np.float64], problem_type: str, thresholds: Sequence[float] | None
) -> npt.NDArray[np.bool_]:
    if problem_type == "multi_label_classification":
        return decide(values, thresholds).astype(bool)
    return np.arange(len(values)) == values.argmax()


def _answer(values: npt.NDArray[np.float64], class_names: Sequence[str], chosen: npt.NDArray[np.bool_] | None) -> str:
    if chosen is None:
        return f"predicted: {values[0]:.4g}"
    said = [name for name, yes in zip(class_names, chosen, strict=True) if yes]
    return f"predicted: {', '.join(said) or 'none of the labels'}"


def _draw_bars(axes: Axes, names: list[str], values: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_]) -> None:
    places = np.arange(len(names))
    axes.barh(places, values, height=0.72, color=[BLUE if yes else "#cbd5e0" for yes in chosen])
    for place, value in enumerate(values.tolist()):
        axes.text(value + 0.015, place, f"{value:.3f}", va="center_baseline", fontsize=8.5, color="#2d3748")
    axes.set_yticks(places, names)
    middle, half = (len(names) - 1) / 2, max(len(names), 4) / 2
    axes.set_ylim(middle + half, middle - half)  # few bars stay slim, best on top
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".5", ".75", "1"])
    axes.set_xlabel("probability")
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _series(log_history: Iterable[Mapping[str, Any]], key: str) -> dict[float, float]:
    points: dict[float, float] = {}
    for entry in log_history:
        if key in entry and "epoch" in entry:
            points.setdefault(float(entry["epoch"]), float(entry[key]))
    return points


def _line(axes: Axes, points: Mapping[float, float], label: str, color: str, marker: str = "") -> None:
    if points:
        axes.plot(list(points), list(points.values()), label=label, color=color, marker=marker, markersize=4)


def _short_names(class_names: Sequence[str]) -> list[str]:
    """Names that fit on an axis; those that cutting makes equal are led by their index."""
    names = [cut(name, NAME_EMS) for name in class_names]
    double = [names.count(name) > 1 for name in names]
    return [f"{k}: {cut(class_names[k], NAME_EMS - 2)}" if double[k] else name for k, name in enumerate(names)]
