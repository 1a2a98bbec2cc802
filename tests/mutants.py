"""python tests/mutants.py [NAME ...]

Put faults into a copy of the package, one at a time, and see which test catches each. A fault is named by the text
that it replaces, wherever in the package that stands, so it follows its module when this moves; `test_mutants.py`
fails when a text is not there exactly once. `make mutants` runs all; without a catch the exit status is 1.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LONGEST = 600  # seconds of one fault's tests; those that hang have caught nothing
COPIED = ("hf_multimodal", "scripts", "tests", "benchmarks", "docs", "README.md", "pyproject.toml")


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Args:
        name: What is wrong.
        before: Text of the package.
        after: What stands in its place.
        tests: Arguments of pytest: what should catch it.
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
        "tests/training/test_stacking.py",
    ),
    Mutant(
        "multi-label class weights ignored",
        "pos_weight=weights",
        "pos_weight=None",
        "tests/models/test_classification_losses.py",
    ),
    Mutant(
        "mask multiplied, not filled",
        "self.embeds = self.embeds.masked_fill(~self.modality_mask[..., None].bool(), 0)",
        "self.embeds = self.embeds * self.modality_mask[..., None].to(self.embeds.dtype)",
        "tests/models/test_fusions.py",
    ),
    Mutant(
        "strict reload of checkpoints off",
        "if load_result.missing_keys or load_result.unexpected_keys:",
        "if False:",
        "tests/training/test_training.py",
    ),
    Mutant(
        "gather without gradients",
        "return gradient[ctx.own] * distributed.get_world_size()",
        "return torch.zeros_like(gradient[ctx.own])",
        "tests/training/test_distributed.py -k aligner",
    ),
    Mutant(
        "padding in a mean",
        "return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)",
        "return tokens.mean(dim=1)",
        "tests/models/test_fusion_model.py -k padding",
    ),
    Mutant(
        "epoch ignored in what is hidden",
        "draw = uniform(self.seed, epoch, index)",
        "draw = uniform(self.seed, 0, index)",
        "tests/data/test_presence.py",
    ),
    Mutant(
        "stack fitted on training rows",
        "                self.eval_dataset,\n                labels,",
        "                self.train_dataset,\n                labels,",
        "tests/cli/test_robust_script.py",
    ),
    Mutant(
        "paths may leave the folder",
        "return joined if joined.startswith(root.rstrip(os.sep) + os.sep) else None",
        "return joined",
        "tests/data/test_loading.py hf_multimodal/data/rows.py",
    ),
    Mutant("pickles accepted", "if name.lower().endswith(PICKLES)", "if False", "tests/hub/test_sharing.py"),
    Mutant(
        "classes numbered backwards",
        "return tuple(sorted(found, key=(lambda name: (int(name), name)) if numeric else None))",
        "return tuple(sorted(found, key=(lambda name: (int(name), name)) if numeric else None, reverse=True))",
        "tests/data/test_labels.py",
    ),
    Mutant(
        "frozen BatchNorm trains",
        "            keep_in_eval(module)\n    return sum(",
        "            pass\n    return sum(",
        "tests/training/test_freezing.py",
    ),
    Mutant(
        "ties counted as right",
        "text_ranks[rows] = 1 + (scores >= right[rows, None] - TIE).sum(dim=1)",
        "text_ranks[rows] = 1 + (scores > right[rows, None] + TIE).sum(dim=1)",
        "tests/evaluation/test_retrieval_metrics.py",
    ),
    Mutant(
        "augmentation by the global generator",
        "draw = np.random.default_rng([self.seed, epoch, index])",
        "draw = np.random.default_rng(np.random.randint(2**31))",
        "tests/data/test_augmentation.py",
    ),
    Mutant(
        "EXIF dropped",
        "        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))",
        "        turn = None",
        "tests/models/test_processor.py -k exif",
    ),
    Mutant(
        "written in place",
        '    part = path.with_name(_name("part") + path.suffix)',
        "    part = path",
        "tests/hub/test_storage.py",
    ),
    Mutant(
        "damaged checkpoints resumed",
        "            if _fingerprint(path) != expected:",
        "            if False:",
        "tests/training/test_interrupted_runs.py -k damaged",
    ),
    Mutant(
        "two runs in one folder",
        "        lock.acquire(timeout=0)",
        "        pass",
        "tests/training/test_interrupted_runs.py -k second_run",
    ),
    Mutant(
        "a loss of NaN trained on",
        "        if not torch.isfinite(loss):",
        "        if False:",
        "tests/training/test_interrupted_runs.py -k not_finite",
    ),
    Mutant(
        "formulas written as they are",
        'return f"\'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text',
        "return text",
        "tests/data/test_spreadsheets.py",
    ),
    Mutant(
        "labels of -100 count in the mean",
        "return losses.sum() / known.any(dim=-1).sum().clamp(min=1)",
        "return losses.mean()",
        "tests/models/test_classification_losses.py",
    ),
    Mutant(
        "captions of one image pushed apart",
        "            left_out = image_ids[rows, None] == image_ids[columns]\n",
        "            left_out = torch.zeros(len(image_ids[rows]), len(image_ids[columns]), dtype=torch.bool)\n",
        "tests/models/test_losses.py",
    ),
)


def places(text: str) -> list[Path]:
    """The modules of the package that hold a text, one entry for each time that it stands there."""
    modules = sorted((ROOT / "hf_multimodal").rglob("*.py"))
    return [path for path in modules for _ in range(path.read_text(encoding="utf-8").count(text))]


def catch(mutant: Mutant) -> tuple[str | None, float]:
    """Run a fault's tests over a copy that has it: the first test that fails, if any, and the seconds."""
    (module,) = places(mutant.before)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, Path(folder, name))
        faulty = Path(folder, module.relative_to(ROOT))
        faulty.write_text(module.read_text(encoding="utf-8").replace(mutant.before, mutant.after), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests.split(" ", 2)]
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": LONGEST}
        try:
            run = subprocess.run(command, cwd=folder, env=environment, **options)
        except subprocess.TimeoutExpired:
            return None, time.monotonic() - begun
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    return failed[1] if run.returncode and failed else None, time.monotonic() - begun


def main(argv: list[str] | None = None) -> int:
    """Print which test caught each fault.

    Args:
        argv: Names of faults; none means all.

    Returns:
        How many were not caught.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which faults; by default all")
    chosen = parser.parse_args(argv).names
    unknown = set(chosen) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"unknown {sorted(unknown)}, the faults are {[mutant.name for mutant in MUTANTS]}")
    mutants = [mutant for mutant in MUTANTS if not chosen or mutant.name in chosen]
    missed = 0
    with ThreadPool(2) as pool:
        for mutant, (test, seconds) in zip(mutants, pool.imap(catch, mutants), strict=True):
            missed += test is None
            print(f"{mutant.name}: {test or 'NOT CAUGHT'} ({seconds:.0f} s)", flush=True)
    print(f"{len(mutants) - missed} of {len(mutants)} caught")
    return missed


if __name__ == "__main__":
    sys.exit(min(1, main()))
