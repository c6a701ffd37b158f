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
from pool_world import (
    BOUND,
    MARK,
    Held,
    PoolWorld,
    is_alive,
    open_files,
    pid_in,
    scratch,
    shell_first,
    until,
    until_gone,
)
from support import run


def test_close_lets_a_running_task_finish_and_refuses_who_waits(world: PoolWorld) -> None:
    async def main() -> None:
        script = Held()
        async with world.real(script, max_size=1) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "running"))
            await until(lambda: script.began == ["running"])
            waiting = asyncio.create_task(pool.invoke("tester", "waiting"))
            await asyncio.sleep(0)
            closing = asyncio.create_task(pool.close())
            with pytest.raises(PoolClosed, match="closed while a task of 'tester' waited"):
                await waiting
            with pytest.raises(PoolClosed):
                await pool.invoke("tester", "late")
            assert not closing.done()
            script.let_go()
            assert (await running).text == "echo: running"
            await closing
            assert world.processes() == []

    run(main())


def test_close_gives_a_running_task_close_timeout_and_leaves_no_process(
    world: PoolWorld, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    daemon = "(setsid nohup sleep 1000 >/dev/null 2>&1 &); exec sleep 1000"

    async def main() -> None:
        async with world.real(shell_first(path, daemon), close_timeout=0.1) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "hang"))
            await pid_in(path)
            await until(lambda: len([p for p in world.processes() if p.name() == "sleep"]) == 2)
            await pool.close()
            assert world.processes() == []
            with pytest.raises(WorkerDied, match=r"pool was closed .*close_timeout \(0\.1 s\)"):
                await running

    run(main())


def test_close_leaves_nothing_whatever_the_workers_do(world: PoolWorld) -> None:
    world.agent("starting")
    world.agent("idle")

    async def main() -> None:
        script = Held()
        script.let_go("done")
        async with world.real(script, spawn_concurrency=4, close_timeout=0.1) as (pool, _):
            await pool.warmup("idle")
            running = asyncio.create_task(pool.invoke("tester", "running"))
            await until(lambda: "running" in script.began)
            starting = asyncio.create_task(pool.warmup("starting"))
            assert (await pool.invoke("tester", "done")).text == "echo: done"  # is reset now
            await pool.close()
            assert world.processes() == []
            for caller, error in ((running, WorkerDied), (starting, PoolClosed)):
                if not caller.done() or caller.exception():
                    with pytest.raises(error):
                        await caller
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert [name for name in names if name.startswith("agent-pool")] == []

    run(main())


@pytest.mark.parametrize("steps", range(6))
def test_close_leaves_nothing_of_a_worker_that_was_just_being_started(
    world: PoolWorld, steps: int
) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            await pool.launch("tester")
            starting = asyncio.create_task(pool.warmup("tester"))
            for _ in range(steps):
                await asyncio.sleep(0)
            await pool.close()
            assert world.processes() == []
            with pytest.raises(PoolClosed):
                await starting
        assert world.fakes() == []

    run(main())


