"""Which tables a folder holds, and of which splits."""

from pathlib import Path

from hf_multimodal.data.archives import archives_in, is_file
from hf_multimodal.data.tables import TABLE_SUFFIXES

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
METADATA = ("metadata.csv", "metadata.jsonl")


def find_tables(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Find the metadata of the `datasets` ImageFolder convention, and tables that are named by their splits.

    Metadata lie in the folder, in folders named by split, or in zip archives among their images.

    Args:
        folder: The folder.

    Returns:
        The metadata files and the tables, each by split, `train` first.

    Raises:
        ValueError: A split is given twice.
    """
    metadata: dict[str, Path] = {}
    tables: dict[str, Path] = {}
    archives = archives_in(folder)
    places = [
        ("train", place) for place in (folder, *archives) if place == folder or place.stem.lower() not in SPLIT_NAMES
    ]
    for alias, split in SPLIT_NAMES.items():
        places += [(split, place) for place in (folder / alias, *archives) if place.stem.lower() == alias]
        for file in (folder / f"{alias}{suffix}" for suffix in TABLE_SUFFIXES):
            if file.is_file():
                _add(tables, split, file)
    for split, place in places:
        for file in (place / name for name in METADATA):
            if is_file(file):
                _add(metadata, split, file)
    return metadata, tables


def _add(found: dict[str, Path], split: str, file: Path) -> None:
    if split in found:
        raise ValueError(f"the split {split!r} is given twice: {str(found[split])!r} and {str(file)!r}.")
    found[split] = file
