"""Copy figures of docs/benchmarks.md into other pages: ``python scripts/figures.py``.

Each of these pages has a place between two comments. So all pages show the same run.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "benchmarks.md"
PAGES = (ROOT / "docs" / "when-not.md",)
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
METHODS = {
    "pool, library": "agent-pool, library",
    "pool, MCP": "agent-pool, over MCP",
    "native Agent tool": "native Agent tool",
    "`claude -p` per task": "`claude -p`, a process for each task",
    "SDK `query()` per task": "Agent SDK, `query()` for each task",
}
HEAD = """\
| | time for a task | ready in | memory between tasks, after 1 / 100 | peak memory, task 1 / 100 | tokens written / read, 10 tasks |
|---|---|---|---|---|---|
"""


def table() -> str:
    """Return the table of all methods, from the benchmark's own tables."""
    return HEAD + "".join(_row(method, name) for method, name in METHODS.items())


def _row(method: str, name: str) -> str:
    times = _cells("Time for a task", method)
    memory = _cells("Memory around task number, peak / after it", method)
    tokens = _cells("Tokens written / read for so many tasks", method)
    peaks, rests = zip(
        *(cell.removesuffix(" MiB").split(" / ") for cell in memory[:3]), strict=True
    )
    cells = (
        name,
        times[0],
        times[4],
        f"{rests[0]} / {rests[2]} MiB",
        f"{peaks[0]} / {peaks[2]} MiB",
        tokens[3],
    )
    return f"| {' | '.join(cells)} |\n"


def _cells(title: str, method: str) -> list[str]:
    """Return the cells of a method's row in one of the benchmark's tables."""
    text = SOURCE.read_text(encoding="utf-8")
    part = text.partition(f"**{title}**")[2].partition("\n**")[0]
    row = re.search(rf"^\| {re.escape(method)} \|(.*)\|$", part, re.MULTILINE)
    assert row is not None, f"{SOURCE}: no row {method!r} in {title!r}"
    return [cell.strip() for cell in row[1].split("|")]


def filled(page: Path) -> str:
    """Return a page with the figures in their place."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, page
    assert end, page
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path), encoding="utf-8")
