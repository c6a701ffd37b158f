"""The command line. Every command is a module of its own, imported only when it is called."""

import sys


def main() -> None:
    """The console script; ends in SystemExit."""
    if sys.argv[1:] == ["serve"]:  # as clients start it: they wait, and it takes no options
        from agent_pool.mcp import run

        run()
    from agent_pool.cli.app import main as any_command

    any_command()


__all__ = ["main"]
