"""The files of a measured run: metrics, predictions and plots; and the regions of Markdown files with numbers."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from hf_multimodal.evaluation.plots import plot_confusion, plot_history
from hf_multimodal.evaluation.predictions import Predictions, write_predictions
from hf_multimodal.hub.storage import replaced_files, write_text


def write_run(
    output_dir: str | Path,
    predictions: Mapping[str, Predictions],
    *,
    log_history: Sequence[Mapping[str, Any]] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `metrics.json`, `predictions.csv`, `confusion.png` and `history.png` into a run's folder.

    Args:
        output_dir: The folder; made if absent.
        predictions: By split, the split that the run reports first: `predictions.csv` and `confusion.png` (only for
            single-label) are of that one. A split without any label gets no metrics and no matrix.
        log_history: `trainer.state.log_history`; None, as where nothing was trained, writes no `history.png`.
        extra: More entries of `metrics.json` beside the splits, such as counts or timings.

    Returns:
        What `metrics.json` holds: the metrics by split, and `extra`.

    Raises:
        ValueError: No split, an entry of `extra` named like a split, or a number that is not finite.
    """
    if not predictions:
        raise ValueError("write_run needs the predictions of at least one split.")
    clash = sorted(set(predictions) & set(extra or {}))
    if clash:
        raise ValueError(f"entries of extra must not be named like a split, got {clash}.")
    folder = Path(output_dir)
    found: dict[str, Any] = dict(extra or {})
    for split, measured in predictions.items():
        if measured.labelled.any():
            found[split] = measured.metrics()
    reported = next(iter(predictions.values()))
    with replaced_files(folder, last="metrics.json") as new:
        write_json(new / "metrics.json", found)
        write_predictions(new / "predictions.csv", reported)
    if reported.problem_type == "single_label_classification" and reported.labelled.any():
        rows = reported.labelled
        classes = np.arange(len(reported.class_names))
        matrix = confusion_matrix(reported.labels[rows], reported.predicted[rows], labels=classes)
        plot_confusion(matrix, reported.class_names, folder / "confusion.png")
    if log_history is not None:
        plot_history(log_history, folder / "history.png")
    return found


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write nested dicts as JSON with sorted keys, in UTF-8, refusing numbers that JSON does not know.

    Args:
        path: The file; replaced if it exists.
        content: Nested dicts and lists of strings, numbers (numpy's too), booleans and None.

    Raises:
        ValueError: A number is NaN or infinite; the message names its place.
    """
    text = json.dumps(_plain(content, ""), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _plain(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry, f"{place}.{name}".lstrip(".")) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, f"{place}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} must be finite, got {value}.")
    return value


def update_region(path: str | Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name:start -->` and `<!-- name:end -->` in a Markdown file.

    Args:
        path: The file.
        name: Name of the region.
        text: Its new content; newlines around it are set here.

    Raises:
        ValueError: Not exactly one start marker followed by exactly one end marker; the file is left as it was.
    """
    file, start, end = Path(path), f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    content = file.read_text(encoding="utf-8")
    if content.count(start) != 1 or content.count(end) != 1 or content.index(start) > content.index(end):
        raise ValueError(f"{path}: needs one {start} and, after it, one {end}.")
    head, tail = content.split(start)[0], content.split(end)[1]
    write_text(file, f"{head}{start}\n{text.strip(chr(10))}\n{end}{tail}")
