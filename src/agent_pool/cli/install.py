"""`agent-pool install`: let Claude Code delegate to the pool."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from agent_pool import Settings, find_cli
from agent_pool.cli.command import Command, project_option, settings_of
from agent_pool.cli.registration import SCOPES, Registration, Scope, Step, carry_out

scope_option = click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="local",
    show_default=True,
    help="local: you, in this project. project: everyone, in this project. user: you, everywhere.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, no more.")


@click.command(cls=Command)
@scope_option
@click.option("--no-hook", is_flag=True, help="Register the server only.")
@dry_run_option
@project_option
@click.pass_context
def install(
    ctx: click.Context, scope: Scope, no_hook: bool, dry_run: bool, project: Path | None
) -> None:
    """Register the MCP server and the delegation hook with Claude Code.

    The server gives Claude Code the tools invoke, invoke_many, warmup, list, stats and reset. The
    hook turns its own delegation tool away for the agents of this project, with the name of the
    pool's tool instead.
    The server is added by `claude mcp add`; the hook is cut into the settings file of the scope,
    where everything else stays as it is. Running it again changes nothing.

    Both name this Python by its full path, so with --scope project they hold for this machine.

    \b
    Example:
      agent-pool install --dry-run
      agent-pool install --scope user
    """
    settings = settings_of(ctx, project)
    steps = Registration(settings.project_dir).add(scope, hook=not no_hook)
    perform(steps, settings, dry_run=dry_run)
    if not dry_run and any(not step.note for step in steps):
        click.echo("Start Claude Code anew, or type /mcp in it, to see the server.", err=True)


def perform(steps: list[Step], settings: Settings, *, dry_run: bool) -> None:
    """Carry out the steps, saying for each what was done.

    Raises:
        SpawnError: a step needs Claude Code and there is none.
        AgentPoolError: Claude Code refused a step.
    """
    cli = find_cli(settings) if any(step.command for step in steps) else Path()
    for step in steps:
        if step.note:
            click.echo(f"unchanged   {step.what}: {step.note}")
            continue
        if not dry_run:
            carry_out(step, cli, settings.project_dir, os.environ)
        click.echo(f"{'would do' if dry_run else 'done':<11} {step.what}")
        if step.command:
            click.echo(f"            {shlex.join([str(cli), *step.command])}")
