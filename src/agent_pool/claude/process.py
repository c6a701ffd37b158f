"""One child process with its pipes: it moves bytes, notices the end, and can be ended.

asyncio's own stream reader fails on long lines, and its `Process.wait` waits for every holder of
the pipes, grandchildren included. So this is a plain `SubprocessProtocol`: stdout is handed on as
it comes, stderr is kept as a bounded tail, and death is the child's own exit.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from agent_pool.claude import tree
from agent_pool.errors import SpawnError

STDERR_TAIL: Final = 4096
"""Bytes of stderr that are kept for error messages."""
LAST_WORDS: Final = 0.5
"""Seconds after the exit in which what the child still wrote is read; a grandchild that holds
the pipe keeps it open for longer."""


class ChildProcess(asyncio.SubprocessProtocol):
    """A started child in a session of its own.

    Args:
        on_data: called with each chunk of stdout.
        on_death: called once, as soon as the child has ended.
        on_exit: called once, when the child has ended and its last words were read.
    """

    def __init__(
        self,
        on_data: Callable[[bytes], None],
        on_death: Callable[[], None],
        on_exit: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_data = on_data
        self._on_death = on_death
        self._on_exit = on_exit
        self._stderr = bytearray()
        self._open_pipes = {1, 2}
        self._last_words: asyncio.TimerHandle | None = None
        self.exited = asyncio.Event()
        self.pid = 0

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        on_data: Callable[[bytes], None],
        on_death: Callable[[], None],
        on_exit: Callable[[], None],
    ) -> ChildProcess:
        """Start a child.

        Raises:
            SpawnError: the system refused, e.g. the file is gone or is no program.
        """
        loop = asyncio.get_running_loop()
        try:
            _, child = await loop.subprocess_exec(
                lambda: cls(on_data, on_death, on_exit),
                *argv,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            raise SpawnError(f"{argv[0]} cannot be started in {cwd}: {error}") from None
        return child

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal, None while it lives."""
        return self._transport.get_returncode()

    @property
    def has_ended(self) -> bool:
        """Whether it is no more; asked of the kernel, which knows it some moments earlier than the
        event loop."""
        if self.returncode is None:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return True
            except PermissionError:  # it may have become another user's
                return False
        return self.returncode is not None

    @property
    def stderr_tail(self) -> str:
        """The end of what it wrote to stderr."""
        return self._stderr.decode("utf-8", "replace").strip()

    def write(self, data: bytes) -> None:
        """Queue bytes for its stdin; a child that is gone is noticed by `on_exit`, not here."""
        if not self._stdin.is_closing():
            self._stdin.write(data)

    def close_stdin(self) -> None:
        """Tell it that nothing more comes."""
        self._stdin.close()

    def kill(self) -> None:
        """SIGKILL its process group at once."""
        if self.pid and not self.exited.is_set():
            tree.kill_group(self.pid)

    def terminate(self) -> None:
        """SIGTERM its process group."""
        if not self.exited.is_set():
            tree.kill_group(self.pid, signal.SIGTERM)

    async def wait_exited(self, timeout: float) -> bool:
        """Whether it ended within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.exited.wait()
        except TimeoutError:
            return False
        return True

    # asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            self._on_data(data)
        else:
            self._stderr += data
            del self._stderr[:-STDERR_TAIL]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._open_pipes.discard(fd)
        if self._last_words is not None and not self._open_pipes:
            self._end()

    def process_exited(self) -> None:
        self._on_death()
        self._last_words = self._loop.call_later(LAST_WORDS, self._end)
        if not self._open_pipes:
            self._end()

    def _end(self) -> None:
        if self.exited.is_set():
            return
        if self._last_words is not None:
            self._last_words.cancel()
        self.exited.set()
        self._transport.close()
        self._on_exit()
