"""python scripts/train_robust_fusion.py --data controlled:unique --from_scratch --missing both:0.7

The command `hf-multimodal train-robust-fusion` as a file, for `torchrun`; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("train-robust-fusion"))
