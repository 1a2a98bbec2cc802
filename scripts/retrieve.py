"""python scripts/retrieve.py index --model runs/aligner --data images/ --index_dir runs/index

The command `hf-multimodal retrieve` as a file: `index`, and `search`; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["retrieve", *sys.argv[1:]]))
