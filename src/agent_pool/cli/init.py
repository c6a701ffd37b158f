"""`agent-pool init`: something to start from."""

from __future__ import annotations

from pathlib import Path

import click

from agent_pool import Catalog
from agent_pool.cli import starter
from agent_pool.cli.command import Command, project_option, settings_of


@click.command(cls=Command)
@project_option
@click.pass_context
def init(ctx: click.Context, project: Path | None) -> None:
    """Write a starter agent, a skill and an expertise, to be edited.

    They go into .claude/ of the project, or where the settings say that skills and expertise
    are. A file that exists is never changed.

    \b
    Example:
      agent-pool init
      agent-pool run code-reviewer 'Review the last commit.'
    """
    settings = settings_of(ctx, project)
    catalog = Catalog(settings)
    for path, text in (
        (settings.project_dir / ".claude" / "agents" / f"{starter.AGENT}.md", starter.AGENT_TEXT),
        (catalog.folders.skills[0] / starter.SKILL / "SKILL.md", starter.SKILL_TEXT),
        (catalog.folders.expertise[0] / f"{starter.EXPERTISE}.md", starter.EXPERTISE_TEXT),
    ):
        click.echo(f"{'wrote' if _write_new(path, text) else 'kept '}  {path}")
    catalog.find(starter.AGENT)
    click.echo(_next_steps(settings.project_dir), err=True)


def _write_new(path: Path, text: str) -> bool:
    """Write a file if there is none; says whether it did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def _next_steps(project: Path) -> str:
    return f"""
Next:
  1. Say in {project / ".claude" / "expertise"} what this project is.
  2. agent-pool run {starter.AGENT} 'Review the last commit.'
  3. agent-pool install, and Claude Code can delegate to it."""
