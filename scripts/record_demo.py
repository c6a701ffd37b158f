"""Record `agent-pool demo` in a terminal, as the picture that moves in the README.

``pip install pyte && python scripts/record_demo.py`` runs the real command in a terminal of its
own, and draws what its screen showed, at its own speed, into docs/pictures/demo.svg. The movement
is CSS, so a page that shows pictures but runs no programs shows it too.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import pty
import select
import struct
import sys
import termios
import time
from html import escape
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "demo.svg"
COLUMNS, ROWS = 92, 26
CELL_WIDTH, CELL_HEIGHT, MARGIN = 8.4, 19, 16
TYPING_SECONDS, LAST_SECONDS = 1.0, 8.0
"""How long the command alone is shown, and the last screen before it begins again."""
FRAME_SECONDS = 0.5
"""A screen that is shown for less is not drawn."""
COLOURS = {
    "default": "#d7dce5",
    "black": "#5c6370",
    "red": "#e06c75",
    "green": "#98c379",
    "brown": "#e5c07b",
    "yellow": "#e5c07b",
    "blue": "#61afef",
    "magenta": "#c678dd",
    "cyan": "#56b6c2",
    "white": "#ffffff",
}
BOLD = ' font-weight="bold"'
Run = tuple[int, str, str, bool]
"""A piece of a line: its first column, its text, its colour, whether it is bold."""
Line = tuple[Run, ...]


def record(command: list[str]) -> list[tuple[float, list[Line]]]:
    """Run a command in a terminal; return the screens, each with the second when it came."""
    screen, pid, terminal = _start(command)
    stream = importlib.import_module("pyte").ByteStream(screen)
    began = time.monotonic()
    screens: list[tuple[float, list[Line]]] = []
    while True:
        ready, _, _ = select.select([terminal], [], [], FRAME_SECONDS)
        if ready:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # EIO: the last process of the terminal has ended
                break
            if not data:
                break
            stream.feed(data)
        now = time.monotonic() - began
        if not screens or now - screens[-1][0] >= FRAME_SECONDS:
            screens.append((now, _lines(screen)))
    screens.append((time.monotonic() - began, _lines(screen)))
    _, status = os.waitpid(pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return screens


def _start(command: list[str]) -> tuple[Any, int, int]:
    """Start a command in a new terminal; return its screen, its pid and the terminal."""
    screen = importlib.import_module("pyte").Screen(COLUMNS, ROWS)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    return screen, pid, terminal


def _lines(screen: Any) -> list[Line]:
    """Return what the screen shows, line by line."""
    return [_line(screen.buffer[row]) for row in range(ROWS)]


def _line(cells: Any) -> Line:
    runs: list[Run] = []
    for column in range(COLUMNS):
        cell = cells[column]
        if cell.data.isspace():
            continue
        last = runs[-1] if runs else (0, "", "", False)
        gap = column - last[0] - len(last[1])
        if runs and last[2:] == (cell.fg, cell.bold) and gap <= 1:
            runs[-1] = (last[0], last[1] + " " * gap + cell.data, cell.fg, cell.bold)
        else:
            runs.append((column, cell.data, cell.fg, cell.bold))
    return tuple(runs)


def draw(screens: list[tuple[float, list[Line]]], typed: str) -> str:
    """Return the picture: each line is visible from its first second to its last one."""
    total = TYPING_SECONDS + screens[-1][0] + LAST_SECONDS
    texts, rules = [_text(0, ((0, "$ ", "green", True), (2, typed, "default", False)), "")], [""]
    for row in range(ROWS):
        for start, end, line in _spans([(at, lines[row]) for at, lines in screens]):
            first = (TYPING_SECONDS + start) / total * 100
            last = 100.0 if end is None else (TYPING_SECONDS + end) / total * 100
            name = f"r{row}-{len(rules)}"
            rules.append(_rule(name, first, last, total))
            texts.append(_text(row + 1, line, name))
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, (ROWS + 1) * CELL_HEIGHT + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">\n'
        f"<title>A terminal that runs {escape(typed)}</title>\n<style>\n"
        "text { font: 14px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; "
        "white-space: pre; }\n" + "\n".join(rules) + "\n</style>\n"
        f'<rect width="{width:g}" height="{height:g}" rx="10" fill="#1e222a"/>\n'
        + "\n".join(texts)
        + "\n</svg>\n"
    )


def _spans(shown: list[tuple[float, Line]]) -> list[tuple[float, float | None, Line]]:
    """Return the times in which a row showed the same line; None is the end of the picture."""
    spans: list[tuple[float, float | None, Line]] = []
    for at, line in shown:
        if spans and spans[-1][2] == line:
            continue
        if spans:
            spans[-1] = (spans[-1][0], at, spans[-1][2])
        spans.append((at, None, line))
    return [span for span in spans if span[2]]


def _rule(name: str, first: float, last: float, total: float) -> str:
    """Return the animation of a line, visible between two shares of the whole time."""
    end = "" if last == 100 else f"{last:.3f}% {{ visibility: hidden }} "
    return (
        f"@keyframes {name} {{ 0% {{ visibility: hidden }} {first:.3f}% {{ visibility: visible }} "
        f"{end}}} .{name} {{ animation: {name} {total:.2f}s step-end infinite }}"
    )


def _text(row: int, line: Line, name: str) -> str:
    y = MARGIN + (row + 0.75) * CELL_HEIGHT
    pieces = [
        f'<tspan x="{MARGIN + column * CELL_WIDTH:.1f}" textLength="{len(text) * CELL_WIDTH:.1f}" '
        f'fill="{COLOURS.get(colour, "#" + colour)}"{BOLD if bold else ""}>'
        f"{escape(text)}</tspan>"
        for column, text, colour, bold in line
    ]
    kind = f' class="{name}"' if name else ""
    return f'<text y="{y:.1f}"{kind}>{"".join(pieces)}</text>'


if __name__ == "__main__":
    program = [str(Path(sys.executable).with_name("agent-pool")), "demo"]
    PICTURE.write_text(draw(record(program), "agent-pool demo"), encoding="utf-8")
