"""The results of a batch on stdout, where a slow reader must not delay any task."""

from __future__ import annotations

import os
import select
from queue import Queue
from threading import Thread
from typing import Protocol


class ResultWriter(Protocol):
    """A file that results can be written to."""

    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...


class StdoutWriter:
    """Writes directly while the reader keeps up; otherwise a thread writes.

    So a pipe that is not read for some time delays no task and no signal.

    Args:
        number: the file descriptor; it is not closed.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._lines: Queue[bytes] = Queue()
        self._error: OSError | None = None
        self._thread = Thread(target=self._write_all, name="stdout", daemon=True)
        self._thread.start()

    def write(self, data: bytes, /) -> None:
        """Write data, or give it to the thread, which writes it after all earlier data.

        Raises:
            OSError: this data, or earlier data, could not be written.
        """
        if self._error is not None:
            raise self._error
        # Only if the thread has nothing left to write: otherwise the lines would be mixed.
        if not self._lines.unfinished_tasks:
            data = self._write_without_waiting(data)
        if data:
            self._lines.put(data)

    def flush(self) -> None:
        """Do nothing: no data is buffered here."""

    def finish(self) -> None:
        """Wait until all data is written; a signal can interrupt this.

        Raises:
            OSError: some data could not be written.
        """
        self._lines.put(b"")
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write_without_waiting(self, data: bytes) -> bytes:
        """Write as much as the pipe has room for, and return the rest."""
        # POSIX: a pipe that select reports as writable takes at least PIPE_BUF bytes at once.
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
            self._error = error  # raised by the next `write`, or by `finish`
