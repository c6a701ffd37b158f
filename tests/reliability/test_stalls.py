"""Tasks that say nothing, and callers that leave: the worker is freed, or replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent_pool import AgentPool, TaskTimeout
from agent_pool.loopback import LoopbackAPI, Request
from pool_world import (
    MARK,
    PLAIN,
    Held,
    PoolWorld,
    bash,
    is_alive,
    pid_in,
    say_task,
    shell,
    shell_first,
    until,
    until_gone,
    until_idle,
)
from reliability.conftest import Clock
from support import run

SOON = 0.3


@contextmanager
def impatience(pool: AgentPool) -> Iterator[None]:
    """Meanwhile a silence of 0.3 s is a stall; only then, lest a slow start be taken for one."""
    supervisor = pool._supervisor
    supervisor._settings = pool.settings.with_overrides({"stall_timeout": SOON})
    yield
    supervisor._settings = pool.settings


def test_a_model_that_says_nothing_is_a_stall_and_the_worker_is_freed(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script, max_size=1) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "silent"))
            await until(lambda: script.began == ["silent"])
            (worker,) = await pool.list()
            said = r"nothing for 0\.3 s \(setting stall_timeout\)"
            with impatience(pool), pytest.raises(TaskTimeout, match=said):
                await running
            script.let_go("next")
            result = await pool.invoke("tester", "next")
            assert (result.text, result.pid) == ("echo: next", worker.pid)

    run(main())


def test_a_process_that_is_stopped_is_a_stall_and_is_replaced(
    world: PoolWorld, clock: Clock
) -> None:
    async def main() -> None:
        script = Held()
        hasty = {"interrupt_timeout": 1, "kill_grace": 0.5}
        async with world.real(script, max_size=1, **hasty) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "stopped"))
            await until(lambda: script.began == ["stopped"])
            (worker,) = await pool.list()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGSTOP)
            with impatience(pool), pytest.raises(TaskTimeout, match="stall_timeout"):
                await running
            script.let_go()
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != worker.pid
            await until(lambda: not is_alive(worker.pid or 0))

    run(main())


def test_a_long_command_is_no_stall_while_its_process_lives(
    world: PoolWorld, clock: Clock, tmp_path: Path
) -> None:
    path, done = tmp_path / "pid", tmp_path / "done"
    wait = f"until test -e {done}; do sleep 0.05; done; echo patience"

    async def main() -> None:
        async with world.real(shell_first(path, wait), max_size=1) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "hang"))
            await pid_in(path)
            (worker,) = pool._supervisor.workers.values()
            with impatience(pool):
                await until(lambda: worker.silence > 4 * SOON)
            done.touch()
            assert (await running).text == "tool: patience"

    run(main())


def test_a_cancelled_task_leaves_no_command_and_the_same_worker_serves_the_next(
    world: PoolWorld, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    stubborn = "trap '' TERM INT HUP; sleep 1000 & sleep 1000; sleep 1000"

    async def main() -> None:
        async with world.real(shell_first(path, stubborn, word="medlar"), max_size=1) as (
            pool,
            api,
        ):
            leaving = asyncio.create_task(pool.invoke("tester", "medlar"))
            command = await pid_in(path)
            (worker,) = await pool.list()
            commands = [p for p in world.processes() if p.pid != worker.pid]
            assert command in [p.pid for p in commands]
            leaving.cancel()
            result = await pool.invoke("tester", "next")
            assert [p.pid for p in commands if is_alive(p.pid)] == []
            assert (result.text, result.pid) == ("echo: next", worker.pid)
            assert "medlar" not in str(api.requests[-1].messages)

    run(main())


def test_a_cancelled_task_with_a_background_command_costs_its_worker(
    world: PoolWorld, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    held = Held()

    async def script(request: Request) -> object:
        if "leave" not in request.last_user_text:
            return say_task(request)
        if not request.tool_results:
            return bash(shell(path), run_in_background=True)
        return await held(request)

    async def main() -> None:
        async with LoopbackAPI(script) as api:
            allowed = {MARK: world.mark, "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "0"}
            environ = world.environment(api.url, **allowed)
            async with AgentPool(environ=environ, **PLAIN, max_size=1) as pool:
                leaving = asyncio.create_task(pool.invoke("tester", "leave"))
                await until(lambda: held.began)
                command = await pid_in(path)
                (worker,) = await pool.list()
                commands = [p for p in world.processes() if p.pid != worker.pid]
                leaving.cancel()
                result = await pool.invoke("tester", "next")
                assert result.text == "echo: next"
                assert result.pid != worker.pid
                await until_gone(commands)
                assert not is_alive(command)
                await until_idle(pool)

    run(main())
