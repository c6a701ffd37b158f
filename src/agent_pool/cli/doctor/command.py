"""The command and its report."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent_pool.cli.command import FAILED, Command, json_option, project_option, run_async
from agent_pool.cli.doctor.checks import (
    check_agents,
    check_package,
    check_registered,
    check_settings,
    check_user,
)
from agent_pool.cli.doctor.findings import Finding
from agent_pool.cli.doctor.live import check_cli
from agent_pool.cli.doctor.resets import check_resets
from agent_pool.cli.output import console, count, print_json, printable

STYLES = {"ok": "green", "note": "dim", "warning": "yellow", "wrong": "bold red"}


@click.command(cls=Command)
@click.option("--quick", is_flag=True, help="Leave out the live check, which starts a worker.")
@click.option("--probe", is_flag=True, help="Find out anew whether the CLI forgets between tasks.")
@json_option
@project_option
@click.pass_context
def doctor(
    ctx: click.Context, quick: bool, probe: bool, as_json: bool, project: Path | None
) -> None:
    """Say what is found and what is wrong.

    Looks at the package, the settings, the agents, what is registered with Claude Code, and the
    Claude Code CLI: where it comes from, its version and its sign-in. Then the CLI carries out
    one task with an offline model in a temporary home, which takes about a second and neither
    a key nor the network. Exits with 1 if anything is wrong.

    \b
    Example:
      agent-pool doctor
      agent-pool doctor --probe
      agent-pool doctor --quick --json | jq '.findings[] | select(.state == "wrong")'
    """
    findings = run_async(_all(project or ctx.find_root().obj, quick=quick, probe=probe))
    wrong = sum(finding.state == "wrong" for finding in findings)
    if as_json:
        print_json({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(console(), findings)
        click.echo(f"\n{count(wrong, 'thing')} wrong." if wrong else "\nNothing is wrong.")
    if wrong:
        ctx.exit(FAILED)


async def _all(project: Path | None, *, quick: bool, probe: bool) -> list[Finding]:
    with console(err=True).status("looking"):
        return [finding async for finding in _findings(project, quick=quick, probe=probe)]


async def _findings(project: Path | None, *, quick: bool, probe: bool) -> AsyncIterator[Finding]:
    yield check_package()
    settings, finding = check_settings(project)
    yield finding
    for found in (
        check_user(settings),
        check_agents(settings),
        check_registered(settings.project_dir),
    ):
        for finding in found:
            yield finding
    async for finding in check_cli(settings, quick=quick, environ=os.environ):
        yield finding
    async for finding in check_resets(settings, probe=probe):
        yield finding


def _print(out: Console, findings: list[Finding]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text(printable(finding.said))
        if finding.advice:
            said.append(f"\n→ {finding.advice}", style="bold")
        table.add_row(Text(finding.state, style=STYLES[finding.state]), finding.about, said)
    out.print(table)
