"""python docs/scripts/write_flags.py

Write the tables of flags into docs/flags.md, one for each dataclass of `hf_multimodal.cli`, from its fields.
"""

import pkgutil
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import hf_multimodal.cli
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table

PAGE = Path(__file__).parents[1] / "flags.md"


def argument_classes() -> list[type]:
    """The dataclasses of arguments, and those of this package that they are built on, each once."""
    found: dict[type, None] = {}
    for module in pkgutil.iter_modules(hf_multimodal.cli.__path__):
        for kind in vars(import_module(f"hf_multimodal.cli.{module.name}")).values():
            if isinstance(kind, type) and is_dataclass(kind) and kind.__name__.endswith("Arguments"):
                ours = [base for base in kind.__mro__ if base.__module__.startswith("hf_multimodal.")]
                found |= dict.fromkeys(ours)
    return list(found)


def row(field: Field) -> list[str]:
    """Flag, default and help of one field."""
    usual = field.default_factory() if field.default_factory is not MISSING else field.default
    default = "required" if usual is MISSING else "" if usual is None or usual is False else f"`{text_of(usual)}`"
    return [f"`--{field.name}`", default, field.metadata.get("help", "").replace("%%", "%")]


def text_of(value: Any) -> str:
    """A value as it is typed on the command line."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def tables() -> str:
    """Heading, first paragraph of the docstring and table of each dataclass; a field stands where it is declared."""
    parts = []
    for kind in argument_classes():
        rows = [row(field) for field in fields(kind) if field.init and field.name in kind.__dict__["__annotations__"]]
        if rows:
            summary = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
            table = markdown_table(rows, ["flag", "default", "what it does"])
            parts.append(f"## {kind.__name__}\n\n{summary}\n\n{table}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    update_region(PAGE, "flags", tables())
