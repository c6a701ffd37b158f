from __future__ import annotations

import gc
import logging
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from support.cli_facts import TITLE, describe, guarded_facts
from support.own_machine import default_signals, own_temporary_folder
from support.pool_harness import PoolHarness
from support.pools import PoolProject
from support.process_checks import zombies
from support.project import TempProject

# No test depends on a clock: on a busy machine an example takes longer than 200 ms.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

LONG_FILES = {
    *("test_api_refusals", "test_budgets", "test_claims", "test_cli_doctor"),
    *("test_cli_terminal", "test_daemon_life", "test_environment", "test_leftovers"),
    *("test_mcp_end_of_process", "test_mcp_limits", "test_mcp_start", "test_memory"),
    *("test_no_orphans", "test_permissions", "test_pool_faults", "test_relay", "test_reset_checks"),
    *("test_reset_ways", "test_roles", "test_scheduler_machine"),
    *("test_taint", "test_task_commands", "test_task_usage", "test_worktree_tasks"),
}
"""Test files that take longest for their number of tests."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the long files first: one that begins last would run alone, beside idle processes."""
    items.sort(key=lambda item: item.path.stem not in LONG_FILES)


def pytest_collection_finish() -> None:
    """Leave the objects of all test modules out of later garbage collections.

    `pool_project` collects after each of 370 tests. That took 0.2 s of processor time each with
    the 400,000 objects of all modules, and takes a millisecond with those that a test has made.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the facts about the CLI that a failed test guards to its report."""
    report = yield
    if report.failed:
        name = item.originalname if isinstance(item, pytest.Function) else item.name
        if facts := guarded_facts(item.path.name, name):
            report.sections.append((TITLE, describe(facts)))
    return report


@pytest.fixture(scope="session", autouse=True)
def one_process() -> Iterator[None]:
    """Keep everything in one process; the tests of the daemon give their processes another value.

    For the whole session: fixtures of modules start processes too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENT_POOL_DAEMON", "off")
        yield


@pytest.fixture(scope="session", autouse=True)
def own_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests apart from the rest of the machine: from its shell and from other pools."""
    tmp_path_factory.getbasetemp()  # pytest's own folder outlives the run
    with default_signals(), own_temporary_folder():
        yield


@pytest.fixture(autouse=True)
def plain_process() -> Iterator[None]:
    """Keep tests apart that run in one process: commands set its log level and its environment."""
    logging.getLogger("agent_pool").setLevel(logging.NOTSET)
    before = _environment()
    yield
    left = {name for name, _ in before.items() ^ _environment().items()}
    assert left == set(), "the next tests would have these variables of this one"


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}


@pytest.fixture
def project(tmp_path: Path) -> TempProject:
    """Return a temporary project with a home of its own."""
    return TempProject(tmp_path)


@pytest.fixture
def pool_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[PoolProject]:
    """Return a project for pools.

    After the test no process, zombie or temporary file of a pool exists, and no error was logged.
    """
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    began = time.time()
    project = PoolProject(tmp_path)
    yield project
    left = project.processes()
    for process in left:
        process.kill()
    gc.collect()  # what was never awaited or closed warns when it is collected
    assert [" ".join(process.cmdline()) for process in left] == []
    assert zombies(since=began) == []
    assert [path.name for path in scratch.iterdir()] == []
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert [(record.name, record.getMessage()) for record in errors] == []


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one cache folder for all tests of a run, so that each canary runs once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of this process is one of several in the run's folder
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture(scope="module")
def open_harness(
    tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Iterator[Callable[..., PoolHarness]]:
    """Open harnesses that live as long as the module; afterwards none of their processes lives."""
    opened: list[PoolHarness] = []

    def open_one(**options: Any) -> PoolHarness:
        harness = PoolHarness(tmp_path_factory.mktemp("harness"), cache, **options)
        opened.append(harness)
        harness.open()
        return harness

    yield open_one
    left = []
    for harness in opened:
        harness.close()
        left += harness.project.processes()
    for process in left:
        process.kill()
    assert left == []
