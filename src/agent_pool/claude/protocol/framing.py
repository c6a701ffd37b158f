"""Bytes in, JSON objects out: the lines that a Claude Code process writes.

One JSON object stands on a line. Some versions print other text to stdout too (warnings of a
runtime, for example); such lines are skipped. A line that begins as an object and is not one is
corruption, and a line that never ends must not fill the memory: both are errors of the other side.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from agent_pool.errors import LocalProtocolError, RemoteProtocolError
from agent_pool.text import whole_characters

_LONE_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
"""Half a surrogate pair, as an escape or as three bytes. Node and Bun write whole characters as
they are, so this appears only where a string was cut between the halves."""


class LineBuffer:
    """Cut chunks of bytes into lines, holding at most `max_line` bytes of an unfinished one."""

    def __init__(self, max_line: int) -> None:
        self._max_line = max_line
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes, without their line feeds.

        Raises:
            RemoteProtocolError: a line is longer than `max_line` bytes.
        """
        *complete, rest = chunk.split(b"\n")
        if complete:
            # Parts are joined once, at the line's end: adding each chunk to a growing buffer
            # would copy a line of 30 MB hundreds of times.
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
                f"the CLI wrote a line of more than {self._max_line:,} bytes (setting max_line)"
            )
        return complete


def decode(line: bytes) -> dict[str, Any] | None:
    """Parse the frame on a line; return `None` for a line that is not a frame.

    All texts of a frame are whole characters: half a surrogate pair becomes a question mark.

    Raises:
        RemoteProtocolError: the line begins as a JSON object but is not one.
    """
    line = line.strip()
    if not line.startswith(b"{"):
        return None
    try:
        # Decoded here, because `json.loads` would take some broken lines for UTF-16.
        frame = json.loads(line.decode("utf-8", "surrogatepass"))
        if _LONE_SURROGATE.search(line):
            # Such text cannot be written as UTF-8: every writer above would fail on it.
            frame = _with_whole_characters(frame)
    except (ValueError, RecursionError) as error:
        # `json.loads` raises RecursionError for JSON that is nested very deeply.
        shown = line[:80].decode("utf-8", "replace")
        raise RemoteProtocolError(f"the CLI wrote broken JSON ({error}): {shown}…") from None
    return frame if isinstance(frame, dict) else None


def _with_whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, list):
        return [_with_whole_characters(item) for item in value]
    if isinstance(value, dict):
        items = value.items()
        return {whole_characters(key): _with_whole_characters(item) for key, item in items}
    return value


def encode(frame: dict[str, Any]) -> bytes:
    """Write a frame as one line.

    Raises:
        LocalProtocolError: it holds a value that JSON cannot carry.
    """
    try:
        # Everything but ASCII is escaped, so no text can end the line or be invalid UTF-8.
        return json.dumps(frame, separators=(",", ":")).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise LocalProtocolError(f"not sendable as JSON: {error}") from None
