"""python scripts/train_fusion.py --data controlled:unique --from_scratch --output_dir runs/unique

Train a fused image+text classifier, or one of a single modality, and leave a folder that
`AutoModel.from_pretrained` loads, with metrics, predictions and plots. All arguments can stand in a YAML file
(`--config run.yaml --seed 1`); `torchrun --nproc_per_node 2` in place of `python` trains on two processes.
"""

import sys
from typing import Any

from hf_multimodal.cli.dry_run import exit_status
from hf_multimodal.cli.train_fusion import train


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        What `metrics.json` holds, or the report of a dry run.
    """
    return train(argv, __doc__)


if __name__ == "__main__":
    sys.exit(exit_status(main))
