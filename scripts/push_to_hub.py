"""python scripts/push_to_hub.py --model runs/unique --repo_id me/unique

The command `hf-multimodal push` as a file; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("push"))
