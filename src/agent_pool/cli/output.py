"""Everything that the commands print: the one place where text is made safe for a terminal.

Agents, definitions, file names and arguments can hold characters that a terminal acts on. Two
layers make them visible: `echo` and `console` treat all text of the commands, and `guard_streams`
wraps the standard streams for other text: click's usage errors, log messages, tracebacks. Only
`console` writes escape sequences, those of its own styles.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TextIO, cast

import click

from agent_pool.text import printable, printable_json

if TYPE_CHECKING:
    from rich.console import Console

_UNLIMITED_WIDTH: Final = 100_000


class GuardedStream:
    """A standard stream that shows characters that a terminal acts on as escapes.

    It has no `buffer`: click would write past the guard where a stream's encoding is ASCII.

    Args:
        unguarded: the stream itself.
        ignores_errors: send what cannot be written to the null device: for messages, whose loss
            must not change the exit status.

    Attributes:
        unguarded: the stream itself, for a console's own escape sequences and for exact answers.
    """

    def __init__(self, unguarded: TextIO, *, ignores_errors: bool) -> None:
        self._ignores_errors = ignores_errors
        self.unguarded: TextIO = cast(TextIO, _Lossy(unguarded)) if ignores_errors else unguarded

    def write(self, text: str) -> int:
        """Write text with its escapes; return the number of characters that were given."""
        self.unguarded.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines with their escapes."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.unguarded, name)


class _Lossy:
    """A stream that goes on at the null device once it cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:  # EPIPE: the reader has gone; ENOSPC: the disk of a log file is full
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        # The descriptor, not only this object: Python flushes it at its end, and would exit with
        # 120 if that failed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Make stdout and stderr safe for a terminal, and stderr free of errors."""
    sys.stdout = _guarded(sys.stdout, ignores_errors=False)
    sys.stderr = _guarded(sys.stderr, ignores_errors=True)


def _guarded(stream: Any, *, ignores_errors: bool) -> TextIO:
    # Python sets a standard stream to None if the program was started with it closed.
    if stream is None:
        return Path(os.devnull).open("w")
    # An agent can write any character; in a terminal with another encoding that must not fail.
    stream.reconfigure(errors="backslashreplace")
    return cast(TextIO, GuardedStream(stream, ignores_errors=ignores_errors))


def _unguarded(stream: TextIO) -> TextIO:
    return stream.unguarded if isinstance(stream, GuardedStream) else stream


def echo(text: str = "", *, err: bool = False, end: str = "\n") -> None:
    """Print text for a person on stdout or stderr."""
    # Before click, which removes escape sequences in a pipe: a reader must see that they are there.
    click.echo(printable(text) + end, err=err, nl=False)


def print_answer(text: str) -> None:
    """Print an agent's answer on stdout: exactly, but on a terminal as `echo` does."""
    if sys.stdout.isatty():
        echo(text)
    else:
        click.echo(text, file=cast(IO[Any], _unguarded(sys.stdout)), color=True)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    echo(printable_json(value, indent=2))


def console(*, err: bool = False) -> Console:
    """Return a console that shows text as it is: no markup, no emoji codes, no highlighting.

    Characters that a terminal acts on are shown as escapes. Colours appear only on a terminal, and
    never with NO_COLOR. Lines are not wrapped in a file or a pipe.
    """
    from agent_pool.cli.guarded_console import GuardedConsole  # rich takes a while to import

    made = GuardedConsole(
        file=_unguarded(sys.stderr if err else sys.stdout),
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )
    if not made.is_terminal:
        # `soft_wrap` does not reach renderables such as tables; those follow the console's width.
        made.width = _UNLIMITED_WIDTH
    return made
