"""Images of several shapes, and conversations about them whose answers are known.

A conversation has one to three turns. A turn asks for a number, whether something is there, a colour, a shape or a
place; or it follows up on the turn before ("what colour is it?"), without which nobody knows what is meant.
"""

import hashlib
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, Value

from hf_multimodal.synthetic.classification import SPLITS
from hf_multimodal.synthetic.rendering import COLOURS, IMAGE_CHANNELS, PLACE_COLUMNS, PLACE_ROWS, draw_scene
from hf_multimodal.validation import check_choice

SHAPES, COLOUR_NAMES = IMAGE_CHANNELS["shape"], list(COLOURS)
PLACE_NAMES = [f"{row[0]} {column[0]}" for row in PLACE_ROWS for column in PLACE_COLUMNS]
NUMBERS = ["none", "one", "two", "three", "four"]
KINDS = ("count", "existence", "colour", "shape", "place", "follow_up")
MOST_SHAPES, MOST_TURNS = 4, 3
QUESTION_TASKS: dict[str, dict[str, Any]] = {  # by name what `make_questions` is called with
    "questions": {},
    "questions_four_shapes": {"max_shapes": 4},
    "questions_held_out": {"hold_out": True},
}
ATTRIBUTES = {"shape": SHAPES, "colour": COLOUR_NAMES, "place": PLACE_NAMES}
ASKED = {"shape": "what shape is {}?", "colour": "what colour is {}?", "place": "where is {}?"}

Scene = list[dict[str, int]]  # for each shape its positions in ATTRIBUTES


def make_questions(
    size: int, *, seed: int = 0, split: str = "train", max_shapes: int = 3, hold_out: bool = False
) -> Dataset:
    """Generate one split of images with a conversation each.

    Example `index` depends on (seed, split, index) and the two settings alone. In an image no two shapes share both
    shape and colour, nor a place. Half of the questions for existence are to be answered by yes.

    Args:
        size: Number of images.
        seed: Changes every example.
        split: "train", "validation" or "test".
        max_shapes: An image shows one to as many shapes, 4 at most.
        hold_out: In training and validation no image shows a shape in the colour of the same position (red circle,
            green square, blue triangle, yellow cross); the test split is as without it.

    Returns:
        Columns `image` (BMP bytes of 64 × 64 pixels, not decoded), `messages` (`role` and `content`, user and
        assistant in turn), `kinds` (one of `KINDS` for each turn), `id`, `index`, `shapes` (how many are shown),
        `shown` (each in words, "red circle"), and `held_out`, whether one of them is of the four combinations.

    Raises:
        ValueError: If `split` is not one of those, `size` is negative, or `max_shapes` is out of range.

    Example:

    >>> row = make_questions(5, split="test")[4]
    >>> [message["content"] for message in row["messages"]], row["kinds"]
    (['what shape is the shape in the middle centre?', 'triangle'], ['shape'])
    """
    check_choice("split", split, SPLITS)
    if size < 0:
        raise ValueError(f"size must be 0 or more, got {size}.")
    if not 1 <= max_shapes <= MOST_SHAPES:
        raise ValueError(f"max_shapes must be in 1..{MOST_SHAPES}, got {max_shapes}.")
    columns: dict[str, list] = {
        name: [] for name in ("image", "messages", "kinds", "id", "index", "shapes", "shown", "held_out")
    }
    name = f"questions/{seed}/{split}"
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    for index in range(size):
        generator = np.random.Generator(np.random.Philox(key=np.array([key, index], dtype=np.uint64)))
        scene = _draw_objects(max_shapes, hold_out and split != "test", generator)
        image = draw_scene([(one["shape"], one["colour"], one["place"]) for one in scene], generator)
        turns = _converse(scene, generator)
        messages = []
        for _, question, answer in turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        held_out = any(one["shape"] == one["colour"] for one in scene)
        kinds = [kind for kind, _, _ in turns]
        shown = [f"{COLOUR_NAMES[one['colour']]} {SHAPES[one['shape']]}" for one in scene]
        row = [{"bytes": image, "path": None}, messages, kinds, f"{split}-{index}", index, len(scene), shown, held_out]
        for column, value in zip(columns.values(), row, strict=True):
            column.append(value)
    features = {
        "image": Image(decode=False),
        "messages": [{"role": Value("string"), "content": Value("string")}],
        "kinds": [Value("string")],
        "id": Value("string"),
        "index": Value("int64"),
        "shapes": Value("int64"),
        "shown": [Value("string")],
        "held_out": Value("bool"),
    }
    return Dataset.from_dict(columns, features=Features(features))


