"""How pools end: close, kill, the end of the loop; nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent_pool import (
    PoolClosed,
    WorkerDied,
)
from support.environment import UNREACHABLE_URL
from support.model_scripts import HeldAnswers, shell_first
from support.pools import PoolProject, wait_for_stats
from support.process_checks import is_alive, open_files, read_pid, temporary_files, wait_until_gone
from support.waiting import WAIT_TIMEOUT, run, wait_until


def test_close_lets_running_tasks_finish_and_refuses_waiting_callers(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.on_fake_cli(script, max_size=1) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "running"))
            await wait_until(lambda: script.began == ["running"])
            waiting = asyncio.create_task(pool.invoke("tester", "waiting"))
            await asyncio.sleep(0)
            closing = asyncio.create_task(pool.close())
            with pytest.raises(PoolClosed, match="closed while a task of agent 'tester' waited"):
                await waiting
            with pytest.raises(PoolClosed):
                await pool.invoke("tester", "late")
            assert not closing.done()
            script.release()
            assert (await running).text == "echo: running"
            await closing
            assert pool_project.processes() == []

    run(main())


def test_close_kills_a_task_and_its_processes_after_close_timeout(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    daemon = "(setsid nohup sleep 1000 >/dev/null 2>&1 &); exec sleep 1000"

    async def main() -> None:
        async with pool_project.real(shell_first(path, daemon), close_timeout=0.1) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "hang"))
            await read_pid(path)
            await wait_until(
                lambda: len([p for p in pool_project.processes() if p.name() == "sleep"]) == 2
            )
            await pool.close()
            assert pool_project.processes() == []
            with pytest.raises(WorkerDied, match=r"pool was closed .*close_timeout \(0\.1 s\)"):
                await running

    run(main())


def test_close_leaves_no_process_in_any_worker_state(pool_project: PoolProject) -> None:
    pool_project.agent("starting")
    pool_project.agent("idle")

    async def main() -> None:
        script = HeldAnswers()
        script.release("done")
        async with pool_project.real(script, spawn_concurrency=4, close_timeout=0.1) as (pool, _):
            await pool.warmup("idle")
            running = asyncio.create_task(pool.invoke("tester", "running"))
            await wait_until(lambda: "running" in script.began)
            starting = asyncio.create_task(pool.warmup("starting"))
            assert (await pool.invoke("tester", "done")).text == "echo: done"  # is reset now
            await pool.close()
            assert pool_project.processes() == []
            for caller, error in ((running, WorkerDied), (starting, PoolClosed)):
                if not caller.done() or caller.exception():
                    with pytest.raises(error):
                        await caller
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert [name for name in names if name.startswith("agent-pool")] == []

    run(main())


@pytest.mark.parametrize("steps", range(6))
def test_close_leaves_no_process_of_a_worker_being_started(
    pool_project: PoolProject, steps: int
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            await pool.launch_spec("tester")
            starting = asyncio.create_task(pool.warmup("tester"))
            for _ in range(steps):
                await asyncio.sleep(0)
            await pool.close()
            assert pool_project.processes() == []
            with pytest.raises(PoolClosed):
                await starting
        assert pool_project.fakes() == []

    run(main())


def test_two_close_calls_at_once_both_return(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            await pool.warmup("tester")
            await asyncio.gather(pool.close(), pool.close())
            assert pool_project.processes() == []
            await pool.close()

    run(main())


def test_close_works_on_a_pool_that_was_never_used(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        await pool_project.faulty().close()

    async def opened() -> None:
        pool = pool_project.pool("http://127.0.0.1:9")
        await pool.open()
        await pool.close()

    run(main())
    run(opened())
    assert pool_project.processes() == []


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_cancelled_close_still_leaves_no_process(pool_project: PoolProject, times: int) -> None:
    stubborn = [{"at": "start", "do": "outlive_sigterm"}, {"at": "eof", "do": "deaf"}]

    async def main() -> None:
        pool = pool_project.faulty(*stubborn, close_timeout=60)
        await pool.open()
        await pool.warmup("tester")
        closing = asyncio.create_task(pool.close())
        await wait_until(lambda: "eof" in pool_project.journal())
        for _ in range(times):
            closing.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        await asyncio.wait([closing], timeout=WAIT_TIMEOUT)
        assert closing.cancelled()
        assert pool_project.processes() == []

    run(main())


def test_kill_leaves_no_process_and_fails_the_running_task(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    daemon = "(setsid nohup sleep 1000 >/dev/null 2>&1 &); exec sleep 1000"

    async def main() -> None:
        async with pool_project.real(shell_first(path, daemon), max_size=2) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "hang"))
            await read_pid(path)
            await wait_until(
                lambda: len([p for p in pool_project.processes() if p.name() == "sleep"]) == 2
            )
            killed = pool_project.processes()
            pool.kill()
            await wait_until_gone(killed)
            with pytest.raises(WorkerDied):
                await running

    run(main())


def test_kill_refuses_waiting_callers_and_starts_no_worker(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "prompt", "do": "hang"}, max_size=1) as pool:
            running = asyncio.create_task(pool.invoke("tester", "running"))
            await wait_until(lambda: pool_project.journal("prompt"))
            waiting = asyncio.create_task(pool.invoke("tester", "waiting"))
            await wait_for_stats(pool, lambda stats: stats.waiting)
            pool.kill()
            with pytest.raises(WorkerDied):
                await running
            with pytest.raises(PoolClosed):
                await asyncio.wait_for(waiting, 5)
            assert pool_project.processes() == []

    run(main())


def test_kill_ends_processes_that_are_still_starting(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "initialize", "do": "hang"}) as pool:
            starting = asyncio.create_task(pool.warmup("tester"))
            await wait_until(lambda: pool_project.journal("start"))
            killed = pool_project.processes()
            pool.kill()
            await wait_until_gone(killed)
            starting.cancel()

    run(main())


def test_kill_also_ends_the_process_of_a_probe(pool_project: PoolProject) -> None:
    async def main() -> None:
        hang = {"at": "clear", "do": "deaf"}
        async with pool_project.faulty(hang, reset="auto", reset_timeout=60) as pool:
            await pool.warmup("tester")
            await wait_until(lambda: "clear" in pool_project.journal())
            assert len(pool_project.fakes()) == 2
            pool.kill()
            await wait_until(lambda: pool_project.fakes() == [])

    run(main())


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("error", ZeroDivisionError),
        ("interrupt", KeyboardInterrupt),
        ("cancel", asyncio.CancelledError),
    ],
)
def test_an_event_loop_that_ends_early_leaves_no_process(
    pool_project: PoolProject, how: str, error: type[BaseException]
) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "prompt", "do": "hang"}, close_timeout=0.1) as pool:
            running = asyncio.create_task(pool.invoke("tester", "running"))
            running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            await wait_until(lambda: pool_project.journal("prompt"))
            if how == "error":
                raise ZeroDivisionError
            if how == "cancel":
                asyncio.current_task().cancel()  # type: ignore[union-attr]
            else:
                asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
            await running

    with pytest.raises(error):
        asyncio.run(main())
    assert pool_project.fakes() == []


def test_an_unclosed_pool_leaves_no_process_when_its_program_ends(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    code = """
import asyncio, json, sys, warnings
from agent_pool import AgentPool
warnings.simplefilter("ignore")
async def main():
    pool = AgentPool(environ=json.loads(sys.argv[1]), reset="clear", spares=0)
    await pool.open()
    print((await pool.warmup("tester")).pid)
asyncio.run(main())
"""
    environ = pool_project.environment(UNREACHABLE_URL)
    said = subprocess.run(
        [sys.executable, "-c", code, json.dumps(environ)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert said.returncode == 0, said.stderr
    worker = int(said.stdout)
    run(wait_until(lambda: not is_alive(worker)))
    assert pool_project.processes() == []


def test_fifty_workers_leave_no_files_no_zombies_and_no_tasks(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            await pool.warmup("tester")
            await pool.reset("tester")
            files, tasks = open_files(), len(asyncio.all_tasks())
            for _ in range(50):
                await pool.warmup("tester")
                await pool.reset("tester")
            assert (open_files(), len(asyncio.all_tasks())) == (files, tasks)

    run(main())


def test_close_leaves_no_file_in_the_temporary_folder(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty(version="2.0.77", reset="clear") as pool:
            await pool.warmup("tester")
            assert len(temporary_files()) == 1
        assert temporary_files() == []

    run(main())
