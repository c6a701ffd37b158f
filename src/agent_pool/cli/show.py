"""`agent-pool show`: one agent, as its workers get it."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
from rich.text import Text

from agent_pool import Agent, AgentPool, Launch
from agent_pool.cli.agents import as_object
from agent_pool.cli.command import Command, json_option, project_option, run_async, settings_of
from agent_pool.cli.output import console, print_json, printable


@click.command(cls=Command)
@click.argument("agent")
@json_option
@project_option
@click.pass_context
def show(ctx: click.Context, agent: str, as_json: bool, project: Path | None) -> None:
    """Show an agent's composed prompt and exactly how a worker of it is started.

    The prompt is what the model gets as its system prompt: skills, expertise and body. The
    environment is all that the process gets, with secrets masked. Nothing is started.

    \b
    Example:
      agent-pool show code-reviewer
      agent-pool show code-reviewer --json | jq -r .prompt | wc -c
    """
    pool = AgentPool(settings_of(ctx, project))
    found = pool.catalog.find(agent)
    launch = run_async(pool.launch(agent))
    if as_json:
        print_json(
            {
                **as_object(found),
                "prompt": launch.prompt,
                "argv": list(launch.argv),
                "cwd": str(launch.cwd),
                "env": launch.shown_env(),
            }
        )
    else:
        _print(found, launch)


def _print(agent: Agent, launch: Launch) -> None:
    out = console()
    variables = "\n".join(f"{name}={value}" for name, value in launch.shown_env().items())
    for heading, content in (
        ("File", str(agent.path)),
        ("Command", shlex.join(launch.argv)),
        ("Folder", str(launch.cwd)),
        ("Environment", variables),
        (f"System prompt ({len(launch.prompt):,} characters)", launch.prompt),
    ):
        out.print(Text(heading, style="bold"))
        out.print(printable(content), end="\n\n")
