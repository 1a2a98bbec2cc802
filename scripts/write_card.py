"""python scripts/write_card.py --run runs/robust --curve runs/robust/curve --license apache-2.0 --language en

The command `hf-multimodal card` as a file; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("card"))
