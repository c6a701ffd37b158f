"""The log of actions: who cancelled, repeated or answered what, on the pages or by a command."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

MAX_SHOWN: Final = 500
MAX_BYTES: Final = 4 << 20
"""Bytes of the log; a larger one becomes ``….1``, and a new one begins."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Action:
    """One action.

    Attributes:
        time: when, in seconds since 1970.
        visitor: who: ``browser-1``, or ``agent-pool, process 4242``.
        action: what, in words.
        task: the task that it was about.
    """

    time: float
    visitor: str
    action: str
    task: str = ""


class ActionLog:
    """Actions as JSON lines in a private file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, visitor: str, action: str, task: str = "") -> None:
        """Append an action; a full disk loses it, and the daemon's log says so."""
        line = json.dumps(asdict(Action(time.time(), visitor, action, task))) + "\n"
        try:
            self._make_room()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            log.error("the action %r cannot be written: %s", action, error)

    def _make_room(self) -> None:
        try:
            is_full = self._path.stat().st_size > MAX_BYTES
        except FileNotFoundError:
            return
        if is_full:
            self._path.replace(self._path.with_suffix(self._path.suffix + ".1"))

    def newest(self) -> list[Action]:
        """Return up to `MAX_SHOWN` actions, the newest first."""
        return list(reversed(deque(self._read(), MAX_SHOWN)))

    def _read(self) -> Iterator[Action]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                yield Action(**json.loads(line))
            except (ValueError, TypeError):  # the machine stopped while it was written
                continue
