"""The watchdog starts processes as a direct start does, and ends whatever descends from it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_pool.claude import watchdog as watchdog_module
from agent_pool.claude.cookies import CookieSearch
from agent_pool.claude.process import ChildProcess
from agent_pool.claude.process_tree import TreeRoot
from agent_pool.claude.watchdog import Watchdog
from agent_pool.errors import SpawnError
from support.planted_daemons import PlantedDaemon
from support.process_checks import MIB, is_alive, open_files, reapers, watchdogs
from support.waiting import run, wait_until

REPORT = """
import json, os, signal, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
ignored = int(status["SigIgn"], 16)
json.dump({
    "environ": dict(os.environ), "cwd": os.getcwd(), "argv": sys.argv[1:],
    "fds": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "session": os.getsid(0) == os.getpid(), "group": os.getpgrp() == os.getpid(),
    "ignored": [n for n in range(1, 32) if ignored >> (n - 1) & 1],
    "blocked": int(status["SigBlk"], 16),
}, sys.stdout)
"""
IGNORED_BY_PYTHON = [signal.SIGPIPE, signal.SIGXFSZ]


class Child:
    """A child that the watchdog starts, and its output."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self.output = b""
        self.exited = asyncio.Event()
        self.ended = asyncio.Event()
        self.process: ChildProcess

    async def start(
        self, *argv: str, cwd: Path = Path("/"), env: Mapping[str, str] | None = None
    ) -> ChildProcess:
        self.process = await ChildProcess.spawn(
            argv,
            env={"PATH": os.environ["PATH"], **(env or {})},
            cwd=cwd,
            on_data=self._receive,
            on_exit=self.exited.set,
            on_end=self.ended.set,
            watchdog=self._watchdog,
        )
        return self.process

    def _receive(self, data: bytes) -> None:
        self.output += data

    async def report(
        self, *arguments: str, cwd: Path = Path("/"), env: Mapping[str, str] | None = None
    ) -> Any:
        """Return what a program finds out about itself."""
        await self.start(sys.executable, "-c", REPORT, *arguments, cwd=cwd, env=env)
        await self.ended.wait()
        return json.loads(self.output)


@asynccontextmanager
async def standing_watchdog() -> AsyncIterator[Watchdog]:
    watchdog = Watchdog("cookie")
    try:
        yield watchdog
    finally:
        watchdog.dismiss(5)
        assert watchdogs(os.getpid()) == []


def test_a_started_process_has_what_was_given_and_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        leaked = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(leaked, True)
        async with standing_watchdog() as watchdog:
            found = await Child(watchdog).report("ä b", "", cwd=tmp_path, env={"WORD": "ü"})
        os.close(leaked)
        assert found["environ"].pop("PATH") == os.environ["PATH"]
        found["environ"].pop("LC_CTYPE", None)  # Python itself sets it
        assert found["environ"] == {"WORD": "ü"}
        assert found["cwd"] == str(tmp_path)
        assert found["argv"] == ["ä b", ""]
        assert found["fds"] == [0, 1, 2]
        assert found["session"]
        assert found["group"]
        assert found["ignored"] == IGNORED_BY_PYTHON
        assert found["blocked"] == 0

    run(main())


def test_signals_that_the_pool_blocks_or_ignores_are_not_inherited() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            found = await Child(watchdog).report()
        assert (found["ignored"], found["blocked"]) == (IGNORED_BY_PYTHON, 0)

    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        run(main())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        signal.signal(signal.SIGHUP, kept)


def test_an_environment_larger_than_the_sockets_buffer_arrives_whole() -> None:
    async def main() -> None:
        given = {f"LARGE_{number}": f"{number}" * 50_000 for number in range(10, 18)}
        async with standing_watchdog() as watchdog:
            children = [Child(watchdog) for _ in range(3)]
            reports = await asyncio.gather(*(child.report(env=given) for child in children))
        for found in reports:
            assert {name: found["environ"][name] for name in given} == given

    run(main())


def test_many_starts_at_once_keep_their_outputs_apart() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            children = [Child(watchdog) for _ in range(40)]
            await asyncio.gather(
                *(child.start("echo", str(number)) for number, child in enumerate(children))
            )
            for child in children:
                await child.ended.wait()
            assert [int(child.output) for child in children] == [*range(40)]
            assert {child.process.returncode for child in children} == {0}

    run(main())


