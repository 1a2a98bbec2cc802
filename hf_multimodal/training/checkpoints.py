"""What an output folder holds of an earlier run: a finished one, or the checkpoints from which to resume."""

import json
import logging
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

logger = logging.getLogger(__name__)

RESULTS = ("config.json", "model.safetensors", "metrics.json", "README.md")  # what a run writes at its end
STATE_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt")


def refuse_finished_run(output_dir: str, resume_from: str | None) -> None:
    """Refuse to replace the results of an earlier run, unless this one resumes that run.

    Args:
        output_dir: Folder of the run that begins. Checkpoints alone are those of an unfinished run, and no results.
        resume_from: Value of `--resume_from_checkpoint`.

    Raises:
        FileExistsError: If results stand in the folder, and nothing is resumed or a checkpoint of another folder.
    """
    found = [name for name in RESULTS if Path(output_dir, name).exists()]
    resumes = _asks_for_last(resume_from) or (
        _is_given(resume_from) and Path(str(resume_from)).resolve().parent == Path(output_dir).resolve()
    )
    if found and not resumes:
        raise FileExistsError(
            f"output_dir {output_dir!r} holds {', '.join(found)} of an earlier run, which this one would replace: "
            "name another output_dir, or add --overwrite_output_dir. --resume_from_checkpoint goes on from that run's "
            "last checkpoint."
        )


def _is_given(resume_from: str | None) -> bool:
    return resume_from is not None and str(resume_from).lower() != "false"


def _asks_for_last(resume_from: str | None) -> bool:
    return str(resume_from).lower() == "true"


def find_fault(checkpoint: Path) -> str | None:
    """Say what a checkpoint folder lacks for a resume that continues the same loss curve.

    `Trainer` itself resumes silently without optimizer, scheduler or generator state.

    Args:
        checkpoint: A folder written by `Trainer`.

    Returns:
        A sentence, or None if nothing is wrong.
    """
    for name in STATE_FILES:
        if not (checkpoint / name).is_file() or not (checkpoint / name).stat().st_size:
            return f"{name} is missing or empty"
    if not list(checkpoint.glob("rng_state*.pth")):
        return "rng_state.pth is missing"
    weights = [*checkpoint.glob("model*.safetensors"), *checkpoint.glob("adapter_model.safetensors")]
    if not weights:
        return "model.safetensors is missing"
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        for file in weights:
            with safe_open(file, framework="pt"):  # reads the header and compares the file's size with it
                pass
    except (ValueError, SafetensorError) as error:
        return f"damaged: {error}"
    return None


def find_checkpoint(resume_from: str | None, output_dir: str) -> str | None:
    """Turn the value of `--resume_from_checkpoint` into the folder to resume from.

    Args:
        resume_from: None, a folder, or `"true"` for the last whole checkpoint in `output_dir`.
        output_dir: Folder of the run.

    Returns:
        The checkpoint, or None if nothing is to be resumed.

    Raises:
        FileNotFoundError: If the folder named is not there, or `"true"` finds no whole checkpoint.
        ValueError: If the folder named is not a whole checkpoint.
    """
    if resume_from is None or not _is_given(resume_from):
        return None
    if not _asks_for_last(resume_from):
        if not Path(resume_from).is_dir():
            raise FileNotFoundError(f"resume_from_checkpoint: there is no folder {resume_from!r}.")
        fault = find_fault(Path(resume_from))
        if fault:
            raise ValueError(f"resume_from_checkpoint: {resume_from!r} cannot be resumed, {fault}.")
        return resume_from
    steps = {int(path.name.removeprefix("checkpoint-")): path for path in _checkpoints(output_dir)}
    for _, path in sorted(steps.items(), reverse=True):
        fault = find_fault(path)
        if fault is None:
            return str(path)
        logger.warning("Checkpoint %s is passed over, %s.", path, fault)
    raise FileNotFoundError(f"resume_from_checkpoint: no whole checkpoint in {output_dir!r}.")


def remove_checkpoints(output_dir: str) -> None:
    """Remove the checkpoints of an earlier run, with a warning: a later resume must not mistake them for this run's.

    Args:
        output_dir: Folder of the run that begins.
    """
    for path in _checkpoints(output_dir):
        logger.warning(
            "Checkpoint %s of an earlier run is removed, since this one does not resume it: "
            "--resume_from_checkpoint would have.",
            path,
        )
        shutil.rmtree(path)


def step_of(checkpoint: str) -> int:
    """The step after which a checkpoint was written."""
    return int(json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))["global_step"])


def _checkpoints(output_dir: str) -> list[Path]:
    paths = Path(output_dir).glob("checkpoint-*")
    return [path for path in paths if path.is_dir() and path.name.removeprefix("checkpoint-").isdecimal()]
