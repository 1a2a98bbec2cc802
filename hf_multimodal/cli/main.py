"""The console command `hf-multimodal`: which command runs, its help, and what a mistake ends with."""

import importlib
import os
import sys
from typing import Any

from hf_multimodal.cli.command_line import CommandLine, print_help
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.validation import did_you_mean

MISTAKES = (ValueError, OSError, ImportError, FloatingPointError)  # what a user can mend; all else is ours


def main(argv: list[str] | None = None) -> int:
    """Run `hf-multimodal`.

    Args:
        argv: The command and its flags; None means those of the process.

    Returns:
        The exit status: 2 after a mistake of the user, or a dry run of what would not start; else 0.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = " ".join(words[:2]) if words[:1] == ["retrieve"] else "".join(words[:1])
    if name in COMMANDS:
        return run(name, words[len(name.split()) :])
    if words[:1] in ([], ["--help"], ["-h"]):
        print_commands()
        return 0
    hint = did_you_mean(name, COMMANDS)
    print(f"error: there is no command {name!r}.{hint} `hf-multimodal --help` lists them.", file=sys.stderr)
    return 2


def print_commands() -> None:
    """Print the commands, a line each."""
    print("usage: hf-multimodal COMMAND [flags]\n\nImage+text models that are ordinary Hugging Face models.\n")
    for name, command in COMMANDS.items():
        print(f"  {name:<22}{command.description.splitlines()[0]}")
    print("\n`hf-multimodal COMMAND --help` shows the flags of one.")


def run(name: str, flags: list[str] | None = None) -> int:
    """Run one command.

    Args:
        name: Of the command.
        flags: Its flags; None means those of the process.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if flags is None else flags)
    if "--help" in given or "-h" in given:
        print_help(name, COMMANDS[name])
        return 0
    if "--help-all" in given:
        CommandLine(COMMANDS[name], []).parser.print_help()
        return 0
    try:
        import transformers

        from hf_multimodal.cli.progress import plain_messages

        transformers.utils.logging.disable_progress_bar()  # of files; those of training and prediction stay
        module = importlib.import_module(f"hf_multimodal.cli.{COMMANDS[name].module}")
        with plain_messages():
            report: Any = getattr(module, COMMANDS[name].function)(given)
    except BrokenPipeError:  # whoever read the output, as `head`, has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  Python writes what is left as it exits
        return 141  # as of a command that SIGPIPE ended
    except MISTAKES as error:
        if "--traceback" in given:
            raise
        lead = "\nThe run would not start:\n" if "--dry_run" in given else "error: "
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        hint = "" if isinstance(error, OSError) else "\n(--traceback shows where it was raised.)"
        stream = sys.stdout if "--dry_run" in given else sys.stderr  # to say so is what a dry run is for
        print(f"{lead}{error}{notes}{hint}", file=stream, flush=True)
        return 2
    return 2 if isinstance(report, dict) and report.get("refusals") else 0


if __name__ == "__main__":
    sys.exit(main())
