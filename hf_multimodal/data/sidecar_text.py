"""Texts in files of their own, one beside each image: `dog/1.jpg` and `dog/1.txt`.

Three layouts have them: a folder of images, whose classes its sub-folders may name; a table of images
(`metadata.csv`); and two lists of ids, `train.txt` and `test_without_label.txt`, with `data/{guid}.jpg` and
`data/{guid}.txt`.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, Features, Value
from transformers.utils import logging

from hf_multimodal.data.archives import names_in, read_file
from hf_multimodal.data.charsets import decode_file, decode_texts
from hf_multimodal.data.folders import SPLIT_NAMES
from hf_multimodal.data.images import IMAGE_SUFFIXES
from hf_multimodal.data.rows import Fault, SourceRows, clean_text, inside
from hf_multimodal.data.tables import ColumnNames
from hf_multimodal.hub.storage import replaced

logger = logging.get_logger(__name__)

TEXT_SUFFIX = ".txt"
TRAIN_FILE = "train.txt"
PREDICT_FILE = "test_without_label.txt"
HEADER = ["guid", "tag"]
UNLABELLED = "null"  # the lists' own word for a tag that is to be predicted

SIDECAR_COLUMNS = ColumnNames(image="image", text="text", label="tag", id="guid")


class SidecarRows(NamedTuple):
    """The rows of one split as they stand in files: where they come from, columns of words, and what is wrong."""

    path: Path
    rows: Dataset
    faults: list[list[Fault]]


class SidecarTexts(NamedTuple):
    """Texts of several files, for each that has none the reason, and the number of texts by encoding."""

    texts: list[str | None]
    reasons: list[str | None]
    encodings: dict[str, int]


def read_texts(paths: Sequence[str | None], encoding: str | None = None) -> SidecarTexts:
    """Read text files; all that are not UTF-8 are decoded by one decision.

    Args:
        paths: Of the files, also through zip archives; None where there is none.
        encoding: Takes the place of that decision.

    Returns:
        The texts in the order of the paths.

    Raises:
        ValueError: `encoding` is not a codec.
    """
    contents: dict[int, bytes] = {}
    texts: list[str | None] = [None] * len(paths)
    reasons: list[str | None] = [None] * len(paths)
    for place, path in enumerate(paths):
        if path is not None:
            try:
                contents[place] = read_file(path)
            except FileNotFoundError:
                reasons[place] = "there is no such file"
            except (OSError, ValueError) as error:
                reasons[place] = f"it cannot be read ({error})"
    decoded = decode_texts(list(contents.values()), encoding)
    for place, text in zip(contents, decoded.texts, strict=True):
        texts[place] = text
        reasons[place] = None if text is not None else "not UTF-8, nor in the encoding that fits the other texts"
    encodings = Counter(name for name in decoded.encodings if name is not None)
    return SidecarTexts(texts, reasons, dict(encodings.most_common()))


def read_image_folder(
    folder: Path, encoding: str | None = None, *, classes: bool = True
) -> tuple[dict[str, SidecarRows], dict[str, int]]:
    """Read a folder of images and the texts of the same stem beside them.

    Folders named by split (`train/`, `validation/`, `test/`) hold the splits. Where all images of a split lie in
    folders one level below it, and there are at least two such folders, these are its classes. An image without a text
    and a text without an image are rows that lack the other. A text outside of the folders of splits and classes is a
    note, as are all where not one has the stem of an image: a warning says that they are not read. Images are only
    named, and hidden files are left out.

    Args:
        folder: The folder.
        encoding: As for `read_texts`.
        classes: Whether sub-folders may be classes.

    Returns:
        The rows by split, with the columns `image` and `id` (the path of the image, else of the text), `text` where
        texts lie beside images, and `label` where sub-folders are classes; none if there is no image. And the number
        of texts by encoding.

    Raises:
        ValueError: Two images or two texts have one stem, a class folder has no image, a split is given twice, or an
            image lies outside of the folders of the splits.
    """
    files = [file for file in folder.rglob("*") if file.suffix.lower() in (*IMAGE_SUFFIXES, TEXT_SUFFIX)]
    names = sorted(file.relative_to(folder).as_posix() for file in files)
    names = [name for name in names if not any(map(_is_hidden, name.split("/")))]
    images = [name for name in names if not _is_text(name)]
    if not images:
        return {}, {}
    text_of = _by_stem([name for name in names if _is_text(name)], str(folder))
    image_of = _by_stem([name for name in images if _stem(name) in text_of], str(folder))
    places = _split_places(folder, names)
    class_folders = {
        split: _class_folders(folder, place, images) if classes else [] for split, place in places.items()
    }
    if len({name for found in class_folders.values() for name in found}) < 2:
        class_folders = dict.fromkeys(places, [])
    rows: dict[str, list[str]] = {}  # by split, the name of the image, else of the text
    for split, place in places.items():
        inside_of = [f"{place}{name}/" for name in class_folders[split]] or [place]
        alone = [name for stem, name in text_of.items() if stem not in image_of] if image_of else []
        rows[split] = sorted(name for name in (*images, *alone) if name.startswith(tuple(inside_of)))
    texts = {split: [text_of.get(_stem(name)) for name in found] for split, found in rows.items()}
    notes = set(text_of.values()).difference(*texts.values())
    if notes:
        logger.warning("%s: %d texts are of no example and not read, such as %r.", folder, len(notes), min(notes))
    paths = [None if text is None else str(folder / text) for found in texts.values() for text in found]
    read = read_texts(paths, encoding)
    pairs = iter(zip(read.texts, read.reasons, strict=True))
    splits: dict[str, SidecarRows] = {}
    for split, found in rows.items():
        columns: dict[str, list[str | None]] = {"image": [None if _is_text(name) else name for name in found]}
        columns["id"] = [*found]
        mine = [next(pairs) for _ in found]
        if image_of:
            columns["text"] = [text for text, _ in mine]
        if any(class_folders.values()):
            labelled = bool(class_folders[split])
            columns["label"] = [name.removeprefix(places[split]).split("/")[0] if labelled else None for name in found]
        faults = [_faults(text, reason) for text, (_, reason) in zip(texts[split], mine, strict=True)]
        splits[split] = SidecarRows(folder / places[split], _table(columns), faults)
    return splits, read.encodings


def add_texts(sources: Sequence[SourceRows], encoding: str | None = None) -> tuple[dict[str, int], int]:
    """Read the texts that lie beside the images of tables without a column of texts, in place.

    Args:
        sources: The rows of the tables; their images are dicts with a `path`.
        encoding: As for `read_texts`.

    Returns:
        The number of texts by encoding, empty where no text lies beside an image; and the number of texts in the
        folders of the images that lie beside none of them.

    Raises:
        ValueError: Two images, or two texts, have one stem.
    """
    paths = [image["path"] if image else None for rows in sources for image in rows.images]
    folders = sorted({os.path.dirname(path) for path in paths if path is not None})
    names = [os.path.join(folder, name) for folder in folders for name in names_in(folder) if _is_text(name)]
    text_of = _by_stem([name for name in names if not _is_hidden(os.path.basename(name))], "the images' folders")
    image_of = _by_stem([path for path in paths if path is not None and _stem(path) in text_of], "the table")
    if not image_of:
        return {}, 0
    texts = [None if path is None else text_of.get(_stem(path)) for path in paths]
    read = read_texts(texts, encoding)
    found = zip(texts, read.texts, read.reasons, strict=True)
    for rows in sources:
        for row in range(len(rows.texts)):
            path, text, reason = next(found)
            rows.texts[row] = clean_text(text)
            rows.faults[row] += _faults(path, reason)
    return read.encodings, len(text_of) - len(image_of)


def is_sidecar_folder(folder: Path) -> bool:
    """Whether a folder has the lists `train.txt` or `test_without_label.txt` beside `data/`."""
    return (folder / "data").is_dir() and any((folder / name).is_file() for name in (TRAIN_FILE, PREDICT_FILE))


def read_sidecar_folder(
    folder: Path, encoding: str | None = None
) -> tuple[dict[str, SidecarRows], dict[str, int], int]:
    """Read the lists of ids of a sidecar-text folder and the texts that they name.

    Images are only named.

    Args:
        folder: Holds `train.txt`, `test_without_label.txt` or both, and `data/`.
        encoding: As for `read_texts`.

    Returns:
        The rows by split (`train`, `predict`) in the order of the lists; the number of texts by encoding; the number
        of images in `data/` that no list names.

    Raises:
        ValueError: A list lacks its header, has a line of other than two cells, or is empty.
    """
    files = {"train": TRAIN_FILE, "predict": PREDICT_FILE}
    paths = {split: folder / name for split, name in files.items() if (folder / name).is_file()}
    lists = {split: _read_list(path) for split, path in paths.items()}
    root = os.path.abspath(folder)
    guids = [guid for pairs in lists.values() for guid, _ in pairs]
    texts = [inside(root, f"data/{guid}{TEXT_SUFFIX}") for guid in guids]
    read = read_texts(texts, encoding)
    outside = f"the path leaves the data folder {root!r}"
    reasons = [outside if text is None else reason for text, reason in zip(texts, read.reasons, strict=True)]
    found = iter(zip(read.texts, reasons, strict=True))
    splits: dict[str, SidecarRows] = {}
    for split, pairs in lists.items():
        mine = [next(found) for _ in pairs]
        columns: dict[str, list[str | None]] = {
            "image": [f"data/{guid}.jpg" for guid, _ in pairs],
            "text": [text for text, _ in mine],
            "tag": [None if split == "predict" or tag == UNLABELLED else tag for _, tag in pairs],
            "guid": [guid for guid, _ in pairs],
        }
        named = zip(pairs, mine, strict=True)
        faults = [_faults(f"data/{guid}{TEXT_SUFFIX}", reason) for (guid, _), (_, reason) in named]
        splits[split] = SidecarRows(paths[split], _table(columns), faults)
    images = {name.removesuffix(".jpg") for name in os.listdir(folder / "data") if name.endswith(".jpg")}
    return splits, read.encodings, len(images - set(guids))


def write_guid_tag_list(path: Path | str, ids: Sequence[str], tags: Sequence[str]) -> None:
    """Write a `guid,tag` list in the order given, as `read_sidecar_folder` reads it.

    Args:
        path: File to write.
        ids: The guids, in the order of `test_without_label.txt`.
        tags: The class name of each.

    Raises:
        ValueError: The two differ in length.
    """
    if len(ids) != len(tags):
        raise ValueError(f"ids and tags must be of one length, got {len(ids)} and {len(tags)}.")
    # As they are: the file is the layout's, for a program to read, and a guid must stay the guid.
    with replaced(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *zip(ids, tags, strict=True)])


def _read_list(path: Path) -> list[tuple[str, str]]:
    text, _ = decode_file(path.read_bytes(), str(path))
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [cell.strip() for cell in next(reader, [])]
    if header != HEADER:
        raise ValueError(f"{path} must begin with the line 'guid,tag', got {','.join(header)!r}.")
    pairs = []
    for row in reader:
        if not row:
            continue
        if len(row) != 2:
            raise ValueError(f"{path}, line {reader.line_num}: 'guid,tag' is expected, got {','.join(row)!r}.")
        pairs.append((row[0].strip(), row[1].strip()))
    if not pairs:
        raise ValueError(f"{path} has no rows.")
    return pairs


def _split_places(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The folders of the splits as prefixes of paths, `train` first; one that is empty where there are none."""
    tops = sorted({name.split("/")[0] for name in names if "/" in name})
    named: dict[str, str] = {}
    for split, top in ((SPLIT_NAMES[top.lower()], top) for top in tops if top.lower() in SPLIT_NAMES):
        if split in named:
            both = f"{str(folder / named[split])!r} and {str(folder / top)!r}"
            raise ValueError(f"the split {split!r} is given twice: {both}.")
        named[split] = f"{top}/"
    if not named:
        return {"train": ""}
    outside = [name for name in names if not _is_text(name) and not name.startswith(tuple(named.values()))]
    if outside:
        raise ValueError(
            f"{folder}: {len(outside)} images lie outside of the folders of its splits {sorted(named.values())}, such "
            f"as {outside[0]!r}: move them into one of these."
        )
    return {split: named[split] for split in dict.fromkeys(SPLIT_NAMES.values()) if split in named}


