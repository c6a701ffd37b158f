"""The connection of a relay to the daemon."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

from agent_pool.client.hello import RelayHello, check_acceptance
from agent_pool.client.start import ensure_daemon
from agent_pool.errors import DaemonUnavailable

START_TIMEOUT: Final = 30.0
"""Seconds for the start of a daemon."""
HELLO_TIMEOUT: Final = 10.0
"""Seconds for the answer to the first line."""
MAX_ANSWER: Final = 64 * 1024
"""Bytes of that answer."""


def open_link(hello: RelayHello, environ: Mapping[str, str]) -> socket.socket:
    """Start the daemon if there is none, and return a connection that it has accepted.

    Raises:
        AgentPoolError: it cannot be started or reached, or it refuses this client.
    """
    address = ensure_daemon(environ, START_TIMEOUT)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.settimeout(HELLO_TIMEOUT)
        link.connect(address.mcp_socket)
        link.sendall(hello.line())
        check_acceptance(_read_line(link))
        link.setblocking(False)
    except OSError as error:
        link.close()
        problem = f"the daemon (pid {address.pid}) cannot be reached: {error}"
        raise DaemonUnavailable(f"{problem}. `agent-pool daemon status` shows more") from None
    except DaemonUnavailable:
        link.close()
        raise
    return link


def _read_line(link: socket.socket) -> bytes:
    """Return the answer to the first line; the daemon sends nothing after it yet."""
    line = b""
    while not line.endswith(b"\n"):
        data = link.recv(MAX_ANSWER)
        if not data or len(line) > MAX_ANSWER:
            raise DaemonUnavailable("the daemon closed the connection without an answer")
        line += data
    return line
