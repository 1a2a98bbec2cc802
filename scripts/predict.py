"""python scripts/predict.py --model runs/unique --data table.csv --output predictions.csv

The command `hf-multimodal predict` as a file; `hf_multimodal/cli/` holds what it does.
"""

import sys

from hf_multimodal.cli.main import run

if __name__ == "__main__":
    sys.exit(run("predict"))
