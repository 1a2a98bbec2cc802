"""python scripts/train_vision_language.py --data controlled:questions --from_aligner runs/aligner

The command `hf-multimodal train-vision-language` as a file, for `torchrun`; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("train-vision-language"))
