"""Files on disk and in zip archives alike: `images.zip/cat.jpg` names what lies in an archive."""

import io
import os
import posixpath
import stat
import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 2**28  # of one unpacked file; a bomb of 250 KB unpacks to this


def open_file(path: str | Path) -> BinaryIO:
    """Open a file, or unpack one out of the zip archive that its path goes through.

    Nothing is unpacked onto the disk. What a member's name may claim (`../x`, `/x`) is therefore harmless, and such
    members are never found.

    Args:
        path: A path as the system knows it, or one with a zip archive in the place of a folder.

    Raises:
        FileNotFoundError: There is no such file, neither on disk nor in the archive.
        OSError: It is no regular file, may not be read, or the archive is broken, encrypted or holds a file larger
            than `MAX_BYTES`; `strerror` says which.
        ValueError: The name holds a NUL character.

    Example:

    >>> import tempfile
    >>> archive = Path(tempfile.mkdtemp(), "images.zip")
    >>> with zipfile.ZipFile(archive, "w") as packed:
    ...     packed.writestr("sea/1.txt", "waves")
    >>> open_file(archive / "sea" / "1.txt").read()
    b'waves'
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise OSError(None, "not a regular file")
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        archive, member = _split(str(path))
        info = archive_members(archive).get(member) if archive else None
        if info is None:
            raise FileNotFoundError(None, "there is no such file", str(path)) from None
    return io.BytesIO(_unpack(archive, info))


def read_file(path: str | Path) -> bytes:
    """Read a whole file as `open_file` opens it.

    Raises:
        OSError: As for `open_file`.
    """
    with open_file(path) as stream:
        return stream.read()


def is_file(path: str | Path) -> bool:
    """Whether there is a file, on disk or in a readable zip archive."""
    archive, member = ("", "") if os.path.isfile(path) else _split(str(path))
    try:
        return member in archive_members(archive) if archive else os.path.isfile(path)
    except OSError:
        return False


def file_size(path: str | Path) -> int:
    """Size of a file in bytes, unpacked; 0 where there is none that can be read."""
    try:
        if os.path.isfile(path):
            return os.path.getsize(path)
        archive, member = _split(str(path))
        return archive_members(archive)[member].file_size if archive else 0
    except (OSError, KeyError):
        return 0


def archive_members(archive: str | Path) -> Mapping[str, zipfile.ZipInfo]:
    """What a zip archive holds, by normalised name; folders and names that lead out of it are left out.

    Raises:
        OSError: It is no readable zip archive.
    """
    return _opened(str(archive))[1]


def archives_in(folder: str | Path) -> list[Path]:
    """The zip archives in a folder, by name; none where there is no such folder."""
    files = Path(folder).iterdir() if Path(folder).is_dir() else []
    return sorted(file for file in files if file.suffix.lower() == ".zip")


def names_in(folder: str | Path) -> list[str]:
    """Names of the files that lie directly in a folder, on disk or in a readable zip archive; sorted."""
    if os.path.isdir(folder):
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    archive, member = _split(os.path.join(folder, "*"))
    try:
        members = archive_members(archive) if archive else {}
    except OSError:
        return []
    return sorted(os.path.basename(name) for name in members if os.path.dirname(name) == os.path.dirname(member))


def locate(archives: Sequence[Path], name: str) -> list[str]:
    """Find a file where unpacking zip archives would put it, be it beside them or into folders named like them.

    Args:
        archives: The archives of one folder.
        name: Path of the file, relative to this folder.

    Returns:
        Paths through the archives that hold it; more than one where it is ambiguous.

    Raises:
        OSError: One of them is no readable zip archive.
    """
    wanted = posixpath.normpath(name.replace(os.sep, "/"))
    found = []
    for archive in archives:
        members = archive_members(archive)
        places = (wanted, wanted.removeprefix(f"{archive.stem}/"))
        found += [str(archive / place) for place in places if place in members][:1]
    return found


def _split(path: str) -> tuple[str, str]:
    """The zip archive that a path goes through, and the rest of the path; two empty strings where there is none."""
    parts = Path(os.path.normpath(path)).parts
    for place, part in enumerate(parts[:-1], start=1):
        if part.lower().endswith(".zip"):
            archive = os.path.join(*parts[:place])
            if os.path.isfile(archive):
                return archive, "/".join(parts[place:])
    return "", ""


def _opened(archive: str) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    status = os.stat(archive)
    try:
        # A process of its own, since two that share one file's position read each other's bytes.
        return _open_once(archive, status.st_mtime_ns, status.st_size, os.getpid())
    except Exception as error:  # zipfile passes on whatever a damaged directory makes of it
        raise OSError(None, f"{archive} is not a readable zip archive: {str(error) or type(error).__name__}") from None


@lru_cache(maxsize=16)
def _open_once(archive: str, *version: int) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    packed = zipfile.ZipFile(archive)
    members = {}
    for info in packed.infolist():
        name = posixpath.normpath(info.filename)
        if not info.is_dir() and not name.startswith(("/", "../")) and name != "..":
            members[name] = info
    return packed, members


def _unpack(archive: str, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > MAX_BYTES:
        raise OSError(None, f"{info.file_size:,} bytes in a zip archive are more than {MAX_BYTES:,}: unpack it")
    try:
        with _opened(archive)[0].open(info) as stream:
            return stream.read(info.file_size)  # no more, whatever is packed: the size that the archive states may lie
    except Exception as error:  # of zipfile and its decompressors; also a password, or a method that Python lacks
        raise OSError(None, f"broken in the zip archive: {str(error) or type(error).__name__}") from None
