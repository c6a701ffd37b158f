"""`agent-pool serve`: the MCP server."""

from __future__ import annotations

from pathlib import Path

import click

from agent_pool.cli.command import Command, project_option


@click.command(cls=Command)
@project_option
@click.pass_context
def serve(ctx: click.Context, project: Path | None) -> None:
    """Run the MCP server on stdin and stdout, until the client leaves.

    Claude Code starts it by itself once `agent-pool install` has registered it; other clients
    take the same command. Its tools are invoke, invoke_many, warmup, list, stats and reset.
    Notices go to stderr, more of them with AGENT_POOL_LOG=info or debug.

    \b
    Example:
      claude mcp add agent-pool -- agent-pool serve
    """
    from agent_pool.mcp import run  # half a second of imports, which no other command pays

    run(project_dir=project or ctx.find_root().obj)
