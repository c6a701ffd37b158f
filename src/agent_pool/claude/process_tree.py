"""The processes below a worker, found by what the kernel knows about their parents.

Every worker is a subreaper: a process whose parent ends becomes a child of the worker, also if it
has left its session and cleared its environment. So the processes of a worker's tasks are exactly
its descendants. They are found by the kernel's lists of children; on kernels without these by the
worker's control group, if it has one, or else by a scan of /proc that opens only processes it has
not seen before.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent_pool.claude.cgroups import WorkerGroup
from agent_pool.claude.watchdog_script import (
    has_children_lists,
    kill_exactly,
    listed_children,
    read_stat,
)

_POLL_SECONDS = 0.005
"""Seconds between two checks of processes that are about to end."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_ENDED = (b"Z", b"X")
_MOST_PARENTS = 1000
"""Bound of the way from a process to its first ancestor; changing parents could make a circle."""


class LivingProcess(Protocol):
    """A process that was found, and that keeps its identity if its pid is given to another one."""

    @property
    def pid(self) -> int:
        """Return its process id."""

    @property
    def key(self) -> tuple[int, int]:
        """Return what tells it from every other process: its pid and its start."""

    def is_alive(self) -> bool:
        """Check whether it has not ended; a zombie has ended."""

    def send_signal(self, sig: signal.Signals) -> None:
        """Send a signal; do nothing if it has ended or belongs to another user."""

    def rss(self) -> int:
        """Return its resident bytes; 0 if it has ended."""


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A worker and the processes below it.

    Attributes:
        processes: the living ones, the worker first; empty if the worker has ended.
        zombies: how many have ended and stay until the worker ends: the CLI does not reap what it
            inherits (2.1.332).
        memory: their resident bytes, if something has measured them already; else None.
    """

    processes: tuple[LivingProcess, ...] = ()
    zombies: int = 0
    memory: int | None = None

    @property
    def rss(self) -> int:
        """Return the resident bytes of the whole tree."""
        return rss(self.processes) if self.memory is None else self.memory


class ServerProcesses:
    """The processes of a worker's MCP servers, noted when it is given servers.

    The CLI starts servers in its own session. Commands, background shells and hooks get sessions of
    their own (2.1.332), so a daemon that a task has started is never taken for a server.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], frozenset[str]] = {}

    def change(
        self,
        before: Iterable[KernelProcess],
        after: Iterable[KernelProcess],
        kept: frozenset[str],
        added: frozenset[str],
    ) -> None:
        """Note which processes are servers now.

        Args:
            before: the worker's processes before it was given other servers, itself included.
            after: the same afterwards, the worker first.
            kept: the names of the servers that run on.
            added: the names of those that were started.
        """
        known = {key: names & kept for key, names in self._names.items()}
        # What a former server has started is no server, also if it is the CLI's own child now.
        existed = {process.key for process in before}
        new = {one.key: added for one in _own_children([*after]) if one.key not in existed}
        self._names = {key: names for key, names in {**known, **new}.items() if names}

    def holds(self, process: KernelProcess) -> bool:
        """Check whether a process is one of the servers."""
        return process.key in self._names


@dataclass(frozen=True, slots=True)
class TreeRoot:
    """A worker whose processes are looked for.

    Attributes:
        pid: its process id.
        cookie: its cookie, for systems where only the environment tells.
        server_marks: the marks of its MCP servers, which must outlive its tasks; None for all that
            it started. They are in the environment, too.
        servers: the same servers as the kernel knows them.
        has_lasting_servers: it has MCP servers from its start to its end.
        group: its control group; None without one.
    """

    pid: int
    cookie: str = ""
    server_marks: Collection[str] | None = None
    servers: ServerProcesses | None = None
    has_lasting_servers: bool = False
    group: WorkerGroup | None = None


class ProcessSearch(Protocol):
    """Finds the processes of a pool's workers.

    Attributes:
        way: how, for people.
        is_slow: it takes some milliseconds, so it belongs into a thread.
        finds_all: no process can leave its worker, so looking for leftovers at rest makes sense.
    """

    way: str
    is_slow: bool
    finds_all: bool

    def trees(self, roots: Mapping[str, TreeRoot]) -> dict[str, ProcessTree]:
        """Return the processes of these workers, by the same names."""

    def leftovers(self, root: TreeRoot) -> list[LivingProcess]:
        """Return a worker's processes but for itself and its MCP servers."""

    def members(self, root: TreeRoot) -> list[KernelProcess]:
        """Return a worker's processes, zombies included, the worker first; empty if unknown."""

    def strays(self, cookie: str) -> list[LivingProcess]:
        """Return processes with a cookie that are perhaps in no tree any more."""


