"""Write docs/conformance.md: ``python scripts/conformance_page.py``; needs the extra `dev`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.conformance_report import ConformanceReport, RunKey, read_expected, run_suite
from support.conformance_suite import REVISIONS, VALIDITY, Scenario

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
HEAD = """# Conformance to MCP

The [official conformance suite](https://github.com/modelcontextprotocol/conformance) of MCP runs in the tests. It calls the MCP server of this project over HTTP, with the requirements of the protocol's revisions {revisions}.
`python scripts/conformance_page.py` makes this page. A test runs the suite and compares.

Used: the suite `@modelcontextprotocol/conformance` {suite}, Node {Node}, the MCP SDK `mcp` {mcp}.

Two servers are tested:

* **daemon**: the daemon as users start it, at `/mcp`. It has tools, but no prompts, resources, completions or log messages. Scenarios about those, and scenarios that call tools of the suite's own, fail here. The reasons are listed below.
* **fixtures**: a server of the tests, with the tools, prompts and resources that the suite calls. The guard, the HTTP server, the MCP server, the tasks extension and the rounds of questions are those of the daemon. Here everything passes.

A scenario has several checks. One of them, `wire-schema-valid`, is that every message of the server has the form that the protocol's schema demands. It must pass in every scenario in which the suite sees messages.
A warning is a recommendation of the protocol that is not followed.

"""


def page(report: ConformanceReport) -> str:
    """Return the whole page."""
    head = HEAD.format(revisions=" and ".join(REVISIONS), **report.versions)
    lines = [*_summary(report), *_reasons(), *_warnings(report)]
    for key, run in report.runs.items():
        lines += _table(key, run)
    return head + "\n".join(lines)


def _summary(report: ConformanceReport) -> Iterator[str]:
    yield "## Summary\n"
    yield "| server | revision | scenarios passed | expected failures | checks passed | messages valid in |"
    yield "|---|---|---|---|---|---|"
    for (server, revision), run in report.runs.items():
        failed = sum(bool(one.failures) for one in run.values())
        checks = sum(one.count("SUCCESS") for one in run.values())
        valid = [c.status for one in run.values() for c in one.checks if c.name == VALIDITY]
        cells = [server, revision, f"{len(run) - failed} of {len(run)}", failed, checks]
        yield f"| {' | '.join(map(str, cells))} | {valid.count('SUCCESS')} of {len(valid)} |"
    yield ""


def _reasons() -> Iterator[str]:
    yield "## Expected failures\n"
    yield "| server | revisions | scenarios | reason |"
    yield "|---|---|---|---|"
    for entry in read_expected():
        names = ", ".join(f"`{name}`" for name in entry.scenarios)
        yield f"| {entry.server} | {', '.join(entry.revisions)} | {names} | {entry.reason} |"
    yield ""


def _warnings(report: ConformanceReport) -> Iterator[str]:
    yield "## Recommendations that are not followed\n"
    yield "With fixtures; the other warnings of the daemon are those of scenarios that need fixtures.\n"
    yield "| revision | check | what the suite says |"
    yield "|---|---|---|"
    for (server, revision), run in report.runs.items():
        for one in run.values() if server == "fixtures" else ():
            for check in one.checks:
                if check.status == "WARNING":
                    yield f"| {revision} | `{one.name}:{check.name}` | {check.message} |"
    yield ""


def _table(key: RunKey, run: Mapping[str, Scenario]) -> Iterator[str]:
    yield f"## All scenarios: {', '.join(key)}\n"
    yield "| scenario | passed | failed | warnings | skipped |"
    yield "|---|---|---|---|---|"
    for one in run.values():
        counts = [one.count(name) for name in ("SUCCESS", "FAILURE", "WARNING", "SKIPPED")]
        yield f"| `{one.name}` | {' | '.join(map(str, counts))} |"
    yield ""


if __name__ == "__main__":
    os.environ["AGENT_POOL_DAEMON"] = "off"
    PAGE.write_text(page(run_suite()), encoding="utf-8")
