"""Bytes in, JSON objects out: the lines that a Claude Code process writes.

One JSON object stands on a line. Some versions print other text to stdout besides (warnings of a
runtime, say); such lines are counted and passed over. A line that begins as an object and is none
is corruption, and one that never ends must not fill the memory: both are errors of the other side.
"""

from __future__ import annotations

import json
from typing import Any

from agent_pool.errors import LocalProtocolError, RemoteProtocolError


class LineBuffer:
    """Cuts chunks of bytes into lines, holding at most `max_line` bytes of an unfinished one."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without their line feeds.

        Raises:
            RemoteProtocolError: a line is longer than `max_line` bytes.
        """
        *complete, rest = chunk.split(b"\n")
        if complete:
            self._parts.append(complete[0])
            complete[0] = b"".join(self._parts)
            self._parts.clear()
            self._held = 0
        if rest:
            self._parts.append(rest)
            self._held += len(rest)
        longest = max(self._held, *map(len, complete)) if complete else self._held
        if longest > self._max_line:
            raise RemoteProtocolError(
                f"the CLI wrote a line of over {self._max_line:,} bytes (setting max_line)"
            )
        return complete


def decode(line: bytes) -> dict[str, Any] | None:
    """The frame on a line; None for a line that is no frame.

    Raises:
        RemoteProtocolError: the line begins as an object but is not one.
    """
    line = line.strip()
    if not line.startswith(b"{"):
        return None
    try:
        frame = json.loads(line)
    except (ValueError, RecursionError) as error:
        shown = line[:80].decode("utf-8", "replace")
        raise RemoteProtocolError(f"the CLI wrote broken JSON ({error}): {shown}…") from None
    return frame if isinstance(frame, dict) else None


def encode(frame: dict[str, Any]) -> bytes:
    """A frame as one line.

    Raises:
        LocalProtocolError: it holds what JSON cannot carry.
    """
    try:
        return json.dumps(frame, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise LocalProtocolError(f"not sendable as JSON: {error}") from None
