"""The controlled pairs: what a plain reader recovers, what is held out, and the ceiling beside a perfect model."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from test_controlled import read_image

from hf_multimodal.data.loading import load_data
from hf_multimodal.evaluation.retrieval import retrieval_metrics
from hf_multimodal.synthetic.rendering import (
    CAPTIONS,
    FILLERS,
    IMAGE_CHANNELS,
    PLACE_COLUMNS,
    PLACE_ROWS,
    SENTENCE_CHANNELS,
)
from hf_multimodal.synthetic.retrieval import (
    RETRIEVAL_TASKS,
    ZERO_SHOT_TEMPLATES,
    make_retrieval,
    retrieval_ceiling,
)

WORDS = {
    "shape": SENTENCE_CHANNELS["shape"],
    "colour": SENTENCE_CHANNELS["colour"],
    "row": PLACE_ROWS,
    "column": PLACE_COLUMNS,
}


def read_caption(caption):
    found = {}
    for name, variants in WORDS.items():
        hits = [variant for variant, words in enumerate(variants) for word in caption.split() if word in words]
        assert len(hits) == 1, f"{name} is ambiguous in {caption!r}"
        found[name] = hits[0]
    return {"shape": found["shape"], "colour": found["colour"], "place": 3 * found["row"] + found["column"]}


def read_place(png, colour):
    """The cell of a grid of nine that holds the middle of what is of a colour."""
    pixels = np.asarray(Image.open(io.BytesIO(png)), dtype=float)
    shown = np.array([(205, 45, 45), (45, 150, 60), (50, 80, 205), (225, 180, 20)][colour])
    away, wanted = pixels - pixels.mean(axis=2, keepdims=True), shown - shown.mean()  # the noise is in brightness
    y, x = ((axis.min() + axis.max()) / 2 for axis in np.nonzero(np.linalg.norm(away - wanted, axis=2) < 12))
    return 3 * int(y // (64 / 3)) + int(x // (64 / 3))


def test_images_and_captions_show_their_attributes():
    wrong = 0
    for row in make_retrieval(150):
        drawn = {name: row[name] for name in ("shape", "colour", "place")}
        assert read_caption(row["text"]) == drawn
        seen = read_image(row["image"]["bytes"])
        seen = {
            "shape": seen["shape"],
            "colour": seen["colour"],
            "place": read_place(row["image"]["bytes"], row["colour"]),
        }
        wrong += seen != drawn
    assert wrong == 0


def test_no_word_names_two_things():
    words = [word for variants in WORDS.values() for synonyms in variants for word in synonyms]
    assert len(words) == len(set(words))
    plain = " ".join(CAPTIONS + FILLERS).split()
    assert not set(words) & set(plain)


def test_an_example_depends_on_seed_split_and_index_alone():
    short, long = (make_retrieval(size, seed=3, split="test") for size in (5, 9))
    assert short[:] == long[:5] and short["id"] == [f"test-{row}" for row in range(5)]
    assert short.column_names == ["image", "text", "label", "id", "index", "shape", "colour", "place", "held_out"]
    draws = [make_retrieval(20, seed=seed, split=split)["image"] for seed, split in ((0, "train"), (1, "train"))]
    draws.append(make_retrieval(20, split="validation")["image"])
    assert len({image["bytes"] for images in draws for image in images}) == 60
    assert short.features["label"].names == IMAGE_CHANNELS["shape"] and short["label"] == short["shape"]


def test_held_out_combinations_are_in_the_test_split_alone():
    whole, held = make_retrieval(300), make_retrieval(300, hold_out=True)
    away = np.array(whole["held_out"])
    assert 40 < away.sum() < 110 and not any(held["held_out"])
    assert not any(make_retrieval(100, split="validation", hold_out=True)["held_out"])
    kept = np.flatnonzero(~away)
    assert whole.select(kept)[:] == held.select(kept)[:]  # only those that are held out are drawn anew
    tests = make_retrieval(300, split="test", hold_out=True)
    assert tests[:] == make_retrieval(300, split="test")[:] and any(tests["held_out"])
    assert len({*held["shape"]}) == len({*held["colour"]}) == 4  # each part is seen, only together they are not
    pairs = {(row["shape"], row["colour"]) for row in tests if row["held_out"]}
    assert pairs == {(0, 0), (1, 1), (2, 2), (3, 3)}


def perfect(rows, image_ids=None, noise=0.0, seed=0):
    """Recall@1 of a model that sees the attributes and nothing else; noise breaks ties by chance."""
    attributes = np.stack([rows["shape"], rows["colour"], rows["place"]], axis=1)
    _, combination = np.unique(attributes, axis=0, return_inverse=True)
    image_ids = torch.arange(len(rows)) if image_ids is None else image_ids
    embeds = torch.nn.functional.one_hot(torch.from_numpy(combination), 144).float()
    generator = torch.Generator().manual_seed(seed)
    images = embeds + noise * torch.randn(embeds.shape, generator=generator)
    texts = embeds[image_ids]
    texts = texts + noise * torch.randn(texts.shape, generator=generator)
    found = retrieval_metrics(images, texts, image_ids)
    return [found[way]["recall_at_1"] for way in ("image_to_text", "text_to_image")], attributes


@pytest.mark.parametrize("captions", ["one", "some"])
def test_the_ceiling_is_what_a_perfect_model_reaches(captions):
    rows = make_retrieval(200, split="test")
    image_ids = None if captions == "one" else torch.arange(200).repeat_interleave(torch.arange(200) % 4)
    tied, attributes = perfect(rows, image_ids)
    ceiling = retrieval_ceiling(attributes, None if image_ids is None else image_ids.numpy())
    assert [ceiling.image_to_text_tied, ceiling.text_to_image_tied] == pytest.approx(tied)
    reached = np.mean([perfect(rows, image_ids, noise=0.01, seed=seed)[0] for seed in range(60)], axis=0)
    assert [ceiling.image_to_text, ceiling.text_to_image] == pytest.approx(reached, abs=0.012)
    assert ceiling.image_to_text > ceiling.image_to_text_tied


def test_with_one_caption_a_image_it_is_the_share_of_distinct_combinations():
    rows = make_retrieval(150, split="test")
    (_, reached), attributes = perfect(rows)
    distinct = len(np.unique(attributes, axis=0))
    ceiling = retrieval_ceiling(attributes)
    assert ceiling.text_to_image == pytest.approx(distinct / 150) == pytest.approx(ceiling.image_to_text)
    images = torch.eye(144)[:distinct]
    everything = retrieval_ceiling(np.arange(distinct)[:, None])
    assert everything.text_to_image == everything.text_to_image_tied == 1.0 and len(images) == distinct


def test_the_ceiling_of_recall_at_k():
    # three images alike and one alone; two captions for the first, one for each of the others
    ceiling = retrieval_ceiling(np.array([[0], [0], [0], [1]]), np.array([0, 0, 1, 2, 3]), k=2)
    assert ceiling.text_to_image == pytest.approx((4 * 2 / 3 + 1) / 5)
    # of the four captions alike two are image 0's: both of the first two wrong with probability 1/6
    assert ceiling.image_to_text == pytest.approx((5 / 6 + 1 / 2 + 1 / 2 + 1) / 4)
    assert ceiling.text_to_image_tied == pytest.approx(1 / 5) and ceiling.image_to_text_tied == pytest.approx(1 / 4)
    with pytest.raises(ValueError, match="image_ids must be in 0..3, got 4"):
        retrieval_ceiling(np.zeros((4, 1)), np.array([0, 4]))
    with pytest.raises(ValueError, match="there are no pairs"):
        retrieval_ceiling(np.zeros((0, 3)))


def test_templates_for_zero_shot_are_never_captions_and_use_their_words():
    known = {word for caption in CAPTIONS for word in caption.split()}
    for templates in ZERO_SHOT_TEMPLATES.values():
        assert all({*template.replace("{}", "").split()} <= known for template in templates)
    texts = {row["text"] for row in make_retrieval(500)}
    names = {"shape": IMAGE_CHANNELS["shape"], "colour": IMAGE_CHANNELS["colour"]}
    assert not texts & {t.format(name) for kind, ts in ZERO_SHOT_TEMPLATES.items() for t in ts for name in names[kind]}


@pytest.mark.parametrize("task", RETRIEVAL_TASKS)
def test_loads_by_name(task):
    data = load_data(f"controlled:{task}", train_size=40, validation_size=20, test_size=60)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 40, "validation": 20, "test": 60}
    assert data.splits["test"][:] == make_retrieval(60, split="test")[:]
    assert any(data.splits["train"]["held_out"]) == (task == "retrieval")
    assert data.id2label == dict(enumerate(IMAGE_CHANNELS["shape"])) and data.generated


def test_choices_are_checked():
    with pytest.raises(ValueError, match=r"split must be one of \['train', 'validation', 'test'\], got 'dev'"):
        make_retrieval(3, split="dev")
    with pytest.raises(ValueError, match="size must be 0 or more, got -1"):
        make_retrieval(-1)
