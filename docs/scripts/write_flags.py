"""python docs/scripts/write_flags.py

Write the tables of flags into docs/flags.md, one for each group of flags of `hf_multimodal.cli`, from its fields.
"""

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table

PAGE = Path(__file__).parents[1] / "flags.md"


def groups() -> dict[type, list[str]]:
    """The dataclasses of flags, and the commands that read each."""
    found: dict[type, list[str]] = {}
    for name, command in COMMANDS.items():
        for group in (*command.groups.values(), *command.training):
            found.setdefault(group, []).append(name)
    return found


def row(field: Field, commands: list[str]) -> list[str]:
    """Flag, default and help of one field; each default with its commands where they differ."""
    usual = field.default_factory() if field.default_factory is not MISSING else field.default
    found: dict[str, list[str]] = {}
    for name in commands:
        value = COMMANDS[name].defaults.get(field.name, usual)
        text = "required" if value is MISSING else "" if value is None or value is False else f"`{text_of(value)}`"
        found.setdefault(text, []).append(f"`{name}`")
    parts = [f"{text or 'none'} ({', '.join(names)})" for text, names in found.items()]
    default = next(iter(found)) if len(found) == 1 else ", ".join(parts)
    return [f"`--{field.name}`", default, field.metadata["help"].replace("<", "&lt;")]


def text_of(value: Any) -> str:
    """A value as it is typed on the command line."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def tables() -> str:
    """A heading, the commands and a table for each group."""
    parts = []
    for group, commands in groups().items():
        title = " ".join(re.findall("[A-Z][a-z]+", group.__name__)[:-1])  # RobustTrainingFlags: Robust Training
        says = " ".join((group.__doc__ or "").split())
        table = markdown_table([row(field, commands) for field in fields(group)], ["flag", "default", "what it does"])
        parts.append(f"## {title}\n\n{says}\n\n{', '.join(f'`{name}`' for name in commands)}\n\n{table}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    update_region(PAGE, "flags", tables())
