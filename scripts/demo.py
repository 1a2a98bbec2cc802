"""python scripts/demo.py --output_dir runs/demo

The command `hf-multimodal demo` as a file; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("demo"))
