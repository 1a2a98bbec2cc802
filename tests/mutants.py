"""python tests/mutants.py [--only NAME ...] [--list]

Twenty faults, put one by one into a copy of the package, and the tests that have to catch each. A fault is named by the
text that it replaces, wherever in the package that stands, so it follows its module when this moves; text that is not
there exactly once is an error. `make mutants` runs all.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("hf_multimodal", "scripts", "tests", "benchmarks", "docs", "model_cards", "README.md", "pyproject.toml")


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Args:
        name: What is wrong.
        before: Text of the package.
        after: What stands in its place.
        tests: Arguments of pytest: the files that hold what should catch it.
    """

    name: str
    before: str
    after: str
    tests: str


MUTANTS = (
    Mutant(
        "temperature applied twice",
        "scale = self.weights / self.temperatures[:, None]",
        "scale = self.weights / self.temperatures[:, None] ** 2",
        "tests/test_stacking.py",
    ),
    Mutant("multi-label class weights ignored", "pos_weight=weights", "pos_weight=None", "tests/test_fusion_model.py"),
    Mutant(
        "mask multiplied, not filled",
        "self.embeds = self.embeds.masked_fill(~self.modality_mask[..., None].bool(), 0)",
        "self.embeds = self.embeds * self.modality_mask[..., None].to(self.embeds.dtype)",
        "tests/test_features.py tests/test_fusions.py",
    ),
    Mutant(
        "strict reload of checkpoints off",
        "if load_result.missing_keys or load_result.unexpected_keys:",
        "if False:",
        "tests/test_training.py",
    ),
    Mutant(
        "gather without gradients",
        "return gradient[ctx.own] * distributed.get_world_size()",
        "return torch.zeros_like(gradient[ctx.own])",
        "tests/test_distributed.py",
    ),
    Mutant(
        "epoch ignored in what is hidden",
        "draw = uniform(self.seed, epoch, index)",
        "draw = uniform(self.seed, 0, index)",
        "tests/test_presence.py",
    ),
    Mutant(
        "stack fitted on training rows",
        '            data.splits["validation"],\n            data.splits["train"]["label"][:],',
        '            data.splits["train"],\n            data.splits["train"]["label"][:],',
        "tests/test_robust_script.py",
    ),
    Mutant(
        "paths may leave the folder",
        "return joined if joined.startswith(root.rstrip(os.sep) + os.sep) else None",
        "return joined",
        "tests/test_loading.py",
    ),
    Mutant(
        "pickles accepted",
        "        if name.lower().endswith(PICKLES) and",
        "        if False and",
        "tests/test_sharing.py",
    ),
    Mutant(
        "frozen BatchNorm trains",
        "            keep_in_eval(module)\n",
        "            pass\n",
        "tests/test_freezing.py",
    ),
    Mutant(
        "ties counted as right",
        "text_ranks[rows] = 1 + (scores >= right[rows, None] - TIE).sum(dim=1)",
        "text_ranks[rows] = 1 + (scores > right[rows, None] + TIE).sum(dim=1)",
        "tests/test_retrieval_metrics.py",
    ),
    Mutant(
        "augmentation by the global generator",
        "draw = np.random.default_rng([self.seed, epoch, index])",
        "draw = np.random.default_rng(np.random.randint(2**31))",
        "tests/test_augmentation.py",
    ),
)
