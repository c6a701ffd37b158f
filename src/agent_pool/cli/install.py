"""`agent-pool install`: let Claude Code delegate to the pool."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from agent_pool import Settings, find_cli
from agent_pool.cli.command import Command, load_command_settings, project_option
from agent_pool.cli.output import echo
from agent_pool.cli.registration import (
    SCOPES,
    Registration,
    RegistrationStep,
    Scope,
    apply_step,
    free_port,
)

scope_option = click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default="local",
    show_default=True,
    help="local: you, in this project. project: everyone, in this project. user: you, everywhere.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Print the steps; change nothing.")


@click.command(cls=Command)
@scope_option
@click.option("--no-hook", is_flag=True, help="Register only the server.")
@click.option(
    "--allow", is_flag=True, help="Permit every pool tool, so that nobody is asked for each call."
)
@click.option("--http", is_flag=True, help="Register the daemon's HTTP server, instead of a relay.")
@dry_run_option
@project_option
@click.pass_context
def install(
    ctx: click.Context,
    scope: Scope,
    no_hook: bool,
    allow: bool,
    http: bool,
    dry_run: bool,
    project: Path | None,
) -> None:
    """Register the MCP server and the delegation hook with Claude Code.

    The server gives Claude Code the tools invoke, invoke_many, result, agents, read_answer, warmup,
    list, stats and reset. The hook refuses calls of Claude Code's own delegation tool for the
    agents of this project, and names the pool's tool instead.
    The server is added by `claude mcp add`. The hook is inserted into the settings file of the
    scope; every other byte of that file stays the same. A second run changes nothing.

    With --allow the rule mcp__agent-pool is added to permissions.allow of that file. The agents'
    own permissions stay as they are. Leave it out where hostile text can reach the model.

    With --http Claude Code connects to the daemon's HTTP server, and no process runs for the
    session. The daemon then needs a port that stays: one is chosen and written as daemon_port into
    the settings file, unless a setting names one. The command agent-pool mcp-headers, which Claude
    Code runs, starts the daemon and prints the present token.

    Both name this Python by its full path, so --scope project works only on machines where it has
    the same path.

    \b
    Example:
      agent-pool install --dry-run
      agent-pool install --scope user
    """
    settings = load_command_settings(ctx, project)
    registration = Registration(settings.project_dir)
    port = (settings.daemon_port or free_port()) if http else None
    steps = registration.plan_install(scope, hook=not no_hook, allow=allow, http_port=port)
    if port is not None and not settings.daemon_port:
        steps.insert(0, registration.plan_port(port))
    apply_steps(steps, settings, dry_run=dry_run)
    if not dry_run and any(not step.unchanged for step in steps):
        echo("Restart Claude Code, or type /mcp in it, to see the server.", err=True)


def apply_steps(steps: list[RegistrationStep], settings: Settings, *, dry_run: bool) -> None:
    """Carry out the steps, unless `dry_run`, and print a line for each.

    Raises:
        SpawnError: a step needs Claude Code and there is none.
        AgentPoolError: Claude Code refused a step.
        OSError: a file cannot be written.
    """
    # Before the first step, so that a missing CLI leaves everything as it was. Steps that only
    # change a settings file need none.
    cli = find_cli(settings) if any(step.command for step in steps) else Path()
    for step in steps:
        if step.unchanged:
            echo(f"unchanged   {step.action}: {step.unchanged}")
            continue
        if not dry_run:
            apply_step(step, cli, settings.project_dir, os.environ)
        echo(f"{'would do' if dry_run else 'done':<11} {step.action}")
        if step.command:
            echo(f"            {shlex.join([str(cli), *step.command])}")
