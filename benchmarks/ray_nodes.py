"""Real Ray nodes on this machine, each a `ray start` with an environment of its own."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from agent_pool.errors import ConfigError

NODE_MARK: Final = "BENCHMARK_NODE"
"""A variable by which every process of one node is found."""
HOST: Final = "127.0.0.2"
"""On the loopback; Ray takes 127.0.0.1 for the machine's address in the network (2.60)."""
START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 20.0
OBJECT_STORE_BYTES: Final = 80 << 20
"""Ray's own default is 30 % of the machine's memory for each node."""


class RayNodes:
    """A head, and nodes that come and go.

    Attributes:
        address: of the head.
        nodes: the processes of the nodes by name.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = {**environ, "RAY_USAGE_STATS_ENABLED": "0"}
        self._port = _free_port()
        self.address = f"{HOST}:{self._port}"
        self.nodes: dict[str, asyncio.subprocess.Process] = {}
        self._marks: dict[str, str] = {}

    async def start_head(self) -> None:
        """Start the head, which runs no tasks itself."""
        await self._start(
            "head",
            *("--head", f"--port={self._port}", "--num-cpus=0", "--include-dashboard=false"),
            f"--temp-dir={self._folder}",
        )

    async def add(self, name: str, cpus: int) -> None:
        """Start a node and wait until it runs."""
        await self._start(name, f"--address={self.address}", f"--num-cpus={cpus}")

    async def _start(self, name: str, *options: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(_ray(), "start", "--block", "--disable-usage-stats", f"--node-name={name}"),
            *(f"--node-ip-address={HOST}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
            *options,
            env={**self._environ, NODE_MARK: self._marks.setdefault(name, uuid.uuid4().hex)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self.nodes[name] = process
        assert process.stdout is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                while line := await process.stdout.readline():
                    if b"--block" in line:  # it is printed when everything runs
                        return
        raise ConfigError(f"the Ray node {name} did not start within {START_SECONDS:g} s")

    async def stop(self, name: str) -> None:
        """Stop a node, and wait until it has ended."""
        process = self.nodes.pop(name)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        self.kill(name)

    def kill(self, name: str) -> None:
        """Kill every process of a node at once, as a power failure does."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(NODE_MARK) == self._marks[name]:
                    process.kill()

    async def close(self) -> None:
        """Stop all nodes, the head last."""
        for name in reversed(list(self.nodes)):
            await self.stop(name)


@asynccontextmanager
async def ray_nodes(environ: Mapping[str, str]) -> AsyncIterator[RayNodes]:
    """Start a head; at the end stop it and all nodes.

    Args:
        environ: the environment of the head and of all nodes.

    Raises:
        ConfigError: Ray is not installed, or does not start.
    """
    # Not in a deep folder: Ray makes Unix sockets there, whose paths have at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ap-ray-", ignore_cleanup_errors=True) as folder:
        nodes = RayNodes(Path(folder), environ)
        try:
            await nodes.start_head()
            yield nodes
        finally:
            await nodes.close()


def _ray() -> str:
    """Return Ray's command.

    Raises:
        ConfigError: Ray is not installed.
    """
    found = shutil.which("ray", path=str(Path(sys.executable).parent)) or shutil.which("ray")
    if found is None:
        raise ConfigError("Ray is not installed; run: pip install -e '.[ray]'")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
