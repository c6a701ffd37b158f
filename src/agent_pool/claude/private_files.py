"""Files of a worker that only its user can read."""

from __future__ import annotations

from pathlib import Path

from agent_pool.errors import SpawnError


def write_private(path: Path, content: str) -> Path:
    """Write a file that no other user can read at any moment; make missing folders.

    Raises:
        SpawnError: it cannot be written.
    """
    try:
        # Systems remove old temporary folders by age (systemd-tmpfiles): make them again if needed.
        for folder in reversed(path.parents[:3]):
            folder.mkdir(mode=0o700, exist_ok=True)
        # Made before it is written: its content is never readable for other users.
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise SpawnError(
            f"{path} cannot be written: {error.strerror or error}; free some space, or let TMPDIR "
            "name another folder",
            # There can be room on the disk again at the next start.
            is_fatal=False,
        ) from None
    return path
