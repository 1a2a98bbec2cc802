"""Plots of a run: its history, its confusion matrix, its missing-rate curve, and one prediction.

Each function draws on a `Figure` of its own, without pyplot and its global state, and returns it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from hf_multimodal.evaluation.drawing import GREY, blank, box, cut, literal, rgb, save, wrap
from hf_multimodal.evaluation.fonts import ems, families_for
from hf_multimodal.evaluation.thresholds import decide
from hf_multimodal.hub.tables import curve_spread

Points = dict[float, float]  # value by epoch or step

BLUE, ORANGE, GREEN = "#2b6cb0", "#dd6b20", "#2f855a"
NAME_EMS = 15.0  # a longer class name is cut in its middle on an axis
TEXT_EMS, TEXT_LINES = 60.0, 14
MOST_BARS = 30
MOST_INTERVALS = 6  # between the ticks of an axis of epochs
SAME = 0.01  # relative difference up to which the logged loss is the NLL: half precision rounds
TRAINING = "training loss"
LOSSES = {"nll": "NLL", "mse": "squared error"}
VALIDATION = {name: f"validation {label}" for name, label in LOSSES.items()}
OWN_LOSS = "validation loss"
SCORE_TITLE = "Validation scores"
PSNR_TITLE = "Validation PSNR, dB"
MISSING_LABELS = {"image": "no image", "text": "no text", "both": "half no image, half no text"}
SCORES = {"accuracy": "accuracy", "label_accuracy": "label accuracy", "macro_f1": "macro-F1", "mAP": "mAP"}
SCORES |= {"r2": "R²", "pearson": "Pearson's r"}
SCORES |= {"image_to_text_recall_at_1": "R@1, image to text", "text_to_image_recall_at_1": "R@1, text to image"}
LINE_COLOURS = {TRAINING: GREY, "macro-F1": ORANGE, "mAP": GREEN, "Pearson's r": ORANGE, "R@1, text to image": ORANGE}


def plot_history(log_history: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Figure:
    """Training loss, validation loss and validation scores by epoch, or by step where not one epoch was finished.

    Training loss and validation NLL share axes only where they are one quantity, that is where `eval_loss` is logged
    and is the NLL. The loss of a model with several heads, with class weights or label smoothing, or of an aligner is
    another quantity. Of two evaluations at one epoch the first is drawn: the second is that of the best checkpoint,
    loaded at the end.

    Args:
        log_history: `trainer.state.log_history`.
        path: PNG to write; None writes nothing.

    Returns:
        The figure: axes of the training loss and of the validation loss, with its lowest value marked, or of both
        together, then axes of the scores. What was not logged has no axes.

    Example:

    >>> figure = plot_history([{"loss": 1.0, "epoch": 0.5}, {"eval_nll": 0.9, "eval_accuracy": 0.6, "epoch": 1.0}])
    >>> [axes.get_title(loc="left") for axes in figure.axes], figure.axes[0].lines[0].get_ydata().tolist()
    (['Training loss', 'Validation NLL', 'Validation scores'], [1.0])
    """
    last = max((entry["epoch"] for entry in log_history if "epoch" in entry), default=0.0)
    along = "epoch" if last >= 1 else "step"
    end = max((entry[along] for entry in log_history if along in entry), default=0)
    panels = _history_panels(log_history, along)
    count = max(len(panels), 1)
    figure = Figure(figsize=(4.8 * count if count < 3 else 4.2 * count, 4.1), layout="constrained")
    if not panels:
        box(figure.subplots(), "nothing logged")
    for place, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, count, place)
        for label, points in lines.items():
            marker = "" if label == TRAINING and len(points) > 1 else "o"
            style: dict[str, Any] = {"color": LINE_COLOURS.get(label, BLUE), "marker": marker, "markersize": 4}
            axes.plot(list(points), list(points.values()), label=label, clip_on=False, **style)
            if label in (*VALIDATION.values(), OWN_LOSS):
                best = min(points, key=lambda when: (points[when], when))
                axes.axvline(best, color=BLUE, linestyle=":", linewidth=1, label=f"lowest, {along} {best:.4g}")
        values = [value for points in lines.values() for value in points.values()]
        if title == SCORE_TITLE:
            for name in ("accuracy", "label_accuracy"):
                for height in list(_points(log_history, f"eval_majority_{name}", along).values())[-1:]:
                    axes.axhline(height, color=GREY, linestyle="--", linewidth=1, label="majority class")
                    values.append(height)
        _fit(axes, values, ceiling=1.0 if title == SCORE_TITLE else math.inf)
        axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
        axes.set_xlabel(along)
        axes.set_xlim(0, end)
        axes.set_xticks(_whole_numbers(end))
        if list(lines) != [title.lower()]:  # else the title says it
            below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}  # where no line is
            axes.legend(**below, ncols=3, columnspacing=1.2, frameon=False, fontsize=9)
    save(figure, path)
    return figure


def _history_panels(log_history: Sequence[Mapping[str, Any]], along: str) -> dict[str, dict[str, Points]]:
    """Lines by label by title of the axes that they share; what was not logged is left out."""

    def logged(labels: Mapping[str, str]) -> dict[str, Points]:
        found = {label: _points(log_history, name, along) for name, label in labels.items()}
        return {label: points for label, points in found.items() if points}

    training, validation = logged({"loss": TRAINING}), logged({f"eval_{name}": to for name, to in VALIDATION.items()})
    scores = logged({f"eval_{name}": label for name, label in SCORES.items()})
    own_loss = _points(log_history, "eval_loss", along)
    if own_loss and not validation:  # of a model that has no other measure
        validation = {OWN_LOSS: own_loss}
    if training and any(_agree(own_loss, points) for points in validation.values()):
        panels = {"Loss": training | validation}
    else:
        panels = {"Training loss": training} | {f"V{label[1:]}": {label: validation[label]} for label in validation}
    panels[PSNR_TITLE] = logged({"eval_psnr": PSNR_TITLE.lower()})
    return {title: lines for title, lines in {**panels, SCORE_TITLE: scores}.items() if lines}


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
        points: As `missing_curve` gives them: `missing`, `rate`, `count`, `over`, and by metric `mean` and `sd`.
        path: PNG to write; None writes nothing.

    Returns:
        The figure: left axes the score, right axes the loss, a line for each kind of missing with a band of one
        standard deviation on either side, and the majority class where there is one. The line of text below says
        over what the mean and the deviation are taken.

    Example:

    >>> score = {"count": 3, "over": "runs", "accuracy": {"mean": 0.9, "sd": 0.0}}
    >>> figure = plot_missing_curve([{"missing": "image", "rate": rate, **score} for rate in (0.0, 1.0)])
    >>> figure.axes[0].lines[0].get_xdata().tolist(), figure.get_supxlabel().split(", each")[0]
    ([0.0, 100.0], 'line and band: mean and one standard deviation over 3 runs')
    """
    found = [next((name for name in names if name in points[0]), None) for names in (SCORES, LOSSES)]
    metrics = [name for name in found if name is not None]
    figure = Figure(figsize=(4.8 * len(metrics), 4.0), layout="constrained")
    for place, metric in enumerate(metrics, start=1):
        axes = figure.add_subplot(1, len(metrics), place)
        values: list[float] = []
        for kind, color in zip(("image", "text", "both"), (BLUE, ORANGE, GREEN), strict=True):
            own = [point for point in points if point["missing"] == kind]
            rates = np.array([100 * point["rate"] for point in own])
            mean, sd = (np.array([point[metric][key] for point in own]) for key in ("mean", "sd"))
            axes.plot(rates, mean, color=color, marker="o", markersize=4, label=MISSING_LABELS[kind], clip_on=False)
            axes.fill_between(rates, mean - sd, mean + sd, color=color, alpha=0.2, linewidth=0)
            values += [*(mean - sd).tolist(), *(mean + sd).tolist()]
        if metric.endswith("accuracy") and f"majority_{metric}" in points[0]:
            values.append(height := points[0][f"majority_{metric}"]["mean"])
            axes.axhline(height, color=GREY, linestyle=":", linewidth=1, label="majority class")
        measured = sorted({100 * point["rate"] for point in points})
        axes.set_xlim(measured[0], measured[-1])
        axes.set_xticks(measured, [f"{rate:g}" for rate in measured])
        axes.set_xlabel("rows that lack something, %")
        axes.set_ylabel({**SCORES, **LOSSES}[metric])
        _fit(axes, values, ceiling=1.0 if metric in SCORES else math.inf)
    labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside upper center", ncols=len(labels[1]), frameon=False, fontsize=9)
    band = f"line and band: mean and one standard deviation over {curve_spread(points)}"
    figure.supxlabel(band, fontsize=9, color=GREY)
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
    """One example and its prediction: image, text, predicted class and a bar for each probability.

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
        the text; the prediction is its title.

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
    title = wrap(_predicted(values, class_names, chosen), 44.0, 3)
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
        field.set_anchor("N")
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


def _predicted(
    values: npt.NDArray[np.float64], class_names: Sequence[str], chosen: npt.NDArray[np.bool_] | None
) -> str:
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
    axes.spines["bottom"].set_bounds(0, 1)  # beyond 1 there are only the numbers beside the bars


def _points(log_history: Iterable[Mapping[str, Any]], key: str, along: str) -> Points:
    points: Points = {}
    for entry in log_history:
        if key in entry and along in entry:
            points.setdefault(float(entry[along]), float(entry[key]))
    return points


def _agree(points: Points, others: Points) -> bool:
    return points.keys() == others.keys() and all(
        math.isclose(points[when], others[when], rel_tol=SAME, abs_tol=1e-6) for when in points
    )


def _fit(axes: Axes, values: Sequence[float], ceiling: float) -> None:
    """Show the range of the values and nothing beyond what they can reach; where all are alike, all from 0 on."""
    low, high = min(values), max(values)
    floor = -math.inf if low < 0 else 0.0
    if math.isclose(low, high):
        low, high = min(low, 0.0), max(high, min(ceiling, 1.0))
    margin = 0.06 * (high - low)
    axes.set_ylim(max(low - margin, floor), min(high + margin, ceiling))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _whole_numbers(end: float) -> list[int]:
    """Ticks from 0 to the last whole number that was reached."""
    steps = (step * 10**power for power in range(12) for step in (1, 2, 5))
    return list(range(0, int(end) + 1, next(step for step in steps if end <= MOST_INTERVALS * step)))


def _short_names(class_names: Sequence[str]) -> list[str]:
    """Names that fit on an axis; those that cutting makes equal are led by their index."""
    names = [cut(name, NAME_EMS) for name in class_names]
    double = [names.count(name) > 1 for name in names]
    return [f"{k}: {cut(class_names[k], NAME_EMS - 2)}" if double[k] else name for k, name in enumerate(names)]
