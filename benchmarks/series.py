"""Long series of training runs: each run's row is written at once, and a second call continues where one stopped."""

import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any

from hf_multimodal.training.arguments import FROM_SCRATCH_DEFAULTS, TRAINING_DEFAULTS
from hf_multimodal.training.from_scratch import small_text_config, small_vision_config
from hf_multimodal.training.running import train

README = Path(__file__).parents[1] / "README.md"


def recipe_digest() -> str:
    """Eight letters that change with the defaults that a row's flags do not show."""
    models = [small_vision_config().to_dict(), small_text_config().to_dict()]
    usual = {name: value for name, value in TRAINING_DEFAULTS.items() if not name.startswith("dataloader")}
    content = json.dumps([usual, FROM_SCRATCH_DEFAULTS, models], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def controlled_job(task: str, fusion: str = "concat") -> list[str]:
    """Flags of a run on a controlled task: 16,000 training examples, 8,000 fresh test draws, default settings."""
    return ["--data", f"controlled:{task}", "--from_scratch", "--fusion", fusion]


def run_series(folder: str, jobs: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Train every job that has no row yet.

    Args:
        folder: Holds `rows.jsonl` and a run's folder for each job, without its checkpoints.
        jobs: Flags of `scripts/train_fusion.py` by name. A row with other flags or other defaults is trained again.

    Returns:
        By name: the flags, the metrics and the seconds of the whole run.
    """
    path = Path(folder) / "rows.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    if path.exists():
        rows = {row["name"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    recipe = recipe_digest()
    for number, (name, flags) in enumerate(jobs.items(), 1):
        if name in rows and (rows[name]["flags"], rows[name].get("recipe")) == (flags, recipe):
            continue
        output = path.parent / name
        start = time.perf_counter()
        metrics = train([*flags, "--output_dir", str(output)])
        seconds = round(time.perf_counter() - start, 1)
        for checkpoint in output.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        rows[name] = {"name": name, "flags": flags, "recipe": recipe, "seconds": seconds, "metrics": metrics}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rows[name]) + "\n")
        test = {key: value for key, value in metrics["test"].items() if isinstance(value, float)}
        print(
            f"[{number}/{len(jobs)}] {name} {seconds}s " + " ".join(f"{k}={v:.4f}" for k, v in test.items()),
            flush=True,
        )
    return {name: rows[name] for name in jobs}
