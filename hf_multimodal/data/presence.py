"""Which example lacks its image or its text: drawn tables of presence, and modality dropout in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from hf_multimodal.data.counts import presence
from hf_multimodal.data.spreadsheets import write_csv
from hf_multimodal.models.configuration_vision_text import MODALITIES
from hf_multimodal.validation import check_choice

SHARES = (0.7, 0.15, 0.15)  # of the examples, that show the joint branch both, the image only, the text only


@dataclass(frozen=True)
class MissingRate:
    """What share of the examples lacks something.

    Args:
        which: `image` or `text`: these lack it; `both`: half of them lack the image and half the text.
        rate: The share, from 0 to 1.

    Raises:
        ValueError: On another `which`, or a rate outside [0, 1].

    Example:

    >>> MissingRate.parse("both:0.7")
    MissingRate(which='both', rate=0.7)
    """

    which: str
    rate: float

    def __post_init__(self) -> None:
        check_choice("missing", self.which, MODALITIES)
        if not 0 <= self.rate <= 1:
            raise ValueError(f"the rate of missing {self.which!r} must lie in [0, 1], got {self.rate}.")

    @classmethod
    def parse(cls, text: str) -> "MissingRate":
        """Read `both:0.7`, `image:0.5` or `text:0.9`."""
        which, separator, rate = text.partition(":")
        try:
            number = float(rate)
        except ValueError:
            separator = ""
        if not separator:
            raise ValueError(f"missing must be one of {list(MODALITIES)} and a rate, as in 'both:0.7', got {text!r}.")
        return cls(which, number)

    def draw(self, rows: int, seed: int) -> np.ndarray:
        """Draw who lacks what: an exact share of the rows, and with one seed those of a lower rate among them.

        Args:
            rows: Number of examples.
            seed: Of the draw.

        Returns:
            (rows, 2) bool, True = present, column 0 image, column 1 text; no row lacks both.

        Example:

        >>> MissingRate("both", 0.5).draw(8, seed=0).sum(axis=0).tolist()
        [6, 6]
        """
        incomplete = np.random.default_rng(seed).permutation(rows)[: round(self.rate * rows)]
        present = np.ones((rows, 2), dtype=bool)
        if self.which == "both":
            present[incomplete[0::2], 0] = False
            present[incomplete[1::2], 1] = False
        else:
            present[incomplete, ("image", "text").index(self.which)] = False
        return present


def hide(dataset: Dataset, present: np.ndarray) -> Dataset:
    """Take images and texts away.

    Args:
        dataset: Rows with `image` and `text`.
        present: (rows, 2) bool, column 0 image, column 1 text: what may stay. What is missing already stays missing.

    Returns:
        The same rows and columns with None in the place of what was taken.

    Raises:
        ValueError: If `present` is of another number of rows.

    Example:

    >>> rows = Dataset.from_dict({"image": ["a.jpg", "b.jpg"], "text": ["one", "two"]})
    >>> hide(rows, np.array([[True, False], [False, True]]))[:]
    {'image': ['a.jpg', None], 'text': [None, 'two']}
    """
    if present.shape != (len(dataset), 2):
        raise ValueError(f"presence must have shape ({len(dataset)}, 2), got {present.shape}.")
    if present.all():
        return dataset
    names, features = dataset.column_names, dataset.features
    whole = dataset if dataset._indices is None else dataset.flatten_indices(keep_in_memory=True)
    table = whole.data.table
    for column, name in enumerate(("image", "text")):
        parts, start = [], 0
        for part in table.column(name).chunks:  # one by one: all images in one chunk may pass 2 GiB
            # By index: a null index takes a null, whatever the column's type is.
            gone = ~present[start : start + len(part), column]
            parts.append(part.take(pa.array(np.arange(len(part)), mask=gone)) if gone.any() else part)
            start += len(part)
        values = pa.chunked_array(parts, type=table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, values)
    return Dataset(table.cast(features.arrow_schema)).select_columns(names)


def what_is_left(came: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """What each row has after a draw; one that would be left with nothing keeps what it came with.

    Args:
        came: (rows, 2) bool, what each row has, as `counts.presence` gives it.
        drawn: (rows, 2) bool, what it may keep, as `MissingRate.draw` gives it.

    Returns:
        (rows, 2) bool.

    Example:

    >>> came, drawn = np.array([[True, True], [True, False]]), np.array([[False, True], [False, True]])
    >>> what_is_left(came, drawn).tolist()
    [[False, True], [True, False]]
    """
    left = came & drawn
    return np.where(left.any(axis=1, keepdims=True), left, came)


def take_away(rows: Dataset, before: Dataset, missing: MissingRate, seed: int) -> Dataset:
    """Take images and texts away at a rate.

    Who lacks what is drawn over the rows as they were before the checks, so that runs that drop other rows, as those
    of other modalities do, lose the same.

    Args:
        rows: What the checks left, with `image`, `text` and `index`.
        before: What the checks were given.
        missing: Who lacks what, and how many.
        seed: Of the draw.
    """
    place = {index: position for position, index in enumerate(before["index"][:])}
    drawn = missing.draw(len(before), seed)[[place[index] for index in rows["index"][:]]]
    return hide(rows, what_is_left(presence(rows), drawn))


def write_presence(path: str | Path, splits: Mapping[str, Dataset]) -> None:
    """Write who has what as CSV: `split, id, has_image, has_text`.

    Args:
        path: The file; replaced if it exists.
        splits: Rows with `id`, `image` and `text`.
    """
    lines = (
        [str(split), name, *shown]
        for split, rows in splits.items()
        for name, shown in zip(rows["id"], presence(rows).astype(int).tolist(), strict=True)
    )
    write_csv(path, ["split", "id", "has_image", "has_text"], lines)


def uniform(seed: int, epoch: int, index: torch.Tensor) -> torch.Tensor:
    """One number in [0, 1) for each example, a pure function of (seed, epoch, index).

    The finaliser of SplitMix64 ([Steele et al., 2014](https://doi.org/10.1145/2660193.2660195)), once for each.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch.
        index: (batch,) numbers of the examples.

    Returns:
        (batch,) float64.
    """
    state = np.zeros(1, dtype=np.uint64)
    for number in (seed, epoch, index.numpy()):
        state = (state ^ np.asarray(number).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)  # wraps around
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


@dataclass(frozen=True)
class ModalityDropout:
    """What the joint branch of a robust classifier may read in each epoch: a new draw for each complete example.

    An example that came incomplete keeps its pattern. The draw is a function of (seed, epoch, example), so a resumed
    run repeats the whole one.

    Args:
        seed: Seed of the run.
        shares: Of the complete examples, shares that show both, the image only, and the text only.

    Raises:
        ValueError: If the shares are not three numbers from 0 that sum to 1.

    Example:

    >>> modality_dropout = ModalityDropout(seed=0, shares=(0.0, 1.0, 0.0))
    >>> modality_dropout(0, torch.tensor([4, 5]), torch.tensor([[1, 1], [0, 1]]))
    tensor([[1, 0],
            [0, 1]])
    """

    seed: int
    shares: Sequence[float] = SHARES

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(
                f"the shares of both, image only and text only must be three numbers from 0 that sum to 1, got "
                f"{list(self.shares)}."
            )

    @classmethod
    def for_rows(cls, present: np.ndarray, seed: int, shares: Sequence[float] = SHARES) -> "ModalityDropout":
        """Hide only what incomplete rows leave to be hidden: what they show, no complete row needs to show.

        Args:
            present: (rows, 2) bool, what each row has, as `counts.presence` gives it.
            seed: Seed of the run.
            shares: Of all rows that have something, the shares that are to show both, the image only and the text
                only; of the complete rows no larger share is hidden than these, however few they are.

        Example:

        >>> whole, image_only = [[True, True]] * 6, [[True, False]] * 2
        >>> ModalityDropout.for_rows(np.array(whole + image_only), seed=0).shares  # 2 of 8 show the image only
        (0.85, 0.0, 0.15)
        """
        cls(seed, shares)  # checks them
        complete = present.all(axis=1).sum()
        alone = (present & ~present[:, ::-1]).sum(axis=0)
        left = np.array(shares[1:]) * present.any(axis=1).sum() - alone
        hidden = (left / max(complete, 1)).clip(0, shares[1:])
        return cls(seed, (float(1 - hidden.sum()), *hidden.tolist()))

    def __call__(self, epoch: int, index: torch.Tensor, modality_mask: torch.Tensor) -> torch.Tensor:
        """(batch, 2) mask within `modality_mask`.

        Args:
            epoch: Number of the epoch.
            index: (batch,) numbers of the examples.
            modality_mask: (batch, 2), 1 = present.
        """
        draw = uniform(self.seed, epoch, index)
        both, image, _ = self.shares
        shown = torch.stack([draw < both + image, (draw < both) | (draw >= both + image)], dim=1)
        return torch.where(modality_mask.all(dim=1, keepdim=True), shown.to(modality_mask), modality_mask)
