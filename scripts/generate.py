"""python scripts/generate.py --model runs/text_to_image --text "a red circle" --output sheet.png

The command `hf-multimodal generate` as a file; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("generate"))