@dataclass(frozen=True, slots=True)
class KernelProcess:
    """A process as the kernel described it.

    Attributes:
        pid: its process id.
        start: its start time in clock ticks since the boot; with the pid, its identity.
        parent: the pid of its parent.
        session: the pid of the first process of its session.
        is_zombie: it has ended, and its parent has not taken note.
    """

    pid: int
    start: int
    parent: int
    session: int
    is_zombie: bool

    @property
    def key(self) -> tuple[int, int]:
        return self.pid, self.start

    def is_alive(self) -> bool:
        now = read_process(self.pid)
        return now is not None and now.start == self.start and not now.is_zombie

    def send_signal(self, sig: signal.Signals) -> None:
        kill_exactly(self.pid, self.start, sig)

    def rss(self) -> int:
        try:
            file = os.open(f"/proc/{self.pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            # Not the kernel's exact sum, which `smaps_rollup` needs milliseconds for.
            return int(os.read(file, 256).split()[1]) * _PAGE
        except (OSError, IndexError):  # it ended between the two calls
            return 0
        finally:
            os.close(file)


def read_process(pid: int) -> KernelProcess | None:
    """Return a process, also a zombie; `None` if there is no such process."""
    fields = read_stat(pid)
    if not fields:
        return None
    state, parent, session, start = fields[0], fields[1], fields[3], fields[19]
    return KernelProcess(pid, int(start), int(parent), int(session), state in _ENDED)


class KernelSearch:
    """Finds the processes of workers that are subreapers, by parentage.

    Args:
        scan: scan /proc although this kernel lists children; for tests.
    """

    finds_all = True

    def __init__(self, *, scan: bool = False) -> None:
        self.is_slow = scan or not has_children_lists()
        self.way = "a scan of /proc for new processes" if self.is_slow else "lists of children"
        self._scan = IncrementalScan() if self.is_slow else None

    def trees(self, roots: Mapping[str, TreeRoot]) -> dict[str, ProcessTree]:
        members = self._members([*roots.values()])
        return {name: _tree(members[root.pid], root.group) for name, root in roots.items()}

    def leftovers(self, root: TreeRoot) -> list[LivingProcess]:
        found = self.members(root)
        if not (left := _leftovers(found, root)) and self._scan is None:
            # The kernel's list can lack a child while another one ends, so an empty answer counts
            # only if it comes twice.
            left = _leftovers(self.members(root), root)
        return left

    def members(self, root: TreeRoot) -> list[KernelProcess]:
        return self._members([root])[root.pid]

    def strays(self, cookie: str) -> list[LivingProcess]:
        # None: what leaves a worker's tree becomes a child of the watchdog, which ends it.
        return []

    def _members(self, roots: list[TreeRoot]) -> dict[int, list[KernelProcess]]:
        if self._scan is None:
            return {root.pid: _listed(root.pid) for root in roots}
        grouped = {root.pid: _grouped(root.pid, root.group) for root in roots if root.group}
        others = [root.pid for root in roots if not root.group]
        return {**grouped, **(self._scan.members(others) if others else {})}


def _listed(root: int) -> list[KernelProcess]:
    """Return a process and its descendants, zombies included, by the kernel's lists."""
    found = []
    pending = [root]
    while pending:
        process = read_process(pending.pop())
        if process is not None:
            found.append(process)
            # A zombie has handed its children to the worker already.
            if not process.is_zombie:
                pending += listed_children(process.pid)
    return found


def _grouped(root: int, group: WorkerGroup) -> list[KernelProcess]:
    """Return the processes in a worker's control group, the worker first, without zombies."""
    pids = (root, *(pid for pid in group.pids() if pid != root))
    found = [process for pid in pids if (process := read_process(pid)) is not None]
    return found if found and found[0].pid == root else []


def _tree(members: list[KernelProcess], group: WorkerGroup | None) -> ProcessTree:
    if not members or members[0].is_zombie:
        return ProcessTree()
    alive = tuple(process for process in members if not process.is_zombie)
    memory = group.memory() if group is not None else None
    return ProcessTree(alive, zombies=len(members) - len(alive), memory=memory)


def _leftovers(members: list[KernelProcess], root: TreeRoot) -> list[LivingProcess]:
    servers = _with_descendants(members, _servers(members, root))
    return [
        process
        for process in members
        if not process.is_zombie and process.pid != root.pid and process.pid not in servers
    ]


def _servers(members: list[KernelProcess], root: TreeRoot) -> set[int]:
    if root.has_lasting_servers:
        return {process.pid for process in _own_children(members)}
    if root.servers is None:
        return set()
    return {process.pid for process in members if root.servers.holds(process)}


def _own_children(members: list[KernelProcess]) -> list[KernelProcess]:
    """Return the children of a worker that are in its own session; the worker comes first."""
    root = members[0].pid if members else 0
    return [one for one in members if one.parent == root and one.session == root]


def _with_descendants(members: list[KernelProcess], pids: set[int]) -> set[int]:
    """Return these pids and those of the processes below them."""
    parents = {process.pid: process.parent for process in members}

    def is_below(pid: int) -> bool:
        for _ in range(_MOST_PARENTS):
            if pid in pids or pid not in parents:
                break
            pid = parents[pid]
        return pid in pids

    return {pid for pid in parents if is_below(pid)} if pids else set()


class IncrementalScan:
    """Finds the descendants of workers on a kernel that does not list children.

    A subreaper keeps its descendants, and a process never gets new ancestors outside of them. So it
    is enough to ask each process once to which worker it belongs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._roots: dict[int, int] = {}  # start times of the workers, by pid
        self._known: dict[int, _Known] = {}

    def members(self, roots: list[int]) -> dict[int, list[KernelProcess]]:
        """Return the processes of each worker, zombies included, the worker first."""
        with self._lock:
            self._update_roots(roots)
            self._look()
            return {root: self._members_of(root) for root in roots}

    def _update_roots(self, roots: list[int]) -> None:
        for pid in roots:
            process = read_process(pid)
            if process is None or self._roots.get(pid) == process.start:
                continue
            self._roots[pid] = process.start
            # What was started after it, before it was known, can belong to it.
            for other, known in list(self._known.items()):
                if not known.owner and known.start >= process.start:
                    del self._known[other]

    def _look(self) -> None:
        with os.scandir("/proc") as entries:
            # The kernel makes an inode for each process, so another number is another process.
            found = {int(one.name): one.inode() for one in entries if one.name.isdigit()}
        known = self._known
        for pid in known.keys() - found.keys():
            del known[pid]
            self._roots.pop(pid, None)
        for pid, inode in found.items():
            if (seen := known.get(pid)) is None or seen.inode != inode:
                known.pop(pid, None)
        for pid in found.keys() - known.keys():
            self._learn(pid, found[pid])

    def _learn(self, pid: int, inode: int) -> None:
        process = read_process(pid)
        if process is not None:
            self._known[pid] = _Known(inode, process.start, self._owner_of(process))

    def _owner_of(self, process: KernelProcess) -> int:
        for _ in range(_MOST_PARENTS):
            if self._roots.get(process.pid) == process.start:
                return process.pid
            known = self._known.get(process.parent)
            if known is not None:
                return known.owner
            above = read_process(process.parent)
            if above is None:
                # The parent has ended, or is outside of this container: ask again who it is now.
                again = read_process(process.pid)
                if again is None or again.parent == process.parent:
                    return 0
                process = again
            else:
                process = above
        return 0

    def _members_of(self, root: int) -> list[KernelProcess]:
        pids = [pid for pid, known in self._known.items() if known.owner == root and pid != root]
        found = [process for pid in (root, *pids) if (process := read_process(pid)) is not None]
        return found if found and found[0].pid == root else []


@dataclass(frozen=True, slots=True)
class _Known:
    """A process that was asked already: its identity, and the worker that it belongs to or 0."""

    inode: int
    start: int
    owner: int


def rss(processes: Iterable[LivingProcess]) -> int:
    """Return the sum of the resident bytes; a process that has ended counts as 0."""
    return sum(process.rss() for process in processes)


def kill(processes: Iterable[LivingProcess], sig: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to each process; skip those that have ended or belong to another user."""
    for process in processes:
        process.send_signal(sig)


def wait_ended(processes: Iterable[LivingProcess], timeout: float) -> list[LivingProcess]:
    """Block until all have ended, at most `timeout` seconds; return those that still live.

    A zombie has ended: only its parent can remove it.
    """
    deadline = time.monotonic() + timeout
    alive = [process for process in processes if process.is_alive()]
    while alive and time.monotonic() < deadline:
        # Polled: the kernel reports the end of a process only to its parent.
        time.sleep(_POLL_SECONDS)
        alive = [process for process in alive if process.is_alive()]
    return alive


def kill_group(pgid: int, sig: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to the process group of a worker; do nothing if it has ended."""
    try:
        os.killpg(pgid, sig)
    except (ProcessLookupError, PermissionError):  # not ours any more
        pass


def end_tree(pid: int) -> None:
    """Kill a worker whose watchdog has ended, and everything below it.

    Stopped first, it starts no process and stays the parent of those that lose theirs, so none of
    them is lost to a parent that does not end it.
    """
    root = read_process(pid)
    if root is None or root.is_zombie:
        return
    root.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 1.0
    search = KernelSearch()
    while time.monotonic() < deadline and (left := search.leftovers(TreeRoot(pid))):
        kill(left)
        time.sleep(_POLL_SECONDS / 5)
    root.send_signal(signal.SIGKILL)
