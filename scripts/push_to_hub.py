"""python scripts/push_to_hub.py --model runs/unique --repo_id me/unique

Push a run's folder to the Hub: model, code, processor, and the card with its images; nothing else of it. Whoever
pulls it needs `trust_remote_code=True`, or this package.
"""

from typing import Any

from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.push import PushArguments, push


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        `repo_id`, `revision` (the commit's hash) and `files`.
    """
    return push(*CommandLine((PushArguments,), argv, __doc__).parse())


if __name__ == "__main__":
    main()