def _class_folders(folder: Path, place: str, images: Sequence[str]) -> list[str]:
    """The sub-folders of a split, if all of its images lie in them and not deeper."""
    mine = [name.removeprefix(place).split("/") for name in images if name.startswith(place)]
    if any(len(parts) != 2 for parts in mine):
        return []
    found = sorted(child.name for child in (folder / place).iterdir() if child.is_dir() and not _is_hidden(child.name))
    empty = sorted(set(found) - {parts[0] for parts in mine})
    if empty and len(found) > 1:
        raise ValueError(
            f"{folder}: its sub-folders are classes, and {place + empty[0]!r} has no image: put its images there, or "
            "take the folder away."
        )
    return found


def _by_stem(names: Sequence[str], source: str) -> dict[str, str]:
    """Files by their paths without suffix, which must differ."""
    found: dict[str, str] = {}
    for name in names:
        if found.setdefault(_stem(name), name) != name:
            kind = "texts" if _is_text(name) else "images"
            raise ValueError(
                f"{source}: two {kind} have one stem, {found[_stem(name)]!r} and {name!r}, so that it is not known "
                "which of them belongs to the file beside them: rename one."
            )
    return found


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _is_text(name: str) -> bool:
    return name.lower().endswith(TEXT_SUFFIX)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__"))  # as for `datasets`


def _faults(value: str | None, reason: str | None) -> list[Fault]:
    return [{"column": "text", "value": value or "", "reason": reason}] if reason else []


def _table(columns: dict[str, list[str | None]]) -> Dataset:
    return Dataset.from_dict(columns, features=Features(dict.fromkeys(columns, Value("string"))))
