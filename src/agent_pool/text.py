"""Words and numbers for people: one way each to shorten, count, and show sizes and durations."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any, Final

_ACTS_ON_TERMINALS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls; ESC and C1 begin sequences such as OSC
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # these change the order in which text is shown
    "\u2028\u2029]"  # some terminals begin a new line here
)
"""The characters that change how a terminal shows the text after them, or what it does."""

_RAW_IN_JSON: Final = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""The same among the characters that `json.dumps` leaves as they are, and halves of pairs."""

_SIZE_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")


def whole_characters(text: str) -> str:
    """Return `text` as UTF-8 can carry it: half of a surrogate pair becomes a question mark.

    Claude Code cuts strings between the two halves (seen on 2.1.330), and file names can hold any
    bytes; writing such text as UTF-8 raises UnicodeEncodeError.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def printable(text: str) -> str:
    r"""Return `text` with an escape, as ``\x1b``, for each character that a terminal acts on.

    Line feeds and tabs stay; a carriage return before a line feed is left out.
    """
    return _ACTS_ON_TERMINALS.sub(_escape, text.replace("\r\n", "\n"))


def _escape(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def printable_json(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON in which no character acts on a terminal; its value is the same.

    Half of a surrogate pair is an escape too, because it has no UTF-8.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _RAW_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str, width: int | None = None) -> str:
    """Return `text` on one line, at most `width` characters long, as `printable` returns it.

    White space becomes single spaces; a text that is cut ends with "…".
    """
    line = printable(" ".join(whole_characters(text).split()))
    if width is None or len(line) <= width:
        return line
    return line[: max(width - 1, 0)].rstrip() + "…"


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return `` (did you mean a, b?)`` with the `most` closest known names, or an empty text."""
    close = difflib.get_close_matches(name, sorted(set(known)), n=most)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def count(number: int, noun: str, plural: str = "") -> str:
    """Return ``1 turn``, ``2 turns``; `plural` is the plural if it is not `noun` with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


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


def clock_text(value: float) -> str:
    """Return a duration for a clock that runs, in whole seconds: ``0 s``, ``2 min 5 s``."""
    whole = int(value)
    return f"{whole} s" if whole < 100 else seconds_text(whole)


def seconds_text(value: float) -> str:
    """Return a duration: ``42 ms``, ``1.3 s``, ``2 min 5 s``."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 99.95:
        return f"{value:.1f} s"
    whole = round(value)  # first, or 119.6 s would become "1 min 60 s"
    return f"{whole / 60:.0f} min" if whole >= 3600 else f"{whole // 60} min {whole % 60} s"
