"""docs/cli-facts.md names a test for each fact that the code leans on, and a failure names it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from support.cli_facts import Fact, guarded_facts, parse_facts, read_facts
from support.environment import CLI_UNDER_TEST

ROOT = Path(__file__).parents[1]


@cache
def names_in(file: str) -> list[str]:
    """Return the names of the tests in a file, without `test_`; the file's name is unique."""
    (path,) = (ROOT / "tests").rglob(file)
    return re.findall(r"^(?:async )?def test_(\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("fact", read_facts(), ids=lambda fact: fact.text[:40])
def test_each_fact_in_use_names_an_existing_test(fact: Fact) -> None:
    assert fact.tests or not fact.code, "code leans on this fact, and no test guards it"
    for file, start in fact.tests:
        alone = Fact("", "", "", ((file, start),), ())
        found = [name for name in names_in(file) if alone.is_guarded_by(file, f"test_{name}")]
        assert len(found) == 1, f"{file}: {start} stands for {found}"


def test_each_named_code_file_exists_in_the_package() -> None:
    files = {path for fact in read_facts() for path in fact.code}

    assert len(files) > 20
    assert [path for path in files if not (ROOT / "src" / "agent_pool" / path).is_file()] == []


def test_every_line_of_the_tables_is_read_as_a_fact() -> None:
    page = (ROOT / "docs" / "cli-facts.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    tables = page.count("| fact | versions | test | code |")

    assert len(read_facts()) == len(lines) - tables > 150
    for line, fact in zip([x for x in lines if "| fact |" not in x], read_facts(), strict=True):
        assert line.count("`test_") == len({file for file, _ in fact.tests}), line


def test_a_fact_is_read_with_its_tests_and_code() -> None:
    page = (
        "## `/clear`\n| fact | versions | test | code |\n|---|---|---|---|\n"
        "| The CLI forgets | 2.1.330 | `test_a.py`: `one_way…`, `exact`; `test_b.py`: `two…` "
        "| `claude/a.py`, `b.py` |\n| Background | all | | |\n"
    )

    first, second = parse_facts(page)

    assert first.tests == (("test_a.py", "one_way…"), ("test_a.py", "exact"), ("test_b.py", "two…"))
    assert (first.section, first.code) == ("`/clear`", ("claude/a.py", "b.py"))
    assert (second.tests, second.code) == ((), ())
    assert first.is_guarded_by("test_a.py", "test_one_way_out")
    assert not first.is_guarded_by("test_a.py", "test_exactly")
    assert not first.is_guarded_by("test_c.py", "test_one_way_out")


def test_a_failing_test_names_the_facts_that_it_guards(tmp_path: Path) -> None:
    # A CLI that only answers with its version stands for one that has changed.
    cli = tmp_path / "claude"
    cli.write_text("#!/bin/sh\necho 9.9.9\n")
    cli.chmod(0o755)
    name = "test_a_switched_model_stays_after_a_clear"
    (fact,) = guarded_facts("test_cli_facts.py", name)

    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-n0",
                "-m",
                "",
                "--tb=line",
                "-p",
                "no:cacheprovider",
            ),
            f"tests/isolation/test_cli_facts.py::{name}",
        ],
        cwd=ROOT,
        env={**os.environ, CLI_UNDER_TEST: str(cli)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "docs/cli-facts.md" in done.stdout
    assert str(fact) in done.stdout
