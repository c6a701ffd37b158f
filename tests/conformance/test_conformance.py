"""The official conformance suite of MCP against the daemon, and against its classes with fixtures.

It is installed into the user's cache folder, and runs once for all tests.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from support.conformance_report import (
    SERVERS,
    ConformanceReport,
    Expectations,
    RunKey,
    read_expected,
    run_suite,
)
from support.conformance_suite import REVISIONS, VALIDITY

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]  # with the installation

SCRIPT = Path(__file__).parents[2] / "scripts" / "conformance_page.py"
UNWATCHED = {
    "dns-rebinding-protection",
    "server-session-lifecycle",
    "server-sse-multiple-streams",
    "server-sse-polling",
    "server-stateless",
    "tasks-status-notifications",
}
"""Scenarios whose messages the suite does not compare with the schema."""
KEYS = [(server, revision) for server in SERVERS for revision in REVISIONS]


@pytest.fixture(scope="module")
def report() -> ConformanceReport:
    """Return the results of all runs."""
    return run_suite()


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_every_scenario_passes_but_those_with_a_reason(
    report: ConformanceReport, key: RunKey
) -> None:
    expectations, run = Expectations(*key), report.runs[key]
    surprises = [one for scenario in run.values() for one in expectations.surprises(scenario)]
    assert surprises == []
    assert expectations.names() <= run.keys()


@pytest.mark.parametrize("key", KEYS, ids="-".join)
def test_every_message_has_the_form_of_the_protocol(report: ConformanceReport, key: RunKey) -> None:
    for name, scenario in report.runs[key].items():
        found = [check.status for check in scenario.checks if check.name == VALIDITY]
        assert found == ([] if name in UNWATCHED else ["SUCCESS"]), name


def test_the_server_with_fixtures_fails_in_no_scenario() -> None:
    assert {entry.server for entry in read_expected()} == {"daemon"}


def test_the_page_on_conformance_shows_what_the_suite_reports(report: ConformanceReport) -> None:
    # After a change: python scripts/conformance_page.py
    script = runpy.run_path(str(SCRIPT))
    page: Path = script["PAGE"]
    assert _compared(page.read_text(encoding="utf-8")) == _compared(script["page"](report))


def _compared(page: str) -> list[str]:
    # Not the versions: that of the SDK can be any from 2.3 on.
    return [line for line in page.splitlines() if not line.startswith("Used: ")]
