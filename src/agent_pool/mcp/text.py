"""Text that fits the wire: whole characters only, and one line where one is wanted."""

from __future__ import annotations

from typing import Final

# Terminals act on these; what an agent says is shown in one.
_CONTROLS: Final = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")


def clean(text: str) -> str:
    """`text` as UTF-8 can carry it: half a surrogate pair becomes a question mark.

    Claude Code cuts strings between the halves, and file names may hold any bytes; a server that
    tries to write such text fails altogether.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def one_line(text: str, width: int | None = None) -> str:
    """`text`, clean, with controls and white space as single spaces, cut to `width` characters."""
    line = " ".join(clean(text).translate(_CONTROLS).split())
    if width is None or len(line) <= width:
        return line
    return line[: max(width - 1, 0)].rstrip() + "…"
