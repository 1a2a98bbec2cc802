"""python scripts/train_text_to_image.py --data controlled:retrieval --image_tokenizer runs/tokenizer

The command `hf-multimodal train-text-to-image` as a file, for `torchrun`; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("train-text-to-image"))
