"""Control groups (cgroup v2) of a pool's workers, in places that were given to this program.

A worker's group holds every process that the worker or its tasks start, whatever they do to hide.
The kernel then adds up and limits their memory, and kills all of them at once. A pool makes groups
only where it may: in a place that systemd has delegated, or in the root of a container's groups.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger("agent_pool")

_DELEGATED: Final = ("user.delegate", "trusted.delegate")
"""The attributes with which systemd marks a group that belongs to a program."""
_IN_USE: Final = ("anon", "shmem", "file_mapped")
"""The parts of ``memory.stat`` that are like resident bytes: the kernel's cache of files that
nothing maps is none, since it is given back when others need it."""


class WorkerGroup:
    """The group of one worker.

    Args:
        path: its folder.
        has_memory: the kernel adds up its memory.
    """

    def __init__(self, path: Path, has_memory: bool) -> None:
        self.path = path
        self.has_memory = has_memory

    @property
    def entrance(self) -> Path:
        """Return the file by which a process enters the group."""
        return self.path / "cgroup.procs"

    def limit(self, memory: int | None) -> None:
        """Let the kernel kill all of it if it uses more than so many bytes; `None` is no limit."""
        if self.has_memory and memory is not None:
            with suppress(OSError):
                # All of it, because a worker without some of its processes is of no use.
                (self.path / "memory.oom.group").write_text("1")
                (self.path / "memory.max").write_text(str(memory))

    def pids(self) -> list[int]:
        """Return its processes; those that have ended are not among them."""
        return [int(line) for line in _read(self.entrance).split()]

    def memory(self) -> int | None:
        """Return the bytes in use; `None` if the kernel does not add them up."""
        if not self.has_memory:
            return None
        lines = (line.split() for line in _read(self.path / "memory.stat").splitlines())
        return sum(int(value) for name, value in lines if name in _IN_USE) or None

    def was_out_of_memory(self) -> bool:
        """Check whether the kernel has killed something in it because of its limit."""
        lines = (line.split() for line in _read(self.path / "memory.events").splitlines())
        return any(name == "oom_kill" and value != "0" for name, value in lines)

    def kill(self) -> None:
        """Kill everything in it at once, also what is being forked in this moment."""
        with suppress(OSError):  # removed, or a kernel before 5.14
            (self.path / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Remove it, and the groups that its processes have made; nothing must be in it."""
        remove_groups(self.path)


class PoolGroups:
    """The groups of one pool's workers.

    Args:
        path: the folder of the pool's own group; it is made with the first worker.
        has_memory: the kernel adds up the memory of groups here.
    """

    def __init__(self, path: Path, has_memory: bool) -> None:
        self.path = path
        self.has_memory = has_memory
        self._made = 0

    def make(self, memory: int | None) -> WorkerGroup | None:
        """Make a group with this limit of memory; `None` if the system refuses."""
        self._made += 1
        group = WorkerGroup(self.path / f"worker-{self._made}", self.has_memory)
        try:
            if not self.path.is_dir():
                self.path.mkdir()
                if self.has_memory:
                    (self.path / "cgroup.subtree_control").write_text("+memory")
            group.path.mkdir()
        except OSError as error:
            log.debug("no cgroup can be made: %s", error)
            return None
        group.limit(memory)
        return group

    def remove(self) -> None:
        """Remove all of them."""
        remove_groups(self.path)


def find_groups(name: str, root: Path = Path("/")) -> PoolGroups | None:
    """Find a place where this program may make groups; `None` if there is none.

    Args:
        name: the name of the pool's group.
        root: the folder that holds ``proc``, for tests.
    """
    mount = _mount(root)
    own = _own_path(root)
    if mount is None or own is None:
        return None
    place = mount / own.lstrip("/")
    # Beside this program, if it is in a group below a delegated one: a group whose own processes
    # are in it cannot pass on the control of memory.
    if own.strip("/") and _is_given(place.parent) and not _read(place.parent / "cgroup.procs"):
        control = place.parent / "cgroup.subtree_control"
        if "memory" not in _read(control).split():
            with suppress(OSError):
                control.write_text("+memory")
        if "memory" in _read(control).split():
            return PoolGroups(place.parent / name, has_memory=True)
    is_top = not own.strip("/")
    if (is_top or _is_given(place)) and os.access(place / "cgroup.procs", os.W_OK):
        has_memory = "memory" in _read(place / "cgroup.subtree_control").split()
        return PoolGroups(place / name, has_memory)
    return None


def remove_groups(path: Path) -> None:
    """Remove a group and all groups in it, as far as nothing is in them."""
    for folder, _, _ in os.walk(path, topdown=False):
        with suppress(OSError):
            os.rmdir(folder)  # noqa: PTH106 - as the name comes


def _mount(root: Path) -> Path | None:
    """Return where the version 2 of control groups is mounted."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[:1] == ["cgroup2"]:
            return root / before.split()[4].lstrip("/")
    return None


def _own_path(root: Path) -> str | None:
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    return None


def _is_given(group: Path) -> bool:
    """Check whether systemd has delegated a group to this program."""
    return os.access(group / "cgroup.procs", os.W_OK) and any(
        _attribute(group, name) == b"1" for name in _DELEGATED
    )


def _attribute(path: Path, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except (OSError, AttributeError):  # there are no attributes on macOS
        return b""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
