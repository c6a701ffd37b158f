"""However a program with a pool ends, nothing that the pool started outlives it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool import AgentPool
from agent_pool.claude import tree
from agent_pool.loopback import LoopbackAPI
from pool_world import (
    MARK,
    PLAIN,
    PoolWorld,
    is_alive,
    pid_in,
    say_task,
    scratch,
    shell_first,
    until,
)
from reliability.seen import MIB, watchers
from support import run

HOST = str(Path(__file__).with_name("host.py"))
HASTY = {**PLAIN, "close_timeout": 0.2, "stop_grace": 0.3, "kill_grace": 0.3}

DAEMON = "(setsid nohup sleep 1000 >/dev/null 2>&1 &)"  # whose parent is gone
FORKING = "(setsid bash -c 'while :; do (sleep 0.1; sleep 0.1) & wait; done' >/dev/null 2>&1 &)"
STUBBORN = "setsid bash -c 'trap \"\" TERM INT HUP QUIT; while :; do sleep 1000; done' &"
COMMAND = f"{DAEMON}; {FORKING}; {STUBBORN} exec sleep 1000"


class Host:
    """A program with a pool in it, see `host.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def do(self, *steps: str) -> None:
        """Have it do these steps, and wait until they are done."""
        for step in steps:
            self.tell(step)
            assert self.process.stdout is not None
            assert (await self.process.stdout.readline()).decode().strip() == step

    def tell(self, step: str) -> None:
        """Have it do a step that it will not answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{step}\n".encode())


@asynccontextmanager
async def host(world: PoolWorld, environ: dict[str, str], **settings: Any) -> AsyncIterator[Host]:
    """Such a program, killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        HOST,
        json.dumps(environ),
        json.dumps({**HASTY, **settings}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, MARK: world.mark, "TMPDIR": tempfile.gettempdir()},
    )
    try:
        yield Host(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def none_is_left(world: PoolWorld, processes: list[psutil.Process]) -> None:
    """Wait until none of these lives, nor anything else that bears the mark of this test."""
    await until(lambda: not [p.pid for p in processes if is_alive(p.pid)] and not world.processes())


def sends(number: signal.Signals) -> Any:
    return lambda host: host.process.send_signal(number)


def does(step: str) -> Any:
    return lambda host: host.tell(step)


ENDINGS = {
    "SIGKILL": sends(signal.SIGKILL),
    "SIGINT": sends(signal.SIGINT),
    "SIGTERM": sends(signal.SIGTERM),
    "abort": does("abort"),
    "exit": does("exit"),
    "exception": does("raise"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_ends_a_program_its_agents_end_with_their_daemons_and_spares(
    world: PoolWorld, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / "pid"

    async def main() -> None:
        async with LoopbackAPI(shell_first(path, COMMAND)) as api:
            environ = world.environment(api.url, **{MARK: world.mark})
            async with host(world, environ, spares=1) as program:
                await program.do("warm", "task")
                await pid_in(path)
                await until(lambda: len([p for p in world.processes() if is_sleep(p)]) >= 3)
                claudes = [p for p in world.processes() if p.name() == "claude"]
                assert len(claudes) == 2  # one of them a spare
                alive = [*world.processes(), *watchers(program.process.pid)]
                assert len(watchers(program.process.pid)) == 1
                ENDINGS[ending](program)
                await none_is_left(world, alive)

    run(main())


def is_sleep(process: psutil.Process) -> bool:
    """Whether it is one of the commands."""
    try:
        return process.name() == "sleep"
    except psutil.Error:
        return False


def test_a_second_signal_skips_the_wait_for_workers_that_will_not_stop(world: PoolWorld) -> None:
    async def main() -> None:
        world.faulty({"at": "eof", "do": "deaf"}, {"at": "start", "do": "outlive_sigterm"})
        patient = {"close_timeout": 600, "stop_grace": 600, "kill_grace": 600}
        async with host(world, fake_environment(world), **patient) as program:
            await program.do("warm")
            alive = [*world.processes(), *watchers(program.process.pid)]
            program.process.send_signal(signal.SIGINT)
            await until(lambda: "eof" in world.journal())
            program.process.send_signal(signal.SIGINT)
            await none_is_left(world, alive)

    run(main())


@pytest.mark.parametrize("at", ["initialize", "start"])
def test_a_worker_that_is_just_being_started_ends_with_a_killed_program(
    world: PoolWorld, at: str
) -> None:
    async def main() -> None:
        hang = {"at": at, "do": "deaf"}
        world.faulty(hang)
        environ = fake_environment(world)
        async with host(world, environ, spares=1) as program:
            program.tell("begin")
            await until(lambda: len(world.journal("start")) == 2)
            alive = [*world.processes(), *watchers(program.process.pid)]
            program.process.kill()
            await none_is_left(world, alive)

    run(main())


def test_a_probe_ends_with_a_killed_program(world: PoolWorld) -> None:
    async def main() -> None:
        world.faulty({"at": "clear", "do": "deaf"})
        async with host(world, fake_environment(world), reset="auto") as program:
            await program.do("warm")
            await until(lambda: "clear" in world.journal())
            alive = [*world.processes(), *watchers(program.process.pid)]
            program.process.kill()
            await none_is_left(world, alive)
            assert world.fakes() == []

    run(main())


def test_a_child_of_the_program_that_lives_on_does_not_keep_the_agents_alive(
    world: PoolWorld,
) -> None:
    async def main() -> None:
        world.faulty()
        async with host(world, fake_environment(world)) as program:
            await program.do("warm", "fork")
            (watcher,) = watchers(program.process.pid)
            program.process.kill()
            await until(lambda: world.fakes() == [])
            await until(lambda: not is_alive(watcher.pid))
            (child,) = world.processes()
            child.kill()

    run(main())


def test_a_killed_program_leaves_nothing_in_the_temporary_folder(world: PoolWorld) -> None:
    async def main() -> None:
        world.faulty(version="2.0.77")
        async with host(world, fake_environment(world)) as program:
            await program.do("warm")
            alive = [*world.processes(), *watchers(program.process.pid)]
            (folder,) = scratch()
            assert "worker-1.prompt.md" in {file.name for file in folder.iterdir()}
            program.process.kill()
            await none_is_left(world, alive)

    run(main())  # and the fixture looks into the folder


def fake_environment(world: PoolWorld) -> dict[str, str]:
    """The environment of a pool on the fake CLI that was installed last."""
    fake = {MARK: world.mark, "CLAUDE_CLI": str(world.fake / "claude")}
    return world.environment("http://127.0.0.1:9", **fake)


# The watcher


def test_a_pool_has_one_watcher_of_a_few_megabytes_which_leaves_with_it(world: PoolWorld) -> None:
    async def main() -> None:
        world.agent("other", model="haiku")
        async with world.real(say_task) as (pool, _):
            assert watchers(os.getpid()) == []  # there is nothing to watch yet
            await pool.warmup("tester")
            (watcher,) = watchers(os.getpid())
            await pool.warmup("other")
            assert watchers(os.getpid()) == [watcher]
            assert watcher.memory_info().rss < 20 * MIB
            assert [p.pid for p in world.processes()].count(watcher.pid) == 0
        assert not is_alive(watcher.pid)

    run(main())


def test_a_watcher_that_was_killed_is_replaced_before_the_next_worker_is_started(
    world: PoolWorld,
) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            await pool.warmup("tester")
            (watcher,) = watchers(os.getpid())
            watcher.kill()
            await until(lambda: not is_alive(watcher.pid))
            await pool.reset("tester")
            await pool.warmup("tester")
            (new,) = watchers(os.getpid())
            assert new.pid != watcher.pid
        assert watchers(os.getpid()) == []

    run(main())


def test_a_watcher_spares_the_processes_of_other_pools(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty() as mine:
            kept = await mine.warmup("tester")
            async with host(world, fake_environment(world)) as program:
                await program.do("warm")
                alive = [*watchers(program.process.pid)]
                program.process.kill()
                await until(lambda: not [p for p in alive if is_alive(p.pid)])
            assert world.fakes() == [kept.pid]
            assert (await mine.invoke("tester", "still there")).pid == kept.pid

    run(main())


def test_a_pool_without_a_watcher_says_so_and_works(
    world: PoolWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(pool: AgentPool) -> None:
        monkeypatch.setattr("agent_pool.pool.watch.sys.executable", "/no/such/python")
        async with pool:
            assert (await pool.invoke("tester", "task")).text == "echo: task"

            alive = world.processes()
            pool.kill()
            assert tree.wait_gone(alive, 10) == []  # no turn of the loop is needed for it
            assert alive

    run(main(world.faulty()))
    said = [record.getMessage() for record in caplog.records if "no watcher" in record.getMessage()]
    assert len(said) == 1
    assert "agents may be left" in said[0]


def test_processes_are_found_by_their_cookie_alone(world: PoolWorld) -> None:
    async def main() -> None:
        async with world.faulty() as pool:
            info = await pool.warmup("tester")
            cookie = psutil.Process(info.pid).environ()[tree.COOKIE]
            whole, _, name = cookie.partition("/")
            assert name == info.worker
            assert [p.pid for p in tree.bearers(whole)] == [info.pid]
            assert tree.bearers(cookie + "x") == []

    run(main())


def test_a_process_that_has_ended_is_gone_although_its_parent_has_not_noticed() -> None:
    process = subprocess.Popen(["true"])
    ended = psutil.Process(process.pid)
    assert tree.wait_gone([ended], timeout=600) == []
    assert ended.status() == psutil.STATUS_ZOMBIE
    process.wait()
