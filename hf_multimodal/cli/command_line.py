"""From flags, and the YAML file behind `--config`, to the groups of a command; and its help."""

import json
import os
import sys
import textwrap
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from hf_multimodal.cli.commands import Command
from hf_multimodal.validation import did_you_mean

WIDTH = 100
LEFT = 32  # columns of the flags
OTHERS = {
    "--config FILE": "YAML file of these flags; flags override it.",
    "--help-all": "Also what transformers' TrainingArguments has beside these.",
    "--traceback": "Show where an error was raised.",
}
# Of one call alone; a token is written nowhere.
NOT_REPEATED = ("resume_from_checkpoint", "overwrite_output_dir", "dry_run", "hub_token")


def default_of(entry: Field) -> Any:
    """What a field is where nothing is given; `MISSING` where it must be."""
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default


def print_help(name: str, command: Command) -> None:
    """Print what a command does and its flags, by groups.

    Args:
        name: Of the command.
        command: The command.
    """
    paragraphs = command.description.split("\n\n")
    print(f"usage: hf-multimodal {name} [flags]\n")
    print("\n\n".join(part if part.startswith(" ") else textwrap.fill(part, WIDTH) for part in paragraphs) + "\n")
    groups = [*command.groups.values(), *command.training]
    for kind in groups:
        print(kind.__doc__)
        for entry in fields(kind):
            usual = command.defaults.get(entry.name, default_of(entry))
            print(_help_line(entry, usual))
    print("All commands")
    shown = OTHERS if command.training else {flag: text for flag, text in OTHERS.items() if flag != "--help-all"}
    for flag, text in shown.items():
        print(f"  {flag:<{LEFT - 2}}{text}")


def _help_line(entry: Field, usual: Any) -> str:
    kind = str(entry.type)
    value = "" if usual is False or usual is True else " N" if "int" in kind else " X" if "float" in kind else " NAME"
    flag = f"  --{'no_' if usual is True else ''}{entry.name}{value}{' ...' if 'list' in kind else ''}"
    text = entry.metadata["help"].replace("%%", "%")
    if usual is MISSING:
        text += " (needed)"
    elif usual not in (None, False, True, []) and "efault" not in text:
        text += f" ({usual})"
    first = f"{flag:<{LEFT}}" if len(flag) < LEFT else f"{flag} "
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=" " * LEFT)


class CommandLine:
    """The flags of one call of a command.

    Args:
        command: The command.
        argv: The flags; None means those of the process.

    Raises:
        FileNotFoundError: If there is no file of that name behind `--config`.
        ValueError: On an unknown key in it ("did you mean").
    """

    def __init__(self, command: Command, argv: list[str] | None = None) -> None:
        from transformers import HfArgumentParser  # here, since it takes seconds, and `--help` does without

        self.command = command
        self.types = list(command.groups.values())
        self.training_type: Any = None
        if command.training:
            from hf_multimodal.training.arguments import MultimodalTrainingArguments

            self.training_type = MultimodalTrainingArguments
        # Ours come last: `label_names` are the names of the classes, and not, as in transformers, of the labels.
        types = [*([self.training_type] if command.training else []), *self.types]
        options = {
            "conflict_handler": "resolve",
            "allow_abbrev": False,
            "formatter_class": RawDescriptionHelpFormatter,
        }
        self.parser = HfArgumentParser(types, description=command.description.replace("%", "%%"), **options)
        self.parser.error = _refuse  # type: ignore[method-assign]  # it would print the names of all flags
        if command.positional is not None:
            self.parser.add_argument(command.positional, nargs="?", default=SUPPRESS)
        self.parser.add_argument("--config", help=OTHERS["--config FILE"])
        self.parser.add_argument("--traceback", action="store_true", help=OTHERS["--traceback"])
        usual = {} if self.training_type is None else computed_defaults()
        for kind in command.training:
            for entry in fields(kind):
                self.parser._option_string_actions[f"--{entry.name}"].help = entry.metadata["help"]
                usual = {entry.name: default_of(entry)} | usual
        self.parser.set_defaults(**usual | dict(command.defaults))
        self.names = list(dict.fromkeys(entry.name for kind in types for entry in fields(kind) if entry.init))
        if command.training:  # without a value: from the last checkpoint of the run
            action = self.parser._option_string_actions["--resume_from_checkpoint"]
            action.nargs, action.const = "?", "true"
        given = list(sys.argv[1:] if argv is None else argv)
        config_parser = ArgumentParser(add_help=False, allow_abbrev=False)
        config_parser.add_argument("--config")
        config = config_parser.parse_known_args(given)[0].config
        self.flags = given if config is None else [*_flags_from_yaml(config, self.names), *given]

    def values(self, defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All values by name, before any is checked.

        Args:
            defaults: What replaces the command's defaults.

        Raises:
            ValueError: On an unknown flag ("did you mean").
        """
        self.parser.set_defaults(**(defaults or {}))
        found, unknown = self.parser.parse_known_args(self.flags)
        if unknown:
            name = unknown[0].lstrip("-").partition("=")[0].replace("-", "_")
            raise ValueError(f"unknown argument {name!r}.{did_you_mean(name, self.names)}")
        return vars(found)

    def parse(self, defaults: Mapping[str, Any] | None = None) -> Any:
        """Build the groups.

        Args:
            defaults: What replaces the command's defaults.

        Returns:
            The groups under their names in the command; of a training command also `training`, the
            `MultimodalTrainingArguments`, and `given`, the values that differ from their defaults, which repeat the
            run by `--config`.

        Raises:
            ValueError: On an unknown flag ("did you mean"), or a value that a group refuses.
        """
        values = self.values(defaults)
        found = SimpleNamespace(
            **{
                name: kind(**{entry.name: values[entry.name] for entry in fields(kind)})
                for name, kind in self.command.groups.items()
            }
        )
        if self.training_type is not None:
            named = (entry.name for entry in fields(self.training_type) if entry.init and entry.name != "label_names")
            found.training = self.training_type(**{name: values[name] for name in named}, label_names=["labels"])
            found.given = {name: value for name, value in self.given().items() if name not in NOT_REPEATED}
        return found

    def given(self) -> dict[str, Any]:
        """The values that differ from their defaults, those of the YAML file included."""
        values = vars(self.parser.parse_known_args(self.flags)[0])
        usual = vars(self.parser.parse_known_args(self._needed())[0])  # defaults as the parser converts them
        needed = [action.dest for action in self.parser._actions if action.required]
        return {name: values[name] for name in self.names if name in needed or values[name] != usual[name]}

    def _needed(self) -> list[str]:
        return [part for action in self.parser._actions if action.required for part in (action.option_strings[0], "x")]


def _refuse(message: str) -> NoReturn:
    raise ValueError(f"{message}.")


def computed_defaults() -> dict[str, Any]:
    """Defaults of a training command that depend on the machine."""
    import torch

    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return {"dataloader_num_workers": min(4, cores), "use_cpu": not torch.accelerator.is_available()}


def _flags_from_yaml(path: str, names: Iterable[str]) -> list[str]:
    import yaml

    names = list(names)
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
