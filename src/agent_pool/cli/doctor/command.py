"""The command `doctor` and its report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from agent_pool import PoolAPI, Settings
from agent_pool.cli.command import FAILED, Command, json_option, project_option, run_async
from agent_pool.cli.connect import find_tasks, make_pool
from agent_pool.cli.doctor.checks import (
    check_agents,
    check_attribution,
    check_package,
    check_registered,
    check_settings,
    check_user,
)
from agent_pool.cli.doctor.findings import Finding
from agent_pool.cli.doctor.hooks import check_hooks
from agent_pool.cli.doctor.live import check_cli
from agent_pool.cli.doctor.memory import check_memory
from agent_pool.cli.doctor.nodes import check_nodes
from agent_pool.cli.doctor.processes import check_processes
from agent_pool.cli.doctor.resets import check_resets
from agent_pool.cli.listing import unbroken, wrap
from agent_pool.cli.output import console, echo, print_json
from agent_pool.text import count, one_line, printable

STYLES: Final = {"ok": "green", "note": "dim", "warning": "yellow", "wrong": "bold red"}
_STATES: Final = 9
"""The width of the column of states."""
_WIDE: Final = 90
"""From this width on a finding's message stands beside its subject; below it, under it."""
_INDENT: Final = 4


@click.command(cls=Command)
@click.option("--quick", is_flag=True, help="Skip the checks that start workers.")
@click.option("--probe", is_flag=True, help="Test again whether the CLI forgets between tasks.")
@json_option
@project_option
@click.pass_context
def doctor(
    ctx: click.Context, quick: bool, probe: bool, as_json: bool, project: Path | None
) -> None:
    """Check the installation and report what is wrong.

    Checks the package, the settings, the agents, the registration with Claude Code, and the
    Claude Code CLI: where it was found, its version and its sign-in. Then the CLI carries out two
    tasks with an offline model in a temporary home. That takes a few seconds, and needs no key
    and no network. To measure SessionStart hooks, it starts a worker of the first agent with your
    own settings, and gives it no task. The exit code is 1 if anything is wrong.

    \b
    Example:
      agent-pool doctor
      agent-pool doctor --probe
      agent-pool doctor --quick --json | jq '.findings[] | select(.state == "wrong")'
    """
    findings = run_async(_run_checks(project or ctx.find_root().obj, quick=quick, probe=probe))
    wrong = sum(finding.state == "wrong" for finding in findings)
    if as_json:
        print_json({"ok": not wrong, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(console(), findings)
        echo(f"\n{count(wrong, 'problem')} found." if wrong else "\nNothing is wrong.")
    if wrong:
        ctx.exit(FAILED)


async def _run_checks(project: Path | None, *, quick: bool, probe: bool) -> list[Finding]:
    with console(err=True).status("checking"):
        return [finding async for finding in _findings(project, quick=quick, probe=probe)]


async def _findings(project: Path | None, *, quick: bool, probe: bool) -> AsyncIterator[Finding]:
    yield check_package()
    settings, finding = check_settings(project)
    yield finding
    pool = make_pool(settings)
    for finding in check_user(settings):
        yield finding
    for finding in check_attribution(settings):
        yield finding
    async for finding in check_agents(settings, pool):
        yield finding
    for finding in check_registered(settings.project_dir):
        yield finding
    yield check_processes()
    is_usable = True
    async for finding in check_cli(settings, quick=quick):
        is_usable = is_usable and finding.state != "wrong"
        yield finding
    async for finding in check_memory(pool):
        yield finding
    async for finding in check_nodes(_find_daemon(settings), settings.ray):
        yield finding
    starts = is_usable and not quick
    async for finding in check_hooks(make_pool(_plain(settings)) if starts else None):
        yield finding
    async for finding in check_resets(pool, probe=probe):
        yield finding


def _find_daemon(settings: Settings) -> PoolAPI | None:
    """Return the pool of the daemon if it has a cluster and runs."""
    return find_tasks(settings.project_dir) if settings.ray else None


def _plain(settings: Settings) -> Settings:
    """Return settings for a pool that starts one worker and nothing else."""
    return settings.with_overrides({"spares": 0, "reset": "clear"})


def _print(out: Console, findings: list[Finding]) -> None:
    subjects = max(cell_len(finding.subject) for finding in findings)
    for finding in findings:
        if out.is_terminal:
            for line in _lines(finding, subjects, out.width):
                out.print(line)
        else:
            # One line for each finding, which programs can split.
            parts = (finding.state, finding.subject, finding.message, _advice(finding))
            echo("\t".join(map(one_line, filter(None, parts))))


def _advice(finding: Finding) -> str:
    return f"→ {finding.advice}" if finding.advice else ""


def _lines(finding: Finding, subjects: int, width: int) -> Iterator[Text]:
    """Yield the lines of a finding on a terminal; `subjects` is the longest one's width."""
    beside = width >= _WIDE
    head = Text.assemble((f"{finding.state:<{_STATES}}", STYLES[finding.state]), finding.subject)
    indent = _STATES + subjects + 2 if beside else _INDENT
    message, *rest = wrap(finding.message, width - indent) or [""]
    if beside:
        yield head.append(f"{'':{indent - len(head.plain)}}{printable(message)}")
    else:
        yield head
        rest = [message, *rest]
    for line in rest:
        yield unbroken(" " * indent + line)
    for line in wrap(_advice(finding), width - indent):
        yield unbroken(" " * indent + line, style="bold")
