"""Results on stdout, whose reader may take its time."""

from __future__ import annotations

import os
import select
from queue import Queue
from threading import Thread
from typing import Protocol


class Writer(Protocol):
    """Where results can be written."""

    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...


class Stdout:
    """Written at once where there is room, else by a thread: a pipe that nobody reads for a while
    holds up no task and no signal.

    Args:
        number: of the file; it is not closed.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._lines: Queue[bytes] = Queue()
        self._error: OSError | None = None
        self._thread = Thread(target=self._write_all, name="stdout", daemon=True)
        self._thread.start()

    def write(self, data: bytes, /) -> None:
        """Have it written, in its turn.

        Raises:
            OSError: it, or what was written before, could not be.
        """
        if self._error is not None:
            raise self._error
        if not self._lines.unfinished_tasks:
            data = self._write_what_fits(data)
        if data:
            self._lines.put(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def finish(self) -> None:
        """Wait until all is written, which a signal may end.

        Raises:
            OSError: it could not be.
        """
        self._lines.put(b"")
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write_what_fits(self, data: bytes) -> bytes:
        """The rest; PIPE_BUF bytes never have to wait where there is room for any."""
        while data and select.select([], [self._number], [], 0)[1]:
            data = data[os.write(self._number, data[: select.PIPE_BUF]) :]
        return data

    def _write_all(self) -> None:
        try:
            while data := self._lines.get():
                while data:
                    data = data[os.write(self._number, data) :]
                self._lines.task_done()
        except OSError as error:
            self._error = error
