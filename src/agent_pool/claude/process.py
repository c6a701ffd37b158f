"""One child process with its pipes: moves bytes, notices the exit, and can be killed.

asyncio's stream reader fails on lines longer than its limit, and its `Process.wait` waits for every
process that holds the pipes, grandchildren included (3.1 s were seen for a dead child). So this is
a plain `SubprocessProtocol`: stdout is passed on as it comes, the end of stderr is kept, and the
child has ended when it has exited itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from agent_pool.claude import process_tree
from agent_pool.claude.cgroups import WorkerGroup
from agent_pool.claude.process_tree import ProcessSearch
from agent_pool.claude.started_process import StartedProcess
from agent_pool.claude.watchdog import Watchdog
from agent_pool.errors import SpawnError

STDERR_TAIL: Final = 4096
"""Bytes of stderr that are kept for error messages."""
DRAIN_SECONDS: Final = 0.5
"""Seconds after the exit in which the rest of the child's output is read. A grandchild that holds
the pipe could keep it open for ever."""


class ChildProcess(asyncio.SubprocessProtocol):
    """A started child, the leader of a session and process group of its own.

    Args:
        on_data: called with each chunk of stdout.
        on_exit: called once, as soon as the child has exited.
        on_end: called once, when the child has exited and the rest of its output was read.

    Attributes:
        pid: its process id.
        search: finds the processes below it.
        group: its control group; None without one.
    """

    search: ProcessSearch
    group: WorkerGroup | None = None

    def __init__(
        self,
        on_data: Callable[[bytes], None],
        on_exit: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_data = on_data
        self._on_exit = on_exit
        self._on_end = on_end
        self._stderr = bytearray()
        self._open_pipes = {1, 2}
        self._drain: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self.pid = 0

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        on_data: Callable[[bytes], None],
        on_exit: Callable[[], None],
        on_end: Callable[[], None],
        watchdog: Watchdog,
        group: WorkerGroup | None = None,
    ) -> ChildProcess:
        """Let the watchdog start a child, in `group` if there is one.

        Raises:
            SpawnError: the system refused, e.g. the file was removed or is not a program.
        """
        try:
            # In a session of its own: Ctrl-C in a terminal then does not reach it, and the pool
            # decides how it ends.
            child = await watchdog.subprocess_exec(
                lambda: cls(on_data, on_exit, on_end), argv, env, cwd, group
            )
        except OSError as error:
            # ENOENT can mean the program or the folder, so the message names both.
            raise SpawnError(f"{argv[0]} cannot be started in {cwd}: {error}") from None
        child.search = watchdog.search
        child.group = group
        return child

    @property
    def returncode(self) -> int | None:
        """Return the exit code: negative for a signal, `None` while the child lives."""
        return self._transport.get_returncode()

    @property
    def has_ended(self) -> bool:
        """Return whether the child has exited.

        The kernel knows it some moments before the event loop does.
        """
        if isinstance(self._transport, StartedProcess):
            return self._transport.has_exited()
        if self.returncode is None:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:  # asyncio's child watcher has reaped it already
                return True
            except PermissionError:  # a program with the set-user-ID bit runs as another user
                return False
        return self.returncode is not None

    @property
    def stderr_tail(self) -> str:
        """Return the last `STDERR_TAIL` bytes of stderr as text."""
        return self._stderr.decode("utf-8", "replace").strip()

    def write(self, data: bytes) -> None:
        """Queue bytes for stdin; the exit of the child is reported by `on_exit`, not here."""
        # Not awaited: the pipe of a CLI that stops reading stays full, and the time limit of its
        # task must still count.
        if not self._stdin.is_closing():
            self._stdin.write(data)

    def close_stdin(self) -> None:
        """Close stdin, which asks the CLI to exit by itself."""
        self._stdin.close()

    def kill(self) -> None:
        """Send SIGKILL to the process group, and to everything in the control group, at once."""
        if self.group is not None:
            self.group.kill()
        # After the end the kernel can give this number to another process group.
        is_gone = isinstance(self._transport, StartedProcess) and self._transport.has_exited()
        if self.pid and not is_gone and not self._ended.is_set():
            process_tree.kill_group(self.pid)

    async def wait_ended(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end; return whether it came."""
        try:
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    async def wait_swept(self, timeout: float) -> bool:
        """Wait until the watchdog has ended what the child left behind; return whether it has.

        A child that no watchdog has started leaves this to its caller.
        """
        if not isinstance(self._transport, StartedProcess):
            return True
        try:
            async with asyncio.timeout(timeout):
                await self._transport.swept.wait()
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
        # `_drain` is set at the exit. A child that only closed its pipes still lives.
        if self._drain is not None and not self._open_pipes:
            self._end()

    def process_exited(self) -> None:
        # First: no task must be given to it while the rest of its output is read.
        self._on_exit()
        # The pipes can still hold the answer of its last task.
        self._drain = self._loop.call_later(DRAIN_SECONDS, self._end)
        if not self._open_pipes:
            self._end()

    def _end(self) -> None:
        if self._ended.is_set():
            return
        if self._drain is not None:
            self._drain.cancel()
        self._ended.set()
        self._transport.close()
        self._on_end()
