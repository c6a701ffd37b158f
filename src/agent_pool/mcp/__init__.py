"""The MCP server: the pool's tools for Claude Code and other clients, on stdio."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from agent_pool.mcp.opening import Opening


def run(**overrides: Any) -> NoReturn:
    """Serve MCP on stdin and stdout until the client leaves; then end the process.

    Wrong settings do not stop the server: every tool then returns what is wrong with them. The exit
    status is 0 if the client closed stdin, 128 plus the signal's number after a signal (130 for
    SIGINT, 143 for SIGTERM), 1 after a bug of the server. A signal before the server is loaded ends
    the process directly.

    Args:
        overrides: fields of `Settings`, which win over the environment and the file; None counts
            as not given.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there are workers, a signal simply ends it
    opening = _open()  # first: loading the rest takes about a second
    project = overrides.get("project_dir")
    opening.read_agents(str(project) if project is not None else None)
    from agent_pool.mcp.loading import load_server

    load_server()(overrides, opening)


def _open() -> Opening:
    from agent_pool.mcp.opening import Opening

    try:
        return Opening()
    except OSError as error:
        sys.exit(f"agent-pool: stdin, where the client writes, cannot be read: {error}")
