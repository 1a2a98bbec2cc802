"""Image+text tasks whose best possible accuracy and NLL are known exactly.

A task is one table, the joint distribution of the label and a few discrete attributes. An example is one draw from
that table, rendered so that its attributes can be read without error; a ceiling is a sum over the same table.
"""

import hashlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_multimodal.synthetic.rendering import draw_image, draw_noise, write_sentence

CLASS_NAMES = ["class_0", "class_1", "class_2", "class_3"]
MODALITIES = ["image", "text", "both", "neither"]
SPLITS = ["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class ControlledTask:
    """One task: a table of probabilities, and the channel that shows each attribute.

    Args:
        rule: What makes the class, in one sentence.
        joint: Probability of every combination, with one axis for the label, then one for each image attribute, then
            one for each text attribute.
        image: Channel of the image by image attribute. Without image attributes the image is pure noise.
        text: Channel of the sentence by text attribute.
    """

    rule: str
    joint: np.ndarray
    image: dict[str, str]
    text: dict[str, str]


@dataclass(frozen=True)
class Ceiling:
    """What the best possible classifier reaches, on average over the task's distribution.

    Args:
        accuracy: Share of examples that it gets right.
        nll: Mean negative log-likelihood of the true class, in nats.
    """

    accuracy: float
    nll: float


def make_controlled(task: str, *, size: int, seed: int = 0, split: str = "train") -> Dataset:
    """Generate one split of a controlled task.

    Example `index` depends on (task, seed, split, index) alone: a larger `size` only appends, and the splits are
    independent draws.

    Args:
        task: A key of `CONTROLLED_TASKS`.
        size: Number of examples.
        seed: Changes every example.
        split: "train", "validation" or "test".

    Returns:
        Columns `image` (BMP bytes, not decoded), `text`, `label`, `id`, `index`, then one integer column for each
        attribute of the task.

    Raises:
        ValueError: If `task` or `split` is not one of those, or `size` or `seed` is negative.

    Example:

    >>> row = make_controlled("synergy", size=8, split="test")[7]
    >>> row["text"], row["image_term"], row["text_term"], row["label"]
    ('one surely drew a double box with green ink', 2, 1, 3)
    """
    _check_choice("task", task, list(CONTROLLED_TASKS))
    _check_choice("split", split, SPLITS)
    for name, number in {"size": size, "seed": seed}.items():
        if number < 0:
            raise ValueError(f"{name} must be 0 or more, got {number}.")
    chosen = CONTROLLED_TASKS[task]
    attributes = [*chosen.image, *chosen.text]
    columns: dict[str, list] = {name: [] for name in ["image", "text", "label", "id", "index", *attributes]}
    cumulative = np.cumsum(chosen.joint)
    key = int.from_bytes(hashlib.blake2b(f"{task}/{seed}/{split}".encode(), digest_size=8).digest(), "little")
    for index in range(size):
        generator = np.random.Generator(np.random.Philox(key=np.array([key, index], dtype=np.uint64)))
        cell = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
        label, *values = (int(value) for value in np.unravel_index(cell, chosen.joint.shape))
        drawn = dict(zip(attributes, values, strict=True))
        image = {channel: drawn[name] for name, channel in chosen.image.items()}
        sentence = {channel: drawn[name] for name, channel in chosen.text.items()}
        image_bytes = draw_image(image, generator) if image else draw_noise(generator)
        row = {
            "image": {"bytes": image_bytes, "path": None},
            "text": write_sentence(sentence, generator),
            "label": label,
        }
        for name, value in {**row, "id": f"{split}-{index}", "index": index, **drawn}.items():
            columns[name].append(value)
    features = {
        "image": Image(decode=False),
        "text": Value("string"),
        "label": ClassLabel(names=CLASS_NAMES),
        "id": Value("string"),
        "index": Value("int64"),
        **{name: Value("int64") for name in attributes},
    }
    return Dataset.from_dict(columns, features=Features(features))


@cache
def ceiling(task: str, modality: str = "both") -> Ceiling:
    """Enumerate the task's table for what can be reached by seeing a modality, both, or neither.

    Args:
        task: A key of `CONTROLLED_TASKS`.
        modality: "image", "text", "both" or "neither".

    Returns:
        Accuracy and NLL of the classifier that knows the table.

    Raises:
        ValueError: If `task` or `modality` is not one of those.

    Example:

    >>> ceiling("unique", "image").accuracy, ceiling("unique").accuracy
    (0.475, 0.9025)
    """
    _check_choice("task", task, list(CONTROLLED_TASKS))
    _check_choice("modality", modality, MODALITIES)
    chosen = CONTROLLED_TASKS[task]
    text_axis = 1 + len(chosen.image)
    hidden = {
        "image": tuple(range(text_axis, chosen.joint.ndim)),
        "text": tuple(range(1, text_axis)),
        "both": (),
        "neither": tuple(range(1, chosen.joint.ndim)),
    }[modality]
    table = chosen.joint.sum(axis=hidden).reshape(len(CLASS_NAMES), -1)  # (label, what is seen)
    log_posterior = np.log(table / table.sum(axis=0))
    return Ceiling(
        accuracy=round(float(table.max(axis=0).sum()), 12), nll=round(float(-(table * log_posterior).sum()), 12)
    )


def _check_choice(name: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def _report(reliability: float, size: int = 4) -> np.ndarray:
    """Probability of each report (column) given the truth (row): right, or any of the others alike."""
    return np.where(np.eye(size, dtype=bool), reliability, (1 - reliability) / (size - 1))


def _redundant(prior: list[float]) -> np.ndarray:
    vote = np.stack([_report(0.95), _report(0.55)]) / 2  # (cue, label, vote)
    return np.einsum("y,ayi,byj->yiajb", np.array(prior), vote, vote)


def _unique() -> np.ndarray:
    bit = _report(0.95, size=2)
    return np.einsum("ai,bj->abij", bit, bit).reshape(4, 2, 2) / 4


def _synergy() -> np.ndarray:
    total = np.add.outer(np.arange(4), np.arange(4)) % 4
    return np.moveaxis(_report(0.95)[total], -1, 0) / 16


def _mixed() -> np.ndarray:
    vote = np.stack([_report(0.95, size=2), _report(0.65, size=2)]) / 2  # (cue, truth, vote)
    parity = _report(0.95, size=2)[np.array([[0, 1], [1, 0]])] / 4  # (image bit, text bit, second bit of the class)
    return np.einsum("cri,drj,abx->rxicajdb", vote, vote, parity).reshape(4, 2, 2, 2, 2, 2, 2) / 2


def _noise() -> np.ndarray:
    return _report(0.9) / 4


def _competition() -> np.ndarray:
    total = np.add.outer(np.arange(4), np.arange(2)) % 4
    return np.einsum("yi,yab->yiab", _report(0.8), _report(0.9)[:, total]) / 8


_QUALITY_IMAGE = {"image_vote": "shape", "image_cue": "tint"}
_QUALITY_TEXT = {"text_vote": "shape", "text_cue": "certainty"}

CONTROLLED_TASKS: dict[str, ControlledTask] = {
    "redundant": ControlledTask(
        rule="Both vote for the class; a visible cue sets each vote's reliability, .95 or .55.",
        joint=_redundant([0.25, 0.25, 0.25, 0.25]),
        image=_QUALITY_IMAGE,
        text=_QUALITY_TEXT,
    ),
    "unique": ControlledTask(
        rule="Each gives one bit of the class, flipped in 5 % of the examples.",
        joint=_unique(),
        image={"image_bit": "colour"},
        text={"text_bit": "number"},
    ),
    "synergy": ControlledTask(
        rule="The class is (image term + text term) mod 4, replaced in 5 % of the examples.",
        joint=_synergy(),
        image={"image_term": "colour"},
        text={"text_term": "shape"},
    ),
    "mixed": ControlledTask(
        rule="One bit of the class as in `redundant` (.95 or .65), the other an XOR of two bits, flipped in 5 %.",
        joint=_mixed(),
        image={**_QUALITY_IMAGE, "image_bit": "colour"},
        text={**_QUALITY_TEXT, "text_bit": "number"},
    ),
    "noise": ControlledTask(
        rule="The image is noise; the text votes with reliability .9.",
        joint=_noise(),
        image={},
        text={"text_vote": "shape"},
    ),
    "competition": ControlledTask(
        rule="The image's colour votes with .8; the sum of two words mod 4, hard to learn, votes with .9.",
        joint=_competition(),
        image={"image_vote": "colour"},
        text={"text_term_1": "shape", "text_term_2": "number"},
    ),
    "longtail": ControlledTask(
        rule="As `redundant`, with classes of prior .60, .25, .10 and .05.",
        joint=_redundant([0.60, 0.25, 0.10, 0.05]),
        image=_QUALITY_IMAGE,
        text=_QUALITY_TEXT,
    ),
}
