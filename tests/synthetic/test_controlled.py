"""The controlled tasks: exact ceilings, reproducible draws, and attributes that a plain reader can recover."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from hf_multimodal.synthetic.classification import CONTROLLED_TASKS, MODALITIES, ceiling, make_controlled
from hf_multimodal.synthetic.rendering import (
    COLOURS,
    IMAGE_CHANNELS,
    IMAGE_SIZE,
    SENTENCE_CHANNELS,
    draw_image,
    write_sentence,
)

TABLE = {  # task: accuracy of image, text, both
    "redundant": (0.750, 0.750, 0.850),
    "unique": (0.475, 0.475, 0.9025),
    "synergy": (0.250, 0.250, 0.950),
    "mixed": (0.400, 0.400, 0.83125),
    "noise": (0.250, 0.900, 0.900),
    "competition": (0.800, 0.900, 0.900),
    "longtail": (0.79875, 0.79875, 0.896875),
}


def entropy(*probabilities):
    return -sum(p * math.log(p) for p in probabilities)


# The NLL of the best classifier is the entropy that is left in the label, worked out here by hand.
BIT = entropy(0.95, 0.05)
NLL = {
    ("redundant", "neither"): math.log(4),
    ("redundant", "image"): (entropy(0.95, *[0.05 / 3] * 3) + entropy(0.55, *[0.15] * 3)) / 2,
    ("longtail", "neither"): entropy(0.60, 0.25, 0.10, 0.05),
    ("unique", "text"): BIT + math.log(2),
    ("unique", "both"): 2 * BIT,
    ("synergy", "image"): math.log(4),
    ("synergy", "both"): entropy(0.95, *[0.05 / 3] * 3),
    ("mixed", "image"): math.log(2) + (BIT + entropy(0.65, 0.35)) / 2,
    ("noise", "image"): math.log(4),
    ("noise", "both"): entropy(0.9, *[0.1 / 3] * 3),
    ("competition", "image"): entropy(0.8, *[0.2 / 3] * 3),
    ("competition", "text"): entropy(0.9, *[0.1 / 3] * 3),
}


@pytest.mark.parametrize("task", TABLE)
def test_accuracy_ceilings(task):
    reached = [ceiling(task, modality).accuracy for modality in ["image", "text", "both"]]
    assert reached == pytest.approx(TABLE[task], abs=1e-9)
    assert list(TABLE) == list(CONTROLLED_TASKS)


@pytest.mark.parametrize(("task", "modality"), NLL)
def test_nll_ceilings(task, modality):
    assert ceiling(task, modality).nll == pytest.approx(NLL[task, modality], abs=1e-9)


@pytest.mark.parametrize("task", TABLE)
def test_seeing_more_never_hurts(task):
    assert CONTROLLED_TASKS[task].joint.sum() == pytest.approx(1.0)
    neither, both = ceiling(task, "neither"), ceiling(task, "both")
    for single in (ceiling(task, "image"), ceiling(task, "text")):
        assert neither.accuracy <= single.accuracy <= both.accuracy
        assert neither.nll >= single.nll - 1e-12 >= both.nll - 2e-12


def test_an_example_does_not_depend_on_the_size():
    short, long = (make_controlled("mixed", size=size, seed=3) for size in (5, 9))
    assert short[:] == long[:5]
    assert short["id"] == ["train-0", "train-1", "train-2", "train-3", "train-4"]
    assert short["index"] == [0, 1, 2, 3, 4]
    assert short.column_names[:5] == ["image", "text", "label", "id", "index"]
    assert short.column_names[5:] == ["image_vote", "image_cue", "image_bit", "text_vote", "text_cue", "text_bit"]


def test_seeds_splits_and_tasks_are_distinct_draws():
    sources = [("unique", 0, "train"), ("unique", 1, "train"), ("unique", 0, "test"), ("unique", 0, "validation")]
    sources.append(("noise", 0, "train"))
    images = [
        image["bytes"]
        for task, seed, split in sources
        for image in make_controlled(task, size=20, seed=seed, split=split)["image"]
    ]
    assert len(set(images)) == 20 * len(sources)


def test_drawing_leaves_the_global_generator_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    make_controlled("redundant", size=2)
    assert np.random.random() == expected


@pytest.mark.parametrize("task", TABLE)
def test_draws_follow_the_table(task):
    rows = make_controlled(task, size=600, split="validation")
    chosen = CONTROLLED_TASKS[task]
    drawn = [np.array(rows[name]) for name in [*chosen.image, *chosen.text]]
    posterior = chosen.joint / chosen.joint.sum(axis=0)
    likelihood = np.stack([posterior[(label, *drawn)] for label in range(4)])
    accuracy = np.mean(likelihood.argmax(axis=0) == np.array(rows["label"]))
    limit = ceiling(task).accuracy
    assert abs(accuracy - limit) < 4 * math.sqrt(limit * (1 - limit) / len(rows))


def test_images_are_small_rgb_bitmaps():
    for task in ["redundant", "noise"]:
        image = Image.open(io.BytesIO(make_controlled(task, size=1)[0]["image"]["bytes"]))
        assert (image.format, image.mode, image.size) == ("BMP", "RGB", (IMAGE_SIZE, IMAGE_SIZE))


def read_image(png):
    """Recover the attributes of an image from its pixels, knowing the palette and the four outlines."""
    pixels = np.asarray(Image.open(io.BytesIO(png)), dtype=float)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(edge, axis=0)
    away = pixels - ground
    is_ink = np.linalg.norm(away - away.mean(axis=2, keepdims=True), axis=2) > 25  # brightness noise drops out
    is_dark = pixels.max(axis=2) < 75
    directions = np.stack([np.array(colour) - ground for colour in COLOURS.values()])
    directions -= directions.mean(axis=1, keepdims=True)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    which = np.where(is_ink, (away @ directions.T).argmax(axis=2), -1)
    colour = int(np.bincount(which[is_ink], minlength=len(COLOURS)).argmax())
    rows, columns = np.nonzero(which == colour)
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    body = np.zeros((5, 5))
    for row, column in np.ndindex(5, 5):  # how full the surroundings of each point of a coarse grid are
        y = int(top + (row + 0.5) * (bottom - top + 1) / 5)
        x = int(left + (column + 0.5) * (right - left + 1) / 5)
        body[row, column] = np.mean(which[y - 1 : y + 2, x - 1 : x + 2] == colour)
    templates = {
        "circle": [".###.", "#####", "#####", "#####", ".###."],
        "square": ["#####"] * 5,
        "triangle": ["..#..", "..#..", ".###.", ".###.", "#####"],
        "cross": ["..#..", "..#..", "#####", "..#..", "..#.."],
    }
    masks = [np.array([[cell == "#" for cell in line] for line in templates[s]]) for s in IMAGE_CHANNELS["shape"]]
    shape = int(np.argmin([np.abs(body - mask).sum() for mask in masks]))
    return {"shape": shape, "colour": colour, "tint": int(is_dark.sum() < 20)}


def read_sentence(sentence):
    """Recover the attributes of a sentence by looking each word up."""
    words = sentence.split()
    found = {}
    for channel, variants in SENTENCE_CHANNELS.items():
        hits = [variant for variant, synonyms in enumerate(variants) for word in words if word in synonyms]
        assert len(hits) == 1, f"{channel} is ambiguous in {sentence!r}"
        found[channel] = hits[0]
    return found


def test_no_word_names_two_variants():
    words = [word for variants in SENTENCE_CHANNELS.values() for synonyms in variants for word in synonyms]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("task", TABLE)
def test_sentences_show_their_attributes(task):
    for row in make_controlled(task, size=200):
        found = read_sentence(row["text"])
        assert {name: found[channel] for name, channel in CONTROLLED_TASKS[task].text.items()} == {
            name: row[name] for name in CONTROLLED_TASKS[task].text
        }


def test_images_show_their_attributes():
    wrong, size = 0, 3000
    for index in range(size):
        generator = np.random.default_rng(index)
        variants = {channel: int(generator.integers(len(names))) for channel, names in IMAGE_CHANNELS.items()}
        wrong += read_image(draw_image(variants, generator)) != variants
    assert wrong <= size // 1000


def test_images_of_a_task_show_its_attributes():
    for row in make_controlled("mixed", size=100):
        found = read_image(row["image"]["bytes"])
        assert (found["shape"], found["tint"], found["colour"]) == (
            row["image_vote"],
            row["image_cue"],
            row["image_bit"],
        )


def test_a_channel_left_out_is_nuisance():
    sentences = [write_sentence({"shape": 2}, np.random.default_rng(index)) for index in range(60)]
    found = [read_sentence(sentence) for sentence in sentences]
    assert {reading["shape"] for reading in found} == {2}
    assert {reading["number"] for reading in found} == {0, 1, 2, 3}


def test_choices_are_checked():
    with pytest.raises(ValueError, match=r"task must be one of \['redundant', .*'longtail'\], got 'xor'\."):
        make_controlled("xor", size=1)
    with pytest.raises(ValueError, match=r"split must be one of \['train', 'validation', 'test'\], got 'dev'\."):
        make_controlled("unique", size=1, split="dev")
    with pytest.raises(ValueError, match=r"size must be 0 or more, got -1\."):
        make_controlled("unique", size=-1)
    with pytest.raises(ValueError, match=r"modality must be one of .*'neither'\], got 'img'\."):
        ceiling("unique", "img")
    assert MODALITIES == ["image", "text", "both", "neither"]
