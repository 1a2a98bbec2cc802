"""python scripts/train_image_tokenizer.py --data controlled:retrieval --output_dir runs/tokenizer

The command `hf-multimodal train-image-tokenizer` as a file, for `torchrun`; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("train-image-tokenizer"))
