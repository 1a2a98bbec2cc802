"""python scripts/train_aligner.py --data controlled:retrieval --from_scratch --output_dir runs/aligner

The command `hf-multimodal train-aligner` as a file, for `torchrun`; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("train-aligner"))
