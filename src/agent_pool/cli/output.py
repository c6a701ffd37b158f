"""How things look: consoles, numbers and JSON, the same in every command."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

_UNBROKEN: Final = 100_000
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def console(*, err: bool = False) -> Console:
    """A console that shows text as it is: no markup, no emoji codes, no highlighting.

    Colours appear on a terminal only, and never with NO_COLOR; into a file or a pipe, lines are
    not broken.
    """
    from rich.console import Console

    made = Console(stderr=err, markup=False, emoji=False, highlight=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = _UNBROKEN
    return made


def printable(text: str) -> str:
    """Text without the control characters that a terminal would obey."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def one_line(text: str, width: int = 80) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(printable(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def seconds(value: float) -> str:
    """A duration: ``42 ms``, ``1.3 s``, ``2 min 5 s``."""
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 99.95:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value >= 3600 else f"{value // 60:.0f} min {value % 60:.0f} s"


def megabytes(value: int) -> str:
    """An amount of memory."""
    return f"{value / 2**20:,.0f} MB"


def count(number: int, noun: str) -> str:
    """``1 turn``, ``2 turns``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
