"""python scripts/train_robust_fusion.py --data controlled:unique --from_scratch --missing both:0.7

Train an image+text classifier that stays right when an example lacks its image or its text. The flags of
`train_fusion.py` hold here too; `--missing` and `--eval_missing` take images and texts away, `--baselines` trains the
baselines on the same rows.
"""

import sys
from typing import Any

from hf_multimodal.cli.dry_run import exit_status
from hf_multimodal.cli.train_robust_fusion import train_robust


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        What `metrics.json` holds, or the report of a dry run.
    """
    return train_robust(argv, __doc__)


if __name__ == "__main__":
    sys.exit(exit_status(main))
