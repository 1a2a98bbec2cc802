"""The lab layout: `train.txt` with `guid,tag`, and `data/{guid}.jpg` beside `data/{guid}.txt`."""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset, Features, Value

from hf_multimodal.data.charsets import decode_file, decode_texts
from hf_multimodal.data.rows import Fault, inside
from hf_multimodal.data.tables import ColumnNames
from hf_multimodal.hub.storage import replaced

TRAIN_FILE = "train.txt"
PREDICT_FILE = "test_without_label.txt"
HEADER = ["guid", "tag"]
UNLABELLED = "null"  # the layout's own word for a tag that is to be predicted

SIDECAR_COLUMNS = ColumnNames(image="image", text="text", label="tag", id="guid")
_FEATURES = Features({name: Value("string") for name in ("image", "text", "tag", "guid")})


class SidecarList(NamedTuple):
    """One list of the sidecar-text layout: its file, its rows in the file's order, and what is wrong with them."""

    path: Path
    rows: Dataset
    faults: list[list[Fault]]


def is_sidecar_folder(folder: Path) -> bool:
    """Tell whether a folder has the sidecar-text layout."""
    return (folder / "data").is_dir() and any((folder / name).is_file() for name in (TRAIN_FILE, PREDICT_FILE))


def read_sidecar_folder(
    folder: Path, encoding: str | None = None
) -> tuple[dict[str, SidecarList], dict[str, int], int]:
    """Read the lists of a sidecar-text folder and the texts that they name.

    Images are only named. All texts that are not UTF-8 are decoded by one decision.

    Args:
        folder: Holds `train.txt`, `test_without_label.txt` or both, and `data/`.
        encoding: Takes the place of that decision.

    Returns:
        The lists by split (`train`, `predict`); the number of texts by encoding; the number of pairs in `data/` that
        no list names.

    Raises:
        ValueError: A list lacks its header, has a line of other than two cells, or is empty.
    """
    names = {"train": TRAIN_FILE, "predict": PREDICT_FILE}
    paths = {split: folder / name for split, name in names.items() if (folder / name).is_file()}
    listed = {split: _read_list(path) for split, path in paths.items()}
    root = os.path.abspath(folder)
    guids = [guid for pairs in listed.values() for guid, _ in pairs]
    contents = [_read_text(root, guid) for guid in guids]
    decoded = decode_texts([content for content in contents if isinstance(content, bytes)], encoding)
    pairs_of_text = iter(zip(decoded.texts, decoded.encodings, strict=True))
    lists: dict[str, SidecarList] = {}
    remaining = iter(contents)
    for split, pairs in listed.items():
        columns: dict[str, list[str | None]] = {name: [] for name in _FEATURES}
        faults: list[list[Fault]] = []
        for guid, tag in pairs:
            content = next(remaining)
            text, reason = (None, content) if isinstance(content, str) else (next(pairs_of_text)[0], None)
            if text is None and reason is None:
                reason = "not UTF-8, nor in the encoding that fits the other texts"
            fault = {"column": "text", "value": f"data/{guid}.txt", "reason": reason}
            faults.append([fault] if reason else [])  # type: ignore[list-item]
            label = None if split == "predict" or tag == UNLABELLED else tag
            values = (f"data/{guid}.jpg", text, label, guid)
            for name, value in zip(_FEATURES, values, strict=True):
                columns[name].append(value)
        lists[split] = SidecarList(paths[split], Dataset.from_dict(columns, features=_FEATURES), faults)
    encodings = Counter(name for name in decoded.encodings if name is not None)
    images = {name[:-4] for name in os.listdir(folder / "data") if name.endswith(".jpg")}
    return lists, dict(encodings.most_common()), len(images - set(guids))


def write_guid_tag_list(path: Path | str, ids: Sequence[str], tags: Sequence[str]) -> None:
    """Write a `guid,tag` file in the order given.

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


def _read_text(root: str, guid: str) -> bytes | str:
    """Give a text's bytes, or in words why there are none."""
    path = inside(root, f"data/{guid}.txt")
    if path is None:
        return f"the path leaves the data folder {root!r}"
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return "there is no such file"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
