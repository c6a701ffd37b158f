"""`agent-pool open`: the dashboard in the browser."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from agent_pool.cli.command import Command, load_command_settings, project_option, run_async
from agent_pool.cli.connect import connect_tasks
from agent_pool.cli.output import echo
from agent_pool.settings import Settings


@click.command(cls=Command)
@click.option("--read-only", is_flag=True, help="A link for looking: it cannot change a task.")
@click.option("--print", "print_link", is_flag=True, help="Print the link, open no browser.")
@click.option("--sign-out", is_flag=True, help="Sign every browser out, and open none.")
@project_option
@click.pass_context
def open(
    ctx: click.Context,
    /,
    read_only: bool,
    print_link: bool,
    sign_out: bool,
    project: Path | None,
) -> None:
    """Open the dashboard: what the agents do now, what they did, and what it cost.

    The link works once and for a minute; then the browser has a cookie for twelve hours. On another
    machine, send the port through ssh first: `ssh -L PORT:127.0.0.1:PORT HOST`, and open the
    printed link.

    \b
    Example:
      agent-pool open
      agent-pool open --read-only --print
      agent-pool open --sign-out
    """
    settings = load_command_settings(ctx, project)
    if sign_out:
        run_async(_sign_out(settings))
        echo("Every browser is signed out.")
        return
    url = run_async(_make_link(settings, read_only))
    if print_link or not webbrowser.open(url):
        echo(url)


async def _make_link(settings: Settings, read_only: bool) -> str:
    async with connect_tasks(settings.project_dir) as pool:
        return await pool.dashboard_link(is_read_only=read_only)


async def _sign_out(settings: Settings) -> None:
    async with connect_tasks(settings.project_dir) as pool:
        await pool.sign_out_browsers()
