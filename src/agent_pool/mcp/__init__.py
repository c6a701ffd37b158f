"""The MCP server: the pool's tools for Claude Code and other clients, on stdio."""

from typing import Any, NoReturn


def run(**overrides: Any) -> NoReturn:
    """Serve MCP on stdin and stdout until the client leaves; this ends the process.

    Wrong settings do not stop it: it serves, and every tool answers what is wrong with them.
    The exit status is 0 when the client closed stdin, 128 + the signal's number after a signal
    (130 for SIGINT, 143 for SIGTERM), 1 after a fault of the server itself.

    Args:
        overrides: fields of `Settings`, before the environment and the file; None is not given.
    """
    from agent_pool.mcp.stdio import run as serve

    serve(overrides)
