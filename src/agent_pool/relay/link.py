"""The connection of a relay to the daemon."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Final

from agent_pool.client.hello import RelayHello, check_acceptance
from agent_pool.client.start import ensure_daemon
from agent_pool.errors import DaemonUnavailable
from agent_pool.runtime import DaemonAddress

START_TIMEOUT: Final = 30.0
"""Seconds for the start of a daemon."""
REACH_SECONDS: Final = 5.0
"""Seconds in which a daemon that runs must be reached."""
RETRY_SECONDS: Final = 0.1
HELLO_TIMEOUT: Final = 10.0
"""Seconds for the answer to the first line."""
MAX_ANSWER: Final = 64 * 1024
"""Bytes of that answer."""


def open_link(hello: RelayHello, environ: Mapping[str, str]) -> socket.socket:
    """Start the daemon if there is none, and return a connection that it has accepted.

    Raises:
        AgentPoolError: it cannot be started or reached, or it refuses this client.
    """
    deadline = time.monotonic() + REACH_SECONDS
    while True:
        address = ensure_daemon(environ, START_TIMEOUT)
        try:
            return _open_once(address, hello)
        except OSError as error:
            # A daemon that was just killed looks alive until the last of its threads has ended.
            if time.monotonic() > deadline:
                problem = f"the daemon (pid {address.pid}) cannot be reached: {error}"
                advice = "`agent-pool daemon status` shows more"
                raise DaemonUnavailable(f"{problem}. {advice}") from None
        time.sleep(RETRY_SECONDS)


def _open_once(address: DaemonAddress, hello: RelayHello) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(HELLO_TIMEOUT)
        link.connect(address.mcp_socket)
        link.sendall(hello.line())
        check_acceptance(_read_line(link))
        link.setblocking(False)
    except BaseException:
        link.close()
        raise
    return link


def _read_line(link: socket.socket) -> bytes:
    """Return the answer to the first line; the daemon sends nothing after it yet.

    Raises:
        OSError: there is none.
    """
    line = b""
    while not line.endswith(b"\n"):
        data = link.recv(MAX_ANSWER)
        if not data or len(line) > MAX_ANSWER:
            raise ConnectionError("it closed the connection without an answer")
        line += data
    return line
