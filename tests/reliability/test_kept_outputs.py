"""Large outputs that Claude Code keeps, and a killed pool's folders, are removed; nothing else."""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from agent_pool.claude.watchdog_script import folder_prefix, remove_folders
from agent_pool.loopback import LoopbackAPI, ModelReply, ModelRequest
from support.model_scripts import bash
from support.pool_harness import PoolHarness
from support.pool_program import pool_program
from support.pools import PoolProject
from support.waiting import run, wait_until

LARGE = "yes 0123456789abcdef | head -c 1000000"


def kept_outputs(home: Path) -> list[Path]:
    return [*home.glob(".claude/projects/*/*/tool-results/*")]


def is_noted(home: Path) -> bool:
    """Check whether a pool has written down where the CLI keeps outputs."""
    for file in Path(tempfile.gettempdir()).glob("agent-pool-*/*.sessions"):
        with contextlib.suppress(FileNotFoundError):  # of another test's pool
            if str(home) in file.read_text():
                return True
    return False


def test_outputs_that_the_cli_kept_end_with_their_worker(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(max_size=1)
    home = harness.project.home

    async def main() -> None:
        await harness.ask(harness.plan(bash(LARGE), "done"))
        assert kept_outputs(home)
        # Killed, so that the CLI itself removes nothing.
        for worker in harness.pool._supervisor.workers.values():
            worker.kill()
        await wait_until(lambda: not kept_outputs(home))
        # Nothing is left of the sessions either.
        assert not [path for path in home.glob(".claude/projects/*/*") if path.is_dir()]

    harness.run(main())


def test_kept_outputs_of_a_killed_program_are_removed(pool_project: PoolProject) -> None:
    def script(request: ModelRequest) -> ModelReply:
        # The worker is in its task when the program is killed.
        return ModelReply("done", delay=60) if request.tool_results else bash(LARGE)

    async def main() -> None:
        async with LoopbackAPI(script) as api:
            environ = pool_project.environment(api.url)
            async with pool_program(pool_project, environ) as program:
                await program.do("task")
                await wait_until(lambda: is_noted(pool_project.home))
                assert kept_outputs(pool_project.home)
                program.process.send_signal(signal.SIGKILL)
                await wait_until(lambda: not kept_outputs(pool_project.home))

    run(main())


def test_cleaning_follows_no_link_and_leaves_what_is_not_private(tmp_path: Path) -> None:
    place, target = tmp_path / "place", tmp_path / "target"
    for folder in (place, target):
        folder.mkdir()
        (folder / "file").touch()
    prefix = folder_prefix("cookie")
    (place / f"{prefix}link").symlink_to(target)
    (place / f"{prefix}open").mkdir(mode=0o755)
    (place / f"{prefix}open" / "file").touch()
    own = place / f"{prefix}own"
    own.mkdir(mode=0o700)
    (own / "secret").touch()
    (own / "to-the-target").symlink_to(target)
    projects = tmp_path / "projects"
    (projects / "p" / "session-1" / "tool-results").mkdir(parents=True)
    (projects / "p" / "session-1" / "tool-results" / "a.txt").touch()
    (projects / "p" / "session-2").mkdir()
    (projects / "p" / "session-2" / "tool-results").symlink_to(target)
    (projects / "p" / "session-3" / "tool-results").mkdir(parents=True)
    (own / "worker-1.sessions").write_text(f"{projects}\np/session-1\np/session-2\n")
    remove_folders(str(place), "cookie")
    assert {path.name for path in place.iterdir()} == {"file", f"{prefix}link", f"{prefix}open"}
    assert (place / f"{prefix}open" / "file").exists()
    assert (target / "file").exists()
    left = {str(path.relative_to(projects / "p")) for path in (projects / "p").glob("*/*")}
    assert left == {"session-2/tool-results", "session-3/tool-results"}
