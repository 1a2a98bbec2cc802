"""What an output folder holds of an earlier run, and checkpoints that show whether they are whole."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import logging

from hf_multimodal.hub.storage import sync, write_text

logger = logging.get_logger(__name__)

MANIFEST = "manifest.json"
RESULTS = ("config.json", "model.safetensors", "metrics.json", "README.md")  # what a run writes at its end
STATE_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
EARLIER = "earlier-"  # before the names of an earlier run's checkpoints, until this run has one of its own
_STEP = re.compile(r"checkpoint-(\d+)")


def write_manifest(checkpoint: Path) -> None:
    """Write sizes and hashes of a checkpoint's files beside them, last of all.

    A checkpoint whose writing was cut short has no manifest, and one that was changed since does not match it. All
    files are on the disk before the manifest is.

    Args:
        checkpoint: A folder written by `Trainer`, whole, with the files of all processes.
    """
    files = {
        path.name: _fingerprint(path)
        for path in sorted(checkpoint.iterdir())
        if path.is_file() and path.name != MANIFEST
    }
    for name in files:
        sync(checkpoint / name)
    write_text(checkpoint / MANIFEST, json.dumps({"files": files}, indent=1))


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


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
    """Say why a checkpoint folder cannot be resumed on the same loss curve.

    Sizes and hashes of all files are compared with the checkpoint's manifest. Without a manifest (another program
    wrote the folder, or an older version of this package, or the writing was cut short) every file is read.
    `Trainer` itself resumes silently without optimizer, scheduler or generator state.

    Args:
        checkpoint: A folder written by `Trainer`.

    Returns:
        A sentence, or None if nothing is wrong.
    """
    for name in STATE_FILES:
        if not (checkpoint / name).is_file() or not (checkpoint / name).stat().st_size:
            return f"{name} is missing or empty"
    if not processes_of(checkpoint):
        return "rng_state.pth is missing"
    weights = [*checkpoint.glob("model*.safetensors"), *checkpoint.glob("adapter_model.safetensors")]
    if not weights:
        return "model.safetensors is missing"
    if (checkpoint / MANIFEST).is_file():
        return _compare_with_manifest(checkpoint)
    logger.warning("Checkpoint %s has no %s: it is judged by whether its files can be read.", checkpoint, MANIFEST)
    return _find_unreadable(checkpoint, weights)


def _compare_with_manifest(checkpoint: Path) -> str | None:
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["size"]:
                return f"{name} has {path.stat().st_size} bytes, where {expected['size']} were written"
            if _fingerprint(path) != expected:
                return f"{name} is damaged: its content is not what was written"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return None


def _find_unreadable(checkpoint: Path, weights: list[Path]) -> str | None:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
            return "trainer_state.json is damaged: it does not say how many steps were done"
    except (ValueError, RecursionError) as error:
        return f"trainer_state.json is damaged: {error}"
    for path in weights:
        try:
            with safe_open(path, framework="pt"):  # reads the header and compares the file's size with it
                pass
        except SafetensorError as error:
            return f"{path.name} is damaged: {error}"
    for path in (checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *checkpoint.glob("rng_state*.pth")):
        try:
            with safe_globals():
                torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # torch passes on whatever its readers meet, and advises to unpickle it all the same
            return f"{path.name} is damaged: it cannot be read"
    return None


def processes_of(checkpoint: Path) -> int:
    """How many processes wrote a checkpoint, by the generator states in it; 0 if it has none."""
    if (checkpoint / "rng_state.pth").is_file():
        return 1
    return len(list(checkpoint.glob("rng_state_*.pth")))


def find_checkpoint(
    resume_from: str | None, output_dir: str, processes: int = 1, accept_other_processes: bool = False
) -> str | None:
    """Turn the value of `--resume_from_checkpoint` into the folder to resume from.

    Args:
        resume_from: None, a folder, or `"true"` for the last whole checkpoint in `output_dir`.
        output_dir: Folder of the run.
        processes: How many there are now. Each has its own random numbers, so a run goes on as it would have only on
            as many as before.
        accept_other_processes: Resume all the same, with other random numbers.

    Returns:
        The checkpoint, or None if nothing is to be resumed.

    Raises:
        FileNotFoundError: If the folder named is not there, or `"true"` finds no whole checkpoint.
        ValueError: If the folder named is not a whole checkpoint, or was written by another number of processes.
    """
    if resume_from is None or not _is_given(resume_from):
        return None
    if not _asks_for_last(resume_from):
        if not Path(resume_from).is_dir():
            raise FileNotFoundError(f"resume_from_checkpoint: there is no folder {resume_from!r}.")
        fault = find_fault(Path(resume_from))
        if fault:
            raise ValueError(f"resume_from_checkpoint: {resume_from!r} cannot be resumed, {fault}.")
        found = Path(resume_from)
    else:
        found = _last_whole(output_dir)
    written_by = processes_of(found)
    if written_by != processes:
        message = f"{found} was written by {written_by} process(es), and this run has {processes}"
        if not accept_other_processes:
            raise ValueError(
                f"resume_from_checkpoint: {message}: start as many, or add --accept_other_processes, which goes on "
                "with other random numbers than the whole run would have had."
            )
        logger.warning("%s: it goes on with other random numbers than the whole run would have had.", message)
    return str(found)


def checkpoint_of(args: TrainingArguments, accept_other_processes: bool) -> str | None:
    """The checkpoint that a run is to be resumed from, or None.

    Args:
        args: Say what to resume, and how many processes there are.
        accept_other_processes: Whether the checkpoint may be of another number of them.
    """
    return find_checkpoint(args.resume_from_checkpoint, str(args.output_dir), args.world_size, accept_other_processes)


def _last_whole(output_dir: str) -> Path:
    passed_over = []
    for path in reversed(checkpoints(output_dir)):
        fault = find_fault(path)
        if fault is None:
            return path
        logger.warning("Checkpoint %s is passed over, %s.", path, fault)
        passed_over.append(f"{path.name}: {fault}")
    earlier = sorted(path.name for path in Path(output_dir).glob(f"{EARLIER}checkpoint-*"))
    hint = f" Those of the run before lie in {earlier}: rename one to resume that run." if earlier else ""
    raise FileNotFoundError(
        f"resume_from_checkpoint: no whole checkpoint in {output_dir!r}"
        + (f" ({'; '.join(passed_over)})." if passed_over else ".")
        + hint
    )


def last_checkpoint(output_dir: str) -> Path | None:
    """The last checkpoint of a run whose manifest shows that it was written to its end, or None.

    Args:
        output_dir: Folder of the run.
    """
    return next((path for path in reversed(checkpoints(output_dir)) if (path / MANIFEST).is_file()), None)


def set_checkpoints_aside(output_dir: str) -> None:
    """Rename the checkpoints of an earlier run, so that a later resume does not mistake them for this run's.

    They are removed by `remove_earlier_checkpoints`, as soon as this run has left something whole itself.

    Args:
        output_dir: Folder of the run that begins.
    """
    for path in checkpoints(output_dir):
        aside = path.with_name(EARLIER + path.name)
        logger.warning(
            "Checkpoint %s is of an earlier run, which this one does not resume: it is renamed to %s, and removed "
            "when this run has saved a whole one.",
            path,
            aside.name,
        )
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)


def remove_earlier_checkpoints(output_dir: str) -> None:
    """Remove what `set_checkpoints_aside` has renamed.

    Args:
        output_dir: Folder of the run that has a whole checkpoint, or its final model, now.
    """
    for path in Path(output_dir).glob(f"{EARLIER}checkpoint-*"):
        shutil.rmtree(path)


def step_of(checkpoint: str) -> int:
    """The step after which a checkpoint was written."""
    return int(json.loads(Path(checkpoint, "trainer_state.json").read_text(encoding="utf-8"))["global_step"])


def checkpoints(output_dir: str) -> list[Path]:
    """Checkpoint folders of a run by their step, damaged ones among them."""
    paths = Path(output_dir).glob("checkpoint-*")
    steps = {int(found[1]): path for path in paths if path.is_dir() and (found := _STEP.fullmatch(path.name))}
    return [path for _, path in sorted(steps.items())]
