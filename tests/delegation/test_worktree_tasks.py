"""Tasks in a git worktree of their own, on the real CLI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent_pool import ConfigError, TaskFailed, TaskRequest, TaskResult, TaskTimeout
from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.cli_runner import agent_pool
from support.model_scripts import as_text, bash, echo_task, shell
from support.pools import PoolProject
from support.repositories import git, is_untouched, make_repository, worktrees
from support.variants import later
from support.waiting import run, wait_until

LOOK = "pwd; git branch --show-current"


def commands(request: ModelRequest) -> Any:
    """Answer with a call of the shell: the task is the command."""
    return echo_task(request) if request.tool_results else bash(request.last_user_text.strip())


@pytest.fixture
def repository(pool_project: PoolProject) -> Path:
    """Return the project's folder, a repository with an agent that works in worktrees."""
    pool_project.agent("isolated", description="x", isolation="worktree")
    (pool_project.root / "CLAUDE.md").write_text("MEMORY-OF-REPOSITORY\n")
    make_repository(pool_project.root)
    return pool_project.root


def test_an_unchanged_worktree_is_removed_with_its_worker(
    pool_project: PoolProject, repository: Path
) -> None:
    async def main() -> None:
        async with pool_project.real(commands) as (pool, api):
            for options in ({"agent": "isolated"}, {"agent": "tester", "isolation": "worktree"}):
                result = await pool.invoke(task=LOOK, **options)  # type: ignore[arg-type]
                assert f"{repository}/.claude/worktrees/pool-" in result.text
                assert "worktree-pool-" in result.text
                assert (result.worktree, result.branch) == (None, None)
                assert is_untouched(repository)
                assert await pool.workers() == []
            assert as_text(api.requests[0]).count("MEMORY-OF-REPOSITORY") == 1
            # The figures belong to the project and not to the worktree.
            stats = await pool.stats()
            assert [one.project for one in stats.agents] == [str(repository)] * 2

    run(main())


def test_a_changed_worktree_is_kept_and_its_place_is_told(
    pool_project: PoolProject, repository: Path
) -> None:
    async def main() -> None:
        async with pool_project.real(commands) as (pool, _):
            result = await pool.invoke("isolated", "echo new > made.txt")
            assert result.worktree is not None
            assert (Path(result.worktree) / "made.txt").read_text() == "new\n"
            assert worktrees(repository) == [Path(result.worktree)]
            assert git(Path(result.worktree), "branch", "--show-current") == result.branch
            assert not (repository / "made.txt").exists()
            assert TaskResult.from_json(json.loads(json.dumps(result.as_json()))) == result

    run(main())


@pytest.mark.long
def test_worktree_tasks_at_once_leave_ordinary_workers_alone(
    pool_project: PoolProject, repository: Path
) -> None:
    async def main() -> None:
        async with pool_project.real(commands, max_workers=6, spares=1) as (pool, _):
            ordinary = await pool.invoke("tester", "pwd")
            outcomes = await pool.map(
                [TaskRequest("tester", LOOK, isolation="worktree") for _ in range(4)]
            )
            texts = {one.text for one in outcomes if isinstance(one, TaskResult)}
            assert len(texts) == 4
            assert (await pool.invoke("tester", "pwd")).pid == ordinary.pid
            folders = [worker.project for worker in await pool.workers()]
            assert {folder for folder in folders if folder} == {str(repository)}

    run(main())
    assert is_untouched(repository)


def test_a_worktree_of_a_subfolder_starts_in_that_subfolder(
    pool_project: PoolProject, repository: Path
) -> None:
    (repository / "pkg").mkdir()
    (repository / "pkg" / "CLAUDE.md").write_text("MEMORY-OF-PKG\n")
    agents = repository / "pkg" / ".claude" / "agents"
    agents.mkdir(parents=True)
    (agents / "tester.md").write_text("---\nname: tester\ndescription: x\n---\nHi.\n")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=pkg")

    async def main() -> None:
        async with pool_project.real(commands) as (pool, api):
            folder = str(repository / "pkg")
            result = await pool.invoke("tester", "pwd", project=folder, isolation="worktree")
            assert result.text.splitlines()[0].endswith("/pkg")
            assert "/worktrees/pool-" in result.text
            text = as_text(api.requests[0])
            assert (text.count("MEMORY-OF-REPOSITORY"), text.count("MEMORY-OF-PKG")) == (1, 1)

    run(main())
    assert is_untouched(repository)


