"""What several tests build."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from hf_multimodal.cli.arguments import (
    ClassArguments,
    LabelArguments,
    MissingArguments,
    ReadingArguments,
    RunArguments,
    SourceArguments,
)
from hf_multimodal.cli.rows import training_rows

GROUPS = (SourceArguments, ReadingArguments, RunArguments, LabelArguments, ClassArguments, MissingArguments)


def training_data(modality: str = "both", folder: Path | None = None, **options: Any) -> Any:
    """What a training command makes of its flags: the checked data, and the bad samples."""
    groups = []
    for kind in GROUPS:
        names = {entry.name for entry in fields(kind)} & set(options)
        groups.append(kind(**{name: options.pop(name) for name in names}))
    assert not options, options
    return training_rows(*groups, modality=modality, folder=folder)
