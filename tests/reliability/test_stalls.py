"""Silent tasks, and callers that leave: the worker is freed, or replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_pool import AgentPool, TaskTimeout
from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.model_scripts import HeldAnswers, bash, echo_task, shell, shell_first
from support.pool_observers import AdjustableClock
from support.pools import PLAIN, PoolProject, wait_until_idle
from support.process_checks import is_alive, read_pid, wait_until_gone
from support.waiting import run, wait_until

STALL_SECONDS = 0.3


@contextmanager
def short_stall_timeout(pool: AgentPool) -> Iterator[None]:
    """Let a silence of 0.3 s be a stall inside the block only: a start can take longer."""
    supervisor = pool._supervisor
    supervisor._settings = pool.settings.with_overrides({"stall_timeout": STALL_SECONDS})
    yield
    supervisor._settings = pool.settings


def test_a_silent_model_is_a_stall_and_frees_the_worker(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.real(script, max_size=1) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "silent"))
            await wait_until(lambda: script.began == ["silent"])
            (worker,) = await pool.workers()
            said = r"wrote nothing for 0\.3 s \(setting stall_timeout\)"
            with short_stall_timeout(pool), pytest.raises(TaskTimeout, match=said):
                await running
            script.release("next")
            result = await pool.invoke("tester", "next")
            assert (result.text, result.pid) == ("echo: next", worker.pid)

    run(main())


def test_a_stopped_process_is_a_stall_and_is_replaced(
    pool_project: PoolProject, clock: AdjustableClock
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        hasty = {"interrupt_timeout": 1, "kill_grace": 0.5}
        async with pool_project.on_fake_cli(script, max_size=1, **hasty) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "stopped"))
            await wait_until(lambda: script.began == ["stopped"])
            (worker,) = await pool.workers()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGSTOP)
            with short_stall_timeout(pool), pytest.raises(TaskTimeout, match="stall_timeout"):
                await running
            script.release()
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != worker.pid
            await wait_until(lambda: not is_alive(worker.pid or 0))

    run(main())


def test_a_long_command_is_not_a_stall_while_it_runs(
    pool_project: PoolProject, clock: AdjustableClock, tmp_path: Path
) -> None:
    path, done = tmp_path / "pid", tmp_path / "done"
    wait = f"until test -e {done}; do sleep 0.05; done; echo patience"

    async def main() -> None:
        async with pool_project.real(shell_first(path, wait), max_size=1) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "hang"))
            await read_pid(path)
            (worker,) = pool._supervisor.workers.values()
            with short_stall_timeout(pool):
                await wait_until(lambda: worker.silence > 4 * STALL_SECONDS)
            done.touch()
            assert (await running).text == "tool: patience"

    run(main())


def test_a_cancelled_task_leaves_no_command_on_its_worker(
    pool_project: PoolProject, clock: AdjustableClock, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    stubborn = "trap '' TERM INT HUP; sleep 1000 & sleep 1000; sleep 1000"

    async def main() -> None:
        async with pool_project.real(shell_first(path, stubborn, word="medlar"), max_size=1) as (
            pool,
            api,
        ):
            leaving = asyncio.create_task(pool.invoke("tester", "medlar"))
            command = await read_pid(path)
            (worker,) = await pool.workers()
            commands = [p for p in pool_project.processes() if p.pid != worker.pid]
            assert command in [p.pid for p in commands]
            leaving.cancel()
            result = await pool.invoke("tester", "next")
            assert [p.pid for p in commands if is_alive(p.pid)] == []
            assert (result.text, result.pid) == ("echo: next", worker.pid)
            assert "medlar" not in str(api.requests[-1].messages)

    run(main())


def test_a_cancelled_task_with_a_background_command_replaces_its_worker(
    pool_project: PoolProject, clock: AdjustableClock, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    held = HeldAnswers()

    async def script(request: ModelRequest) -> Any:
        if "leave" not in request.last_user_text:
            return echo_task(request)
        if not request.tool_results:
            return bash(shell(path), run_in_background=True)
        return await held(request)

    async def main() -> None:
        async with LoopbackAPI(script) as api:
            allowed = {"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}
            environ = pool_project.environment(api.url, **allowed)
            async with AgentPool(environ=environ, **PLAIN, max_size=1) as pool:
                leaving = asyncio.create_task(pool.invoke("tester", "leave"))
                await wait_until(lambda: held.began)
                command = await read_pid(path)
                (worker,) = await pool.workers()
                commands = [p for p in pool_project.processes() if p.pid != worker.pid]
                leaving.cancel()
                result = await pool.invoke("tester", "next")
                assert result.text == "echo: next"
                assert result.pid != worker.pid
                await wait_until_gone(commands)
                assert not is_alive(command)
                await wait_until_idle(pool)

    run(main())