def test_the_exit_code_or_signal_of_a_process_is_reported() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            child = Child(watchdog)
            await child.start("sh", "-c", "exit 7")
            await child.ended.wait()
            assert child.process.returncode == 7
            child = Child(watchdog)
            process = await child.start("sleep", "1000")
            os.kill(process.pid, signal.SIGUSR1)
            await child.exited.wait()
            assert (process.returncode, process.has_ended) == (-signal.SIGUSR1, True)

    run(main())


@pytest.mark.parametrize(
    ("name", "content", "mode", "number"),
    [
        ("missing", None, 0, errno.ENOENT),
        ("plain", "#!/bin/sh\n", 0o644, errno.EACCES),
        ("no-program", "neither a script nor a binary", 0o755, errno.ENOEXEC),
        ("no-interpreter", "#!/no/such/interpreter\n", 0o755, errno.ENOENT),
    ],
)
def test_a_refused_start_has_the_number_of_its_error(
    tmp_path: Path, name: str, content: str | None, mode: int, number: int
) -> None:
    program = tmp_path / name
    if content is not None:
        program.write_text(content)
        program.chmod(mode)

    async def main() -> None:
        async with standing_watchdog() as watchdog:
            with pytest.raises(SpawnError, match=rf"Errno {number}\] .*{name}"):
                await Child(watchdog).start(str(program))
            # The watchdog goes on.
            assert (await Child(watchdog).report())["argv"] == []

    run(main())


def test_a_program_that_is_being_written_cannot_be_started(tmp_path: Path) -> None:
    program = tmp_path / "busy"
    program.write_bytes(Path("/bin/sh").resolve().read_bytes())
    program.chmod(0o755)

    async def main() -> None:
        async with standing_watchdog() as watchdog:
            with (
                program.open("ab"),
                pytest.raises(SpawnError, match=rf"Errno {errno.ETXTBSY}\] .*busy"),
            ):
                await Child(watchdog).start(str(program))

    run(main())


def test_a_missing_folder_is_named_in_the_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            with pytest.raises(SpawnError, match=r"true cannot be started in .*No such file.*gone"):
                await Child(watchdog).start("true", cwd=tmp_path / "gone")

    run(main())


def test_the_process_of_a_cancelled_start_is_ended() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            await Child(watchdog).report()
            (parent,) = watchdogs(os.getpid())
            for steps in range(12):
                start = asyncio.create_task(Child(watchdog).start("sleep", "1000"))
                for _ in range(steps):
                    await asyncio.sleep(0)
                start.cancel()
                await asyncio.wait([start])
                if not start.cancelled():
                    start.result().kill()
            await Child(watchdog).report()  # requests are served in order
            await wait_until(lambda: parent.children() == [])

    run(main())


def test_what_a_killed_process_leaves_behind_is_ended_by_the_watchdog() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            bystander = Child(watchdog)
            await bystander.start("sleep", "1000")
            for _ in range(5):
                daemon, child = PlantedDaemon(), Child(watchdog)
                process = await child.start("sh", "-c", f"{daemon.command}; exec sleep 1000")
                await wait_until(daemon.processes)
                os.kill(process.pid, signal.SIGKILL)
                assert await process.wait_swept(10)
                assert daemon.processes() == []
            assert not bystander.process.has_ended

    run(main())


def test_a_dismissed_watchdog_takes_everything_with_it() -> None:
    async def main() -> None:
        daemon = PlantedDaemon()
        async with standing_watchdog() as watchdog:
            child = Child(watchdog)
            process = await child.start("sh", "-c", f"{daemon.command}; exec sleep 1000")
            await wait_until(daemon.processes)
        assert daemon.processes() == []
        assert not is_alive(process.pid)
        await child.ended.wait()
        assert process.returncode == -signal.SIGKILL

    run(main())


def test_watchdogs_that_come_and_go_leave_no_file_and_no_process() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            await Child(watchdog).report()
        before = open_files()
        for _ in range(20):
            async with standing_watchdog() as watchdog:
                await Child(watchdog).report()
            async with standing_watchdog() as watchdog:
                watchdog.start()  # dismissed before it stands
        assert open_files() == before
        assert psutil.Process().children() == []

    run(main())


