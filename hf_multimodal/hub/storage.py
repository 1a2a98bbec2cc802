"""Files that are whole or not there: whatever a run or a command leaves is written beside its place and moved there.

A process that is killed, or a disk that is full, leaves what stood there before. What is being written has a hidden
name, `.part-*`, that tells host and process; those of processes that are gone are removed by the next write.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
from safetensors import SafetensorError

_HOST = socket.gethostname().replace(".", "-")
_NAME = re.compile(r"\.(?P<kind>part|ready)-[0-9a-f]{8}-(?P<process>\d+)-(?P<host>[^.]*)(?:\.(?P<last>.+))?")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    errno.ENOSPC: "free some space, or name a folder on another disk with {flag}",
    errno.EDQUOT: "free some space, or name a folder on another disk with {flag}",
    errno.EFBIG: "allow larger files (ulimit -f), or name a folder on another disk with {flag}",
    errno.EROFS: "name a folder that can be written with {flag}",
    errno.EACCES: "name a folder that can be written with {flag}",
    errno.EPERM: "name a folder that can be written with {flag}",
    errno.ENOTDIR: "name a folder with {flag}",
    errno.ENOENT: "name a folder that can be made with {flag}",
}


@contextlib.contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Write a file beside its place, and move it there once it is whole and on the disk.

    Until then, and for good if the body raises or the process is killed, a reader finds the file that was there. A
    pipe or a device is written to as it is.

    Args:
        path: The file; its folder must be there. A link is followed, and the mode of a file that is there is kept.

    Returns:
        Where to write: a new file with the same suffix.

    Raises:
        OSError: If there is no room; the message names the file.

    Example:

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with replaced(f"{folder}/a.txt") as part:
    ...         _ = part.write_text("whole")
    ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
    [('a.txt', 'whole')]
    """
    path = Path(path).resolve()
    if path.exists() and not path.is_file():
        yield path
        return
    recover(path.parent)
    part = path.with_name(_name("part") + path.suffix)
    try:
        with _naming(path):
            yield part
            if path.exists():
                shutil.copymode(path, part)
            sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Replace a file by a text in UTF-8.

    Args:
        path: The file; its folder must be there. A link is followed.
        text: Written in UTF-8, its line ends as they are.
    """
    with replaced(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def make_folder(folder: str | Path, flag: str) -> Path:
    """Make a folder, if it is not there, before the work whose results go into it.

    Args:
        folder: The folder; its parents are made too.
        flag: Flag of the command line that named the folder, for the message.

    Raises:
        OSError: If it cannot be made, or is a file; the message names the folder, the flag and what to do.

    Example:

    >>> make_folder("/dev/null/out", "--output_dir")
    Traceback (most recent call last):
    ...
    NotADirectoryError: [Errno 20] '/dev/null/out' cannot be made, Not a directory: name a folder with --output_dir
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        remedy = _REMEDIES.get(error.errno or 0, "name a folder with {flag}").format(flag=flag)
        raise OSError(error.errno, f"{str(folder)!r} cannot be made, {reason}: {remedy}") from error
    return Path(folder)


@contextlib.contextmanager
def explain_refusal(folder: Path, flag: str) -> Iterator[None]:
    """Turn what the disk refuses below a folder into one line that names the path and what to do.

    Args:
        folder: Folder of the run; errors about files outside it pass unchanged.
        flag: Flag of the command line that named the folder, for the message.

    Raises:
        OSError: With the number of the original.
    """
    try:
        yield
    except OSError as error:
        place = str(error.filename or folder)
        ours = os.path.abspath(place).startswith(os.path.abspath(folder))
        if error.errno not in _REMEDIES or not ours or isinstance(error, FileNotFoundError) and folder.is_dir():
            raise
        remedy = _REMEDIES[error.errno].format(flag=flag)
        raise OSError(error.errno, f"{place!r} could not be written, {error.strerror}: {remedy}") from error


@contextlib.contextmanager
def replaced_files(folder: str | Path, last: str) -> Iterator[Path]:
    """Write files that belong together, and move them to their places once all are whole and on the disk.

    A reader finds all of the old files or all of the new: in the moment in which they are moved, and after a process
    was killed in it, `last` is not there. Whoever calls `recover` before reading finds the new ones even then.

    Args:
        folder: Where they go; made if absent. Its other files stay.
        last: The file without which the others are of no use, such as `config.json`.

    Returns:
        Where to write: an empty folder.

    Raises:
        OSError: If there is no room; the message names the folder.

    Example:

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with replaced_files(folder, last="index.json") as new:
    ...         _ = (new / "index.json").write_text("{}"), (new / "table.csv").write_text("")
    ...     sorted(file.name for file in Path(folder).iterdir())
    ['index.json', 'table.csv']
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder)
    part, ready = folder / _name("part"), folder / f"{_name('ready')}.{last}"
    try:
        with _naming(folder):
            part.mkdir()
            yield part
            for path in (*part.rglob("*"), part):
                sync(path)
        part.replace(ready)  # from here on the new files stand, whatever happens to this process
        sync(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _move(ready, folder, last)


def recover(folder: str | Path) -> None:
    """Bring to its end what killed processes of this machine left in a folder.

    Files that were whole are moved to their places, others are removed.

    Args:
        folder: Where files were written by `replaced` or `replaced_files`.
    """
    for path in Path(folder).iterdir():
        found = _NAME.fullmatch(path.name)
        if found is None or found["host"] != _HOST or psutil.pid_exists(int(found["process"])):
            continue
        if found["kind"] == "ready":
            mine = path.with_name(f"{_name('ready')}.{found['last']}")
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                path.replace(mine)
                _move(mine, path.parent, found["last"])
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _move(ready: Path, folder: Path, last: str) -> None:
    if (ready / last).exists():
        (folder / last).unlink(missing_ok=True)
    files = [path for path in ready.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda file: file.name == last):
        place = folder / file.relative_to(ready)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)
    sync(folder)
    shutil.rmtree(ready)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of which file or folder it is that there is no room; the system names the part, or nothing."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        room = "allow larger files (ulimit -f)" if error.errno == errno.EFBIG else "free some space"
        reason = f"{os.strerror(error.errno)}, what was there before is as it was: {room}, or name another disk"
        raise OSError(error.errno, reason, str(path)) from error


def _name(kind: str) -> str:
    return f".{kind}-{secrets.token_hex(4)}-{os.getpid()}-{_HOST}"  # no dot: a suffix may follow


def sync(path: Path) -> None:
    """Have a file, or the entries of a folder, on the disk before going on."""
    folder = path.is_dir()
    with contextlib.suppress(*[OSError] if folder else []):  # not every system syncs a folder
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def naming_damage(path: str | Path) -> Iterator[None]:
    """Turn what the readers of damaged files raise into one error that names the file or the folder.

    Args:
        path: What is read. Errors that say themselves what is wrong, `ValueError` and `OSError`, pass unchanged.

    Raises:
        ValueError: In place of any other error.

    Example:

    >>> with naming_damage("run/metrics.json"):
    ...     {}["test"]
    Traceback (most recent call last):
    ...
    ValueError: run/metrics.json cannot be read, it is damaged or holds something else (KeyError: 'test').
    """
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path}: the weights cannot be read, the file is cut short or damaged ({error}).") from None
    except Exception as error:  # json, yaml, tokenizers, dataclasses and torch each have their own
        if type(error) is ValueError or (isinstance(error, (OSError, ImportError)) and str(error).strip()):
            raise
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(f"{path} cannot be read, it is damaged or holds something else ({detail}).") from error
