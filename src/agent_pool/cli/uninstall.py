"""`agent-pool uninstall`: undo `agent-pool install`."""

from __future__ import annotations

from pathlib import Path

import click

from agent_pool.cli.command import Command, load_command_settings, project_option
from agent_pool.cli.install import apply_steps, dry_run_option, scope_option
from agent_pool.cli.registration import Registration, Scope


@click.command(cls=Command)
@scope_option
@dry_run_option
@project_option
@click.pass_context
def uninstall(ctx: click.Context, scope: Scope, dry_run: bool, project: Path | None) -> None:
    """Remove the MCP server and the delegation hook from Claude Code.

    Removes only what `agent-pool install` added in that scope. Another server of the same name
    stays, and settings files get back every byte that they had before.

    \b
    Example:
      agent-pool uninstall --dry-run
      agent-pool uninstall --scope user
    """
    settings = load_command_settings(ctx, project)
    apply_steps(Registration(settings.project_dir).plan_uninstall(scope), settings, dry_run=dry_run)
