"""How a pool is seen from outside: a socket in its private folder, and who looks at it.

Each connection gets one JSON document, a `PoolStatus`, and is closed; nothing is read from it. The
document holds figures and names, no task, no answer and nothing of the environment. The folder is
its user's alone, and so nobody else can look in, nor put up a window that would be believed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, cast

from pydantic import TypeAdapter, ValidationError

from agent_pool.claude.watcher import folder_prefix
from agent_pool.errors import ConfigError
from agent_pool.pool.status import PoolStatus

log = logging.getLogger("agent_pool")

NAME: Final = "window"
FOLDERS: Final = folder_prefix("").rstrip("-")
"""What the names of all pools' folders begin with."""
VISIT: Final = 5.0
"""Seconds that a connection may last."""
MAX_VISITORS: Final = 8
"""How many are served at once; who comes then is turned away."""
MAX_DOCUMENT: Final = 4 * 1024 * 1024
"""Bytes that a visitor reads at most."""


class Window:
    """The pool's side.

    Args:
        look: says how the pool is now.
    """

    def __init__(self, look: Callable[[], Awaitable[PoolStatus]]) -> None:
        self._look = look
        self._server: asyncio.Server | None = None
        self._visits: set[asyncio.Task[None]] = set()

    async def open(self, folder: Path) -> None:
        """Let visitors in; where that is impossible the pool works without."""
        loop = asyncio.get_running_loop()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(folder / NAME))
            # It does not serve yet, and so there is no wait here in which it could be lost.
            self._server = await loop.create_unix_server(
                lambda: _Visitor(self._receive), sock=listener, start_serving=False
            )
            await self._server.start_serving()
        except OSError as error:  # e.g. the path is too long for a socket
            listener.close()
            log.info("this pool is not shown by `agent-pool stats`: %s", error)

    def close(self) -> None:
        """Let nobody in any more, and send away who is there."""
        if self._server is not None:
            self._server.close()
        for visit in self._visits:
            visit.cancel()

    def _receive(self, visitor: _Visitor) -> None:
        if len(self._visits) >= MAX_VISITORS:
            visitor.transport.abort()
            return
        visit = asyncio.get_running_loop().create_task(self._serve(visitor))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _serve(self, visitor: _Visitor) -> None:
        try:
            async with asyncio.timeout(VISIT):
                visitor.transport.write(_adapter().dump_json(await self._look()))
                visitor.transport.close()
                await visitor.gone.wait()
        except TimeoutError:
            log.debug("a visitor of the pool's window took longer than %g s", VISIT)
        except Exception:
            log.exception("the pool's window could not say how the pool is")
        finally:
            visitor.transport.abort()


class _Visitor(asyncio.Protocol):
    """One connection, written to and never read; `gone` is set when it has ended."""

    def __init__(self, receive: Callable[[_Visitor], None]) -> None:
        self._receive = receive
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()
        self._receive(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()


@dataclass(frozen=True, slots=True)
class SilentPool:
    """A pool that seems to be there and could not be asked.

    Attributes:
        folder: its private folder.
        why: what happened instead of an answer.
    """

    folder: Path
    why: str


async def running_pools(timeout: float = 2.0) -> list[PoolStatus | SilentPool]:
    """Every open pool of this user on this machine, in whatever program, as it is now.

    Each is asked for `timeout` seconds at most, all at the same time. Pools are found in the place
    for temporary files (TMPDIR), so one that works with another place is not seen; nor is one
    whose place's path is too long for a socket.

    Raises:
        ConfigError: there is no place for temporary files.
    """
    folders = await asyncio.to_thread(_folders)
    answers = await asyncio.gather(*(_ask(folder, timeout) for folder in folders))
    return [answer for answer in answers if answer is not None]


def _folders() -> list[Path]:
    """The folders of this user's pools that have a window."""
    try:
        place = Path(tempfile.gettempdir())
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(FOLDERS))
    except OSError as error:
        raise ConfigError(f"no pool can be looked for: {error}; correct TMPDIR") from None
    return [place / name for name in names if _is_trusted(place / name)]


def _is_trusted(folder: Path) -> bool:
    """Whether nobody but this user can have made this folder and its window."""
    try:
        outer, inner = folder.lstat(), (folder / NAME).lstat()
    except OSError:
        return False
    is_private = stat.S_ISDIR(outer.st_mode) and not stat.S_IMODE(outer.st_mode) & 0o077
    is_mine = outer.st_uid == inner.st_uid == os.geteuid()
    return is_private and is_mine and stat.S_ISSOCK(inner.st_mode)


async def _ask(folder: Path, timeout: float) -> PoolStatus | SilentPool | None:
    """What the pool of a folder says; None if there is none any more."""
    try:
        async with asyncio.timeout(timeout):
            return _adapter().validate_json(await _read(folder / NAME))
    except TimeoutError:
        return SilentPool(folder, f"it did not answer within {timeout:g} s")
    except (ConnectionRefusedError, FileNotFoundError):
        return None  # its program was killed, or has just closed it
    except OSError as error:
        return SilentPool(folder, f"it could not be asked: {error}")
    except ValidationError as error:
        why = f"{error.error_count()} faults in its answer; another version of agent-pool?"
        return SilentPool(folder, why)


async def _read(path: Path) -> bytes:
    """All that is said at a socket, up to `MAX_DOCUMENT` bytes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    said = bytearray()
    try:
        while len(said) < MAX_DOCUMENT and (chunk := await reader.read(MAX_DOCUMENT - len(said))):
            said += chunk
        return bytes(said)
    finally:
        writer.transport.abort()


@cache
def _adapter() -> TypeAdapter[PoolStatus]:
    """Writes and reads the document."""
    return TypeAdapter(PoolStatus)
