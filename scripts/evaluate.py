"""python scripts/evaluate.py --model runs/unique --data controlled:unique

The command `hf-multimodal evaluate` as a file; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("evaluate"))
