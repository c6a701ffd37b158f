"""A Ray cluster of several nodes on this machine, each with an environment of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from support.process_checks import environment_entries, is_alive

NODE = "TEST_RAY_NODE"
"""A variable in the environment of every process of one node, the agents' processes included."""
CLUSTER = "TEST_RAY_CLUSTER"
"""The same for all nodes of one cluster: its folder. Other tests perhaps have nodes, too."""
HOST = "127.0.0.2"
"""On the loopback; Ray takes 127.0.0.1 for the machine's address in the network (2.60)."""
START_TIMEOUT = 60.0
_RAYLET = "raylet"


class RayNodes:
    """A cluster; the first node is its head.

    Args:
        environ: the environment of every node.
        host: the address of the nodes, except for those that have another one.
    """

    def __init__(self, environ: Mapping[str, str], host: str = HOST) -> None:
        self._host = host
        # Short: the paths of Ray's sockets have at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self._environ = environ
        self._starts: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()
        self.address = ""

    def start(self, *names: str, cpus: int = 2) -> None:
        """Start all nodes at the same time, and wait until they run; the first one is the head."""
        with socket.socket() as probe:
            probe.bind((self._host, 0))
            port = probe.getsockname()[1]
        self.address = f"{self._host}:{port}"
        self._add_head(names[0], cpus)
        for name in names[1:]:
            self.add(name, cpus=cpus)
        for name in names:
            self.wait_for(name)

    def start_head(self, name: str, cpus: int) -> None:
        """Start another head at the address of the one that was killed, and wait until it runs."""
        self._add_head(name, cpus)
        self.wait_for(name)

    def _add_head(self, name: str, cpus: int) -> None:
        port = self.address.rpartition(":")[2]
        place = ("--temp-dir", str(self.folder / "head"))
        self._start(name, cpus, "--head", f"--port={port}", "--include-dashboard=false", *place)

    def add(self, name: str, cpus: int = 2, **more: str) -> None:
        """Start another node; do not wait for it."""
        self._start(name, cpus, f"--address={self.address}", **more)

    def add_far(self, name: str, host: str, inside: Sequence[str], cpus: int = 2) -> None:
        """Start another node with another address; do not wait for it.

        Args:
            name: its name.
            host: its address.
            inside: the beginning of the command, which leads to where it has this address.
            cpus: what it declares.
        """
        place = (f"--address={self.address}", f"--node-ip-address={host}")
        self._start(name, cpus, *place, inside=inside)

    def _start(
        self, name: str, cpus: int, *arguments: str, inside: Sequence[str] = (), **more: str
    ) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._starts[name] = self._popen(name, cpus, log, (inside, arguments), more)
            self._sessions.add(self._starts[name].pid)

    def _popen(
        self,
        name: str,
        cpus: int,
        log: IO[bytes],
        words: tuple[Sequence[str], Sequence[str]],
        more: Mapping[str, str],
    ) -> subprocess.Popen[bytes]:
        inside, arguments = words
        return subprocess.Popen(
            [
                *(*inside, sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
                # The last one counts.
                *(f"--node-ip-address={self._host}", *arguments),
                *(f"--node-name={name}", f"--num-cpus={cpus}"),
                *("--object-store-memory=80000000", "--include-log-monitor=false"),
                *("--disable-usage-stats", "--log-color=false"),
            ],
            env={
                **self._environ,
                "RAY_USAGE_STATS_ENABLED": "0",
                "PYTHONPATH": os.pathsep.join(sys.path),
                NODE: name,
                CLUSTER: str(self.folder),
                **more,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(self, name: str) -> None:
        """Wait until the raylet of a node runs."""
        end = time.monotonic() + START_TIMEOUT
        while not self.processes(name, _RAYLET):
            assert time.monotonic() < end, self._log()
            assert self._starts[name].poll() is None, self._log()
            time.sleep(0.05)

    def _log(self) -> str:
        return "\n".join(one.read_text() for one in self.folder.glob("*.log"))

    # Processes

    def processes(self, name: str, program: str = "") -> list[psutil.Process]:
        """Return the living processes of a node whose command has this text."""
        marks = {f"{NODE}={name}".encode(), self._mark()}
        return [one for one in psutil.process_iter() if _belongs(one, marks, program)]

    def _mark(self) -> bytes:
        return f"{CLUSTER}={self.folder}".encode()

    def actors(self, name: str) -> list[psutil.Process]:
        """Return the process of the pool's actor on a node."""
        return self.processes(name, "ray::NodeActor")

    def agents(self, name: str) -> list[psutil.Process]:
        """Return what the pool of a node has started: Claude Code, and what its tasks started."""
        ray = ("/ray/", "ray.scripts", "ray::", "setproctitle")
        return [one for one in self.processes(name) if not _has_words(one, ray)]

    def own(self, name: str) -> list[psutil.Process]:
        """Return the processes of the pool on a node: its actor, and what that has started."""
        found = [*self.actors(name), *self.agents(name)]
        assert found != []
        return found

    def kill(self, name: str) -> None:
        """Kill all processes of a node that belong to Ray, in one moment: the machine is dead."""
        own = [one for one in self.processes(name) if one not in self.agents(name)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in own:
                _send(process, number)
        self._starts.pop(name).wait()

    def drain(self, node_id: str) -> None:
        """Let Ray drain a node, as its autoscaler does; the node has this id of Ray."""
        subprocess.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "drain-node"),
                *("--address", self.address, "--node-id", node_id),
                *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test"),
            ],
            env={**self._environ, "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=START_TIMEOUT,
            check=True,
        )

    def stop(self) -> None:
        """Kill everything."""
        for name in tuple(self._starts):
            self.kill(name)
        left = [
            one
            for one in psutil.process_iter()
            # Two agents of a node overwrite their environment with their title.
            if _belongs(one, {self._mark()}) or _session_of(one) in self._sessions
        ]
        for process in left:
            _send(process, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


def _belongs(process: psutil.Process, marks: set[bytes], program: str = "") -> bool:
    """Check whether a process lives, and has these entries of its environment and this text."""
    if not marks <= set(environment_entries(process.pid)):
        return False
    try:
        words = " ".join(process.cmdline())
    except (psutil.Error, OSError):
        return False
    return program in words and is_alive(process.pid)


def _session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return 0


def _has_words(process: psutil.Process, words: tuple[str, ...]) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return True
    return any(word in command for word in words)


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        pass
