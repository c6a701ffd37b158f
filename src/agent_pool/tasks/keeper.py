"""A lock by which a former owner of the store says that it lives, and its tasks may run."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

_NAME: Final = re.compile(r"[0-9a-f]{16}")


class Keeper:
    """A former owner that finishes its running tasks while another pool owns the store.

    Attributes:
        name: stands in the rows of its tasks.
    """

    def __init__(self, name: str, path: Path, descriptor: int) -> None:
        self.name = name
        self._path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def hold(cls, store: Path) -> Self:
        """Make a lock beside the store and take it; the kernel frees it when the process ends.

        Raises:
            OSError: the file cannot be made.
        """
        name = secrets.token_hex(8)
        path = _lock_path(store, name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return cls(name, path, descriptor)

    def release(self) -> None:
        """Remove the lock; a second call has no effect."""
        if self._descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    @staticmethod
    def is_held(store: Path, name: str) -> bool:
        """Return whether the keeper of this name lives; remove the file of one that was killed."""
        if not _NAME.fullmatch(name):
            return False
        path = _lock_path(store, name)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            with suppress(OSError):
                path.unlink()
            return False
        finally:
            os.close(descriptor)


def _lock_path(store: Path, name: str) -> Path:
    return store.with_name(f"{store.name}.keeper-{name}")
