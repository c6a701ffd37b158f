"""`agent-pool init`: a first agent to start from."""

from __future__ import annotations

from pathlib import Path

import click

from agent_pool import AgentList, PoolAPI, TaskRequest
from agent_pool.cli import starter
from agent_pool.cli.command import Command, load_command_settings, project_option, run_async
from agent_pool.cli.connect import make_pool
from agent_pool.cli.output import echo


@click.command(cls=Command)
@project_option
@click.pass_context
def init(ctx: click.Context, project: Path | None) -> None:
    """Write a starter agent, a skill and an expertise for you to edit.

    They go into .claude/ of the project. If a setting names a folder for skills or expertise, that
    file goes there. A file that exists is never changed.

    \b
    Example:
      agent-pool init
      agent-pool run code-reviewer 'Review the last commit.'
    """
    settings = load_command_settings(ctx, project)
    run_async(_write_files(make_pool(settings), settings.project_dir))
    echo(_next_steps(settings.project_dir), err=True)


async def _write_files(pool: PoolAPI, project: Path) -> None:
    """Write the files that do not exist, report each, and check that the agent can be used."""
    found = await pool.agents()
    for path, text in (
        (project / ".claude" / "agents" / f"{starter.AGENT}.md", starter.AGENT_TEXT),
        (_skill_folder(found) / starter.SKILL / "SKILL.md", starter.SKILL_TEXT),
        (Path(found.expertise_folders[0]) / f"{starter.EXPERTISE}.md", starter.EXPERTISE_TEXT),
    ):
        echo(f"{'wrote' if _write_new(path, text) else 'kept '}  {path}")
    # A file that was kept can be a definition that is broken.
    await pool.check(TaskRequest(starter.AGENT, "Review."))


def _write_new(path: Path, text: str) -> bool:
    """Write a file if it does not exist; return whether it was written."""
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
  1. Describe this project in {project / ".claude" / "expertise"}.
  2. agent-pool run {starter.AGENT} 'Review the last commit.'
  3. agent-pool install lets Claude Code delegate to it."""


def _skill_folder(found: AgentList) -> Path:
    """Return the folder for a project's skill: the project's own if it is searched."""
    # The user's folder comes first there, unless SKILLS_DIR replaces the project's.
    own = str(Path(found.project) / ".claude" / "skills")
    return Path(own if own in found.skill_folders else found.skill_folders[0])
