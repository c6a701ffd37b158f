"""The MCP server: the pool's tools for Claude Code and other clients, on stdio."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from agent_pool.mcp.opening import Opening


def run(**overrides: Any) -> NoReturn:
    """Serve MCP on stdin and stdout until the client leaves; this ends the process.

    Wrong settings do not stop it: it serves, and every tool answers what is wrong with them.
    The exit status is 0 when the client closed stdin, 128 + the signal's number after a signal
    (130 for SIGINT, 143 for SIGTERM), 1 after a fault of the server itself. A signal that comes
    before the server is loaded ends the process directly.

    Args:
        overrides: fields of `Settings`, before the environment and the file; None is not given.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there are workers, any signal just ends it
    opening = _open()  # first, as the rest takes a while
    from agent_pool.mcp.loading import load_server

    load_server()(overrides, opening)


def _open() -> Opening:
    from agent_pool.mcp.opening import Opening

    try:
        return Opening()
    except OSError as error:
        sys.exit(f"agent-pool: stdin, where the client should be, cannot be read: {error}")
