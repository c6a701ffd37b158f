"""Control groups: where they may be made, what they measure, and that nothing stays of them."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from agent_pool import WorkerDied
from agent_pool.claude import cgroups, process_tree
from agent_pool.claude.cgroups import PoolGroups, WorkerGroup, find_groups
from agent_pool.claude.process import ChildProcess
from agent_pool.claude.process_tree import KernelSearch, TreeRoot
from agent_pool.claude.watchdog import Watchdog, describe_process_search
from support.model_scripts import HeldAnswers
from support.pool_program import pool_program
from support.pools import PoolProject
from support.process_checks import MIB, watchdogs
from support.waiting import run, wait_until

REAL = find_groups("agent-pool-test")
needs_groups = pytest.mark.skipif(REAL is None, reason="no cgroup can be made on this machine")

STAT = f"""\
anon {300 * MIB}
file {900 * MIB}
kernel {5 * MIB}
shmem {20 * MIB}
file_mapped {4 * MIB}
"""


class GroupTree:
    """A folder in the form of control groups, and a program's place in it."""

    def __init__(self, root: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.top = root / "sys/fs/cgroup"
        self._given: set[Path] = set()
        process = root / "proc/self"
        process.mkdir(parents=True)
        (process / "cgroup").write_text(f"4:memory:/other\n0::{own}\n")
        mount = "31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
        (process / "mountinfo").write_text(f"24 1 0:1 / / rw - ext4 /dev/x rw\n{mount}")
        monkeypatch.setattr(cgroups, "_attribute", lambda path, _: b"1" * (path in self._given))

    def group(
        self, name: str, *, processes: str = "", controls: str = "", given: bool = False
    ) -> Path:
        """Make a group; it is given to this program by systemd or not."""
        path = self.top / name
        path.mkdir(parents=True, exist_ok=True)
        (path / "cgroup.procs").write_text(processes)
        (path / "cgroup.subtree_control").write_text(controls)
        if given:
            self._given.add(path)
        return path

    def found(self) -> tuple[str, bool] | None:
        """Return where groups can be made, and whether their memory is added up."""
        groups = find_groups("pool", self.root)
        if groups is None:
            return None
        return str(groups.path.relative_to(self.top)), groups.has_memory


def test_groups_are_made_only_in_places_that_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = GroupTree(tmp_path, "/user.slice/unit/main", monkeypatch)
    tree.group("user.slice", controls="memory")
    unit = tree.group("user.slice/unit", controls="cpu memory")
    tree.group("user.slice/unit/main", processes="7\n")
    assert tree.found() is None
    tree.group("user.slice/unit/main", processes="7\n", given=True)
    assert tree.found() == ("user.slice/unit/main/pool", False)
    tree.group("user.slice/unit", controls="cpu memory", given=True)
    assert tree.found() == ("user.slice/unit/pool", True)
    (unit / "cgroup.procs").write_text("8\n")  # the kernel then refuses the control of memory
    assert tree.found() == ("user.slice/unit/main/pool", False)


def test_the_root_of_a_container_is_a_place_for_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = GroupTree(tmp_path, "/", monkeypatch)
    top = tree.group("", processes="1\n")
    assert tree.found() == ("pool", False)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != top / "cgroup.procs")
    assert tree.found() is None  # mounted without the right to write


def test_no_groups_are_made_without_their_second_version(tmp_path: Path) -> None:
    assert find_groups("pool", tmp_path) is None


def test_the_memory_of_a_group_counts_no_cache(tmp_path: Path) -> None:
    group = WorkerGroup(tmp_path, has_memory=True)
    (tmp_path / "memory.stat").write_text(STAT)
    assert group.memory() == 324 * MIB
    assert WorkerGroup(tmp_path, has_memory=False).memory() is None
    own = process_tree.read_process(os.getpid())
    assert own is not None
    tree = KernelSearch().trees({"x": TreeRoot(own.pid, group=group)})["x"]
    assert tree.rss == 324 * MIB


def test_a_group_is_limited_and_tells_when_the_limit_was_hit(tmp_path: Path) -> None:
    groups = PoolGroups(tmp_path / "pool", has_memory=True)
    group = groups.make(600 * MIB)
    assert group is not None
    assert (groups.path / "cgroup.subtree_control").read_text() == "+memory"
    assert (group.path / "memory.max").read_text() == str(600 * MIB)
    assert (group.path / "memory.oom.group").read_text() == "1"
    events = group.path / "memory.events"
    events.write_text("low 0\noom 0\noom_kill 0\n")
    assert not group.was_out_of_memory()
    events.write_text("low 0\noom 1\noom_kill 3\n")
    assert group.was_out_of_memory()
    group.kill()
    assert (group.path / "cgroup.kill").read_text() == "1"


