"""hf-multimodal card --run runs/robust --curve runs/robust/curve --license apache-2.0 --language en

Write the model card of a run again.
"""

from dataclasses import asdict
from pathlib import Path

from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.hub.card import write_card
from hf_multimodal.training.run_folder import refuse_folder


def main(argv: list[str] | None = None) -> str:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        The file that was written.
    """
    args = CommandLine(COMMANDS["card"], argv).parse().card
    refuse_folder(Path(args.run))
    options = asdict(args)
    path = str(write_card(options.pop("run"), options.pop("output"), **options))
    print(path)
    return path
