"""Reading the dataclasses of a script from flags and a YAML file."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from hf_multimodal.validation import did_you_mean


class CommandLine:
    """Flags of a script, and those of the YAML file behind `--config`, which flags override.

    Args:
        types: The dataclasses.
        argv: The flags; None means those of the process.
        description: Docstring of the script, shown by `--help`.
        defaults: Defaults that replace those of the dataclasses.
        help_texts: Help texts, by argument, that replace those of the dataclasses.

    Raises:
        FileNotFoundError: If there is no such YAML file.
        ValueError: On an unknown key in it ("did you mean").

    Example:

    >>> from hf_multimodal.cli.source_arguments import SourceArguments
    >>> CommandLine((SourceArguments,), ["--data", "table.csv", "--split_sead", "1"]).parse()
    Traceback (most recent call last):
    ...
    ValueError: unknown argument 'split_sead'. Did you mean 'split_seed'?
    """

    def __init__(
        self,
        types: tuple[type, ...],
        argv: list[str] | None,
        description: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        help_texts: Mapping[str, str] | None = None,
    ) -> None:
        self.parser = HfArgumentParser(types, description=description, allow_abbrev=False)
        self.parser.add_argument("--config", help="YAML file of these arguments; flags override it.")
        self.parser.set_defaults(**(defaults or {}))
        for name, text in (help_texts or {}).items():
            self.parser._option_string_actions[f"--{name}"].help = text
        self.names = [entry.name for kind in types for entry in fields(kind) if entry.init]
        if "resume_from_checkpoint" in self.names:  # without a value: from the last checkpoint of the run
            action = self.parser._option_string_actions["--resume_from_checkpoint"]
            action.nargs, action.const = "?", "true"
        flags = list(sys.argv[1:] if argv is None else argv)
        config_parser = ArgumentParser(add_help=False, allow_abbrev=False)
        config_parser.add_argument("--config")
        config = config_parser.parse_known_args(flags)[0].config
        self.flags = flags if config is None else [*_flags_from_yaml(config, self.names), *flags]

    def parse(self) -> tuple[Any, ...]:
        """Build the dataclasses.

        Returns:
            One instance of each type.

        Raises:
            ValueError: On an unknown flag ("did you mean"), or a value that a dataclass refuses.
        """
        *parsed, _, unknown = self.parser.parse_args_into_dataclasses(
            self.flags, return_remaining_strings=True, look_for_args_file=False
        )
        if unknown:
            name = unknown[0].lstrip("-").partition("=")[0].replace("-", "_")
            raise ValueError(f"unknown argument {name!r}.{did_you_mean(name, self.names)}")
        return tuple(parsed)

    def given(self) -> dict[str, Any]:
        """The arguments that differ from their defaults, those of the YAML file included.

        Returns:
            Values by name; written as YAML, they repeat the run by `--config`.

        Example:

        >>> from hf_multimodal.cli.source_arguments import SourceArguments
        >>> CommandLine((SourceArguments,), ["--data", "table.csv", "--split_seed", "42"]).given()
        {'data': 'table.csv'}
        """
        values = vars(self.parser.parse_known_args(self.flags)[0])
        usual = vars(self.parser.parse_known_args([])[0])  # defaults as the parser converts them
        return {name: values[name] for name in self.names if values[name] != usual[name]}


def _flags_from_yaml(path: str, names: list[str]) -> list[str]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"config: there is no file {path!r}.")
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    if not isinstance(content, dict):
        raise ValueError(f"config: {path!r} must hold `name: value` lines, got a {type(content).__name__}.")
    for name in content:
        if name not in names:
            raise ValueError(f"unknown key {name!r} in {path!r}.{did_you_mean(str(name), names)}")
    return flags_of(content)


def flags_of(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments as flags; those that are None are left out.

    Example:

    >>> flags_of({"data": "table.csv", "augment": True, "modality_dropout": [1, 0, 0], "seed": None})
    ['--data', 'table.csv', '--augment', 'True', '--modality_dropout', '1', '0', '0']
    """
    flags: list[str] = []
    for name, value in arguments.items():
        if value is not None:
            values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
            flags += [f"--{name}", *map(str, values)]
    return flags
