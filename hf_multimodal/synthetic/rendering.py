"""Draw the images and write the sentences of the controlled tasks.

An attribute is a position in a list of variants: `IMAGE_CHANNELS` says what an image can vary, `SENTENCE_CHANNELS`
what a sentence can. Everything else that is seen (position, scale, noise, marks, templates, fillers) is nuisance.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 64

Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "red": (205, 45, 45),
    "green": (45, 150, 60),
    "blue": (50, 80, 205),
    "yellow": (225, 180, 20),
}
OUTLINE: Colour = (25, 25, 25)
PALE_STRENGTH = 0.5  # share of its own colour that a pale shape keeps; the rest is the ground's

IMAGE_CHANNELS: dict[str, list[str]] = {
    "shape": ["circle", "square", "triangle", "cross"],
    "colour": list(COLOURS),
    "tint": ["sharp", "pale"],  # full colour with a dark outline, or washed out without one
}

# No word stands for two variants, in any channel, so a reader with these lists cannot be misled.
SENTENCE_CHANNELS: dict[str, list[list[str]]] = {
    "shape": [["circle", "disc"], ["square", "box"], ["triangle", "wedge"], ["cross", "plus"]],
    "number": [["single", "lone"], ["double", "twin"], ["triple", "threefold"], ["quadruple", "fourfold"]],
    "certainty": [["clearly", "certainly", "surely"], ["perhaps", "maybe", "possibly"]],
    "colour": [["red", "scarlet"], ["green", "lime"], ["blue", "navy"], ["yellow", "golden"]],
}

TEMPLATES = [
    "{certainty} a {number} {colour} {shape} {place}",
    "{certainty} a {number} {shape} on {colour} paper",
    "{place} {certainty} a {colour} {shape} of {number} make",
    "one {certainty} drew a {number} {shape} with {colour} ink",
    "a {shape} , {number} , {certainty} near a {colour} lamp",
    "{filler} , a {colour} {number} {shape} , {certainty}",
    "we {certainty} saw the {number} {shape} by {colour} light",
    "the {shape} was {certainty} {number} , {filler} , in {colour}",
]
PLACES = ["by the door", "under a tree", "near water", "on the roof", "outdoors", "at home"]
FILLERS = ["today", "as usual", "at noon", "after rain", "before supper", "again"]

PLACE_ROWS = [["top", "upper"], ["middle", "central"], ["bottom", "lower"]]
PLACE_COLUMNS = [["left", "leftmost"], ["centre", "inner"], ["right", "rightmost"]]
CAPTIONS = [
    "a {colour} {shape} in the {row} {column}",
    "the {row} {column} shows a {shape} in {colour}",
    "{filler} a {colour} {shape} stood at the {row} {column}",
    "there is a {shape} , {colour} , near the {row} {column}",
    "{colour} ink made a {shape} at the {row} {column}",
    "a {shape} painted {colour} , {row} {column} , {filler}",
]


def draw_image(variants: Mapping[str, int], generator: np.random.Generator) -> bytes:
    """Draw one shape on a light ground among small marks of other colours, with pixel noise.

    A channel that `variants` leaves out is drawn at random: it is nuisance in this image.

    Args:
        variants: Position in `IMAGE_CHANNELS[channel]` by channel.
        generator: Source of the nuisance; the same generator state gives the same bytes.

    Returns:
        A BMP of `IMAGE_SIZE` × `IMAGE_SIZE` pixels, mode RGB.
    """
    chosen = {
        channel: variants.get(channel, int(generator.integers(len(names))))
        for channel, names in IMAGE_CHANNELS.items()
    }
    ground = _draw_ground(generator)
    radius = int(generator.integers(11, 21))
    x, y = generator.integers(radius + 2, IMAGE_SIZE - radius - 2, size=2).tolist()
    colour = list(COLOURS.values())[chosen["colour"]]
    pale = IMAGE_CHANNELS["tint"][chosen["tint"]] == "pale"
    return _compose(IMAGE_CHANNELS["shape"][chosen["shape"]], colour, pale, (x, y, radius), ground, generator)


def draw_placed_image(shape: int, colour: int, place: int, generator: np.random.Generator) -> bytes:
    """Draw one sharp shape in one of nine places, among the same marks and noise as `draw_image`.

    Args:
        shape: Position in `IMAGE_CHANNELS["shape"]`.
        colour: Position in `IMAGE_CHANNELS["colour"]`.
        place: Three times the row, from the top, plus the column, from the left.
        generator: Source of the nuisance.

    Returns:
        A BMP of `IMAGE_SIZE` × `IMAGE_SIZE` pixels, mode RGB.
    """
    ground = _draw_ground(generator)
    radius = int(generator.integers(10, 13))
    row, column = divmod(place, 3)
    x, y = (14 + 16 * np.array([column, row]) + generator.integers(0, 5, size=2)).tolist()
    spot = (x, y, radius)
    return _compose(IMAGE_CHANNELS["shape"][shape], list(COLOURS.values())[colour], False, spot, ground, generator)


def draw_scene(shapes: Sequence[tuple[int, int, int]], generator: np.random.Generator) -> bytes:
    """Draw sharp shapes in cells of a grid of nine, with noise and without marks, which could be counted as shapes.

    Args:
        shapes: Shape, colour and place of each, as for `draw_placed_image`; no place twice.
        generator: Source of the nuisance.

    Returns:
        A BMP of `IMAGE_SIZE` × `IMAGE_SIZE` pixels, mode RGB.
    """
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), _draw_ground(generator))
    canvas = ImageDraw.Draw(image)
    for shape, colour, place in shapes:
        row, column = divmod(place, 3)
        radius = int(generator.integers(7, 10))
        x, y = (10 + 21 * np.array([column, row]) + generator.integers(0, 3, size=2)).tolist()
        _draw_shape(canvas, IMAGE_CHANNELS["shape"][shape], x, y, radius, list(COLOURS.values())[colour], OUTLINE)
    return _encode_with_noise(image, generator)


def draw_noise(generator: np.random.Generator) -> bytes:
    """Draw an image that shows nothing: independent noise around grey.

    Args:
        generator: Source of the noise.

    Returns:
        A BMP of `IMAGE_SIZE` × `IMAGE_SIZE` pixels, mode RGB.
    """
    return _encode(128 + 40 * generator.standard_normal((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.float32))


def write_sentence(variants: Mapping[str, int], generator: np.random.Generator) -> str:
    """Write one sentence that holds exactly one word of every channel of `SENTENCE_CHANNELS`.

    A channel that `variants` leaves out is drawn at random: its word is a distractor in this sentence.

    Args:
        variants: Position in `SENTENCE_CHANNELS[channel]` by channel.
        generator: Source of the template, the synonyms, the fillers and the distractors.

    Returns:
        The sentence, in lower case.

    Example:

    >>> write_sentence({"shape": 1, "number": 0}, np.random.default_rng(5))
    'outdoors perhaps a yellow box of lone make'
    """
    words = {"place": _choose(PLACES, generator), "filler": _choose(FILLERS, generator)}
    for channel, synonyms in SENTENCE_CHANNELS.items():
        variant = variants.get(channel, int(generator.integers(len(synonyms))))
        words[channel] = _choose(synonyms[variant], generator)
    return _choose(TEMPLATES, generator).format(**words)


def write_caption(shape: int, colour: int, place: int, generator: np.random.Generator) -> str:
    """Write one sentence that names a shape, its colour and its place, each once.

    Args:
        shape: Position in `SENTENCE_CHANNELS["shape"]`.
        colour: Position in `SENTENCE_CHANNELS["colour"]`.
        place: Three times the row plus the column.
        generator: Source of the template, the synonyms and the fillers.

    Returns:
        The sentence, in lower case.

    Example:

    >>> write_caption(0, 2, 5, np.random.default_rng(0))
    'a navy disc in the central right'
    """
    row, column = divmod(place, 3)
    words = {
        "shape": _choose(SENTENCE_CHANNELS["shape"][shape], generator),
        "colour": _choose(SENTENCE_CHANNELS["colour"][colour], generator),
        "row": _choose(PLACE_ROWS[row], generator),
        "column": _choose(PLACE_COLUMNS[column], generator),
        "filler": _choose(FILLERS, generator),
    }
    return _choose(CAPTIONS, generator).format(**words)


def _draw_ground(generator: np.random.Generator) -> Colour:
    red, green, blue = (generator.integers(215, 241) + generator.integers(-6, 7, size=3)).tolist()
    return red, green, blue


def _compose(
    shape: str,
    colour: Colour,
    pale: bool,
    spot: tuple[int, int, int],
    ground: Colour,
    generator: np.random.Generator,
) -> bytes:
    """Draw a shape at (x, y, radius), then the marks and the noise."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), ground)
    canvas = ImageDraw.Draw(image)
    if pale:
        mixed = [round(PALE_STRENGTH * c + (1 - PALE_STRENGTH) * g) for c, g in zip(colour, ground, strict=True)]
        _draw_shape(canvas, shape, *spot, (mixed[0], mixed[1], mixed[2]))
    else:
        _draw_shape(canvas, shape, *spot, colour, OUTLINE)
    others = [other for other in COLOURS.values() if other != colour]
    for _ in range(int(generator.integers(2, 6))):
        left, top, width, height, which = generator.integers((0, 0, 1, 1, 0), (61, 61, 4, 4, len(others))).tolist()
        canvas.rectangle((left, top, left + width, top + height), fill=others[which])
    return _encode_with_noise(image, generator)


