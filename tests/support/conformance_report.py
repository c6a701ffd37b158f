"""The runs of the conformance suite against our servers, and the failures that are expected."""

from __future__ import annotations

import asyncio
import tempfile
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from agent_pool.client.hello import PROJECT_HEADER
from support.conformance_server import fixture_server
from support.conformance_suite import (
    REVISIONS,
    VALIDITY,
    Scenario,
    SuiteProgram,
    install_suite,
    run_requirements,
)
from support.daemons import TOKEN, DaemonProject
from support.header_proxy import HeaderProxy

EXPECTED = Path(__file__).parents[1] / "conformance" / "expected_failures.toml"
MOST_RUNS = 3
"""The suite waits for some messages for half a second only, which a busy machine can miss."""

RunKey = tuple[str, str]
"""The server, and the revision of the protocol."""


@dataclass(frozen=True)
class ExpectedFailure:
    """Scenarios that fail, and why.

    Attributes:
        server: the server, as in `SERVERS`.
        revisions: of the protocol.
        scenarios: their names; a name with `:` and a check means this check only.
        reason: for people.
    """

    server: str
    revisions: tuple[str, ...]
    scenarios: tuple[str, ...]
    reason: str


def read_expected() -> list[ExpectedFailure]:
    """Return all expected failures."""
    entries: list[dict[str, Any]] = tomllib.loads(EXPECTED.read_text())["failures"]
    return [
        ExpectedFailure(
            one["server"],
            tuple(one.get("revisions", REVISIONS)),
            tuple(one["scenarios"]),
            " ".join(one["reason"].split()),
        )
        for one in entries
    ]


class Expectations:
    """The expected failures of one server at one revision."""

    def __init__(self, server: str, revision: str) -> None:
        self._whole: dict[str, str] = {}
        self._single: dict[tuple[str, str], str] = {}
        for entry in read_expected():
            if entry.server == server and revision in entry.revisions:
                for name in entry.scenarios:
                    scenario, _, check = name.partition(":")
                    if check:
                        self._single[scenario, check] = entry.reason
                    else:
                        self._whole[scenario] = entry.reason

    def names(self) -> set[str]:
        """Return the scenarios that are expected to fail, at least in part."""
        return {*self._whole, *(scenario for scenario, _ in self._single)}

    def reason(self, scenario: str) -> str:
        """Return why a scenario fails; empty for one that is expected to succeed."""
        single = (why for (name, _), why in self._single.items() if name == scenario)
        return self._whole.get(scenario) or next(single, "")

    def surprises(self, scenario: Scenario) -> Iterator[str]:
        """Yield what is not as expected, in words."""
        failed = {check.name for check in scenario.failures}
        for check in scenario.failures:
            is_expected = (
                scenario.name in self._whole or (scenario.name, check.name) in self._single
            )
            if not is_expected or check.name == VALIDITY:
                yield f"{scenario.name}:{check.name} fails: {check.message}"
        if scenario.name in self._whole and not failed:
            yield f"{scenario.name} succeeds; remove it from {EXPECTED.name}"
        for name, check_name in self._single:
            if name == scenario.name and check_name not in failed:
                yield f"{name}:{check_name} does not fail; remove it from {EXPECTED.name}"


@asynccontextmanager
async def _daemon(folder: Path) -> AsyncIterator[HeaderProxy]:
    """Start a daemon as a client does, and a proxy that knows its token."""
    place = folder / "project"
    place.mkdir()
    project = DaemonProject(place, folder)
    try:
        address = await asyncio.to_thread(project.start)
        port = urlsplit(address.url).port
        assert port is not None
        async with HeaderProxy(port, _headers(address.token, project.root)).open() as proxy:
            yield proxy
    finally:
        await asyncio.to_thread(project.end)


@asynccontextmanager
async def _fixtures(folder: Path) -> AsyncIterator[HeaderProxy]:
    async with (
        fixture_server(folder) as port,
        HeaderProxy(port, _headers(TOKEN, folder)).open() as proxy,
    ):
        yield proxy


def _headers(token: str, project: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", PROJECT_HEADER: quote(str(project))}


SERVERS: Mapping[str, Callable[[Path], AbstractAsyncContextManager[HeaderProxy]]] = {
    "daemon": _daemon,
    "fixtures": _fixtures,
}
"""The servers under test: the daemon as it is, and its classes with the suite's own tools."""


@dataclass(frozen=True)
class ConformanceReport:
    """The results of all runs, and the versions of what ran."""

    versions: Mapping[str, str]
    runs: Mapping[RunKey, Mapping[str, Scenario]]


def run_suite() -> ConformanceReport:
    """Run the suite against both servers at both revisions; skip the test if it cannot run."""
    program = install_suite()
    return asyncio.run(_run_all(program))


async def _run_all(program: SuiteProgram) -> ConformanceReport:
    # A short path: that of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="apc-", dir="/tmp") as folder:
        found = await asyncio.gather(
            *(_run_server(program, server, Path(folder)) for server in SERVERS)
        )
    versions = {**program.versions, "mcp": version("mcp")}
    return ConformanceReport(versions, {key: run for runs in found for key, run in runs.items()})


async def _run_server(
    program: SuiteProgram, server: str, parent: Path
) -> dict[RunKey, dict[str, Scenario]]:
    folder = parent / server
    folder.mkdir()
    async with SERVERS[server](folder) as proxy:
        return {
            (server, revision): await _run_until_expected(
                program, proxy.port, (server, revision), folder / revision
            )
            for revision in REVISIONS
        }


async def _run_until_expected(
    program: SuiteProgram, port: int, key: RunKey, folder: Path
) -> dict[str, Scenario]:
    """Run all scenarios, and again while one is not as expected; return the last of each."""
    expectations = Expectations(*key)
    results: dict[str, Scenario] = {}
    for number in range(MOST_RUNS):
        again = await run_requirements(program, port, key[1], folder / str(number))
        for name, scenario in again.items():
            if name not in results or any(expectations.surprises(results[name])):
                results[name] = scenario
        if not any(any(expectations.surprises(one)) for one in results.values()):
            break
    return results