def _draw_objects(most: int, hold_out: bool, generator: np.random.Generator) -> Scene:
    number = int(generator.integers(1, most + 1))
    pairs = [(shape, colour) for shape in range(len(SHAPES)) for colour in range(len(COLOUR_NAMES))]
    if hold_out:
        pairs = [(shape, colour) for shape, colour in pairs if shape != colour]
    chosen = generator.permutation(len(pairs))[:number].tolist()
    places = generator.permutation(len(PLACE_NAMES))[:number].tolist()
    return [
        {"shape": pairs[pair][0], "colour": pairs[pair][1], "place": place}
        for pair, place in zip(chosen, places, strict=True)
    ]


def _converse(scene: Scene, generator: np.random.Generator) -> list[tuple[str, str, str]]:
    """Kind, question and answer of each turn; nothing is asked twice, but for follow-ups on other shapes."""
    turns: list[tuple[str, str, str]] = []
    meant: tuple[dict[str, int], set[str]] | None = None  # of the turn before: its shape, and what is known of it
    number = int(generator.integers(1, MOST_TURNS + 1))
    while len(turns) < number:
        unknown = [] if meant is None else [name for name in ATTRIBUTES if name not in meant[1]]
        if meant is not None and unknown and generator.random() < 0.5:
            name = str(generator.choice(unknown))
            turns.append(("follow_up", ASKED[name].format("it"), ATTRIBUTES[name][meant[0][name]]))
            meant = (meant[0], meant[1] | {name})
            continue
        kind = str(generator.choice(KINDS[:-1]))
        after: tuple[dict[str, int], set[str]] | None = None
        if kind == "count":
            question, answer = _count(scene, generator)
        elif kind == "existence":
            question, answer = _existence(scene, generator)
        else:
            one = scene[int(generator.integers(len(scene)))]
            known = _description(one, kind, scene, generator)
            question, answer = ASKED[kind].format(_phrase(one, known)), ATTRIBUTES[kind][one[kind]]
            after = (one, known | {kind})
        if question not in [asked for _, asked, _ in turns]:
            turns.append((kind, question, answer))
            meant = after
    return turns


def _count(scene: Scene, generator: np.random.Generator) -> tuple[str, str]:
    """All shapes, or those of one shape or colour."""
    name = str(generator.choice(["all", "shape", "colour"]))
    if name == "all":
        return "how many shapes are there?", NUMBERS[len(scene)]
    value = int(generator.integers(len(ATTRIBUTES[name])))
    if generator.random() < 0.5:  # one that is shown, lest most answers be none
        value = scene[int(generator.integers(len(scene)))][name]
    word = ATTRIBUTES[name][value]
    asked = f"how many {_plural(word)} are there?" if name == "shape" else f"how many {word} shapes are there?"
    return asked, NUMBERS[sum(one[name] == value for one in scene)]


def _existence(scene: Scene, generator: np.random.Generator) -> tuple[str, str]:
    """A shape in a colour, there or not; what is not there often shares one of both with what is."""
    shown = {(one["shape"], one["colour"]) for one in scene}
    if generator.random() < 0.5:
        one = scene[int(generator.integers(len(scene)))]
        return _is_there(one["shape"], one["colour"]), "yes"
    absent = [(s, c) for s in range(len(SHAPES)) for c in range(len(COLOUR_NAMES)) if (s, c) not in shown]
    if generator.random() < 0.7:
        absent = [pair for pair in absent if any((pair[0] == s) != (pair[1] == c) for s, c in shown)]
    return _is_there(*absent[int(generator.integers(len(absent)))]), "no"


def _description(one: dict[str, int], asked: str, scene: Scene, generator: np.random.Generator) -> set[str]:
    """Attributes that single a shape out, without the one asked for: a single one where one does."""
    others = [name for name in ATTRIBUTES if name != asked]
    single = [name for name in others if sum(other[name] == one[name] for other in scene) == 1]
    return {str(generator.choice(single))} if single else set(others)


def _phrase(one: dict[str, int], known: set[str]) -> str:
    words = {name: ATTRIBUTES[name][one[name]] for name in known}
    colour = f"{words['colour']} " if "colour" in words else ""
    place = f" in the {words['place']}" if "place" in words else ""
    return f"the {colour}{words.get('shape', 'shape')}{place}"


def _is_there(shape: int, colour: int) -> str:
    return f"is there a {COLOUR_NAMES[colour]} {SHAPES[shape]}?"


def _plural(word: str) -> str:
    return f"{word}es" if word.endswith("s") else f"{word}s"
