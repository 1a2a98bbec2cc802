"""Find every bad sample before training starts, and deal with all of them by one policy."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from transformers.utils import logging

from hf_multimodal.data.images import MAX_PIXELS, BadImageError, verify_image
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.data.presence import hide
from hf_multimodal.data.spreadsheets import write_csv
from hf_multimodal.data.tables import DEFAULT_COLUMNS
from hf_multimodal.data.value_ranges import ValueRanges
from hf_multimodal.models.configuration_vision_text import MODALITIES
from hf_multimodal.models.processing_multimodal import ImageValues
from hf_multimodal.validation import check_choice, did_you_mean

logger = logging.get_logger(__name__)

POLICIES = ("error", "missing", "drop")
PURPOSES = ("training", "evaluation", "prediction")
_SHOWN = 10
_BATCH = 1000


@dataclass(frozen=True)
class BadSample:
    """One thing wrong with one row.

    Args:
        source: File or data set.
        row: Position in it, counted from 0 below the header; the row's `index`.
        id: The row's id.
        column: The source's name of the column.
        value: What stands there.
        reason: What is wrong with it.
        action: `error`, `missing` (the cell was emptied), `dropped` (the row was), or `kept` (only flagged).
    """

    source: str
    row: int
    id: str
    column: str
    value: str
    reason: str
    action: str

    def __str__(self) -> str:
        return f"{self.source}, row {self.row} (id {self.id!r}), column {self.column!r}, {self.value!r}: {self.reason}"


class BadSamplesError(ValueError):
    """Bad samples that the policy does not allow.

    Args:
        samples: All bad samples, those that were dealt with included.
        policy: The policy in force, for the message.
    """

    def __init__(self, samples: Sequence[BadSample], policy: str):
        self.samples = list(samples)
        refused = [sample for sample in samples if sample.action == "error"]
        count = f"{len(refused)} bad sample{'s' if len(refused) > 1 else ''}"
        advice = "'drop' leaves such rows out" + (", 'missing' empties bad cells" if policy == "error" else "")
        super().__init__("\n".join([f"{count} (on_bad_sample={policy!r}; {advice}):", first_lines(refused, _SHOWN)]))


def missing_columns(data: LoadedData, modality: str, *, labels: bool = True) -> list[str]:
    """Say which columns a model needs and the data do not have at all; one that is there may well be empty.

    Args:
        data: As loaded.
        modality: `both`, `image` or `text`.
        labels: Whether labels are needed.

    Returns:
        A sentence for each such column.
    """
    used = ("image", "text") if modality == "both" else (modality,)
    available = data.report.get("columns", list(data.columns.values()))
    sentences = []
    for name in (*used, "label") if labels else used:
        if name not in data.columns:
            usual = DEFAULT_COLUMNS[name]
            hint = next(filter(None, (did_you_mean(column, available) for column in usual)), "")
            sentences.append(
                f"the data have no column {' or '.join(map(repr, usual))}, their columns are {list(available)}: name "
                f"the one that is meant with --{name}_column.{hint}"
            )
    return sentences


def check_rows(
    dataset: Dataset,
    *,
    policy: str,
    source: str,
    purpose: str = "training",
    modality: str = "both",
    columns: Mapping[str, str] | None = None,
    check_images: bool = True,
    decode: bool = True,
    max_pixels: int = MAX_PIXELS,
    workers: int = 4,
    refuse: bool = True,
    value_ranges: ValueRanges | None = None,
) -> tuple[Dataset, list[BadSample]]:
    """Check every row and apply the policy.

    - `error` raises one error that counts all bad samples and names the first ten.
    - `missing` empties a bad image or an unreadable text. A label that training or evaluation needs, and a
      duplicate id, cannot be emptied: they stay errors, and so does a training row left with neither modality.
    - `drop` leaves the rows out.

    Prediction asks for no label, and keeps and flags a row with neither modality; so does evaluation.

    Args:
        dataset: Rows as `load_data` gives them.
        policy: `error`, `missing` or `drop`.
        source: The file or data set, for messages.
        purpose: `training`, `evaluation` or `prediction`.
        modality: What the model reads; the other modality's faults do not matter and its files stay closed.
        columns: The source's names of our columns, for messages.
        check_images: Open the images at all.
        decode: Decode them too, which alone shows a truncated file; else only headers are read.
        max_pixels: Largest image.
        workers: Threads that decode.
        refuse: Whether errors are raised; if not, as in a dry run, their rows are left out and stay marked `error`.
        value_ranges: The range that the images' values are to lie in, if one is stated; it takes note of them.

    Returns:
        The rows without the column `faults`, and every bad sample in the order of the rows.

    Raises:
        BadSamplesError: Under the conditions above; its `samples` hold all of them.
        ValueError: An unknown choice.
    """
    check_choice("policy", policy, POLICIES)
    check_choice("purpose", purpose, PURPOSES)
    check_choice("modality", modality, MODALITIES)
    used = ("image", "text") if modality == "both" else (modality,)
    meta = dataset.select_columns([c for c in ("id", "index", "text", "label", "faults") if c in dataset.features])[:]
    relevant = {*used, "id", *(() if purpose == "prediction" else ("label",))}
    faults: list[list[tuple[str, str, str]]] = [
        [(f["column"], f["value"], f["reason"]) for f in found if f["column"] in relevant]
        for found in meta.get("faults", [[]] * len(dataset))
    ]
    has_image = [False] * len(dataset)
    if "image" in used:
        ranges = ValueRanges() if value_ranges is None else value_ranges
        problems, has_image = _check_images(dataset, check_images, decode, max_pixels, workers, ranges)
        for row, problem in problems.items():
            faults[row].append(("image", *problem))
    samples: list[BadSample] = []
    dropped: set[int] = set()
    refused: set[int] = set()
    emptied: dict[str, set[int]] = {"image": set(), "text": set()}

    def note(row: int, fault: tuple[str, str, str], action: str) -> None:
        column, value, reason = fault
        name = (columns or {}).get(column, column)
        samples.append(BadSample(source, meta["index"][row], meta["id"][row], name, value, reason, action))
        if action == "error":
            refused.add(row)

    for row, found in enumerate(faults):
        if purpose != "prediction" and meta["label"][row] is None and not any(f[0] == "label" for f in found):
            found.append(("label", "", f"an empty label, which {purpose} needs"))
        for fault in found:
            emptiable = fault[0] in emptied
            action = {"error": "error", "drop": "dropped", "missing": "missing" if emptiable else "error"}[policy]
            note(row, fault, action)
            if action == "dropped":
                dropped.add(row)
            elif emptiable:
                emptied[fault[0]].add(row)
        image_left = has_image[row] and row not in emptied["image"]
        text_left = "text" in used and meta["text"][row] is not None and row not in emptied["text"]
        if not image_left and not text_left and row not in dropped and not (found and policy == "error"):
            action = {"error": "error", "missing": "error", "drop": "dropped"}[policy]
            action = action if purpose == "training" else "kept"
            wanted = " nor ".join(used) if len(used) > 1 else used[0]
            reason = f"neither {wanted}" if len(used) > 1 else f"no {wanted}"
            causes = [f"{value!r}: {why}" for column, value, why in found if column in emptied]  # why cells are empty
            note(row, (used[0], "", ", ".join([f"the example has {reason}", *causes])), action)
            if action == "dropped":
                dropped.add(row)
    if refused and refuse:
        raise BadSamplesError(samples, policy)
    dropped |= refused
    checked = dataset.remove_columns("faults") if "faults" in dataset.features else dataset
    present = np.ones((len(checked), 2), dtype=bool)
    for place, rows in enumerate(emptied.values()):
        present[list(rows), place] = False
    checked = hide(checked, present)
    if dropped:
        checked = checked.select([row for row in range(len(checked)) if row not in dropped])
    return checked, samples


def check_splits(
    data: LoadedData,
    *,
    policy: str,
    modality: str = "both",
    prediction: bool = False,
    refuse: bool = True,
    **options: Any,
) -> tuple[LoadedData, list[BadSample]]:
    """Check all splits and collect what is wrong in any of them before anything is raised.

    `train` is checked for training, `predict` for prediction, the others for evaluation.

    Args:
        data: As `load_data` gives it, its splits perhaps completed by `complete_splits`.
        policy: As for `check_rows`.
        modality: As for `check_rows`.
        prediction: Check every split for prediction.
        refuse: As for `check_rows`.
        **options: `decode`, `max_pixels`, `workers` and `value_ranges` of `check_rows`.

    Returns:
        The data with checked splits, and every bad sample.

    Raises:
        BadSamplesError: Any split has a bad sample that the policy does not allow.
    """
    checked: dict[str, Dataset] = {}
    samples: list[BadSample] = []
    for split, rows in data.splits.items():
        purpose = {"train": "training", "predict": "prediction"}.get(str(split), "evaluation")
        try:
            checked[split], found = check_rows(
                rows,
                policy=policy,
                source=data.sources.get(split) or data.sources["train"],
                purpose="prediction" if prediction else purpose,
                modality=modality,
                columns=data.columns,
                check_images=not data.generated,
                refuse=refuse,
                **options,
            )
        except BadSamplesError as error:
            found = error.samples
        samples += found
    if refuse and any(sample.action == "error" for sample in samples):
        raise BadSamplesError(samples, policy)
    if samples:
        logger.warning("%d bad samples: %s.", len(samples), summarize_bad_samples(samples))
    return replace(data, splits=DatasetDict(checked)), samples


def summarize_bad_samples(samples: Sequence[BadSample]) -> str:
    """Count bad samples by action and column in a few words.

    Example:

    >>> summarize_bad_samples([BadSample("a.csv", 3, "3", "image", "x.jpg", "there is no such file", "missing")])
    "1 missing (column 'image')"
    """
    counts = Counter((sample.action, sample.column) for sample in samples)
    return ", ".join(f"{count} {action} (column {column!r})" for (action, column), count in counts.most_common())


def describe_bad_samples(samples: Sequence[BadSample]) -> str:
    """Say how many bad samples there are and name the first twenty.

    Example:

    >>> print(describe_bad_samples([BadSample("a.csv", 3, "7", "image", "x.jpg", "there is no such file", "dropped")]))
    1 bad sample: 1 dropped (column 'image')
      a.csv, row 3 (id '7'), column 'image', 'x.jpg': there is no such file
    """
    count = f"{len(samples)} bad sample{'s' if len(samples) > 1 else ''}"
    return f"{count}: {summarize_bad_samples(samples)}\n{first_lines(samples, 20)}"


def first_reasons(samples: Sequence[BadSample], rows: Dataset | None = None, source: str | None = None) -> str:
    """End a message that ends a run with the first three things that are wrong with its rows.

    Args:
        samples: All bad samples.
        rows: Only what is wrong with these rows, as those of a split, and
        source: only of this file or data set. By default all is meant.

    Returns:
        Lines to follow the message, or nothing if nothing is wrong.

    Example:

    >>> samples = [BadSample("a.csv", 3, "7", "image", "x.jpg", "there is no such file", "dropped")]
    >>> print(f"no row is left.{first_reasons(samples)}")
    no row is left. 1 bad sample:
      a.csv, row 3 (id '7'), column 'image', 'x.jpg': there is no such file
    """
    if rows is not None:
        chosen = set(rows["index"][:])
        samples = [sample for sample in samples if sample.row in chosen and source in (None, sample.source)]
    if not samples:
        return ""
    return f" {len(samples)} bad sample{'s' if len(samples) > 1 else ''}:\n{first_lines(samples, 3)}"


def first_lines(samples: Sequence[Any], count: int) -> str:
    """The first few as indented lines, and how many more there are.

    Args:
        samples: Anything that `str` says well.
        count: Number of lines.

    Example:

    >>> print(first_lines(["one", "two", "three"], 2))
      one
      two
      ... and 1 more
    """
    more = [f"... and {len(samples) - count} more"] if len(samples) > count else []
    return "\n".join(f"  {line}" for line in [*samples[:count], *more])


def write_bad_samples(path: Path | str, samples: Sequence[BadSample]) -> None:
    """Write one line a bad sample, the header alone where there is none.

    Args:
        path: The CSV file.
        samples: As the checks gave them.
    """
    write_csv(path, [entry.name for entry in fields(BadSample)], map(astuple, samples))


def _check_images(
    dataset: Dataset, check: bool, decode: bool, max_pixels: int, workers: int, value_ranges: ValueRanges
) -> tuple[dict[int, tuple[str, str]], list[bool]]:
    """Give (value, reason) for each row with a bad image, and which rows name an image; each file is read once."""
    problems: dict[int, tuple[str, str]] = {}
    seen: dict[str, str | None] = {}
    present: list[bool] = []

    def verify(image: dict[str, Any]) -> ImageValues | str | None:
        try:
            return verify_image(image, max_pixels, decode, value_ranges.stated)
        except BadImageError as error:
            return str(error)

    image_rows = dataset.select_columns(["image"])
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(dataset), _BATCH):
            images = image_rows[start : start + _BATCH]["image"]
            present += [image is not None for image in images]
            if not check:
                continue
            new = {_name(start + i, image): image for i, image in enumerate(images) if image is not None}
            new = {name: image for name, image in new.items() if name not in seen}
            for name, found in zip(new, pool.map(verify, new.values()), strict=True):
                seen[name] = found if isinstance(found, str) else None
                if decode and not isinstance(found, str):
                    value_ranges.add(name, found)
            for row, image in enumerate(images, start=start):
                if image is not None and (problem := seen[_name(row, image)]) is not None:
                    problems[row] = (image["path"] or "bytes", problem)
    return problems, present


def _name(row: int, image: dict[str, Any]) -> str:
    return image["path"] if image["bytes"] is None and image["path"] else f"row {row}"
