"""The opening of a connection: a thread answers greetings while the server is loaded.

The server then gets every byte that was read, from the first one on, and its responses to requests
that were answered already are dropped. So the server knows all requests, and the client gets every
response once.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import threading
from typing import TYPE_CHECKING, Final, TextIO

from agent_pool.mcp.agent_list import AgentNames
from agent_pool.mcp.greeting import Greeter
from agent_pool.mcp.plain_agents import read_plain_agents

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK: Final = 65536


class Opening:
    """Answers greetings on stdin and stdout until `hand_over`.

    From now on only this object reads stdin; file descriptor 0 is /dev/null, so that no child
    process can read from the client.
    """

    def __init__(self) -> None:
        self._greeter = Greeter(self._wait_for_agents)
        self._agents: AgentNames | None = None
        self._has_looked = threading.Event()
        self._stdin = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        self._stopped, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._answer_greetings, name="opening", daemon=True)
        self._thread.start()

    def read_agents(self, project: str | None) -> None:
        """Read the agents for the first `tools/list`; call it before the server is loaded.

        In the thread of this object it would take long: while another thread imports modules, each
        step that reads a file waits up to 5 ms for the interpreter.
        """
        try:
            self._agents = read_plain_agents(os.environ, project)
        finally:
            self._has_looked.set()

    def _wait_for_agents(self) -> AgentNames | None:
        self._has_looked.wait()
        return self._agents

    def hand_over(self) -> tuple[TextIO, Greeter]:
        """Stop answering.

        Returns:
            Stdin from its first byte on, and the greeter, which knows what was answered.
        """
        self._has_looked.set()
        os.close(self._stop)
        self._thread.join()  # at once: it waits only for stdin and for this pipe
        os.close(self._stopped)
        rest = io.FileIO(self._stdin, closefd=False)  # a thread can still read it at the exit
        stdin = io.BufferedReader(_Rewound(bytes(self._greeter.received), rest))
        # newline: a carriage return is white space in JSON, and by default it would end a line.
        return io.TextIOWrapper(stdin, "utf-8", "replace", newline="\n"), self._greeter

    def _answer_greetings(self) -> None:
        while not self._greeter.has_ended:
            ready, _, _ = select.select([self._stdin, self._stopped], [], [])
            if self._stopped in ready or not (data := os.read(self._stdin, CHUNK)):
                return
            if not _write(self._greeter.receive(data)):
                return


def _write(data: bytes) -> bool:
    """Write to stdout; return False if the client has closed it."""
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        return False
    return True


class _Rewound(io.RawIOBase):
    """A stream from its first byte on, a part of which was read already."""

    def __init__(self, received: bytes, rest: io.RawIOBase) -> None:
        self._received = received
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        if not self._received:
            return self._rest.readinto(buffer)
        part = self._received[: len(memoryview(buffer))]
        memoryview(buffer)[: len(part)] = part
        self._received = self._received[len(part) :]
        return len(part)
