"""Parts of every plot: empty fields, pixels of images, texts that fit, and the file."""

import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from hf_multimodal.evaluation.fonts import ems
from hf_multimodal.hub.storage import replaced
from hf_multimodal.models.processing_multimodal import to_rgb

DPI = 150
GREY, PALE = "#718096", "#f4f6f9"


def blank(axes: Axes) -> None:
    """Leave an empty pale field."""
    axes.set_facecolor(PALE)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def box(axes: Axes, message: str) -> None:
    """Say in a pale field what is not there."""
    blank(axes)
    axes.text(0.5, 0.5, message, ha="center", va="center", color=GREY, fontsize=12, transform=axes.transAxes)


def rgb(image: Image.Image, value_range: tuple[float, float] | None = None) -> npt.NDArray[np.uint8]:
    """An image as pixels for the page: as the models see it, at most 1,024 pixels a side."""
    small = to_rgb(image, value_range).copy()
    small.thumbnail((1024, 1024))  # only ever shrinks: more pixels than the page can show
    return np.asarray(small)


def cut(name: str, width: float) -> str:
    """Cut a name in its middle to at most `width` ems."""
    flat = " ".join(name.split())
    keep = len(flat)
    short = flat
    while ems(short) > width:
        keep -= 1
        short = f"{flat[: keep - keep // 2]}…{flat[len(flat) - keep // 2 :]}"
    return short


def wrap(text: str, width: float, most: int) -> list[str]:
    """Lines of at most `width` ems, broken at spaces, between Chinese characters, or within an overlong word."""
    lines = [""]
    for word in text.split():
        divided = ems(word) > width or any(unicodedata.east_asian_width(char) in "WF" for char in word)
        for position, piece in enumerate(word if divided else [word]):
            gap = " " if position == 0 and lines[-1] else ""
            if ems(lines[-1] + gap + piece) > width:
                lines.append(piece)
            else:
                lines[-1] += gap + piece
    if len(lines) <= most:
        return lines
    last = lines[most - 1]
    while ems(last + " …") > width:
        last = last[:-1]
    return [*lines[: most - 1], last.rstrip() + " …"]


def literal(drawn: Iterable[Text], families: list[str]) -> None:
    """Show the strings as they are: in fonts that have their characters, and no formula between two dollar signs."""
    for text in drawn:
        text.set_fontfamily(families)
        text.set_parse_math(False)


def save(figure: Figure, path: str | Path | None) -> None:
    """Write a figure as PNG; None writes nothing."""
    if path is not None:
        path = Path(path) if Path(path).suffix else Path(f"{path}.png")
        with warnings.catch_warnings(), replaced(path) as part:
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # fonts.py has said it, with the cure
            figure.savefig(part, dpi=DPI, bbox_inches="tight", pad_inches=0.12)
