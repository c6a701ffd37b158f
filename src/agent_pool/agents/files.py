"""Files that people wrote: found, told apart when edited, and read within bounds."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from agent_pool.errors import ConfigError

MAX_BYTES: Final = 1024 * 1024
MAX_ENTRIES: Final = 10_000
_SETTLED_NS: Final = 100_000_000

Signature = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a folder; `problem` says why it must not or cannot be opened."""

    path: str
    signature: Signature
    problem: str | None = None


def signature_of(status: os.stat_result) -> Signature:
    """What changes when a file is edited or replaced: two times first, then size and inode."""
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Whether `path`, all links followed, lies in `folder`, all links followed."""
    root = os.path.realpath(folder)
    return os.path.commonpath((root, os.path.realpath(path))) == root


def markdown_files(folder: Path) -> list[Entry]:
    """Every ``*.md`` in `folder` and its subfolders, by path; nothing when there is no such folder.

    A link that leads out of the folder and a subfolder that cannot be read are entries with a
    problem; so is a folder of more than `MAX_ENTRIES` names.
    """
    found: list[Entry] = []
    pending, looked_at = [str(folder)], 0
    while pending:
        here = pending.pop()
        try:
            entries = _listing(here)
        except OSError as error:
            found.append(Entry(here, (error.errno or 0,), f"cannot be read: {error.strerror}"))
            continue
        looked_at += len(entries)
        if looked_at > MAX_ENTRIES:
            problem = f"over {MAX_ENTRIES:,} files in it; name a folder of definitions only"
            return [Entry(str(folder), (), problem)]
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            else:
                found.extend(_file(entry, folder))
    return sorted(found, key=lambda entry: entry.path)


def _listing(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _file(entry: os.DirEntry[str], folder: Path) -> Iterator[Entry]:
    path, is_markdown = entry.path, entry.name.endswith(".md")
    try:
        if entry.is_symlink() and not is_inside(path, folder):
            if is_markdown or entry.is_dir():
                yield Entry(path, (), f"leads out of {folder}, to {os.path.realpath(path)}")
        elif is_markdown:
            yield Entry(path, signature_of(entry.stat()))
    except OSError:
        return  # gone since it was listed, or a link to nothing


def read_text(path: Path) -> str:
    """A text file's content, without byte order mark, its lines ended by LF.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it is not a regular file, over `MAX_BYTES`, unreadable, or not UTF-8 text.
    """
    data = _read(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8; save the file in that encoding") from None
    if "\0" in text:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise ConfigError(f"{path}:{line}: a NUL character; save the file as UTF-8 text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path) -> bytes:
    try:
        # Without O_NONBLOCK a named pipe would be waited for until someone writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"{path}: not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: over the limit of {MAX_BYTES:,} bytes")
    return data


class FileCache(Generic[T]):
    """What `make` made of each file, made again once the file has changed."""

    def __init__(self, make: Callable[[Path], T]) -> None:
        self._make = make
        self._made: dict[str, tuple[Signature, bool, T]] = {}
        self._used: set[str] = set()

    def get(self, path: str, signature: Signature) -> T:
        """The value for `path`, whose signature has just been taken; raises what `make` raises."""
        self._used.add(path)
        known = self._made.get(path)
        if known is not None and known[0] == signature and known[1]:
            return known[2]
        # A file changed a moment ago may change again within the same tick of the clock that
        # stamps files, so what was read from it is not relied on yet.
        settled = time.time_ns() - max(signature[:2]) > _SETTLED_NS
        value = self._make(Path(path))
        if known is not None and known[2] == value:
            value = known[2]
        self._made[path] = (signature, settled, value)
        return value

    def forget_unused(self) -> None:
        """Drop what was not asked for since this was called last."""
        self._made = {path: made for path, made in self._made.items() if path in self._used}
        self._used.clear()
