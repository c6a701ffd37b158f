"""The facts of docs/cli-facts.md, and which tests guard them.

The page is the only place that connects a fact, its tests and the code that leans on it. When a
test fails, `tests/conftest.py` prints the facts that it guards: if Claude Code has changed, they
say what has changed and where to look.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cli-facts.md"
TITLE = "facts about the CLI that this test guards"
_NAMES = re.compile(r"`(?:[\w/]+/)?(test_\w+\.py)`: ((?:`\w+…?`(?:, )?)+)")


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of the page.

    Attributes:
        section: the heading above it.
        text: the fact.
        versions: those on which it was observed.
        tests: names of files and beginnings of the names of tests, without `test_`.
        code: paths in `src/agent_pool` of the code that leans on it.
    """

    section: str
    text: str
    versions: str
    tests: tuple[tuple[str, str], ...]
    code: tuple[str, ...]

    def is_guarded_by(self, file: str, test: str) -> bool:
        """Check whether this test fails when the fact is no longer true."""
        name = test.removeprefix("test_")
        return any(file == known and _fits(name, start) for known, start in self.tests)

    def __str__(self) -> str:
        code = ", ".join(f"src/agent_pool/{path}" for path in self.code)
        return f"{self.section}: {self.text} ({self.versions})\n  code that leans on it: {code}"


@cache
def read_facts() -> tuple[Fact, ...]:
    """Read the page."""
    return tuple(parse_facts(PAGE.read_text(encoding="utf-8")))


def parse_facts(page: str) -> Iterator[Fact]:
    """Yield the facts in a page's tables, in order."""
    section = ""
    for line in page.splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        # An empty cell has no blank between its bars; a short line has no cell for the code.
        cells = [cell.strip() for cell in re.split(r" \|", line.removeprefix("| "))]
        if line.startswith("| ") and cells[0] != "fact":
            text, versions, tests, code = [*cells, "", ""][:4]
            code_files = tuple(re.findall(r"`([^`]+)`", code))
            yield Fact(section, text, versions, tuple(_parse_tests(tests)), code_files)


def guarded_facts(file: str, test: str) -> list[Fact]:
    """Return the facts that a test guards.

    Args:
        file: the name of the test's file, without its folder.
        test: the name of the test's function.
    """
    return [fact for fact in read_facts() if fact.is_guarded_by(file, test)]


def describe(facts: list[Fact]) -> str:
    """Say what a failing test can mean for these facts."""
    lines = "\n".join(map(str, facts))
    return f"If Claude Code has changed, one of these lines of docs/cli-facts.md has:\n{lines}\n"


def _parse_tests(cell: str) -> Iterator[tuple[str, str]]:
    for file, names in _NAMES.findall(cell):
        for name in re.findall(r"`(\w+…?)`", names):
            yield file, name


def _fits(name: str, start: str) -> bool:
    return name.startswith(start[:-1]) if start.endswith("…") else name == start
