"""Files of a worker that only its user can read."""

from __future__ import annotations

import os
from pathlib import Path

from agent_pool.errors import SpawnError


def make_private_folder(path: Path) -> Path:
    """Make a folder, and missing ones above it, that only this user can enter; return it.

    Raises:
        SpawnError: it cannot be made.
    """
    try:
        _make_folders(path)
    except OSError as error:
        raise _not_written(path, error) from None
    return path


def write_private(path: Path, content: str) -> Path:
    """Write a file that no other user can read at any moment; make missing folders.

    Raises:
        SpawnError: it cannot be written.
    """
    try:
        _make_folders(path.parent)
        # Made before it is written: its content is never readable for other users.
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise _not_written(path, error) from None
    return path


def read_own(path: Path) -> str:
    """Return the text of a file that only this user can have written.

    Raises:
        PermissionError: another user owns the file or its folder, or can write to one of them.
        OSError: it cannot be read, or is a link.
        UnicodeDecodeError: it is not UTF-8.
    """
    # A descriptor first: the checks then hold for what is read.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, encoding="utf-8") as file:
        for status in (os.fstat(handle), path.parent.stat()):
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise PermissionError(f"{path} can have been written by another user")
        return file.read()


def _make_folders(path: Path) -> None:
    # Systems remove old temporary folders by age (systemd-tmpfiles): make them again if needed.
    for folder in (*reversed(path.parents[:2]), path):
        folder.mkdir(mode=0o700, exist_ok=True)


def _not_written(path: Path, error: OSError) -> SpawnError:
    return SpawnError(
        f"{path} cannot be written: {error.strerror or error}; free some space, or let TMPDIR "
        "name another folder",
        # There can be room on the disk again at the next start.
        is_fatal=False,
    )
