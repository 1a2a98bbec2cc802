"""Images with captions that name what they show, and the best recall that duplicates in the pool allow.

An image shows a shape in a colour at a place, one of 144 combinations, all alike in probability; its caption names
all three. Everything else is nuisance, drawn apart for image and caption, so images of one combination cannot be
distinguished by their captions, and a pool of more than a few images has a ceiling below 1.
"""

import hashlib
from dataclasses import dataclass
from math import comb

import numpy as np
import numpy.typing as npt
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_multimodal.synthetic.classification import SPLITS
from hf_multimodal.synthetic.rendering import (
    IMAGE_CHANNELS,
    PLACE_COLUMNS,
    PLACE_ROWS,
    draw_placed_image,
    write_caption,
)
from hf_multimodal.validation import check_choice

SHAPES = IMAGE_CHANNELS["shape"]
SIZES = (len(SHAPES), len(IMAGE_CHANNELS["colour"]), len(PLACE_ROWS) * len(PLACE_COLUMNS))  # shape, colour, place
RETRIEVAL_TASKS = {"retrieval": False, "retrieval_held_out": True}  # name: whether combinations are held out

ZERO_SHOT_TEMPLATES = {  # never captions, of words that captions have
    "shape": ["a {}", "there is a {}", "the {} stood there", "a {} near there"],
    "colour": ["{} ink", "painted {}", "there is {} ink", "painted in {} ink"],
}


@dataclass(frozen=True)
class RetrievalCeiling:
    """Recall at some k of a model that sees every attribute and nothing else, over all queries of a pool.

    Duplicates come in an order that says nothing about which is right. For any model at all this is the best that can
    be expected, since given the attributes nothing ties a caption to one image more than to another; a measured
    recall may pass it by luck alone. A model without any noise scores duplicates equal, and a tie counts against the
    query: that is the lower, `tied` pair of numbers.

    Args:
        image_to_text: An image is right by the best of its captions.
        text_to_image: With one caption an image and k = 1, the number of distinct combinations over that of images.
        image_to_text_tied: With equal scores for duplicates.
        text_to_image_tied: With equal scores for duplicates.
    """

    image_to_text: float
    text_to_image: float
    image_to_text_tied: float
    text_to_image_tied: float


def make_retrieval(size: int, *, seed: int = 0, split: str = "train", hold_out: bool = False) -> Dataset:
    """Generate one split of images with a caption each.

    Example `index` depends on (seed, split, index) alone. Held-out combinations are those of a shape with the colour
    of the same position (red circle, green square, blue triangle, yellow cross): every shape and every colour is
    seen, these four pairs are not.

    Args:
        size: Number of pairs.
        seed: Changes every pair.
        split: "train", "validation" or "test".
        hold_out: Draw pairs of training and validation that would show a held-out combination anew until they show
            another; all others, and the test split, stay as they are.

    Returns:
        Columns `image` (BMP bytes, not decoded), `text`, `label` (the shape), `id`, `index`, `shape`, `colour`,
        `place` (three times the row plus the column), and `held_out`, whether the combination is one of the four.

    Raises:
        ValueError: If `split` is not one of those, or `size` is negative.

    Example:

    >>> row = make_retrieval(4, split="test")[3]
    >>> row["text"], row["shape"], row["colour"], row["place"], row["held_out"]
    ('scarlet ink made a box at the middle right', 1, 0, 5, False)
    """
    check_choice("split", split, SPLITS)
    if size < 0:
        raise ValueError(f"size must be 0 or more, got {size}.")
    names = ["image", "text", "label", "id", "index", "shape", "colour", "place", "held_out"]
    columns: dict[str, list] = {name: [] for name in names}
    key = int.from_bytes(hashlib.blake2b(f"retrieval/{seed}/{split}".encode(), digest_size=8).digest(), "little")
    for index in range(size):
        generator = np.random.Generator(np.random.Philox(key=np.array([key, index], dtype=np.uint64)))
        shape, colour, place = generator.integers(SIZES).tolist()
        while hold_out and split != "test" and shape == colour:
            shape, colour, place = generator.integers(SIZES).tolist()
        image = {"bytes": draw_placed_image(shape, colour, place, generator), "path": None}
        text = write_caption(shape, colour, place, generator)
        row = [image, text, shape, f"{split}-{index}", index, shape, colour, place, shape == colour]
        for name, value in zip(names, row, strict=True):
            columns[name].append(value)
    features = {"image": Image(decode=False), "text": Value("string"), "label": ClassLabel(names=SHAPES)}
    features |= {"id": Value("string")} | {name: Value("int64") for name in ("index", "shape", "colour", "place")}
    return Dataset.from_dict(columns, features=Features({**features, "held_out": Value("bool")}))


def retrieval_ceiling(
    attributes: npt.ArrayLike, image_ids: npt.ArrayLike | None = None, k: int = 1
) -> RetrievalCeiling:
    """Best recall at `k` for a pool, by the conventions of `evaluation.retrieval`.

    A text whose combination c images of the pool show has its own among the first k of them with probability
    min(k, c) / c. An image with r of the n captions of its combination has none of its own among the first k with
    probability C(n - r, k) / C(n, k).

    Args:
        attributes: (images, attributes) what each image of the pool shows.
        image_ids: (texts,) row of each text's image; None for one text an image.
        k: Of the recall.

    Returns:
        Means over all images that have a text, and over all texts.

    Raises:
        ValueError: If there are no pairs, or an id names no image.

    Example:

    >>> ceiling = retrieval_ceiling([["red", "circle"], ["red", "circle"], ["blue", "cross"]])
    >>> round(ceiling.text_to_image, 3), round(ceiling.text_to_image_tied, 3)
    (0.667, 0.333)
    """
    shown = np.asarray(attributes)
    owners = np.arange(len(shown)) if image_ids is None else np.asarray(image_ids)
    if not len(shown) or not len(owners):
        raise ValueError(f"there are no pairs: {len(shown)} images and {len(owners)} texts.")
    if owners.min() < 0 or owners.max() >= len(shown):
        wrong = owners[(owners < 0) | (owners >= len(shown))][0]
        raise ValueError(f"image_ids must be in 0..{len(shown) - 1}, got {wrong}.")
    _, combination = np.unique(shown, axis=0, return_inverse=True)
    images_alike = np.bincount(combination)[combination[owners]]  # by text
    own = np.bincount(owners, minlength=len(shown))
    texts_alike = np.bincount(combination, weights=own).astype(int)[combination]  # by image
    asked = own > 0
    missed = [comb(n - r, k) / comb(n, k) for n, r in zip(texts_alike[asked], own[asked], strict=True) if n >= k]
    return RetrievalCeiling(
        image_to_text=float(1 - sum(missed) / asked.sum()),
        text_to_image=float((np.minimum(k, images_alike) / images_alike).mean()),
        image_to_text_tied=float((texts_alike[asked] - own[asked] < k).mean()),
        text_to_image_tied=float((images_alike <= k).mean()),
    )
