"""Tables in Markdown, and text from elsewhere made fit to stand in Markdown."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LONGEST_TEXT = 200
CURVE_METRICS = ("accuracy", "label_accuracy", "subset_accuracy", "macro_f1", "mAP", "nll", "ece", "mse", "mae")
# As entities, since no reader of HTML, templates or tables takes one for markup, whatever it makes of a backslash.
_MARKUP = re.compile(r"[\\`*_\[\]#!~$@^]|:(?=/)|(?<=www)\.|^[-+=:]|(?<=\d)[.)](?=\s)", re.IGNORECASE)
_ENTITIES = {character: f"&#{ord(character)};" for character in "&<>{}|"}


def plain(text: Any) -> str:
    """One line of printable text: what is unprintable or turns the direction of writing is a space, the rest is cut.

    Args:
        text: Anything.

    Example:

    >>> plain("two\\nlines\\x00")
    'two lines'
    """
    hidden = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of surrogate pairs, line and paragraph separators
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    kept = (" " if unicodedata.category(one) in hidden or one in turning else one for one in str(text))
    line = " ".join("".join(kept).split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def inline(text: Any) -> str:
    """Text from elsewhere (a class name, a data set's name) as Markdown that shows it and does nothing else.

    Args:
        text: Anything; it becomes one line.

    Example:

    >>> print(inline("a|b *c* <i>"))
    a&#124;b \\*c\\* &#60;i&#62;
    """
    escaped = _MARKUP.sub(r"\\\g<0>", plain(text))
    return "".join(_ENTITIES.get(character, character) for character in escaped)


def markdown_table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> str:
    """A table in Markdown; floats get four digits, text columns align left and number columns right.

    Args:
        rows: Cells by row.
        columns: Headings.

    Returns:
        Lines joined by newlines, without one at the end.

    Raises:
        ValueError: A row is longer or shorter than the headings.

    Example:

    >>> print(markdown_table([["both", 0.9025, 5]], ["input", "accuracy", "seeds"]))
    | input | accuracy | seeds |
    |---|---:|---:|
    | both | 0.9025 | 5 |
    """
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"row {number}: {len(columns)} cells expected, got {len(row)}.")

    def cell(value: Any) -> str:
        text = f"{value:.4f}" if isinstance(value, (float, np.floating)) else str(value)
        return " ".join(text.replace("|", "\\|").split())

    places = range(len(columns))
    numeric = [bool(rows) and all(isinstance(row[k], (int, float, np.number)) for row in rows) for k in places]
    lines = [[cell(name) for name in columns], *([cell(value) for value in row] for row in rows)]
    drawn = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([drawn[0], f"|{'|'.join('---:' if right else '---' for right in numeric)}|", *drawn[1:]])


def retrieval_table(metrics: Mapping[str, Any]) -> str:
    """What `retrieval_metrics` found as a Markdown table, pool included.

    Args:
        metrics: From `retrieval_metrics`.

    Returns:
        A row for each direction and group, and a last line with the rsum; intervals where the metrics have them.
    """
    intervals = metrics.get("intervals", {})
    entries = [("all", metrics), *metrics.get("groups", {}).items()]
    ways = ("image_to_text", "text_to_image")
    at = sorted(int(name.removeprefix("recall_at_")) for name in metrics[ways[0]] if name.startswith("recall_at_"))

    def recall(way: str, entry: Mapping[str, Any], k: int) -> float | str:
        value = entry[way][f"recall_at_{k}"]
        if entry is not metrics or not intervals:
            return value
        return f"{value:.4f} ({{low:.3f}} to {{high:.3f}})".format(**intervals[way][f"recall_at_{k}"])

    rows = [
        [way.replace("_", " "), name, entry[way]["queries"], entry[way]["pool"]]
        + [recall(way, entry, k) for k in at]
        + [entry[way]["mean_rank"], entry[way]["median_rank"]]
        for way in ways
        for name, entry in entries
        if way in entry
    ]
    columns = ["queries", "group", "number", "pool", *(f"R@{k}" for k in at), "mean rank", "median rank"]
    rsum = f"rsum {metrics['rsum']:.1f} of 600"
    if "rsum" in intervals:
        rsum += " ({low:.1f} to {high:.1f})".format(**intervals["rsum"])
    return f"{markdown_table(rows, columns)}\n\n{rsum}"


def curve_table(points: Sequence[Mapping[str, Any]]) -> str:
    """A missing-rate curve in Markdown: a row a point, mean ± standard deviation.

    Args:
        points: As `missing_curve` gives them.
    """
    metrics = [name for name in CURVE_METRICS if name in points[0]]
    rows = [
        [
            point["missing"],
            f"{100 * point['rate']:.0f} %",
            *(f"{point[name]['mean']:.4f} ± {point[name]['sd']:.4f}" for name in metrics),
        ]
        for point in points
    ]
    return markdown_table(rows, ["missing", "rows", *metrics])


def curve_spread(points: Sequence[Mapping[str, Any]]) -> str:
    """Over what the means and the deviations of a missing-rate curve are taken.

    Args:
        points: As `missing_curve` gives them.

    Example:

    >>> curve_spread([{"missing": "image", "rate": 0.0, "count": 5, "over": "draws"}])
    '5 draws of which rows lack something'
    """
    over = {"draws": "draws", "runs": "runs, each the mean over draws"}[points[0]["over"]]
    return f"{points[0]['count']} {over} of which rows lack something"
