"""Plant the bugs of tests/planted_bugs.toml, and check that a test catches each of them.

    python scripts/plant_bugs.py            all bugs
    python scripts/plant_bugs.py WORD…      the bugs that contain one of the words
    python scripts/plant_bugs.py --table    no bug: write the table of docs/design.md

Each bug is planted in a copy of the project; then its test runs there and must fail. The exit code
is 1 if a bug was not caught.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BUGS = ROOT / "tests" / "planted_bugs.toml"
PAGE = ROOT / "docs" / "design.md"
BEGIN, END = "<!-- planted bugs -->\n", "<!-- end of planted bugs -->\n"
CAUGHT = 1
"""The exit code of pytest if tests have run and some of them failed."""

Bug = dict[str, Any]


def bugs() -> list[Bug]:
    """Return all bugs, in the order of the file."""
    found: list[Bug] = tomllib.loads(BUGS.read_text(encoding="utf-8"))["bug"]
    return found


def edited(bug: Bug, source: str) -> str:
    """Return the source with the bug in it.

    Raises:
        AssertionError: the source does not contain the replaced text exactly once.
    """
    for edit in (bug, *bug.get("also", ())):
        found = source.count(edit["old"])
        assert found == 1, f"{bug['file']} contains {edit['old']!r} {found} times, not once"
        source = source.replace(edit["old"], edit["new"])
    return source


def is_caught(bug: Bug, copy: Path) -> bool:
    """Plant the bug in the copy, and return whether its test fails; the copy is restored."""
    file = copy / "src" / "agent_pool" / bug["file"]
    whole = file.read_text(encoding="utf-8")
    file.write_text(edited(bug, whole), encoding="utf-8")
    run = [sys.executable, "-m", "pytest", "-q", "-n0", "-x", "-m", "", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTHONPATH": str(copy / "src")}
    try:
        done = subprocess.run(
            [*run, bug["test"]], cwd=copy, env=env, capture_output=True, check=False
        )
    finally:
        file.write_text(whole, encoding="utf-8")
    return done.returncode == CAUGHT


def table() -> str:
    """Return the bugs as a Markdown table: promise, bug, test."""
    rows = ["| promise | bug | caught by |", "|---|---|---|"]
    for bug in bugs():
        path, _, name = bug["test"].partition("::")
        test = f"`{name.partition('[')[0] or path.removeprefix('tests/')}`"
        rows.append(f"| {bug['promise']} | {bug['what']} | {test} |")
    return "\n".join(rows) + "\n"


def write_table() -> None:
    """Write the table into docs/design.md, between its two marks."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}{table()}{END}{tail}", encoding="utf-8")


def main(words: list[str]) -> int:
    """Plant the bugs that contain one of the words, or all bugs without words.

    Returns:
        The exit code: 1 if a bug was not caught.
    """
    chosen = [bug for bug in bugs() if not words or any(word in str(bug) for word in words)]
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*_cache")
        )
        for bug in chosen:
            caught = is_caught(bug, copy)
            missed += not caught
            sys.stdout.write(f"{'caught' if caught else 'MISSED'}  {bug['what']}\n")
            sys.stdout.flush()
    return int(missed > 0)


if __name__ == "__main__":
    if sys.argv[1:] == ["--table"]:
        write_table()
    else:
        sys.exit(main(sys.argv[1:]))
