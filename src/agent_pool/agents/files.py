"""Find the Markdown files of a folder, read them within bounds, and notice when they change."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from agent_pool.errors import ConfigError

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_FOLDER_ENTRIES: Final = 10_000
"""Files and subfolders below one searched folder."""
_SETTLED_NANOSECONDS: Final = 100_000_000

FileSignature = tuple[int, ...]
Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file below a searched folder.

    Attributes:
        path: the file, or the folder that cannot be searched.
        signature: changes when the file changes.
        problem: why the file must not or cannot be opened, None if it can.
    """

    path: str
    signature: FileSignature
    problem: str | None = None


def make_signature(status: os.stat_result) -> FileSignature:
    """Return numbers that change when the file is edited or replaced, its two times first."""
    # The change time is included because `cp -p` and `touch -d` set the modification time back;
    # no program can set the change time.
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def list_markdown_files(folder: Path) -> list[FileEntry]:
    """Return every ``*.md`` in `folder` and its subfolders, sorted by path.

    Links to files and folders are followed, also out of the folder; each folder to which links
    lead is entered once. The list is empty if the folder does not exist. A subfolder that cannot
    be read is an entry with a problem. A folder with more than `MAX_FOLDER_ENTRIES` files and
    subfolders is one entry with a problem.
    """
    found: list[FileEntry] = []
    pending, count = [str(folder)], 0
    linked: set[str] = set()
    while pending:
        current = pending.pop()
        try:
            entries = _list_folder(current)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
            found.append(FileEntry(current, (error.errno or 0,), problem))
            continue
        count += len(entries)
        if count > MAX_FOLDER_ENTRIES:
            problem = (
                f"more than {MAX_FOLDER_ENTRIES:,} files and folders in it; "
                "use a folder that contains only definitions"
            )
            return [FileEntry(str(folder), (), problem)]
        for entry in entries:
            if _is_folder(entry, folder, linked):
                pending.append(entry.path)
            elif entry.name.endswith(".md") and (file := _check_file(entry)) is not None:
                found.append(file)
    # JavaScript compares UTF-16 units, and the last path of a name wins (2.1.332).
    return sorted(found, key=lambda file: file.path.encode("utf-16-be", "surrogatepass"))


def _is_folder(entry: os.DirEntry[str], root: Path, linked: set[str]) -> bool:
    """Return whether the entry is a folder to enter; add the target of a link to `linked`."""
    if entry.is_dir(follow_symlinks=False):
        return True
    try:
        if not (entry.is_symlink() and entry.is_dir()):
            return False
    except OSError:  # ELOOP: the link points at itself
        return False
    # A link can point at a folder above itself. Such a circle ends at the second visit.
    if not linked:
        linked.add(os.path.realpath(root))
    target = os.path.realpath(entry.path)
    is_new = target not in linked
    linked.add(target)
    return is_new


def _list_folder(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder; an empty list if it does not exist.

    Raises:
        OSError: the folder cannot be read, or is not a folder.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        # Normal: a project or a user without agents has no such folder.
        return []


def _check_file(entry: os.DirEntry[str]) -> FileEntry | None:
    """Return the entry of a Markdown file; None if there is no such file any more."""
    try:
        status = entry.stat()
    except OSError:
        # ENOENT: the file was removed after it was listed, or the link has no target.
        # ELOOP: the link points at itself.
        return None
    # A link to a folder that was entered by another path.
    return None if stat.S_ISDIR(status.st_mode) else FileEntry(entry.path, make_signature(status))


def read_text(path: Path, *, keep_line_ends: bool = False) -> str:
    """Read a UTF-8 text file; return it without a byte order mark and with LF line ends.

    Args:
        path: the file.
        keep_line_ends: return other line ends as they are.

    Raises:
        FileNotFoundError: the file does not exist.
        ConfigError: it is not a regular file, larger than `MAX_FILE_BYTES`, unreadable, or
            contains a NUL character.
    """
    data = _read_bytes(path)
    # Claude Code 2.1.332 reads a byte that is not UTF-8 as U+FFFD too.
    text = data.decode("utf-8-sig", "replace")
    # UTF-16 without a byte order mark can be valid UTF-8, but then it is full of NUL characters.
    if "\0" in text:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise ConfigError(f"{path}:{line}: contains a NUL character; save the file as UTF-8 text")
    return text if keep_line_ends else use_line_feeds(text)


def use_line_feeds(text: str) -> str:
    """Return a text whose lines end with LF only."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: Path) -> bytes:
    """Read a regular file of at most `MAX_FILE_BYTES`; raise as `read_text`."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait until another process writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Ask the descriptor, not the path: the file at the path can be replaced.
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{path}: not a regular file; expected a text file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes; shorten the file")
    return data


class FileCache(Generic[Loaded]):
    """The value that `load` returned for each file; loaded again after the file changed."""

    def __init__(self, load: Callable[[Path], Loaded]) -> None:
        self._load = load
        self._values: dict[str, tuple[FileSignature, bool, Loaded]] = {}
        self._used: set[str] = set()

    def get(self, path: str, signature: FileSignature) -> Loaded:
        """Return the value for `path`; raise the errors of `load`.

        Args:
            path: the file.
            signature: of the file as it is now.
        """
        self._used.add(path)
        known = self._values.get(path)
        if known is not None and known[0] == signature and known[1]:
            return known[2]
        # Linux stamps files with a clock that ticks every 1 to 10 ms. A second edit in the same
        # tick can keep the whole signature, so a value that was read so early is not reused.
        is_settled = time.time_ns() - max(signature[:2]) > _SETTLED_NANOSECONDS
        value = self._load(Path(path))
        if known is not None and known[2] == value:
            value = known[2]  # equal values stay one object, so comparing them later is quick
        self._values[path] = (signature, is_settled, value)
        return value

    def drop_unused(self) -> None:
        """Drop the values of files that `get` did not ask for since the last call of this."""
        self._values = {path: held for path, held in self._values.items() if path in self._used}
        self._used.clear()
