"""What may be a name, and which name was meant by one that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

MAX_NAME: Final = 200


def check_name(name: str) -> None:
    """Refuse a name that could lead out of the folder in which it is looked up.

    Raises:
        ValueError: it is empty, over `MAX_NAME` characters, `.` or `..`, or holds a separator or
            an unprintable character.
    """
    if not name.strip():
        raise ValueError("a name may not be empty")
    if len(name) > MAX_NAME:
        raise ValueError(f"a name of {len(name)} characters; {MAX_NAME} is the most")
    if name in {".", ".."} or "/" in name or "\\" in name or not name.isprintable():
        raise ValueError(f"{name!r} is not a name: it may not be a path or hold control characters")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean a, b?)`` with the closest known names, or nothing."""
    close = difflib.get_close_matches(name, sorted(set(known)), n=3)
    return f" (did you mean {', '.join(close)}?)" if close else ""
