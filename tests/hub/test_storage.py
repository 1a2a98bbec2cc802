"""Whatever happens to the process that writes, what is read afterwards is the old file or the new, never a mixture."""

import contextlib
import errno
import itertools
import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_multimodal.hub import storage
from hf_multimodal.hub.storage import recover, replaced, replaced_files, write_text

OLD, NEW = {"a.txt": "old a", "last.txt": "old"}, {"a.txt": "new a", "b.txt": "new b", "last.txt": "new"}


def in_child(act: Callable[[], object]) -> int:
    """Number of a process of its own that does something; forked, since importing torch again takes seconds."""
    child = os.fork()
    if not child:
        try:
            act()
        finally:
            os._exit(0)
    return child


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def write(folder: Path, files: dict[str, str]) -> None:
    with replaced_files(folder, last="last.txt") as new:
        for name, text in files.items():
            (new / name).write_text(text)


@pytest.mark.parametrize("kind", ["file", "files"])
def test_a_killed_process_leaves_the_old_file_and_the_next_write_cleans_up(kind: str, tmp_path: Path) -> None:
    write(tmp_path, OLD)
    ours, theirs = os.pipe()

    def begin_and_wait() -> None:
        with replaced(tmp_path / "a.txt") if kind == "file" else replaced_files(tmp_path, last="last.txt") as part:
            (part if kind == "file" else part / "a.txt").write_text("half of")
            os.write(theirs, b"begun")
            signal.pause()

    child = in_child(begin_and_wait)
    os.close(theirs)  # so that the end of a child that failed is the end of the file
    try:
        assert os.read(ours, 5) == b"begun"
        write_text(tmp_path / "other.txt", "x")
        alive = {path.name for path in tmp_path.iterdir()} - {*OLD, "other.txt"}
        assert len(alive) == 1  # what a living process writes is left alone
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert {name: (tmp_path / name).read_text() for name in OLD} == OLD
    assert {path.name for path in tmp_path.iterdir()} == {*OLD, *alive, "other.txt"}
    write_text(tmp_path / "other.txt", "y")
    assert read(tmp_path) == {**OLD, "other.txt": "y"}


def killed_at(step: int, act: Callable[[], object]) -> bool:
    """Whether a process of its own that acts came to as many moves and removals of files, and was killed there."""
    left = itertools.count(step, -1)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not next(left):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    def act_and_die() -> None:
        for name in ("replace", "unlink"):
            setattr(Path, name, counted(getattr(Path, name)))
        storage.shutil.rmtree = counted(storage.shutil.rmtree)  # type: ignore[attr-defined, misc, assignment]
        act()

    return os.WIFSIGNALED(os.waitpid(in_child(act_and_die), 0)[1])


def test_killed_at_each_step_all_files_are_old_or_all_are_new(tmp_path: Path) -> None:
    seen = []
    for step in range(9):
        folder = tmp_path / str(step)
        write(folder, OLD)
        killed = killed_at(step, lambda folder=folder: write(folder, NEW))
        visible = read_files(folder)
        if "last.txt" in visible:  # whoever reads without looking for what was left
            assert visible in (OLD, NEW)
        recover(folder)
        assert read(folder) in (OLD, NEW)
        seen.append((killed, read(folder) == NEW))
    assert seen[0] == (True, False) and seen[1] == (True, True) and seen[-1] == (False, True)
    assert [new for _, new in seen] == sorted(new for _, new in seen)


def read_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    write(tmp_path, OLD)
    with pytest.raises(KeyError), replaced(tmp_path / "a.txt") as part:
        part.write_text("half of")
        raise KeyError
    with pytest.raises(KeyError), replaced_files(tmp_path, last="last.txt") as new:
        (new / "a.txt").write_text("half of")
        raise KeyError
    assert read(tmp_path) == OLD


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may be longer, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, OLD)
    with (
        room_for(1000),
        pytest.raises(OSError, match="as it was: allow larger files .*, or name another disk: '.*a.txt'"),
    ):
        write_text(tmp_path / "a.txt", "x" * 100_000)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device, what was there before .*a.txt"):
        write_text(tmp_path / "a.txt", "x")
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path, NEW)
    assert read(tmp_path) == OLD


def test_it_is_synced_before_it_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, move = storage.sync, Path.replace
    monkeypatch.setattr(storage, "sync", lambda path: (calls.append(f"sync {path.name[:6]}"), sync(path)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (calls.append(f"move {path.name[:6]}"), move(path, to)))
    write_text(tmp_path / "a.txt", "x")
    assert calls == ["sync .part-", "move .part-", f"sync {tmp_path.name[:6]}"]


def test_links_modes_and_devices(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    real, link = tmp_path / "elsewhere" / "a.txt", tmp_path / "a.txt"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new" and stat.S_IMODE(real.stat().st_mode) == 0o640
    write_text("/dev/null", "new")
    assert Path("/dev/null").is_char_device()
    assert read(tmp_path / "elsewhere") == {"a.txt": "new"}


def test_other_machines_and_folders_within(tmp_path: Path) -> None:
    theirs = tmp_path / ".part-0123abcd-1-elsewhere.csv"
    theirs.write_text("half of")
    with replaced_files(tmp_path, last="last.txt") as new:
        (new / "within").mkdir()
        (new / "within" / "c.txt").write_text("c")
        (new / "last.txt").write_text("last")
    assert (tmp_path / "within" / "c.txt").read_text() == "c" and theirs.exists()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_text(tmp_path / "nowhere" / "a.txt", "x")
