"""python scripts/train_aligner.py --data controlled:retrieval --from_scratch --output_dir runs/aligner

Align images and captions in one space, for retrieval and zero-shot classification, and leave a folder that
`AutoModel.from_pretrained` loads. A table has a column of images and one of captions; rows of one image share its
path or, with `--image_id_column`, a name. `--cache_chunk_size 32` trains large batches on small memory.
"""

import sys
from typing import Any

from hf_multimodal.cli.dry_run import exit_status
from hf_multimodal.cli.train_aligner import train_aligner


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the script.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        What `metrics.json` holds, or the report of a dry run.
    """
    return train_aligner(argv, __doc__)


if __name__ == "__main__":
    sys.exit(exit_status(main))
