"""A page that shows what a search found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from hf_multimodal.data.images import BadImageError, open_rgb
from hf_multimodal.evaluation.drawing import GREY, blank, box, cut, literal, rgb, save, wrap
from hf_multimodal.evaluation.fonts import families_for
from hf_multimodal.inference.index import Hits

COLUMNS = (5, 4, 3)  # of a page with more fields than fit into one row
INCHES = 2.3  # side of an image's field
NAME_EMS = 17.0


def result_sheet(
    query: Any,
    hits: Hits,
    path: str | Path | None = None,
    *,
    images: Mapping[str, Any] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """Draw a query and the images it found, best first, each with its rank, its cosine and its file name.

    An image without a file is named by its id. Where id and file name differ, both are shown. The rows are as full as
    they can be, and a shorter last row is centred.

    Args:
        query: A text, or an image: one of Pillow, bytes or a `Path`.
        hits: What `Retriever.search_images` or `search_similar_images` found for it; images are opened from
            `image` in the payload.
        path: PNG to write; None writes nothing.
        images: Images by id, for those that were added from memory.
        value_range: The processor's `image_value_range`, so that images are drawn as the model saw them.

    Returns:
        The figure: axes of the query, then of each hit.

    Raises:
        ValueError: If there are no hits.

    Example:

    >>> from PIL import Image
    >>> figure = result_sheet("a wet dog", Hits(["7"], [0.31], [{}]), images={"7": Image.new("RGB", (8, 8))})
    >>> [(axes.get_title(loc="left"), axes.get_xlabel()) for axes in figure.axes]
    [('query', ''), ('1   0.310', '7')]
    """
    if not hits.ids:
        raise ValueError("there are no hits to draw.")
    figure, fields = _page(len(hits.ids) + 1)
    lines = wrap(query, 13.0, 9) if isinstance(query, str) else []
    drawn = [fields[0].set_title("query", loc="left", fontsize=10)]
    if lines:
        blank(fields[0])
        fields[0].set_box_aspect(1)
        drawn.append(
            fields[0].text(0.5, 0.5, "\n".join(lines), ha="center", va="center", transform=fields[0].transAxes)
        )
    else:
        _show(fields[0], query, value_range)
        drawn.append(_label(fields[0], cut(query.name, NAME_EMS) if isinstance(query, Path) else ""))
    known = images or {}
    for rank, axes in enumerate(fields[1:], start=1):
        name, payload = hits.ids[rank - 1], hits.payload[rank - 1]
        file = Path(payload["image"]) if "image" in payload else None
        _show(axes, known.get(name) or file, value_range)
        drawn.append(axes.set_title(f"{rank}   {hits.scores[rank - 1]:.3f}", loc="left", fontsize=10))
        drawn.append(_label(axes, "\n".join(cut(shown, NAME_EMS) for shown in _names(name, file))))
    families = families_for(*(text.get_text() for text in drawn))
    literal(drawn, families)
    if len(families) == 1:  # fallback fonts come in one weight
        drawn[0].set_fontweight("bold")
    save(figure, path)
    return figure


def _page(count: int) -> tuple[Figure, list[Axes]]:
    """Square fields in as few gaps as can be, those of a shorter last row in its middle."""
    columns = count if count <= COLUMNS[0] else min(COLUMNS, key=lambda wide: -count % wide)
    rows = -(-count // columns)
    figure = Figure(figsize=(INCHES * columns, (INCHES + 0.55) * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 2 * columns)  # in halves of a field, for the middle
    fields = []
    for place in range(count):
        row, column = divmod(place, columns)
        start = 2 * column + (-count % columns if row == rows - 1 else 0)
        fields.append(figure.add_subplot(grid[row, start : start + 2]))
    return figure, fields


def _names(name: str, file: Path | None) -> list[str]:
    if file is None:
        return [name]
    return [file.name] if name in (file.name, file.stem, str(file)) else [file.name, name]


def _show(axes: Axes, image: Any, value_range: tuple[float, float] | None) -> None:
    """Draw an image into the middle of a square field, or say why not."""
    axes.set_box_aspect(1)
    try:
        opened = None if image is None else open_rgb(image, value_range)
    except BadImageError:
        box(axes, "cannot be read")
        return
    if opened is None:
        box(axes, "no image")
        return
    pixels = rgb(opened)
    blank(axes)
    axes.imshow(pixels)
    height, width = pixels.shape[:2]
    half = max(height, width) / 2
    axes.set_xlim(width / 2 - half - 0.5, width / 2 + half - 0.5)  # a pixel reaches half a unit beyond its number
    axes.set_ylim(height / 2 + half - 0.5, height / 2 - half - 0.5)


def _label(axes: Axes, name: str) -> Text:
    axes.set_xlabel(name, fontsize=8.5, color=GREY)
    return axes.xaxis.label
