"""How tasks end on the real CLI: timeouts, cancelled callers, killed and reset workers."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from agent_pool import (
    TaskTimeout,
    WorkerDied,
)
from pool_world import (
    BOUND,
    Held,
    PoolWorld,
    is_alive,
    pid_in,
    say_task,
    shell_first,
    until,
    until_idle,
)
from support import run


def test_after_a_timeout_the_next_caller_never_sees_the_late_answer(world: PoolWorld) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script, max_size=1) as (pool, _):
            await pool.warmup("tester")
            with pytest.raises(TaskTimeout, match=r"'tester'.* stopped after 1 s"):
                await pool.invoke("tester", "late", timeout=1)
            waiting = asyncio.create_task(pool.invoke("tester", "next"))
            script.let_go("late")
            script.let_go("next")
            assert (await waiting).text == "echo: next"
            assert (await pool.invoke("tester", "next")).text == "echo: next"

    run(main())


def test_the_shell_command_of_a_timed_out_task_is_dead_before_the_next_task(
    world: PoolWorld, tmp_path: Path
) -> None:
    path = tmp_path / "pid"

    async def main() -> None:
        async with world.real(shell_first(path), max_size=1) as (pool, _):
            await pool.warmup("tester")
            with pytest.raises(TaskTimeout):
                await pool.invoke("tester", "hang", timeout=3)
            command = await pid_in(path)
            assert (await pool.invoke("tester", "next")).text == "echo: next"
            assert not is_alive(command)

    run(main())


def test_a_cancelled_caller_leaves_at_once_and_its_worker_serves_the_next(
    world: PoolWorld,
) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script, max_size=1) as (pool, _):
            warmed = await pool.warmup("tester")
            leaving = asyncio.create_task(pool.invoke("tester", "left"))
            await until(lambda: script.began == ["left"])
            leaving.cancel()
            await asyncio.wait([leaving])
            assert leaving.cancelled()
            assert [worker.state for worker in await pool.list()] == ["resetting"]
            script.let_go("next")
            result = await pool.invoke("tester", "next")
            assert (result.text, result.pid) == ("echo: next", warmed.pid)

    run(main())


@pytest.mark.parametrize(
    "then",
    [
        "(setsid nohup sleep 1000 >/dev/null 2>&1 &); exec sleep 1000",
        "(trap '' TERM HUP INT; setsid sleep 1000 & wait)",
    ],
    ids=["daemonised", "stubborn"],
)
def test_the_commands_of_a_cancelled_task_are_dead_before_the_next_task(
    world: PoolWorld, tmp_path: Path, then: str
) -> None:
    path = tmp_path / "pid"

    async def main() -> None:
        async with world.real(shell_first(path, then), max_size=1) as (pool, _):
            leaving = asyncio.create_task(pool.invoke("tester", "hang"))
            await pid_in(path)
            await until(lambda: [p for p in world.processes() if p.name() == "sleep"])
            commands = [p for p in world.processes() if p.name() in ("sleep", "bash", "sh")]
            leaving.cancel()
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert [p.name() for p in commands if is_alive(p.pid)] == []
            await until_idle(pool)
            assert [p.pid for p in world.processes() if p.name() == "sleep"] == []

    run(main())


def test_a_killed_worker_fails_its_task_and_the_next_task_gets_another(world: PoolWorld) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script, max_size=1) as (pool, _):
            doomed = await pool.warmup("tester")
            assert doomed.pid is not None
            running = asyncio.create_task(pool.invoke("tester", "doomed"))
            await until(lambda: script.began == ["doomed"])
            os.kill(doomed.pid, signal.SIGKILL)
            with pytest.raises(WorkerDied, match=r"ended with signal 9 .* try again") as death:
                await running
            assert (death.value.worker, death.value.pid) == (doomed.worker, doomed.pid)
            script.let_go()
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != doomed.pid
            assert [worker.pid for worker in await pool.list()] == [result.pid]

    run(main())


def test_a_worker_that_is_killed_while_idle_is_replaced_without_anybody_noticing(
    world: PoolWorld,
) -> None:
    async def main() -> None:
        async with world.real(say_task, max_size=1) as (pool, _):
            doomed = await pool.warmup("tester")
            assert doomed.pid is not None
            os.kill(doomed.pid, signal.SIGKILL)
            async with asyncio.timeout(BOUND):
                while await pool.list():
                    pass
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != doomed.pid

    run(main())


def test_a_dead_worker_is_not_given_out_although_a_child_still_holds_its_pipes(
    world: PoolWorld, tmp_path: Path
) -> None:
    async def main() -> None:
        child = {"at": "initialize", "do": "leave_child", "path": str(tmp_path / "child")}
        async with world.faulty(child, max_size=1) as pool:
            doomed = await pool.warmup("tester")
            assert doomed.pid is not None
            os.kill(doomed.pid, signal.SIGKILL)
            await until(lambda: not psutil.pid_exists(doomed.pid or 0))
            await asyncio.sleep(0)
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != doomed.pid

    run(main())


def test_a_task_on_a_worker_that_is_reset_fails_and_says_so(world: PoolWorld) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "doomed"))
            await until(lambda: script.began == ["doomed"])
            assert await pool.reset("tester") == 1
            with pytest.raises(WorkerDied, match="its agent was reset"):
                await running
            assert await pool.list() == []

    run(main())


def test_reset_lets_those_who_wait_have_a_new_worker(world: PoolWorld) -> None:
    async def main() -> None:
        hang = {"at": "prompt", "do": "hang", "match": "doomed"}
        async with world.faulty(hang, max_size=1) as pool:
            running = asyncio.create_task(pool.invoke("tester", "doomed"))
            await until(lambda: world.journal("prompt"))
            waiting = asyncio.create_task(pool.invoke("tester", "waiting"))
            await asyncio.sleep(0)
            await pool.reset("tester")
            with pytest.raises(WorkerDied):
                await running
            assert (await waiting).text == "echo: waiting"

    run(main())
