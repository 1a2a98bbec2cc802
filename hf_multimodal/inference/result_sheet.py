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

COLUMNS = 5
INCHES = 2.3  # side of an image's field


def result_sheet(
    query: Any,
    hits: Hits,
    path: str | Path | None = None,
    *,
    images: Mapping[str, Any] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """Draw a query and the images it found, best first, each with its rank, its cosine and its id.

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
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['query', '1   0.310']
    """
    if not hits.ids:
        raise ValueError("there are no hits to draw.")
    columns = min(COLUMNS, len(hits.ids) + 1)
    rows = -(-(len(hits.ids) + 1) // columns)
    figure = Figure(figsize=(INCHES * columns, (INCHES + 0.45) * rows), layout="constrained")
    fields = [figure.add_subplot(rows, columns, place + 1) for place in range(len(hits.ids) + 1)]
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
    names = [cut(name, 19.0) for name in hits.ids]
    for rank, (axes, name, score) in enumerate(zip(fields[1:], names, hits.scores, strict=True), start=1):
        payload, known = hits.payload[rank - 1], images or {}
        found = known.get(hits.ids[rank - 1]) or (Path(payload["image"]) if "image" in payload else None)
        _show(axes, found, value_range)
        drawn += [axes.set_title(f"{rank}   {score:.3f}", loc="left", fontsize=10), _label(axes, name)]
    families = families_for(*lines, *names)
    literal(drawn, families)
    if len(families) == 1:  # fallback fonts come in one weight
        drawn[0].set_fontweight("bold")
    save(figure, path)
    return figure


def _show(axes: Axes, image: Any, value_range: tuple[float, float] | None) -> None:
    """Draw an image into a square field, or say why not."""
    try:
        opened = None if image is None else open_rgb(image, value_range)
    except BadImageError:
        box(axes, "cannot be read")
    else:
        if opened is None:
            box(axes, "no image")
        else:
            axes.imshow(rgb(opened))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            return
    axes.set_box_aspect(1)


def _label(axes: Axes, name: str) -> Text:
    axes.set_xlabel(name, fontsize=8.5, color=GREY)
    return axes.xaxis.label
