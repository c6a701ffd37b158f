"""A process that the watchdog has started, with its pipes, as asyncio knows child processes."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from functools import partial
from typing import IO, Any, cast

from agent_pool.claude import process_tree


class StartedProcess(asyncio.SubprocessTransport):
    """A process that is no child of this one; the watchdog tells its end.

    Args:
        protocol: gets the process's output and its exit, as from `loop.subprocess_exec`.

    Attributes:
        swept: set when the watchdog has ended what the process left behind.
    """

    def __init__(self, protocol: asyncio.SubprocessProtocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._pipes: dict[int, asyncio.BaseTransport] = {}
        self._pid = 0
        self._handle: int | None = None
        self._returncode: int | None = None
        self._has_begun = False
        self._is_closed = False
        self.swept = asyncio.Event()

    async def connect(self, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]) -> None:
        """Take our ends of its pipes."""
        loop, protocol = asyncio.get_running_loop(), self._protocol
        self._pipes[0], _ = await loop.connect_write_pipe(lambda: _PipeEnd(protocol, 0), stdin)
        self._pipes[1], _ = await loop.connect_read_pipe(lambda: _PipeEnd(protocol, 1), stdout)
        self._pipes[2], _ = await loop.connect_read_pipe(lambda: _PipeEnd(protocol, 2), stderr)

    def identify(self, pid: int, handle: int | None) -> None:
        """Note its pid, and its pidfd if the kernel has them; this object closes it."""
        self._pid = pid
        self._handle = handle

    def begin(self) -> None:
        """Tell the protocol that it runs, and its exit if that has come already."""
        self._has_begun = True
        self._protocol.connection_made(self)
        if self._returncode is not None:
            self._protocol.process_exited()

    def exited(self, returncode: int) -> None:
        """Note its exit; do nothing if that is known."""
        if self._returncode is None:
            self._returncode = returncode
            if self._has_begun:
                self._protocol.process_exited()

    def lost(self) -> None:
        """End it and everything below it: the watchdog that started it has ended."""
        if self._pid and not self.has_exited():
            process_tree.end_tree(self._pid)
        self.exited(-signal.SIGKILL)
        self.swept.set()

    def has_exited(self) -> bool:
        """Check whether it has exited; the kernel knows it before the watchdog tells it."""
        if self._returncode is not None:
            return True
        if self._handle is not None:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            return bool(poll.poll(0))
        process = process_tree.read_process(self._pid)
        return process is None or process.is_zombie

    # asyncio.SubprocessTransport

    def get_pid(self) -> int:
        return self._pid

    def get_returncode(self) -> int | None:
        return self._returncode

    def get_pipe_transport(self, fd: int) -> asyncio.BaseTransport | None:
        return self._pipes.get(fd)

    def send_signal(self, signal: int) -> None:
        if not self.has_exited():
            os.kill(self._pid, signal)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def is_closing(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for pipe in self._pipes.values():
            pipe.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class _PipeEnd(asyncio.Protocol):
    """Our end of one pipe."""

    def __init__(self, protocol: asyncio.SubprocessProtocol, fd: int) -> None:
        # Every byte of an answer comes this way, so there is no function in between.
        self.data_received = partial(protocol.pipe_data_received, fd)  # type: ignore[method-assign]
        self.connection_lost = partial(protocol.pipe_connection_lost, fd)  # type: ignore[method-assign]


class OwnPipes:
    """Three pipes for a process that another process starts.

    Attributes:
        theirs: the ends for its stdin, stdout and stderr.
    """

    def __init__(self) -> None:
        self._files: list[IO[bytes]] = []
        self.theirs: list[int] = []
        try:
            for fd in range(3):
                reads, writes = os.pipe()
                theirs, ours = (reads, writes) if fd == 0 else (writes, reads)
                self.theirs.append(theirs)
                mode = "wb" if fd == 0 else "rb"
                self._files.append(cast(Any, os.fdopen(ours, mode, buffering=0)))
        except OSError:
            self.close()
            raise

    async def connect(self, process: StartedProcess) -> None:
        """Give our ends to the process object, which closes them from now on."""
        stdin, stdout, stderr = self._files
        await process.connect(stdin, stdout, stderr)

    def close_theirs(self) -> None:
        """Close the ends that the other process has now."""
        theirs, self.theirs = self.theirs, []
        for fd in theirs:
            os.close(fd)

    def close(self) -> None:
        """Close everything."""
        self.close_theirs()
        for file in self._files:
            file.close()
