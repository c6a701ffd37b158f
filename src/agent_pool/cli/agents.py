"""`agent-pool agents`: what is defined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from agent_pool import Agent, Broken, Catalog, ConfigError, Settings, not_honoured
from agent_pool.cli.command import Command, json_option, project_option, settings_of
from agent_pool.cli.output import console, count, print_json, printable


@click.command(cls=Command)
@json_option
@project_option
@click.pass_context
def agents(ctx: click.Context, as_json: bool, project: Path | None) -> None:
    """List the agents that are defined, and the definitions that cannot be used.

    Agents are looked for in AGENTS_DIR, then in .claude/agents of the project, then in the
    agents folder of Claude Code's home. A broken one is listed with what is wrong; it makes
    `agent-pool doctor` fail, not this command. So is each field without effect in the pool.

    \b
    Example:
      agent-pool agents
      agent-pool agents --json | jq -r '.[].name'
    """
    settings = settings_of(ctx, project)
    catalog = Catalog(settings)
    found = catalog.scan()
    if as_json:
        print_json([as_object(one, settings) for one in found])
        return
    usable = [one for one in found if isinstance(one, Agent)]
    broken = [one for one in found if isinstance(one, Broken)]
    if usable:
        console().print(_table(usable))
    for agent in usable:
        for key, why in without_effect(agent, settings).items():
            click.secho(f"{agent.name}: {key}: {why}", fg="yellow")
    for one in broken:
        click.secho(f"{one.name} cannot be used: {one.error}", fg="red")
    where = ", ".join(map(str, catalog.folders.agents))
    click.echo(f"{count(len(usable), 'agent')} in {where}", err=True)
    if not found:
        click.echo("`agent-pool init` writes a first one.", err=True)


def without_effect(agent: Agent, settings: Settings) -> dict[str, str]:
    """What of a definition has no effect, and why; also what makes it unusable for now."""
    try:
        return not_honoured(agent, settings)
    except ConfigError as error:
        return {"mcpServers": str(error)}


def as_object(one: Agent | Broken, settings: Settings) -> dict[str, Any]:
    """An agent for programs; `error` is null for one that can be used."""
    if isinstance(one, Broken):
        return {"name": one.name, "path": str(one.path), "error": str(one.error)}
    return {
        "name": one.name,
        "description": one.description,
        "path": str(one.path),
        "skills": list(one.skills),
        "expertise": list(one.expertise),
        "model": one.model,
        "tools": None if one.tools is None else list(one.tools),
        "not_honoured": without_effect(one, settings),
        "error": None,
    }


def _table(found: list[Agent]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("Agent", "Description", "Skills, expertise", "Model", "Tools", "File"):
        table.add_column(heading, overflow="fold")
    for agent in found:
        table.add_row(
            Text(agent.name, style="cyan"),
            printable(agent.description),
            ", ".join((*agent.skills, *agent.expertise)),
            agent.model or "",
            "all" if agent.tools is None else ", ".join(agent.tools) or "none",
            _short(agent.path),
        )
    return table


def _short(path: Path) -> str:
    for folder, name in ((Path.cwd(), "."), (Path.home(), "~")):
        if path.is_relative_to(folder):
            return str(Path(name) / path.relative_to(folder))
    return str(path)
