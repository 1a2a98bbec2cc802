"""python scripts/retrieve.py index --model runs/aligner --data images/ --index_dir runs/index

Index the images and texts of a folder, a table or a Hub data set, then search them:
`python scripts/retrieve.py search --model runs/aligner --index_dir runs/index --text "a wet dog" --sheet found.png`,
or `--image query.jpg` for images like it, with `--find texts` for texts that describe it.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from hf_multimodal.cli.chosen_rows import parse_arguments
from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.retrieve import IndexArguments, SearchArguments, index_data, search_index
from hf_multimodal.cli.source_arguments import SourceArguments


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script.

    Args:
        argv: `index` or `search`, then flags; None means those of the process.

    Returns:
        Counts of what was indexed, or the hits.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["index", "search"], help="its own flags: `index --help`, `search --help`")
    if parser.parse_args(flags[:1]).command == "search":
        return search_index(*CommandLine((SearchArguments,), flags[1:], __doc__).parse())
    types = (IndexArguments, SourceArguments)
    return index_data(*parse_arguments(types, flags[1:], __doc__, {"on_bad_sample": "missing"}))


if __name__ == "__main__":
    main()
