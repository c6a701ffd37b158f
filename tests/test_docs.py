"""What the documentation says of commands, settings and files is true."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEST_LINE = "pip install -e '.[dev]' && pytest"


def test_ci_calls_exactly_the_test_line_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert TEST_LINE in readme.splitlines()
    assert TEST_LINE in ci.splitlines()


def test_the_settings_page_is_made_from_the_settings() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "settings_page.py"))

    assert script["page"]() == script["PAGE"].read_text(encoding="utf-8")


def test_the_pictures_of_states_are_drawn_from_the_tables_of_states() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "state_pictures.py"))

    for path, picture in script["pictures"]().items():
        assert path.read_text(encoding="utf-8") == picture


def test_figures_of_other_pages_are_those_of_the_benchmark() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "figures.py"))

    for path in script["PAGES"]:
        assert script["filled"](path) == path.read_text(encoding="utf-8")


def test_every_planted_bug_applies_has_a_test_and_is_documented() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "plant_bugs.py"))

    assert script["table"]() in (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    for bug in script["bugs"]():
        source = (ROOT / "src" / "agent_pool" / bug["file"]).read_text(encoding="utf-8")
        assert script["edited"](bug, source) != source
        path, _, name = bug["test"].partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_documentation_lead_to_existing_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", text)

    missing = [link for link in links if not (page.parent / link).exists()]

    assert missing == []


def test_the_table_of_clients_is_made_from_their_recorded_runs() -> None:
    from clients.report import PAGE, page_with_table

    assert page_with_table() == PAGE.read_text(encoding="utf-8")
