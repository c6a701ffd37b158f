"""Moves lines between stdin and stdout and the daemon, and finds the next daemon if one ends."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from agent_pool.client.exchange import OpenMessages
from agent_pool.errors import AgentPoolError

CHUNK: Final = 65536
"""Bytes of one read."""
MAX_HELD: Final = 1 << 20
"""Bytes that wait for one side; while there are more, the other side is not read."""
DRAIN_SECONDS: Final = 0.5
"""Seconds for answers that the client still waits for when it has closed stdin."""
MAX_REPEATS: Final = 3
"""Daemons in a row that can end before they send anything: the requests could be the reason."""
RETRY_SECONDS: Final = 1.0
"""Seconds between two attempts to start a daemon."""

_ENDED: Final = (
    "agent-pool's daemon ended before it answered. Tasks that it had accepted are kept, those that "
    "ran as interrupted: `agent-pool tasks` lists them. A new daemon takes the next call."
)


class Pump:
    """One client on stdin and stdout, and its connection to the daemon.

    Args:
        link: the connection.
        reopen: returns a connection to another daemon; raises `AgentPoolError`.
    """

    def __init__(self, link: socket.socket, reopen: Callable[[], socket.socket]) -> None:
        self._link: socket.socket | None = link
        self._reopen = reopen
        self._exchange = OpenMessages()
        self._from_client = bytearray()  # a line that is not complete
        self._from_daemon = bytearray()
        self._to_client = bytearray()
        self._to_daemon = bytearray()
        self._deadline: float | None = None  # set when the client has closed stdin
        self._repeats = 0
        self._tried = 0.0

    def run(self) -> int:
        """Pass messages on until the client leaves; return the exit status."""
        while not self._has_finished():
            for descriptor, events in self._wait():
                if descriptor == 0:
                    self._read_client()
                elif descriptor == 1:
                    if events & ~select.POLLOUT or not self._write_client():
                        return 0  # the client has closed our stdout
                elif self._link is not None and descriptor == self._link.fileno():
                    self._exchange_with_daemon()
        return 0

    def _has_finished(self) -> bool:
        if self._deadline is None:
            return False
        is_done = not self._exchange.is_waiting and not self._to_client
        return is_done or self._link is None or time.monotonic() >= self._deadline

    def _wait(self) -> list[tuple[int, int]]:
        poll = select.poll()
        if self._deadline is None:
            # Without POLLIN only the end of the client is reported.
            poll.register(0, select.POLLIN if len(self._to_daemon) < MAX_HELD else 0)
        # Registered even without data: a client that closes our stdout has left.
        poll.register(1, select.POLLOUT if self._to_client else 0)
        if self._link is not None:
            events = select.POLLIN if len(self._to_client) < MAX_HELD else 0
            poll.register(self._link, events | (select.POLLOUT if self._to_daemon else 0))
        seconds = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        return poll.poll(None if seconds is None else 1000 * seconds)

    # The client

    def _read_client(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except OSError:  # a socket whose other end was killed: ECONNRESET
            data = b""
        problem = "" if self._link is not None else self._find_daemon()
        if not data:
            self._deadline = time.monotonic() + DRAIN_SECONDS
            data = b"\n" if self._from_client else b""  # the last line can have no end
        for line in _complete_lines(self._from_client, data):
            self._to_daemon += self._exchange.from_client(line)
        if problem:
            self._to_client += self._exchange.lose_daemon(problem, is_final=True)
            self._to_daemon.clear()
        if self._deadline is not None and self._link is not None and not self._to_daemon:
            self._shut_down_writing()

    def _write_client(self) -> bool:
        """Write what the pipe takes without waiting; return False if the client closed it."""
        try:
            # A pipe that is writable takes PIPE_BUF bytes at once (POSIX). It cannot be made
            # non-blocking: the client has the same open file.
            written = os.write(1, self._to_client[: select.PIPE_BUF])
        except OSError:
            return False
        del self._to_client[:written]
        return True

    # The daemon

    def _exchange_with_daemon(self) -> None:
        assert self._link is not None
        try:
            if self._to_daemon:
                del self._to_daemon[: self._link.send(self._to_daemon)]
                if not self._to_daemon and self._deadline is not None:
                    self._shut_down_writing()
        except BlockingIOError:
            pass
        except OSError:
            pass  # what the daemon has sent before it ended is still read below
        try:
            data = self._link.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose_daemon()
            return
        self._repeats = 0
        for line in _complete_lines(self._from_daemon, data):
            self._to_client += self._exchange.from_daemon(line)

    def _shut_down_writing(self) -> None:
        assert self._link is not None
        try:
            self._link.shutdown(socket.SHUT_WR)  # the daemon still writes answers
        except OSError:
            pass

    def _lose_daemon(self) -> None:
        assert self._link is not None
        self._link.close()
        self._link = None
        self._from_daemon.clear()
        self._to_daemon.clear()
        self._to_client += self._exchange.lose_daemon(_ENDED, is_final=self._repeats >= MAX_REPEATS)
        self._repeats += 1
        if self._deadline is None and (problem := self._find_daemon()):
            self._to_client += self._exchange.lose_daemon(problem, is_final=True)

    def _find_daemon(self) -> str:
        """Connect to another daemon; return what is wrong if that fails, else an empty text."""
        self._flush_client()
        time.sleep(max(0.0, self._tried + RETRY_SECONDS - time.monotonic()))
        self._tried = time.monotonic()
        try:
            self._link = self._reopen()
        except AgentPoolError as error:
            return f"agent-pool's daemon ended, and no other one can be used: {error}"
        self._to_daemon += self._exchange.replay()
        return ""

    def _flush_client(self) -> None:
        """Write what the client takes at once: it must not wait for the next daemon's start."""
        while self._to_client and select.select([], [1], [], 0)[1]:
            if not self._write_client():
                return


def _complete_lines(rest: bytearray, data: bytes) -> list[bytes]:
    """Return the lines that `data` completes; keep what is left of it in `rest`."""
    head, newline, tail = data.rpartition(b"\n")
    if not newline:
        rest += data
        return []
    lines = (bytes(rest) + head).split(b"\n")
    rest[:] = tail
    return [line + newline for line in lines]
