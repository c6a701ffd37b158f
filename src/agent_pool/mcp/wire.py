"""The output to the client: stdout, for messages of the protocol only."""

from __future__ import annotations

import fcntl
import os
import select

import anyio


class Wire:
    """An asynchronous file, as the SDK uses it.

    Data that fits into the pipe is written at once: a thread could start milliseconds later. A
    thread waits only for a client that does not read. From now on file descriptor 1 is stderr, so
    that printed text cannot get between the messages.
    """

    def __init__(self) -> None:
        self._fd = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        self._lock = anyio.Lock()
        os.dup2(2, 1)

    async def write(self, text: str) -> None:
        """Write all of `text`.

        Raises:
            BrokenPipeError: the client has closed its end.
        """
        # Responses come from the server and, for lines that are no messages, from the reader.
        async with self._lock:
            rest = self._write_what_fits(text.encode())
            if rest:
                await anyio.to_thread.run_sync(self._write_all, rest)

    async def flush(self) -> None:
        """Do nothing: no data is held back."""

    def _write_what_fits(self, data: bytes) -> bytes:
        """Write as much as fits; return the rest.

        A pipe that is writable takes PIPE_BUF bytes without waiting (POSIX).
        """
        while data and select.select([], [self._fd], [], 0)[1]:
            data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
        return data

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]
