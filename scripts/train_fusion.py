"""python scripts/train_fusion.py --data controlled:unique --from_scratch --output_dir runs/unique

The command `hf-multimodal train-fusion` as a file, for `torchrun`; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("train-fusion"))