@pytest.mark.parametrize(
    "change",
    [later(""), "echo x > made.txt; "],
    ids=["unchanged", "changed"],
)
def test_a_cancelled_or_late_task_keeps_only_changes(
    pool_project: PoolProject, repository: Path, tmp_path: Path, change: str
) -> None:
    reached = tmp_path / "reached"
    task = change + shell(reached)

    async def main() -> None:
        async with pool_project.real(commands) as (pool, _):
            with pytest.raises(TaskTimeout) as caught:
                await pool.invoke("isolated", task, timeout=5)
            kept = worktrees(repository)
            assert len(kept) == (1 if change else 0)
            assert (f"kept in {repository}" in str(caught.value)) is bool(change)
            reached.unlink()
            handle = await pool.submit(TaskRequest("isolated", task))
            await wait_until(reached.exists)
            handle.cancel()
        # Closing the pool waits for the end of the worktree.
        assert len(worktrees(repository)) == (2 if change else 0)

    run(main())
    assert change or is_untouched(repository)


def test_a_caller_that_leaves_while_git_works_leaves_nothing(
    pool_project: PoolProject, repository: Path, tmp_path: Path
) -> None:
    began = tmp_path / "began"
    # A filter of git is a program that it waits for during the checkout.
    git(repository, "config", "filter.slow.smudge", f"touch {began}; sleep 1; cat")
    (repository / ".gitattributes").write_text("*.slow filter=slow\n")
    (repository / "a.slow").write_text("a")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=slow")

    async def main() -> None:
        async with pool_project.real(commands) as (pool, _):
            handle = await pool.submit(TaskRequest("isolated", LOOK))
            await wait_until(began.exists)
            handle.cancel()
            assert (await pool.stats()).spawned == 0

    run(main())
    assert is_untouched(repository)


def test_a_folder_without_a_repository_starts_no_worker(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.real(commands) as (pool, api):
            with pytest.raises(TaskFailed, match="not a git repository"):
                await pool.invoke("tester", "pwd", isolation="worktree")
            with pytest.raises(ConfigError, match="isolation: expected one of worktree"):
                await pool.invoke("tester", "pwd", isolation="remote")
            talk = TaskRequest("tester", "pwd", isolation="worktree", conversation="c")
            for ask in (pool.check(talk), (await pool.submit(talk)).result()):
                with pytest.raises(ConfigError, match="cannot have a conversation"):
                    await ask
            assert (await pool.stats()).spawned == 0
            assert api.requests == []

    run(main())


def test_hooks_of_an_untrusted_agent_stay_out_in_a_worktree(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    hook = {"hooks": [{"type": "command", "command": f"touch {tmp_path}/ran"}]}
    hooks = json.dumps({"PreToolUse": [{"matcher": "Bash", **hook}]})
    made = pool_project.agent("hooked", description="x", isolation="worktree", hooks=hooks)
    # A folder of the project; seen from the worktree it looks like one of the user.
    team = pool_project.root / "team"
    team.mkdir()
    made.rename(team / made.name)
    make_repository(pool_project.root)

    async def main() -> None:
        async with pool_project.real(commands, agents_dir=team) as (pool, _):
            await pool.invoke("hooked", "true")
            assert not (tmp_path / "ran").exists()
            pool_project.trust()
            await pool.invoke("hooked", "true")
            assert (tmp_path / "ran").exists()

    run(main())


@pytest.mark.long
def test_run_and_batch_say_where_changes_are(pool_project: PoolProject, repository: Path) -> None:
    with LoopbackAPI(commands).in_thread() as api:
        done = agent_pool(
            pool_project, "run", "-q", "tester", "touch made", "--worktree", url=api.url
        )
        (path,) = worktrees(repository)
        assert f"changes are in {path} (branch worktree-{path.name})" in done.stderr
        line = json.dumps({"agent": "tester", "task": "touch made", "isolation": "worktree"})
        few: dict[str, Any] = {"AGENT_POOL_SPARES": "0", "AGENT_POOL_RESET": "clear"}
        found = agent_pool(pool_project, "batch", "-", stdin=line.encode(), url=api.url, **few)
        result = json.loads(found.stdout)["result"]
        assert {path, Path(result["worktree"])} == set(worktrees(repository))
