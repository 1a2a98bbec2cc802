"""python scripts/write_card.py --run runs/robust --curve runs/robust/curve --license apache-2.0 --language en

Write the model card of a run again: with its curve over missing rates, or with what its training was not told. What is
given here is kept in the run's folder, for each later card.
`--output model_cards/robust.md` writes it elsewhere, with copies of its images in a folder of that name.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.hub.card import write_card
from hf_multimodal.hub.runs import CardArguments
from hf_multimodal.training.run_folder import refuse_folder


@dataclass(kw_only=True)
class WriteCardArguments(CardArguments):
    """Whose card is written where, and what it says beside the run's own."""

    run: str = field(metadata={"help": "Folder of the run."})
    output: str | None = field(default=None, metadata={"help": "The file. Default: README.md in the run's folder."})
    curve: str | None = field(default=None, metadata={"help": "Folder of evaluate.py --missing_curve."})
    repo_id: str | None = field(
        default=None,
        metadata={"help": "Repository that the card's snippet loads. Default: the run's, else the folder's name."},
    )
    title: str | None = field(default=None, metadata={"help": "Heading of the card. Default: the name."})
    limits: list[str] = field(default_factory=list, metadata={"help": "Further limits, a sentence each, in Markdown."})


def main(argv: list[str] | None = None) -> str:
    """Run the script.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        The file that was written.
    """
    (args,) = CommandLine((WriteCardArguments,), argv, __doc__).parse()
    refuse_folder(Path(args.run))
    options = asdict(args)
    return str(write_card(options.pop("run"), options.pop("output"), **options))


if __name__ == "__main__":
    print(main())
