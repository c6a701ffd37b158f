"""However a program with a pool ends, no process that the pool started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool import AgentPool
from agent_pool.claude import cookies, process_tree
from agent_pool.loopback import LoopbackAPI
from support.model_scripts import echo_task, shell_first
from support.pool_program import pool_program
from support.pools import PoolProject
from support.process_checks import MIB, is_alive, read_pid, temporary_files, watchdogs
from support.variants import by_default
from support.waiting import run, wait_until

DAEMON = "(setsid nohup sleep 1000 >/dev/null 2>&1 &)"  # its parent ends at once
FORKING = "(setsid bash -c 'while :; do (sleep 0.1; sleep 0.1) & wait; done' >/dev/null 2>&1 &)"
STUBBORN = "setsid bash -c 'trap \"\" TERM INT HUP QUIT; while :; do sleep 1000; done' &"
COMMAND = f"{DAEMON}; {FORKING}; {STUBBORN} exec sleep 1000"


def send(number: signal.Signals) -> Any:
    return lambda host: host.process.send_signal(number)


def do(step: str) -> Any:
    return lambda host: host.begin(step)


ENDINGS = {
    "SIGKILL": send(signal.SIGKILL),
    "SIGINT": send(signal.SIGINT),
    "SIGTERM": send(signal.SIGTERM),
    "abort": do("abort"),
    "exit": do("exit"),
    "exception": do("raise"),
}


@pytest.mark.parametrize("ending", by_default(["SIGKILL", "SIGTERM", "exit"], ENDINGS))
def test_workers_daemons_and_spares_end_however_the_program_ends(
    pool_project: PoolProject, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / "pid"

    async def main() -> None:
        async with LoopbackAPI(shell_first(path, COMMAND)) as api:
            environ = pool_project.environment(api.url)
            async with pool_program(pool_project, environ, spares=1) as program:
                await program.do("warm", "task")
                await read_pid(path)
                await wait_until(
                    lambda: len([p for p in pool_project.processes() if is_sleep(p)]) >= 3
                )
                claudes = [p for p in pool_project.processes() if p.name() == "claude"]
                assert len(claudes) == 2  # one of them a spare
                alive = [*pool_project.processes(), *watchdogs(program.process.pid)]
                assert len(watchdogs(program.process.pid)) == 1
                ENDINGS[ending](program)
                await pool_project.wait_until_gone(alive)

    run(main())


def is_sleep(process: psutil.Process) -> bool:
    """Check whether it is one of the commands."""
    try:
        return process.name() == "sleep"
    except psutil.Error:
        return False


def test_a_second_signal_skips_the_wait_for_stubborn_workers(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        pool_project.faulty({"at": "eof", "do": "deaf"}, {"at": "start", "do": "outlive_sigterm"})
        patient = {"close_timeout": 600, "stop_grace": 600, "kill_grace": 600}
        async with pool_program(
            pool_project, pool_project.fake_environment(), **patient
        ) as program:
            await program.do("warm")
            alive = [*pool_project.processes(), *watchdogs(program.process.pid)]
            program.process.send_signal(signal.SIGINT)
            await wait_until(lambda: "eof" in pool_project.journal())
            program.process.send_signal(signal.SIGINT)
            await pool_project.wait_until_gone(alive)

    run(main())


@pytest.mark.parametrize("at", ["initialize", "start"])
def test_a_starting_worker_ends_with_a_killed_program(pool_project: PoolProject, at: str) -> None:
    async def main() -> None:
        hang = {"at": at, "do": "deaf"}
        pool_project.faulty(hang)
        environ = pool_project.fake_environment()
        async with pool_program(pool_project, environ, spares=1) as program:
            program.begin("begin")
            await wait_until(lambda: len(pool_project.journal("start")) == 2)
            alive = [*pool_project.processes(), *watchdogs(program.process.pid)]
            program.process.kill()
            await pool_project.wait_until_gone(alive)

    run(main())


def test_a_probe_ends_with_a_killed_program(pool_project: PoolProject) -> None:
    async def main() -> None:
        pool_project.faulty({"at": "clear", "do": "deaf"})
        async with pool_program(
            pool_project, pool_project.fake_environment(), reset="auto"
        ) as program:
            await program.do("warm")
            await wait_until(lambda: "clear" in pool_project.journal())
            alive = [*pool_project.processes(), *watchdogs(program.process.pid)]
            program.process.kill()
            await pool_project.wait_until_gone(alive)
            assert pool_project.fakes() == []

    run(main())


def test_a_surviving_child_of_the_program_keeps_no_workers_alive(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        pool_project.faulty()
        async with pool_program(pool_project, pool_project.fake_environment()) as program:
            await program.do("warm", "fork")
            (watchdog,) = watchdogs(program.process.pid)
            program.process.kill()
            await wait_until(lambda: pool_project.fakes() == [])
            await wait_until(lambda: not is_alive(watchdog.pid))
            (child,) = pool_project.processes()
            child.kill()
            await pool_project.wait_until_gone([child])

    run(main())


def test_a_killed_program_leaves_the_temporary_folder_empty(pool_project: PoolProject) -> None:
    async def main() -> None:
        pool_project.faulty(version="2.0.77")
        async with pool_program(pool_project, pool_project.fake_environment()) as program:
            await program.do("warm")
            alive = [*pool_project.processes(), *watchdogs(program.process.pid)]
            (folder,) = temporary_files()
            assert "worker-1.prompt.md" in {file.name for file in folder.iterdir()}
            program.process.kill()
            await pool_project.wait_until_gone(alive)

    run(main())  # the fixture checks that the folder is empty


# The watchdog


def test_a_pool_has_one_small_watchdog_that_ends_with_it(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        pool_project.agent("other", model="haiku")
        async with pool_project.real(echo_task) as (pool, _):
            assert watchdogs(os.getpid()) == []  # there is no worker yet
            await pool.warmup("tester")
            (watchdog,) = watchdogs(os.getpid())
            await pool.warmup("other")
            assert watchdogs(os.getpid()) == [watchdog]
            assert watchdog.memory_info().rss < 20 * MIB
            assert [p.pid for p in pool_project.processes()].count(watchdog.pid) == 0
        assert not is_alive(watchdog.pid)

    run(main())


def test_a_killed_watchdog_is_replaced_before_the_next_start(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            await pool.warmup("tester")
            (watchdog,) = watchdogs(os.getpid())
            watchdog.kill()
            await wait_until(lambda: not is_alive(watchdog.pid))
            await pool.reset("tester")
            await pool.warmup("tester")
            (new,) = watchdogs(os.getpid())
            assert new.pid != watchdog.pid
        assert watchdogs(os.getpid()) == []

    run(main())


def test_a_watchdog_does_not_kill_processes_of_other_pools(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as mine:
            kept = await mine.warmup("tester")
            async with pool_program(pool_project, pool_project.fake_environment()) as program:
                await program.do("warm")
                alive = [*watchdogs(program.process.pid)]
                program.process.kill()
                await wait_until(lambda: not [p for p in alive if is_alive(p.pid)])
            assert pool_project.fakes() == [kept.pid]
            assert (await mine.invoke("tester", "still there")).pid == kept.pid

    run(main())


def test_a_pool_without_a_watchdog_warns_and_still_works(
    pool_project: PoolProject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(pool: AgentPool) -> None:
        monkeypatch.setattr("agent_pool.claude.watchdog.sys.executable", "/no/such/python")
        async with pool:
            assert (await pool.invoke("tester", "task")).text == "echo: task"

            alive = pool_project.processes()
            pool.kill()
            # No turn of the loop is needed for it.
            assert psutil.wait_procs(alive, 10)[1] == []
            assert alive

    run(main(pool_project.faulty()))
    messages = [record.getMessage() for record in caplog.records]
    (warning,) = [message for message in messages if "the watchdog cannot be started" in message]
    assert "agents stay if this process is killed: " in warning


def test_processes_are_found_by_their_cookie_alone(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty() as pool:
            info = await pool.warmup("tester")
            cookie = psutil.Process(info.pid).environ()[cookies.COOKIE]
            whole, _, name = cookie.partition("/")
            assert name == info.worker
            assert [p.pid for p in cookies.with_cookie(whole)] == [info.pid]
            assert cookies.with_cookie(cookie + "x") == []

    run(main())


def test_a_zombie_process_is_not_waited_for() -> None:
    process = subprocess.Popen(["true"])
    ended = process_tree.read_process(process.pid)
    assert ended is not None
    assert process_tree.wait_ended([ended], timeout=600) == []
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    process.wait()