def test_a_dismissed_watchdog_is_not_started_again_by_a_start_under_way() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            await Child(watchdog).report()
            (starter,) = watchdogs(os.getpid())
            starter.suspend()  # it does not answer the start before it is dismissed
            starting = asyncio.create_task(Child(watchdog).start("sleep", "1000"))
            await asyncio.sleep(0.05)
            watchdog.dismiss(0.2)
            with pytest.raises(SpawnError, match="the pool's watchdog has ended"):
                await starting
            await wait_until(lambda: watchdogs(os.getpid()) == [])

    run(main())


def test_a_watchdog_serves_an_event_loop_in_another_thread() -> None:
    found: list[Any] = []

    async def main() -> None:
        async with standing_watchdog() as watchdog:
            found.append(await Child(watchdog).report("x"))

    thread = threading.Thread(target=lambda: run(main()))
    thread.start()
    thread.join()
    assert found[0]["argv"] == ["x"]


def test_both_processes_of_a_watchdog_are_small() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            await Child(watchdog).report()
            parts = [*watchdogs(os.getpid()), *reapers(os.getpid())]
            assert len(parts) == 2
            # What both share counts half for each.
            assert sum(one.memory_full_info().pss for one in parts) <= 10 * MIB
            assert {one.num_threads() for one in parts} == {1}

    run(main())


def test_the_watchdog_is_no_child_of_the_pools_process() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            child = Child(watchdog)
            await child.start("sleep", "1000")
            (starter,), (reaper,) = watchdogs(os.getpid()), reapers(os.getpid())
            assert psutil.Process().children(recursive=True) == []
            assert psutil.Process(child.process.pid).ppid() == starter.pid == watchdog.pid
            assert starter.ppid() == reaper.pid

    run(main())


@pytest.mark.parametrize("victims", ["starter", "reaper", "both"])
def test_a_killed_watchdog_is_noticed_and_replaced_within_a_second(
    monkeypatch: pytest.MonkeyPatch, victims: str
) -> None:
    monkeypatch.setattr(watchdog_module, "_STEADY_SECONDS", 0.0)

    async def main() -> None:
        async with standing_watchdog() as watchdog:
            daemon, child = PlantedDaemon(), Child(watchdog)
            process = await child.start("sh", "-c", f"{daemon.command}; exec sleep 1000")
            await wait_until(daemon.processes)
            (starter,), (reaper,) = watchdogs(os.getpid()), reapers(os.getpid())
            for victim in (
                (starter, reaper)
                if victims == "both"
                else ([starter] if victims == "starter" else [reaper])
            ):
                victim.kill()
            async with asyncio.timeout(1):
                await child.exited.wait()
            assert process.returncode == -signal.SIGKILL
            await wait_until(lambda: not daemon.processes() and not is_alive(process.pid), 1)
            await wait_until(lambda: watchdogs(os.getpid()), 1)
            assert watchdogs(os.getpid()) != [starter]
            assert (await Child(watchdog).report("again"))["argv"] == ["again"]

    run(main())


def test_a_start_goes_on_although_its_watchdog_is_killed() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            await Child(watchdog).report()
            (starter,) = watchdogs(os.getpid())
            starter.suspend()
            child = Child(watchdog)
            starting = asyncio.create_task(child.report("late"))
            await asyncio.sleep(0.05)
            starter.kill()
            assert (await starting)["argv"] == ["late"]

    run(main())


def test_a_watchdog_that_always_ends_at_its_start_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.stdin.read()")
    monkeypatch.setattr("agent_pool.claude.watchdog.watchdog_script.__file__", str(broken))

    async def main() -> None:
        watchdog = Watchdog("cookie")
        child = Child(watchdog)
        assert (await child.report("x"))["argv"] == ["x"]
        assert isinstance(child.process.search, CookieSearch)
        watchdog.dismiss(5)

    run(main())
    (warning,) = [message for message in caplog.messages if "ends at its start" in message]
    assert "found by their environment only" in warning


def test_an_exit_right_after_the_start_is_not_lost() -> None:
    async def main() -> None:
        async with standing_watchdog() as watchdog:
            for _ in range(30):
                child = Child(watchdog)
                process = await child.start("true")
                await child.ended.wait()
                assert process.returncode == 0
            assert process.search.trees({"x": TreeRoot(process.pid)})["x"].processes == ()

    run(main())
