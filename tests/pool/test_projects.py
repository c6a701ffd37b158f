"""One pool serves several projects, each with its own agents, settings and environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_pool import AgentNotFound, ConfigError, TaskRequest, TaskResult
from agent_pool.agents import Projects
from agent_pool.settings import Settings, claude_home
from support.model_scripts import as_text, echo_task
from support.pools import PoolProject, wait_until_idle
from support.process_checks import is_alive
from support.waiting import run


def other_project(folder: Path, name: str = "tester", body: str = "You are the other.") -> Path:
    """Define an agent in another project; return the project's folder."""
    agents = folder / "other" / ".claude" / "agents"
    agents.mkdir(parents=True)
    (agents / f"{name}.md").write_text(f"---\nname: {name}\ndescription: x\n---\n{body}\n")
    return folder / "other"


def test_two_projects_with_one_agent_name_use_their_own_files(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    pool_project.agent("tester", "You are the first.", description="Tests.")
    other = other_project(tmp_path)

    async def main() -> None:
        async with pool_project.real(echo_task, max_size=1) as (pool, api):
            results = [
                await pool.invoke(
                    "tester", f"task {number}", project=(None, str(other))[number % 2]
                )
                for number in range(6)
            ]
            await wait_until_idle(pool)
            workers = {worker.project: worker for worker in await pool.workers()}
            assert set(workers) == {str(pool_project.root), str(other)}
            assert [result.pid for result in results[::2]] == [results[0].pid] * 3
            assert [result.pid for result in results[1::2]] == [results[1].pid] * 3
            assert results[0].pid != results[1].pid
            for request in api.requests:
                is_other = "You are the other." in as_text(request)
                task = request.last_user_text.strip()
                assert is_other == (task in ("task 1", "task 3", "task 5"))
            stats = await pool.stats()
            assert [(figures.project, figures.tasks) for figures in stats.agents] == [
                (project, 3) for project in sorted(workers)
            ]

    run(main())


def test_a_batch_runs_tasks_of_several_projects_side_by_side(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    other = other_project(tmp_path)

    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task) as (pool, _):
            outcomes = await pool.map(
                [TaskRequest("tester", "here"), TaskRequest("tester", "there", str(other))]
            )
            texts = [one.text for one in outcomes if isinstance(one, TaskResult)]
            assert texts == ["echo: here", "echo: there"]
            folders = {worker.project for worker in await pool.workers()}
            assert folders == {str(pool_project.root), str(other)}

    run(main())


def test_reset_and_conversations_belong_to_one_project(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    other = str(other_project(tmp_path))

    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task) as (pool, _):
            here = await pool.invoke("tester", "one", conversation="talk")
            there = await pool.invoke("tester", "two", conversation="talk", project=other)
            assert (here.place, there.place) == (1, 1)
            assert await pool.end_conversation("tester", "talk", project=other) is True
            again = await pool.invoke("tester", "three", conversation="talk")
            assert (again.place, again.pid) == (2, here.pid)
            assert await pool.reset("tester", project=other) == 1
            assert (is_alive(here.pid), is_alive(there.pid)) == (True, False)

    run(main())


def test_the_agents_of_another_project_are_listed_by_its_folder(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    other = str(other_project(tmp_path, "helper"))

    async def main() -> None:
        pool = pool_project.faulty()
        found = await pool.agents(project=other)
        assert [agent.name for agent in found.usable] == ["helper"]
        assert found.project == other
        before = await pool.agents_version(project=other)
        (Path(other) / ".claude" / "agents" / "new.md").write_text("---\nname: new\n---\nx\n")
        assert await pool.agents_version(project=other) != before
        spec = await pool.launch_spec("helper", project=other)
        assert spec.cwd == other
        with pytest.raises(AgentNotFound, match="helper"):
            await pool.check(TaskRequest("helper", "x"))

    run(main())


def test_the_version_of_the_agents_changes_with_servers_and_trust(
    pool_project: PoolProject,
) -> None:
    pool_project.agent("caller", description="Calls.", mcpServers="[late]")
    state = pool_project.home / ".claude" / ".claude.json"

    async def main() -> None:
        pool = pool_project.faulty()

        async def usable() -> set[str]:
            return {agent.name for agent in (await pool.agents()).usable}

        versions = [await pool.agents_version()]
        assert await usable() == {"tester"}
        servers = {"mcpServers": {"late": {"command": "server"}}}
        (pool_project.root / ".mcp.json").write_text(json.dumps(servers))
        versions.append(await pool.agents_version())
        assert await usable() == {"tester", "caller"}
        pool_project.trust()
        versions.append(await pool.agents_version())
        settings = pool_project.root / ".claude" / "settings.json"
        settings.write_text(json.dumps({"disabledMcpjsonServers": ["late"]}))
        versions.append(await pool.agents_version())
        state.write_text("{")
        versions.append(await pool.agents_version())
        assert len(set(versions)) == 5
        # Claude Code notes many other things in its file, at each start.
        state.write_text(json.dumps({"numStartups": 1}))
        before = await pool.agents_version()
        state.write_text(json.dumps({"numStartups": 2}))
        assert await pool.agents_version() == before

    run(main())


@pytest.mark.parametrize("folder", ["/no/such/folder", 5])
def test_a_project_that_is_not_a_folder_is_refused(
    pool_project: PoolProject, folder: object
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            with pytest.raises(ConfigError, match="project: "):
                await pool.invoke("tester", "x", project=folder)  # type: ignore[arg-type]
            assert await pool.workers() == []

    run(main())


def test_a_project_takes_the_home_of_its_environment(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path / "home")}
    assert claude_home(environ) == tmp_path / "home" / ".claude"
    assert claude_home({**environ, "CLAUDE_CONFIG_DIR": "/etc/claude"}) == Path("/etc/claude")
    project = Projects(Settings(project_dir=tmp_path), environ).default
    assert tmp_path / "home" / ".claude" / "agents" in project.catalog.folders.agents
    assert "home" not in repr(project.environ) or "HOME" not in repr(project)


def test_two_spellings_of_a_folder_are_one_project(tmp_path: Path) -> None:
    projects = Projects(Settings(project_dir=tmp_path), {"HOME": str(tmp_path)})
    (tmp_path / "inside").mkdir()
    assert projects.get(str(tmp_path / "inside" / "..")) is projects.default
    with pytest.raises(ConfigError, match="expected a folder, found ''"):
        projects.get("")
