"""The command line. Every command is a module of its own, imported only when it is called."""

import sys


def main() -> None:
    """Run the command line; always ends in SystemExit."""
    # MCP clients start the server like this and wait for it, so it starts without click.
    if sys.argv[1:] == ["serve"]:
        from agent_pool.relay import run

        run()
    if sys.argv[1:] == ["mcp-headers"]:  # Claude Code waits for it too
        from agent_pool.client.mcp_headers import run as run_headers

        run_headers()
    from agent_pool.cli.app import main as run_command

    run_command()


__all__ = ["main"]