def _encode_with_noise(image: Image.Image, generator: np.random.Generator) -> bytes:
    noise = 10.0 * generator.standard_normal((IMAGE_SIZE, IMAGE_SIZE, 1), dtype=np.float32)  # brightness only
    return _encode(np.asarray(image) + noise)


def _choose(options: Sequence[str], generator: np.random.Generator) -> str:
    return options[int(generator.integers(len(options)))]


def _draw_shape(
    canvas: ImageDraw.ImageDraw, shape: str, x: int, y: int, radius: int, fill: Colour, outline: Colour | None = None
) -> None:
    if shape == "circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=outline, width=2)
        return
    if shape == "square":
        side = round(0.85 * radius)
        corners = [(-side, -side), (side, -side), (side, side), (-side, side)]
    elif shape == "triangle":
        corners = [(0, -radius), (radius, radius), (-radius, radius)]
    else:
        arm = radius // 3
        corners = [(-arm, -radius), (arm, -radius), (arm, -arm), (radius, -arm), (radius, arm), (arm, arm)]
        corners += [(arm, radius), (-arm, radius), (-arm, arm), (-radius, arm), (-radius, -arm), (-arm, -arm)]
    canvas.polygon([(x + dx, y + dy) for dx, dy in corners], fill=fill, outline=outline, width=2)


def _encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
        buffer, "BMP"
    )  # noise does not compress; a PNG costs fifteen times as long
    return buffer.getvalue()
