"""Conversations about images of several shapes: every answer is found again by reading the image and the question."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from hf_multimodal.synthetic.questions import COLOUR_NAMES, KINDS, NUMBERS, PLACE_NAMES, SHAPES, make_questions
from hf_multimodal.synthetic.rendering import COLOURS

ROWS = 1200


@pytest.fixture(scope="module")
def rows():
    return make_questions(ROWS, max_shapes=4)


def read_scene(png):
    """(shape, colour, place) of each cell of the grid that shows one, from its pixels alone."""
    pixels = np.asarray(Image.open(io.BytesIO(png)), dtype=float)
    away = pixels - pixels.mean(axis=2, keepdims=True)  # the noise is in brightness
    found = []
    for colour, shown in enumerate(np.array(list(COLOURS.values()), dtype=float)):
        near = np.linalg.norm(away - (shown - shown.mean()), axis=2) < 12
        for place in range(9):
            row, column = divmod(place, 3)
            cell = near[21 * row : 21 * row + 22, 21 * column : 21 * column + 22]
            if cell.sum() > 15:
                found.append((shape_of(cell), colour, place))
    return found


def shape_of(cell):
    """By the share of its box that is filled, and where."""
    y, x = np.nonzero(cell)
    box = cell[y.min() : y.max() + 1, x.min() : x.max() + 1]
    high, wide = box.shape
    corners = [box[: high // 3, : wide // 3], box[: high // 3, -(wide // 3) :], box[-(high // 3) :, : wide // 3]]
    top_left, top_right, bottom_left = (corner.mean() for corner in corners)
    if max(top_left, top_right, bottom_left) < 0.25:
        return SHAPES.index("cross")
    if bottom_left - max(top_left, top_right) > 0.25:
        return SHAPES.index("triangle")
    return SHAPES.index("square" if box.mean() > 0.9 else "circle")


def meant_by(scene, phrase):
    """The one shape of the scene that a phrase describes."""
    colour = next((index for index, name in enumerate(COLOUR_NAMES) if name in phrase), None)
    shape = next((index for index, name in enumerate(SHAPES) if name in phrase), None)
    place = next((index for index, name in enumerate(PLACE_NAMES) if name in phrase), None)
    fits = [one for one in scene if all(w is None or w == o for w, o in zip((shape, colour, place), one, strict=True))]
    assert len(fits) == 1, (phrase, scene)
    return fits[0]


def answer(question, scene, before):
    """(answer, shape that is meant) by a plain reader of the scene."""
    if found := re.fullmatch(r"how many (\w+)(?: shapes)? are there\?", question):
        word = re.sub("e?s$", "", found[1]) if found[1] not in COLOUR_NAMES else found[1]
        names = [{SHAPES[s], COLOUR_NAMES[c], "shap", SHAPES[s].removesuffix("s")} for s, c, _ in scene]
        words = {word, found[1].removesuffix("s")}
        return NUMBERS[sum(bool(words & one) for one in names)], None
    if found := re.fullmatch(r"is there a (\w+) (\w+)\?", question):
        there = any((COLOUR_NAMES[c], SHAPES[s]) == found.groups() for s, c, _ in scene)
        return "yes" if there else "no", None
    phrase = re.fullmatch(r"(?:what shape is|what colour is|where is) (.*)\?", question)[1]
    one = before if phrase == "it" else meant_by(scene, phrase.removeprefix("the shape"))
    assert one is not None, question
    asked = 0 if question.startswith("what shape") else 1 if question.startswith("what colour") else 2
    return (SHAPES, COLOUR_NAMES, PLACE_NAMES)[asked][one[asked]], one


def test_a_reader_of_pixels_and_questions_gives_every_answer(rows):
    kinds = []
    for row in rows:
        scene = read_scene(row["image"]["bytes"])
        assert len(scene) == row["shapes"]
        assert row["held_out"] == any(shape == colour for shape, colour, _ in scene)
        messages = row["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * len(row["kinds"])
        before = None
        for kind, question, said in zip(row["kinds"], messages[::2], messages[1::2], strict=True):
            assert (kind == "follow_up") == (" it?" in question["content"])
            expected, before = answer(question["content"], scene, before)
            assert said["content"] == expected, (question, scene)
            kinds.append(kind)
    assert set(kinds) == set(KINDS) and min(map(kinds.count, KINDS)) > ROWS / 8


def test_every_number_of_turns_and_shapes_is_alike(rows):
    for name, values in (("turns", [len(kinds) for kinds in rows["kinds"]]), ("shapes", rows["shapes"])):
        counts = np.unique(values, return_counts=True)[1]
        assert len(counts) == (3 if name == "turns" else 4) and counts.min() > 0.8 * ROWS / len(counts), name


def test_half_of_the_existence_questions_are_answered_by_yes(rows):
    said = [
        message["content"]
        for row in rows
        for kind, message in zip(row["kinds"], row["messages"][1::2], strict=True)
        if kind == "existence"
    ]
    assert 0.42 < said.count("yes") / len(said) < 0.58


def test_nothing_is_asked_twice_but_follow_ups(rows):
    for row in rows:
        asked = [m["content"] for kind, m in zip(row["kinds"], row["messages"][::2], strict=True) if kind[0] != "f"]
        assert len(set(asked)) == len(asked)


def test_example_depends_on_seed_split_and_index_alone():
    few, many = make_questions(5), make_questions(9)
    assert few[:] == many.select(range(5))[:]
    assert few[:] != make_questions(5, seed=1)[:] and few[:] != make_questions(5, split="validation")[:]


def test_combinations_are_held_out_of_training_and_not_of_the_test():
    assert not any(make_questions(300, hold_out=True)["held_out"])
    assert not any(make_questions(300, split="validation", hold_out=True)["held_out"])
    test = make_questions(300, split="test", hold_out=True)
    assert 0.2 < np.mean(test["held_out"]) < 0.7 and test[:] == make_questions(300, split="test")[:]


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"max_shapes must be in 1..4, got 5"):
        make_questions(1, max_shapes=5)
    with pytest.raises(ValueError, match="size must be 0 or more, got -1"):
        make_questions(-1)
    with pytest.raises(ValueError, match="split"):
        make_questions(1, split="tset")
    assert len(make_questions(0)) == 0
