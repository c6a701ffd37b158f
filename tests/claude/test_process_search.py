"""The processes below a worker are found by every way, and only what is new is opened."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent_pool.claude import process_tree
from agent_pool.claude.cookies import COOKIE, CookieSearch
from agent_pool.claude.process import ChildProcess
from agent_pool.claude.process_tree import (
    KernelProcess,
    KernelSearch,
    ProcessTree,
    ServerProcesses,
    TreeRoot,
)
from agent_pool.claude.watchdog import Watchdog
from agent_pool.claude.watchdog_script import has_children_lists, kill_exactly, read_stat
from support.planted_daemons import PlantedDaemon
from support.process_checks import is_alive
from support.waiting import run, wait_until

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")

WAYS = [
    pytest.param(
        False,
        id="lists",
        marks=pytest.mark.skipif(not has_children_lists(), reason="this kernel has no lists"),
    ),
    pytest.param(True, id="scan"),
]


async def started(watchdog: Watchdog, command: str) -> ChildProcess:
    return await ChildProcess.spawn(
        ["sh", "-c", command],
        env={"PATH": os.environ["PATH"]},
        cwd=Path("/"),
        on_data=lambda _: None,
        on_exit=lambda: None,
        on_end=lambda: None,
        watchdog=watchdog,
    )


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"])


def choose_next_pid(pid: int) -> None:
    LAST_PID.write_text(str(pid - 1))


def tree_of(search: KernelSearch, pid: int) -> ProcessTree:
    return search.trees({"worker": TreeRoot(pid)})["worker"]


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog("cookie")
    yield watchdog
    assert not watchdog.has_run, "the test dismisses it on its event loop"


@pytest.mark.parametrize("scan", WAYS)
def test_daemons_are_found_below_the_worker_that_they_belong_to(
    watchdog: Watchdog, scan: bool
) -> None:
    search = KernelSearch(scan=scan)

    async def main() -> None:
        daemons = [PlantedDaemon(), PlantedDaemon()]
        workers = []
        for daemon in daemons:
            workers.append(await started(watchdog, f"sleep 1001 & {daemon.command}; sleep 1000"))
            search.trees({"x": TreeRoot(workers[0].pid)})  # looks while the next one starts
        for daemon in daemons:
            await wait_until(daemon.processes)
        for daemon, worker in zip(daemons, workers, strict=True):
            tree = tree_of(search, worker.pid)
            assert tree.processes[0].pid == worker.pid
            (planted,) = daemon.processes()
            assert planted.pid in {one.pid for one in tree.processes}
            assert len(tree.processes) == 4
            assert tree.rss > 0
            left = search.leftovers(TreeRoot(worker.pid))
            assert {one.pid for one in left} == {one.pid for one in tree.processes[1:]}
        watchdog.dismiss(5)
        assert tree_of(search, workers[0].pid) == ProcessTree()

    run(main())


@pytest.mark.parametrize("scan", WAYS)
def test_ended_orphans_are_counted_and_are_no_leftovers(watchdog: Watchdog, scan: bool) -> None:
    search = KernelSearch(scan=scan)

    async def main() -> None:
        # As the CLI does, `sleep` never reaps what it inherits.
        orphan = "(sleep 0.2 &); " * 5
        worker = await started(watchdog, f"{orphan} exec sleep 1000")
        await wait_until(lambda: tree_of(search, worker.pid).zombies == 5)
        assert search.leftovers(TreeRoot(worker.pid)) == []
        assert [one.pid for one in tree_of(search, worker.pid).processes] == [worker.pid]
        watchdog.dismiss(5)

    run(main())


@pytest.mark.parametrize("scan", WAYS)
def test_other_processes_are_opened_at_most_once(
    watchdog: Watchdog, scan: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = KernelSearch(scan=scan)
    opened: list[int] = []

    def count(pid: int) -> list[bytes]:
        opened.append(pid)
        return read_stat(pid)

    async def main() -> None:
        others = [sleeper() for _ in range(30)]
        worker = await started(watchdog, "sleep 1000; true")
        await wait_until(lambda: len(tree_of(search, worker.pid).processes) == 2)
        monkeypatch.setattr(process_tree, "read_stat", count)
        for _ in range(5):
            tree_of(search, worker.pid)
        new = sleeper()
        for _ in range(5):
            tree_of(search, worker.pid)
        assert {one.pid for one in others}.isdisjoint(opened)
        assert opened.count(new.pid) == (1 if scan else 0)
        for other in (*others, new):
            other.kill()
            other.wait()
        watchdog.dismiss(5)

    run(main())


@pytest.mark.skipif(not os.access(LAST_PID, os.W_OK), reason="only root can choose a pid")
def test_a_process_with_the_pid_of_a_known_one_is_found(watchdog: Watchdog) -> None:
    search = KernelSearch(scan=True)

    async def main() -> None:
        worker = await started(watchdog, "while read line; do sleep 1000 & done; sleep 999")
        for _ in range(20):  # another program can take the number first
            other = sleeper()
            tree_of(search, worker.pid)
            assert tree_of(search, worker.pid).processes[1:] == ()
            other.kill()
            other.wait()
            choose_next_pid(other.pid)
            worker.write(b"\n")
            await wait_until(lambda: psutil.Process(worker.pid).children())
            (child,) = search.leftovers(TreeRoot(worker.pid))
            process_tree.kill([child])
            assert process_tree.wait_ended([child], 10) == []
            if child.pid == other.pid:
                break
        else:
            pytest.fail("the kernel never gave the number again")
        watchdog.dismiss(5)

    run(main())


def test_a_signal_never_reaches_another_process_with_the_same_pid() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    found = process_tree.read_process(process.pid)
    assert found is not None
    kill_exactly(process.pid, found.start - 1)
    assert process.poll() is None
    kill_exactly(process.pid, found.start, signal.SIGUSR1)
    assert process.wait() == -signal.SIGUSR1


def test_a_signal_is_sent_without_pidfds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    process = subprocess.Popen(["sleep", "1000"])
    found = process_tree.read_process(process.pid)
    assert found is not None
    kill_exactly(process.pid, found.start - 1)
    assert process.poll() is None
    found.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_the_tree_of_a_lost_worker_is_ended_to_the_last_process() -> None:
    async def main() -> None:
        daemon = PlantedDaemon()
        # A subreaper whose parent is this test: nothing else ends what it leaves behind.
        forking = "while :; do (sleep 0.01; sleep 0.01) & wait; done"
        subreaper = (
            "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); "
            "os.execv('/bin/sh', ['sh', '-c', sys.argv[1]])"
        )
        command = f"setsid sh -c '{forking}' & {daemon.command}; sleep 1000"
        process = await asyncio.create_subprocess_exec("python3", "-c", subreaper, command)
        await wait_until(daemon.processes)
        below = psutil.Process(process.pid).children(recursive=True)
        process_tree.end_tree(process.pid)
        assert await process.wait() == -signal.SIGKILL
        assert daemon.processes() == []
        assert not [one for one in below if is_alive(one.pid)]

    run(main())


def at(pid: int, parent: int, session: int) -> KernelProcess:
    return KernelProcess(pid, start=pid, parent=parent, session=session, is_zombie=False)


def test_servers_are_the_new_processes_in_the_workers_session() -> None:
    worker, other = at(1, 0, 1), at(2, 1, 2)
    alpha, beta, child_of_alpha = at(3, 1, 1), at(4, 1, 1), at(5, 3, 1)
    servers = ServerProcesses()
    servers.change([worker], [worker, other, alpha], frozenset(), frozenset({"alpha"}))
    assert [servers.holds(one) for one in (worker, other, alpha)] == [False, False, True]
    before = [worker, alpha, child_of_alpha]
    servers.change(before, [*before, beta], frozenset({"alpha"}), frozenset({"beta"}))
    assert servers.holds(alpha)
    assert servers.holds(beta)
    # The server ends; its child becomes a child of the worker and is no server.
    orphan = at(5, 1, 1)
    servers.change([*before, beta], [worker, beta, orphan], frozenset({"beta"}), frozenset())
    assert [servers.holds(one) for one in (beta, orphan, alpha)] == [True, False, False]


def test_without_subreapers_daemons_are_found_by_their_cookie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent_pool.claude.watchdog.HAS_SUBREAPERS", False)

    async def main() -> None:
        watchdog = Watchdog("cookie-of-a-test")
        root_cookie = f"{watchdog.cookie}/worker-1"
        ended = asyncio.Event()
        process = await ChildProcess.spawn(
            ["sh", "-c", "(setsid sleep 1000 </dev/null >/dev/null 2>&1 &); exec sleep 1000"],
            env={"PATH": os.environ["PATH"], COOKIE: root_cookie},
            cwd=Path("/"),
            on_data=lambda _: None,
            on_exit=lambda: None,
            on_end=ended.set,
            watchdog=watchdog,
        )
        assert psutil.Process(process.pid).ppid() == os.getpid()
        assert isinstance(process.search, CookieSearch)
        root = TreeRoot(process.pid, root_cookie)
        search = process.search
        # In the moment of an exec a process has no environment, so no cookie.
        await wait_until(
            lambda: [psutil.Process(p.pid).name() for p in search.leftovers(root)] == ["sleep"]
        )
        (daemon,) = search.leftovers(root)
        assert {one.pid for one in search.trees({"x": root})["x"].processes} == {
            process.pid,
            daemon.pid,
        }
        process.kill()
        await ended.wait()
        assert [one.pid for one in search.strays(watchdog.cookie)] == [daemon.pid]
        process_tree.kill(search.strays(watchdog.cookie))
        assert process_tree.wait_ended([daemon], 10) == []
        watchdog.dismiss(5)

    run(main())
