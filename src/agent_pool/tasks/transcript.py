"""Which events of a task are kept: its beginning and its end, within a bound of bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

LONGEST_SHARE: Final = 8
"""A single event takes at most this part of the transcript; longer texts in it are cut."""


class TranscriptBound:
    """Decides which events of one task are removed again; holds only numbers and sizes.

    Args:
        limit: the most bytes that are kept.
    """

    def __init__(self, limit: int) -> None:
        self.longest = max(200, limit // LONGEST_SHARE)
        self._head_left = limit // 2
        self._tail_limit = limit - limit // 2
        self._tail: deque[tuple[int, int]] = deque()
        self._tail_size = 0

    def add(self, number: int, size: int) -> tuple[int, int] | None:
        """Note an event; return the first and the last number to remove, None for no removal."""
        if size <= self._head_left:
            self._head_left -= size
            return None
        self._head_left = 0  # from here on every event belongs to the end
        self._tail.append((number, size))
        self._tail_size += size
        if self._tail_size <= self._tail_limit:
            return None
        return self._trim()

    def _trim(self) -> tuple[int, int] | None:
        # To three quarters, so that not every event removes another one.
        first = last = self._tail[0][0]
        while len(self._tail) > 1 and self._tail_size > self._tail_limit * 3 // 4:
            last, size = self._tail.popleft()
            self._tail_size -= size
        return (first, last) if last != self._tail[0][0] else None


def shorten_texts(value: Any, most: int) -> Any:
    """Return a JSON value with each text of more than `most` characters cut, and marked so."""
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]}… ({len(value) - most:,} characters left out)"
    if isinstance(value, Mapping):
        return {name: shorten_texts(one, most) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shorten_texts(one, most) for one in value]
    return value
