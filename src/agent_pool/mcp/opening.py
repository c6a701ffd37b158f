"""The opening of a connection: greetings answered by a thread while the server is being loaded.

The server is then given every byte that was read, as if nobody had been there before it, and what
it says to a request that has its answer already goes nowhere. So it knows all that its client
said, and its client hears everything once.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import threading
from typing import TYPE_CHECKING, Final, TextIO

from agent_pool.mcp.greeting import Greeter, RequestId

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK: Final = 65536


class Opening:
    """Answers greetings on stdin and stdout until `hand_over`.

    From here on stdin is its own, and fd 0 leads nowhere: no other process shall read from it.
    """

    def __init__(self) -> None:
        self._greeter = Greeter()
        self._stdin = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._attend, name="opening", daemon=True)
        self._thread.start()

    def hand_over(self) -> tuple[TextIO, list[RequestId]]:
        """Stop answering.

        Returns:
            Stdin from its first byte, and the ids of the requests that were answered.
        """
        os.close(self._stop)
        self._thread.join()  # soon: it waits for nothing but stdin and this
        os.close(self._stopped)
        rest = io.FileIO(self._stdin, closefd=False)  # a thread may read it to the very end
        stdin = io.BufferedReader(_Rewound(bytes(self._greeter.heard), rest))
        return io.TextIOWrapper(stdin, "utf-8", "replace"), self._greeter.answered

    def _attend(self) -> None:
        while not self._greeter.has_ended:
            ready, _, _ = select.select([self._stdin, self._stopped], [], [])
            if self._stopped in ready or not (heard := os.read(self._stdin, CHUNK)):
                return
            if not _write(self._greeter.hear(heard)):
                return


def _write(said: bytes) -> bool:
    """Whether the client could still be told."""
    try:
        while said:
            said = said[os.write(1, said) :]
    except OSError:
        return False
    return True


class _Rewound(io.RawIOBase):
    """A stream from its first byte, a part of which was read already."""

    def __init__(self, heard: bytes, rest: io.RawIOBase) -> None:
        self._heard = heard
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if not self._heard:
            return self._rest.readinto(buffer)
        part = self._heard[: len(memoryview(buffer))]
        memoryview(buffer)[: len(part)] = part
        self._heard = self._heard[len(part) :]
        return len(part)
