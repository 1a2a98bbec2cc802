"""The folder of a run: one run at a time writes into it, and what the disk refuses is said in one line."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from transformers import TrainingArguments

from hf_multimodal.hub.storage import explain_refusal, make_folder

LOCK = ".run.lock"
OWNER = ".run.owner.json"
FLAG = "--output_dir"


@contextlib.contextmanager
def claim_folder(folder: Path) -> Iterator[Path]:
    """Make the folder and keep every other run out of it.

    The operating system holds the lock, so that of a process that was killed is free at once. `OWNER` is only for the
    message.

    Args:
        folder: `--output_dir`.

    Raises:
        FileExistsError: If it is a file.
        BlockingIOError: If another run writes into it; the message names its host and process.
        OSError: If the disk refuses the folder, or later a file in it; the message names it and what to do.

    Example:

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp(), "run")
    >>> with claim_folder(place), claim_folder(place):  # doctest: +ELLIPSIS
    ...     pass
    Traceback (most recent call last):
    ...
    BlockingIOError: output_dir '...run' is in use by process ... on ..., since ...: wait for it, ...
    """
    refuse_folder(folder)
    made = not folder.exists()
    make_folder(folder, FLAG)
    with explain_refusal(folder, FLAG):
        lock = _take(folder)
        try:
            told = {"process": os.getpid(), "host": socket.gethostname()}
            told["since"] = datetime.now(UTC).isoformat(timespec="seconds")
            (folder / OWNER).write_text(json.dumps(told), encoding="utf-8")
            yield folder
        finally:
            (folder / OWNER).unlink(missing_ok=True)
            (folder / LOCK).unlink(missing_ok=True)
            lock.release()
            if made and not any(folder.iterdir()):  # the run did not get as far as writing
                folder.rmdir()


def refuse_folder(folder: Path) -> None:
    """Raise what `claim_folder` would, and write nothing.

    Args:
        folder: `--output_dir`; it need not be there.

    Raises:
        FileExistsError: If it is a file.
        BlockingIOError: If another run writes into it.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output_dir {str(folder)!r} is a file: name a folder.")
    if (folder / LOCK).is_file():
        _take(folder).release()


def claim_output_dir(args: TrainingArguments, dry_run: bool) -> contextlib.AbstractContextManager[Path | None]:
    """Claim a run's folder in the one process that writes into it.

    Args:
        args: Say the folder and the process.
        dry_run: A dry run writes nothing.

    Returns:
        A context that gives the folder, or None where nothing is to be written.
    """
    writes = args.process_index == 0 and not dry_run
    return claim_folder(Path(str(args.output_dir))) if writes else contextlib.nullcontext()


def _take(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(_in_use(folder)) from None
    return lock


def _in_use(folder: Path) -> str:
    try:
        told = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        owner = f"process {told['process']} on {told['host']}, since {told['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        owner = "another run"
    return f"output_dir {str(folder)!r} is in use by {owner}: wait for it, end it, or name another."