def test_a_worker_that_the_kernel_killed_for_memory_names_the_limit(
    pool_project: PoolProject, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[WorkerGroup] = []

    def make(_: object, memory: int | None) -> WorkerGroup:
        assert memory == 600 * MIB
        made.append(WorkerGroup(tmp_path / "group", has_memory=False))
        made[-1].path.mkdir(exist_ok=True)
        return made[-1]

    monkeypatch.setattr(Watchdog, "make_group", make)

    async def main() -> None:
        script = HeldAnswers()
        async with pool_project.real(script, max_rss_hard=600 * MIB) as (pool, _):
            asking = asyncio.create_task(pool.invoke("tester", "task"))
            await wait_until(lambda: script.began == ["task"])
            (made[0].path / "memory.events").write_text("oom_kill 1\n")
            (worker,) = await pool.workers()
            assert worker.pid is not None
            psutil.Process(worker.pid).kill()
            with pytest.raises(WorkerDied, match=r"used more than max_rss_hard \(600 MiB\)"):
                await asking

    run(main())


async def started(
    watchdog: Watchdog, command: str, group: WorkerGroup, on_end: Callable[[], None]
) -> ChildProcess:
    return await ChildProcess.spawn(
        ["sh", "-c", command],
        env={"PATH": os.environ["PATH"]},
        cwd=Path("/"),
        on_data=lambda _: None,
        on_exit=lambda: None,
        on_end=on_end,
        watchdog=watchdog,
        group=group,
    )


@needs_groups
def test_a_real_group_holds_finds_and_ends_all_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a kernel without lists of children.
    monkeypatch.setattr("agent_pool.claude.watchdog.has_children_lists", lambda: False)

    async def main() -> None:
        watchdog = Watchdog(secrets.token_hex(8))
        group = watchdog.make_group(None)
        assert group is not None
        ended = asyncio.Event()
        daemon = "(env -i setsid sleep 1000 </dev/null >/dev/null 2>&1 &)"
        process = await started(watchdog, f"{daemon}; sleep 1000", group, ended.set)
        await wait_until(lambda: len(group.pids()) == 3)
        root = TreeRoot(process.pid, group=group)
        left = KernelSearch(scan=True).leftovers(root)
        assert {one.pid for one in left} == {*group.pids()} - {process.pid}
        process.kill()
        await ended.wait()
        assert await process.wait_swept(10)
        await wait_until(lambda: group.pids() == [])
        group.remove()
        assert not group.path.exists()
        watchdog.dismiss(5)
        assert not group.path.parent.exists()

    run(main())


@needs_groups
@pytest.mark.parametrize("victims", ["pool", "pool and watchdog"])
def test_no_group_of_a_killed_pool_stays(
    pool_project: PoolProject, monkeypatch: pytest.MonkeyPatch, victims: str
) -> None:
    assert REAL is not None
    monkeypatch.setenv("WITHOUT_LISTS", "1")
    place = REAL.path.parent

    async def main() -> None:
        pool_project.faulty()
        before = {*place.glob("agent-pool-*")}
        async with pool_program(pool_project, pool_project.fake_environment()) as program:
            await program.do("warm")
            (own,) = {*place.glob("agent-pool-*")} - before
            alive = [*pool_project.processes(), *watchdogs(program.process.pid)]
            if victims != "pool":
                watchdogs(program.process.pid)[0].kill()
            program.process.kill()
            await pool_project.wait_until_gone(alive)
            await wait_until(lambda: not own.exists())

    run(main())


def test_the_way_in_force_is_described(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    groups = PoolGroups(tmp_path / "pool", has_memory=True)
    monkeypatch.setattr("agent_pool.claude.watchdog.find_groups", lambda _: groups)
    limits = f"cgroups in {tmp_path} add up and limit the memory, and kill"
    assert describe_process_search().endswith(limits)
    groups.has_memory = False
    monkeypatch.setattr("agent_pool.claude.watchdog.has_children_lists", lambda: True)
    assert describe_process_search().endswith("; there is no cgroup that adds up memory")
    monkeypatch.setattr("agent_pool.claude.watchdog.has_children_lists", lambda: False)
    assert describe_process_search().startswith(f"found and killed by cgroups in {tmp_path}")
    monkeypatch.setattr("agent_pool.claude.watchdog.HAS_SUBREAPERS", False)
    assert "environment of all processes" in describe_process_search()
