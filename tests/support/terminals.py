"""Programs on a pseudo-terminal: what their screen has shown, as characters and as escapes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.cli_runner import package_place

LINES = 200

STYLE = re.compile(r"\x1b\[[0-9;]*m")
"""An escape sequence that sets colours, as the package's own output has them."""
CURSOR = re.compile(r"\x1b\[(\?25[lh]|2K|1A)|\r")
"""What the package sends to redraw a changing line."""
ERASED = re.compile(r"[^\n]*\n?\r(\x1b\[1A)?\x1b\[2K")
"""A line that was erased to be drawn again."""


@dataclass(frozen=True)
class ShownRun:
    """A program that has ended, and all that its terminal got, its line ends as ``\\n``."""

    code: int
    screen: str

    @property
    def text(self) -> str:
        """Return all that was ever shown, without colours and movements."""
        return CURSOR.sub("", STYLE.sub("", self.screen))

    @property
    def lines(self) -> list[str]:
        """Return the lines that are left on the screen, without colours and movements."""
        return CURSOR.sub("", ERASED.sub("", STYLE.sub("", self.screen))).split("\n")[:-1]


@contextmanager
def terminal(
    arguments: list[str], env: Mapping[str, str], cwd: Path | None = None, columns: int = 80
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a program on a terminal of its own; yield it and the descriptor of its screen."""
    screen, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    process = subprocess.Popen(arguments, env=env, cwd=cwd, stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    try:
        yield process, screen
    finally:
        process.kill()
        process.wait()
        os.close(screen)


def until_shown(screen: int, text: bytes) -> bytes:
    """Read the screen until it has shown this text; the time limit of the test ends the wait."""
    seen = b""
    while text not in seen:
        seen += os.read(screen, 4096)
    return seen


def until_closed(screen: int) -> bytes:
    """Read the screen until the program has closed the terminal; return what it has shown."""
    seen = b""
    try:
        while part := os.read(screen, 4096):
            seen += part
    except OSError:  # Linux: the other end was closed
        pass
    return seen


def run_on_terminal(
    arguments: list[str], env: Mapping[str, str], cwd: Path, columns: int = 80
) -> ShownRun:
    """Run a program on a terminal of so many columns until it ends."""
    environ = {**env, **package_place(), "TERM": "xterm-256color"}
    with terminal(arguments, environ, cwd, columns) as (process, screen):
        shown = until_closed(screen)
        return ShownRun(process.wait(), shown.decode().replace("\r\n", "\n"))


@contextmanager
def useless_stderr(kind: str) -> Iterator[int]:
    """Open a file for stderr to which no text can be written."""
    if kind == "disk full":
        number = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, number = os.pipe()
        os.close(reader)
    yield number
    os.close(number)
