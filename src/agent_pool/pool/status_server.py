"""The status of a pool for other programs of its user: a socket in the pool's private folder.

Each connection gets one JSON document, a `PoolStatus`, and is closed; nothing is read from it. The
document has figures and names, and no task, no answer and no part of the environment. The folder is
private to its user, so no other user can read the status or put up a false one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, cast

from agent_pool.claude.watchdog_script import folder_prefix
from agent_pool.errors import ConfigError
from agent_pool.models import JsonValue, PoolStats, PoolStatus, WorkerInfo

log = logging.getLogger("agent_pool")

SOCKET_NAME: Final = "status"
FOLDER_PREFIX: Final = folder_prefix("").rstrip("-")
"""The beginning of the names of all pools' folders."""
CONNECTION_SECONDS: Final = 5.0
"""Seconds that a connection can last."""
MAX_CONNECTIONS: Final = 8
"""Connections that are served at once; one more is closed at once."""
MAX_DOCUMENT: Final = 4 * 1024 * 1024
"""Bytes that a client reads at most."""


class StatusServer:
    """The pool's side.

    Args:
        status: returns the pool's status as it is now.
    """

    def __init__(self, status: Callable[[], Awaitable[PoolStatus]]) -> None:
        self._status = status
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def open(self, folder: Path) -> None:
        """Accept connections; log where that is impossible, and let the pool work without."""
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(folder / SOCKET_NAME))
            # The server is kept before it serves: a cancellation in between cannot lose it.
            self._server = await loop.create_unix_server(
                lambda: _StatusConnection(self._accept), sock=listener, start_serving=False
            )
            await self._server.start_serving()
        except OSError as error:  # e.g. the path is too long: 107 bytes on Linux, 103 on macOS
            listener.close()
            log.info("`agent-pool stats` cannot show this pool: %s", error)

    def close(self) -> None:
        """Accept no connection any more, and close those that are open."""
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        # `Server.close` leaves open connections as they are; each task aborts its own.
        for task in self._tasks:
            task.cancel()

    def _accept(self, connection: _StatusConnection) -> None:
        # A connection can be accepted in the very step in which the server is closed.
        if self._is_closed or len(self._tasks) >= MAX_CONNECTIONS:
            connection.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Here and not in the task: one that is cancelled at once never runs.
        task.add_done_callback(lambda _: connection.transport.abort())

    async def _serve(self, connection: _StatusConnection) -> None:
        try:
            async with asyncio.timeout(CONNECTION_SECONDS):
                status = await self._status()
                connection.transport.write(json.dumps(status.as_json()).encode())
                connection.transport.close()
                # `close` sends the rest first. A client that does not read would keep it open for
                # ever.
                await connection.closed.wait()
        except TimeoutError:
            log.debug("a client of the status socket took longer than %g s", CONNECTION_SECONDS)
        except Exception:
            log.exception("the status of the pool could not be sent")


class _StatusConnection(asyncio.Protocol):
    """One connection, written to and never read; `closed` is set when it has ended."""

    def __init__(self, accept: Callable[[_StatusConnection], None]) -> None:
        self._accept = accept
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # A client that sends without end must not fill the memory.
        self.transport.pause_reading()
        self._accept(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


def pool_status(workers: Sequence[WorkerInfo], stats: PoolStats, project: str) -> PoolStatus:
    """Return the status of a pool of this process."""
    return PoolStatus(
        pid=os.getpid(),
        program=_program_name(),
        project=project,
        version=_package_version(),
        workers=tuple(workers),
        stats=stats,
    )


def _program_name() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    # Set for `python -m PACKAGE`, where `sys.argv[0]` is only the path of a `__main__.py`.
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    name = Path(sys.argv[0]).name if sys.argv else ""
    # `python -c` has "-c" there, and an interactive Python has no name.
    return name if name and not name.startswith("-") else "python"


def _package_version() -> str:
    try:
        return version("claude-agent-pool")
    except PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True, slots=True)
class SilentPool(JsonValue):
    """A pool that seems to run and could not be asked.

    Attributes:
        folder: its private folder.
        reason: why there was no answer.
    """

    folder: str
    reason: str


async def running_pools(timeout: float = 2.0) -> list[PoolStatus | SilentPool]:
    """Return the status of every open pool of this user on this machine, in all programs.

    All are asked at the same time, for at most `timeout` seconds. Pools are found in the place for
    temporary files (TMPDIR): a pool with another place is not found, nor one whose place has a
    path that is too long for a socket.

    Raises:
        ConfigError: there is no place for temporary files.
    """
    folders = await asyncio.to_thread(_pool_folders)
    answers = await asyncio.gather(*(_ask(folder, timeout) for folder in folders))
    return [answer for answer in answers if answer is not None]


def _pool_folders() -> list[Path]:
    """Return the folders of this user's pools that have a socket."""
    try:
        place = Path(tempfile.gettempdir())
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(FOLDER_PREFIX))
    except OSError as error:
        raise ConfigError(f"the running pools cannot be found: {error}; correct TMPDIR") from None
    return [place / name for name in names if _is_trusted(place / name)]


def _is_trusted(folder: Path) -> bool:
    """Check that only this user can have made this folder and its socket."""
    try:
        # Not `stat`: a link in the shared folder could lead to a folder of this user.
        outer, inner = folder.lstat(), (folder / SOCKET_NAME).lstat()
    except OSError:
        return False
    is_private = stat.S_ISDIR(outer.st_mode) and not stat.S_IMODE(outer.st_mode) & 0o077
    is_own = outer.st_uid == inner.st_uid == os.geteuid()
    return is_private and is_own and stat.S_ISSOCK(inner.st_mode)


async def _ask(folder: Path, timeout: float) -> PoolStatus | SilentPool | None:
    """Ask the pool of a folder; return `None` if it has ended."""
    try:
        async with asyncio.timeout(timeout):
            return PoolStatus.from_json(json.loads(await _read(folder / SOCKET_NAME)))
    except TimeoutError:
        return SilentPool(str(folder), f"it did not answer within {timeout:g} s")
    except (ConnectionRefusedError, FileNotFoundError):
        return None  # its program was killed, or has just closed the pool
    except OSError as error:
        return SilentPool(str(folder), f"it could not be asked: {error}")
    except (ValueError, RecursionError):  # not JSON, or the JSON of something else
        return SilentPool(str(folder), "its answer is not a status; another version of agent-pool?")


async def _read(path: Path) -> bytes:
    """Read a socket to its end, at most `MAX_DOCUMENT` bytes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    document = bytearray()
    try:
        # Bounded: the other side can be any program that made such a socket.
        while len(document) < MAX_DOCUMENT and (
            chunk := await reader.read(MAX_DOCUMENT - len(document))
        ):
            document += chunk
        return bytes(document)
    finally:
        writer.transport.abort()
