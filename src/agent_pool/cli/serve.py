"""`agent-pool serve`: the MCP server."""

from __future__ import annotations

from pathlib import Path

import click

from agent_pool.cli.command import Command, project_option


@click.command(cls=Command)
@project_option
@click.pass_context
def serve(ctx: click.Context, project: Path | None) -> None:
    """Run the MCP server on stdin and stdout until the client closes stdin.

    Claude Code starts it by itself after `agent-pool install`; other clients can start it with
    the same command. Its tools are invoke, invoke_many, result, agents, read_answer, warmup, list,
    stats and reset.

    The daemon does the work, so that all sessions share their workers; it is started if there is
    none. With AGENT_POOL_DAEMON=off this process has a pool of its own, and writes log messages to
    stderr, more of them with AGENT_POOL_LOG=info or debug.

    \b
    Example:
      claude mcp add agent-pool -- agent-pool serve
    """
    from agent_pool.relay import run

    run(project_dir=project or ctx.find_root().obj)
