"""`agent-pool uninstall`: undo what install did."""

from __future__ import annotations

from pathlib import Path

import click

from agent_pool.cli.command import Command, project_option, settings_of
from agent_pool.cli.install import dry_run_option, perform, scope_option
from agent_pool.cli.registration import Registration, Scope


@click.command(cls=Command)
@scope_option
@dry_run_option
@project_option
@click.pass_context
def uninstall(ctx: click.Context, scope: Scope, dry_run: bool, project: Path | None) -> None:
    """Remove the MCP server and the delegation hook from Claude Code.

    Takes away what `agent-pool install` added in that scope and nothing else: a server of the
    same name that is not this one stays, and settings files are what they were before.

    \b
    Example:
      agent-pool uninstall --dry-run
      agent-pool uninstall --scope user
    """
    settings = settings_of(ctx, project)
    perform(Registration(settings.project_dir).remove(scope), settings, dry_run=dry_run)
