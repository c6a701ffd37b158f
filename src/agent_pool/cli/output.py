"""Output that looks the same in every command: consoles, JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

_UNLIMITED_WIDTH: Final = 100_000


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def console(*, err: bool = False) -> Console:
    """Return a console that shows text as it is: no markup, no emoji codes, no highlighting.

    Colours appear only on a terminal, and never with NO_COLOR. Lines are not wrapped in a file or
    a pipe.
    """
    from rich.console import Console

    made = Console(stderr=err, markup=False, emoji=False, highlight=False, soft_wrap=True)
    if not made.is_terminal:
        # `soft_wrap` does not reach the cells of a table; those follow the width of the console.
        made.width = _UNLIMITED_WIDTH
    return made
