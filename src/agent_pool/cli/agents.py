"""`agent-pool agents`: the agents that are defined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from agent_pool import AgentInfo
from agent_pool.cli.command import (
    Command,
    json_option,
    load_command_settings,
    project_option,
    run_async,
)
from agent_pool.cli.connect import find_pool
from agent_pool.cli.listing import Column, Listing, Paragraph
from agent_pool.cli.output import console, echo, print_json
from agent_pool.text import count


@click.command(cls=Command)
@json_option
@project_option
@click.pass_context
def agents(ctx: click.Context, as_json: bool, project: Path | None) -> None:
    """List the agents that are defined, and the definitions that cannot be used.

    Agents are searched in AGENTS_DIR, then in .claude/agents of the project, then in the agents
    folder of Claude Code's home. Each field of a definition that has no effect in the pool is
    listed with the reason. A broken definition is listed with its error; it makes `agent-pool
    doctor` fail, but not this command.

    \b
    Example:
      agent-pool agents
      agent-pool agents --json | jq -r '.[].name'
    """
    found = run_async(find_pool(load_command_settings(ctx, project)).agents())
    if as_json:
        print_json([agent.as_json() for agent in found.agents])
        return
    out = console()
    if found.usable:
        out.print(_listing(found.usable))
    for agent in found.usable:
        for key, reason in agent.warnings.items():
            out.print(Paragraph(f"{agent.name}: {key}: {reason}", "yellow"))
    for agent in found.broken:
        out.print(Paragraph(f"{agent.name} cannot be used: {agent.error}", "red"))
    folders = ", ".join(found.agent_folders)
    # On stderr, so that a program that reads stdout gets only agents.
    console(err=True).print(Paragraph(f"{count(len(found.usable), 'agent')} in {folders}"))
    if not found.agents:
        echo("`agent-pool init` writes a first agent.", err=True)


def _listing(agents: Sequence[AgentInfo]) -> Listing:
    headings = ("Skills, expertise", "Model", "Tools", "File")
    listing = Listing(Column("Agent"), Column("Description", is_prose=True), *map(Column, headings))
    for agent in agents:
        listing.add(
            agent.name,
            agent.description,
            ", ".join((*agent.skills, *agent.expertise)),
            agent.model or "",
            "all" if agent.tools is None else ", ".join(agent.tools) or "none",
            _short_path(Path(agent.path)),
        )
    return listing


def _short_path(path: Path) -> str:
    for folder, name in ((Path.cwd(), "."), (Path.home(), "~")):
        if path.is_relative_to(folder):
            return str(Path(name) / path.relative_to(folder))
    return str(path)
