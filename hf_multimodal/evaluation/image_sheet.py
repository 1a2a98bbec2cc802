"""Pages of images: what a tokenizer gives back, and what texts were drawn as."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from hf_multimodal.evaluation.drawing import GREY, blank, literal, rgb, save, wrap
from hf_multimodal.evaluation.fonts import families_for

INCHES = 1.25  # side of an image
LINES = 4  # of a caption
EMS = 16.0


def image_sheet(
    rows: Sequence[Sequence[Image.Image]], captions: Sequence[str], path: str | Path | None = None
) -> Figure:
    """Draw a row of images for each caption, which stands to their left.

    Args:
        rows: Images, as many in each row.
        captions: One a row.
        path: PNG to write; None writes nothing.

    Returns:
        The figure, axes of a caption before those of its images.

    Raises:
        ValueError: If there is nothing to draw, or not a caption for each row.

    Example:

    >>> figure = image_sheet([[Image.new("RGB", (8, 8))] * 3], ["a red circle"])
    >>> len(figure.axes), figure.axes[0].texts[0].get_text()
    (4, 'a red circle')
    """
    if not rows or not rows[0] or len(captions) != len(rows):
        raise ValueError(f"a sheet needs images, and a caption a row, got {len(rows)} rows, {len(captions)} captions.")
    columns = len(rows[0])
    width = INCHES * (columns + 1.6)
    figure = Figure(figsize=(width, INCHES * len(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), columns + 1, width_ratios=[1.6, *[1] * columns])
    drawn = []
    for number, (images, caption) in enumerate(zip(rows, captions, strict=True)):
        axes = figure.add_subplot(grid[number, 0])
        axes.axis("off")
        lines = "\n".join(wrap(caption, EMS, LINES))
        drawn.append(
            axes.text(1, 0.5, lines, ha="right", va="center", fontsize=8.5, color=GREY, transform=axes.transAxes)
        )
        for place, image in enumerate(images):
            axes = figure.add_subplot(grid[number, place + 1])
            blank(axes)
            axes.imshow(rgb(image), interpolation="nearest")
    literal(drawn, families_for(*(text.get_text() for text in drawn)))
    save(figure, path)
    return figure
