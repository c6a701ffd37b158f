"""Files of a worker that only its user can read."""

from __future__ import annotations

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
