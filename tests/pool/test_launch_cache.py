"""The launches of agents: the version of a binary is asked for once, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent_pool import SpawnError
from agent_pool.agents import Projects
from agent_pool.pool import launch_cache
from agent_pool.pool.agent_registry import KEPT_VERSIONS, AgentRegistry
from agent_pool.pool.launch_cache import LaunchCache
from agent_pool.pool.scheduler import AgentSpec
from agent_pool.settings import Settings
from support import fake_cli
from support.pools import PoolProject
from support.waiting import run


def projects_of(project: PoolProject, version: str = "2.1.330") -> Projects:
    fake_cli.install(project.fake, version=version)
    settings = Settings(project_dir=project.root, claude_cli=str(project.fake / "claude"))
    return Projects(settings, project.fake_environment())


def test_a_caller_right_after_the_version_query_gets_the_version(
    pool_project: PoolProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = projects_of(pool_project).default

    async def main() -> None:
        answered = asyncio.Event()

        async def answer(path: Path, environ: Mapping[str, str]) -> str:
            answered.set()
            return "2.1.330"

        monkeypatch.setattr(launch_cache, "cli_version", answer)
        cache = LaunchCache()

        async def come_late() -> str:
            await answered.wait()
            return (await cache.get(project.catalog.find("tester"), project)).version

        late = asyncio.create_task(come_late())
        await asyncio.sleep(0)
        first = await cache.get(project.catalog.find("tester"), project)
        assert (first.version, await late) == ("2.1.330", "2.1.330")

    run(main())


def test_a_binary_removed_before_its_version_query_is_a_spawn_error(
    pool_project: PoolProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = projects_of(pool_project).default
    gone = pool_project.fake / "gone"
    monkeypatch.setattr(launch_cache, "find_cli", lambda settings, environ: gone)

    async def main() -> None:
        with pytest.raises(SpawnError, match="gone cannot be run: No such file"):
            await LaunchCache().get(project.catalog.find("tester"), project)

    run(main())


def test_an_unknown_option_is_reported_once_for_a_binary(
    pool_project: PoolProject, caplog: pytest.LogCaptureFixture
) -> None:
    project = projects_of(pool_project, version="2.0.30").default
    pool_project.agent("other", effort="low")

    async def main() -> None:
        cache = LaunchCache()
        for name in ("tester", "other", "tester"):
            await cache.get(project.catalog.find(name), project)

    run(main())
    reports = [record.getMessage() for record in caplog.records]
    for option, cost in ("--no-session-persistence", "a transcript"), ("--effort", "effort has no"):
        (report,) = (report for report in reports if option in report)
        assert f"(2.0.30) does not know {option}: {cost}" in report
    assert len(reports) == 2


def test_a_definition_that_is_edited_back_is_not_forgotten(pool_project: PoolProject) -> None:
    projects = projects_of(pool_project)
    in_use: set[AgentSpec | None] = set()

    async def main() -> None:
        registry = AgentRegistry(projects, LaunchCache(), lambda: in_use)

        async def edit(body: str) -> AgentSpec:
            pool_project.agent("tester", body, description="Tests.")
            return await registry.resolve("tester")

        first = await edit("Version 0.")
        in_use.add(first)
        for number in range(1, KEPT_VERSIONS + 1):
            await edit(f"Version {number}.")
        in_use.clear()
        assert await edit("Version 0.") == first
        assert registry.launch(first, first.profile).prompt == "Version 0."

    run(main())
