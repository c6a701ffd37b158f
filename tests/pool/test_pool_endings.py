"""How tasks end: timeouts, cancelled callers, killed and reset workers."""

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
from agent_pool.events import WorkerStateChanged
from support.model_scripts import HeldAnswers, echo_task, shell_first
from support.pools import PoolProject, wait_until_idle
from support.process_checks import is_alive, read_pid
from support.waiting import WAIT_TIMEOUT, run, wait_until


def test_a_late_answer_after_a_timeout_reaches_no_other_caller(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.real(script, max_size=1) as (pool, _):
            await pool.warmup("tester")
            with pytest.raises(TaskTimeout, match=r"'tester'.* stopped after 1 s"):
                await pool.invoke("tester", "late", timeout=1)
            waiting = asyncio.create_task(pool.invoke("tester", "next"))
            script.release("late")
            script.release("next")
            assert (await waiting).text == "echo: next"
            assert (await pool.invoke("tester", "next")).text == "echo: next"

    run(main())


def test_commands_of_a_timed_out_task_end_before_the_next(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    path = tmp_path / "pid"

    async def main() -> None:
        async with pool_project.real(shell_first(path), max_size=1) as (pool, _):
            await pool.warmup("tester")
            with pytest.raises(TaskTimeout):
                await pool.invoke("tester", "hang", timeout=3)
            command = await read_pid(path)
            assert (await pool.invoke("tester", "next")).text == "echo: next"
            assert not is_alive(command)

    run(main())


def test_a_cancelled_caller_leaves_at_once_and_frees_its_worker(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.real(script, max_size=1) as (pool, _):
            warmed = await pool.warmup("tester")
            states: list[str | None] = []
            pool.subscribe(
                lambda event: (
                    states.append(event.state) if isinstance(event, WorkerStateChanged) else None
                )
            )
            leaving = asyncio.create_task(pool.invoke("tester", "left"))
            await wait_until(lambda: script.began == ["left"])
            # The reset can be over a few milliseconds later.
            state_at_the_end: list[str | None] = []
            leaving.add_done_callback(lambda _: state_at_the_end.append(states[-1]))
            leaving.cancel()
            await asyncio.wait([leaving])
            assert leaving.cancelled()
            assert state_at_the_end == ["resetting"]
            script.release("next")
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
def test_commands_of_a_cancelled_task_end_before_the_next_task(
    pool_project: PoolProject, tmp_path: Path, then: str
) -> None:
    path = tmp_path / "pid"

    async def main() -> None:
        async with pool_project.real(shell_first(path, then), max_size=1) as (pool, _):
            leaving = asyncio.create_task(pool.invoke("tester", "hang"))
            await read_pid(path)
            await wait_until(lambda: [p for p in pool_project.processes() if p.name() == "sleep"])
            commands = [p for p in pool_project.processes() if p.name() in ("sleep", "bash", "sh")]
            leaving.cancel()
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert [p.name() for p in commands if is_alive(p.pid)] == []
            await wait_until_idle(pool)
            assert [p.pid for p in pool_project.processes() if p.name() == "sleep"] == []

    run(main())


def test_a_killed_worker_fails_its_task_and_is_replaced(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.on_fake_cli(script, max_size=1) as (pool, _):
            doomed = await pool.warmup("tester")
            assert doomed.pid is not None
            running = asyncio.create_task(pool.invoke("tester", "doomed"))
            await wait_until(lambda: script.began == ["doomed"])
            os.kill(doomed.pid, signal.SIGKILL)
            with pytest.raises(WorkerDied, match=r"ended with signal 9 .* try again") as death:
                await running
            assert (death.value.worker, death.value.pid) == (doomed.worker, doomed.pid)
            script.release()
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != doomed.pid
            assert [worker.pid for worker in await pool.workers()] == [result.pid]

    run(main())


def test_an_idle_worker_that_is_killed_is_replaced_without_errors(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.on_fake_cli(echo_task, max_size=1) as (pool, _):
            doomed = await pool.warmup("tester")
            assert doomed.pid is not None
            os.kill(doomed.pid, signal.SIGKILL)
            async with asyncio.timeout(WAIT_TIMEOUT):
                while await pool.workers():
                    pass
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != doomed.pid

    run(main())


def test_a_dead_worker_with_open_pipes_is_not_granted(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    async def main() -> None:
        child = {"at": "initialize", "do": "leave_child", "path": str(tmp_path / "child")}
        async with pool_project.faulty(child, max_size=1) as pool:
            doomed = await pool.warmup("tester")
            assert doomed.pid is not None
            os.kill(doomed.pid, signal.SIGKILL)
            await wait_until(lambda: not psutil.pid_exists(doomed.pid or 0))
            await asyncio.sleep(0)
            result = await pool.invoke("tester", "next")
            assert result.text == "echo: next"
            assert result.pid != doomed.pid

    run(main())


def test_a_reset_fails_the_running_task_with_that_reason(pool_project: PoolProject) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.on_fake_cli(script) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "doomed"))
            await wait_until(lambda: script.began == ["doomed"])
            assert await pool.reset("tester") == 1
            with pytest.raises(WorkerDied, match="its agent was reset"):
                await running
            assert await pool.workers() == []

    run(main())


def test_a_waiting_caller_gets_a_new_worker_after_a_reset(pool_project: PoolProject) -> None:
    async def main() -> None:
        hang = {"at": "prompt", "do": "hang", "match": "doomed"}
        async with pool_project.faulty(hang, max_size=1) as pool:
            running = asyncio.create_task(pool.invoke("tester", "doomed"))
            await wait_until(lambda: pool_project.journal("prompt"))
            waiting = asyncio.create_task(pool.invoke("tester", "waiting"))
            await asyncio.sleep(0)
            await pool.reset("tester")
            with pytest.raises(WorkerDied):
                await running
            assert (await waiting).text == "echo: waiting"

    run(main())
