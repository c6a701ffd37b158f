"""The way to the client: stdout, for messages of the protocol alone."""

from __future__ import annotations

import fcntl
import os
import select

import anyio


class Wire:
    """What the SDK takes for an asynchronous file.

    What the client has room for is written at once, as a thread's turn may come milliseconds later;
    a thread waits only for a client that does not read. From here on fd 1 is stderr, so that
    nothing that is printed gets among the messages.
    """

    def __init__(self) -> None:
        self._fd = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
        os.dup2(2, 1)

    async def write(self, text: str) -> None:
        """Write all of it.

        Raises:
            BrokenPipeError: the client has closed its end.
        """
        rest = self._write_what_fits(text.encode())
        if rest:
            await anyio.to_thread.run_sync(self._write_all, rest)

    async def flush(self) -> None:
        """Nothing is held back."""

    def _write_what_fits(self, data: bytes) -> bytes:
        """The rest; PIPE_BUF bytes never have to wait where there is room for any."""
        while data and select.select([], [self._fd], [], 0)[1]:
            data = data[os.write(self._fd, data[: select.PIPE_BUF]) :]
        return data

    def _write_all(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]