def test_closing_twice_at_once_ends_both(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            await pool.warmup("tester")
            await asyncio.gather(pool.close(), pool.close())
            assert world.processes() == []
            await pool.close()

    run(main())


def test_close_of_a_pool_that_was_never_used_or_opened_is_nothing(world: PoolWorld) -> None:
    async def main() -> None:
        await world.faulty().close()

    async def opened() -> None:
        pool = world.pool("http://127.0.0.1:9")
        await pool.open()
        await pool.close()

    run(main())
    run(opened())
    assert world.processes() == []


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_close_that_is_cancelled_leaves_nothing_all_the_same(
    world: PoolWorld, times: int
) -> None:
    stubborn = [{"at": "start", "do": "outlive_sigterm"}, {"at": "eof", "do": "deaf"}]

    async def main() -> None:
        pool = world.faulty(*stubborn, close_timeout=60)
        await pool.open()
        await pool.warmup("tester")
        closing = asyncio.create_task(pool.close())
        await until(lambda: "eof" in world.journal())
        for _ in range(times):
            closing.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        await asyncio.wait([closing], timeout=BOUND)
        assert closing.cancelled()
        assert world.processes() == []

    run(main())


def test_kill_leaves_no_process_and_fails_the_running_task(
    world: PoolWorld, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    daemon = "(setsid nohup sleep 1000 >/dev/null 2>&1 &); exec sleep 1000"

    async def main() -> None:
        async with world.real(shell_first(path, daemon), max_size=2) as (pool, _):
            running = asyncio.create_task(pool.invoke("tester", "hang"))
            await pid_in(path)
            await until(lambda: len([p for p in world.processes() if p.name() == "sleep"]) == 2)
            killed = world.processes()
            pool.kill()
            await until_gone(killed)
            with pytest.raises(WorkerDied):
                await running

    run(main())


def test_kill_is_not_undone_by_those_who_wait(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty({"at": "prompt", "do": "hang"}, max_size=1) as pool:
            running = asyncio.create_task(pool.invoke("tester", "running"))
            await until(lambda: world.journal("prompt"))
            waiting = asyncio.create_task(pool.invoke("tester", "waiting"))
            await asyncio.sleep(0)
            pool.kill()
            with pytest.raises(WorkerDied):
                await running
            with pytest.raises(PoolClosed):
                await asyncio.wait_for(waiting, 5)
            assert world.processes() == []

    run(main())


def test_kill_reaches_processes_that_are_just_being_started(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty({"at": "initialize", "do": "hang"}) as pool:
            starting = asyncio.create_task(pool.warmup("tester"))
            await until(lambda: world.journal("start"))
            killed = world.processes()
            pool.kill()
            await until_gone(killed)
            starting.cancel()

    run(main())


def test_kill_reaches_a_probe_too(world: PoolWorld) -> None:
    async def main() -> None:
        hang = {"at": "clear", "do": "deaf"}
        async with world.faulty(hang, reset="auto", reset_timeout=60) as pool:
            await pool.warmup("tester")
            await until(lambda: "clear" in world.journal())
            assert len(world.fakes()) == 2
            pool.kill()
            await until(lambda: world.fakes() == [])

    run(main())


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("error", ZeroDivisionError),
        ("interrupt", KeyboardInterrupt),
        ("cancel", asyncio.CancelledError),
    ],
)
def test_a_loop_that_ends_early_leaves_no_process(
    world: PoolWorld, how: str, error: type[BaseException]
) -> None:
    async def main() -> None:
        async with world.faulty({"at": "prompt", "do": "hang"}, close_timeout=0.1) as pool:
            running = asyncio.create_task(pool.invoke("tester", "running"))
            running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            await until(lambda: world.journal("prompt"))
            if how == "error":
                raise ZeroDivisionError
            if how == "cancel":
                asyncio.current_task().cancel()  # type: ignore[union-attr]
            else:
                asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
            await running

    with pytest.raises(error):
        asyncio.run(main())
    assert world.fakes() == []


def test_a_pool_that_nobody_closed_leaves_no_process_when_its_program_ends(
    world: PoolWorld, tmp_path: Path
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
    environ = world.environment("http://127.0.0.1:9", **{MARK: world.mark})
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
    run(until(lambda: not is_alive(worker)))
    assert world.processes() == []


def test_fifty_workers_leave_no_files_no_zombies_and_no_tasks(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            await pool.warmup("tester")
            await pool.reset("tester")
            files, tasks = open_files(), len(asyncio.all_tasks())
            for _ in range(50):
                await pool.warmup("tester")
                await pool.reset("tester")
            assert (open_files(), len(asyncio.all_tasks())) == (files, tasks)

    run(main())


def test_nothing_is_left_in_the_temporary_folder(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty(version="2.0.77", reset="clear") as pool:
            await pool.warmup("tester")
            assert len(scratch()) == 1
        assert scratch() == []

    run(main())
