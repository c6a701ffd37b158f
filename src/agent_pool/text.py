"""Words and numbers for people: one way each to shorten, count, and show sizes and durations."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

# C0 and C1 controls: a terminal acts on them, and agents' words are shown in terminals.
_CONTROLS: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")
_CONTROLS_IN_TEXT: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SIZE_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")


def whole_characters(text: str) -> str:
    """Return `text` as UTF-8 can carry it: half of a surrogate pair becomes a question mark.

    Claude Code cuts strings between the two halves (seen on 2.1.330), and file names can hold any
    bytes; writing such text as UTF-8 raises UnicodeEncodeError.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def printable(text: str) -> str:
    """Return `text` without control characters, line feeds and tabs excepted."""
    return _CONTROLS_IN_TEXT.sub("", text.replace("\r\n", "\n"))


def one_line(text: str, width: int | None = None) -> str:
    """Return `text` on one line, at most `width` characters long.

    Control characters and white space become single spaces; a text that is cut ends with "…".
    """
    line = " ".join(whole_characters(text).translate(_CONTROLS).split())
    if width is None or len(line) <= width:
        return line
    return line[: max(width - 1, 0)].rstrip() + "…"


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return `` (did you mean a, b?)`` with the `most` closest known names, or an empty text."""
    close = difflib.get_close_matches(name, sorted(set(known)), n=most)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def count(number: int, noun: str) -> str:
    """Return ``1 turn``, ``2 turns``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def bytes_text(size: int) -> str:
    """Return a size with its unit: ``512 B``, ``181.2 MiB``."""
    value, unit = float(size), "B"
    for larger in _SIZE_UNITS:
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} B" if unit == "B" else f"{value:,.1f} {unit}"


def mebibytes(size: int) -> str:
    """Return a size of memory in whole MiB: ``181 MiB``."""
    return f"{size / 2**20:,.0f} MiB"


def seconds_text(value: float) -> str:
    """Return a duration: ``42 ms``, ``1.3 s``, ``2 min 5 s``."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 99.95:
        return f"{value:.1f} s"
    whole = round(value)  # first, or 119.6 s would become "1 min 60 s"
    return f"{whole / 60:.0f} min" if whole >= 3600 else f"{whole // 60} min {whole % 60} s"
