"""`agent-pool show`: one agent, as its workers get it."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from agent_pool import (
    Agent,
    AgentPool,
    AgentPoolError,
    Launch,
    PromptSize,
    Settings,
    measure_prompt,
)
from agent_pool.cli.agents import as_object
from agent_pool.cli.command import Command, json_option, project_option, run_async, settings_of
from agent_pool.cli.output import console, count, print_json, printable


@click.command(cls=Command)
@click.argument("agent")
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Measure the prompt: starts a worker, offline. Default: yes, but not for --json.",
)
@json_option
@project_option
@click.pass_context
def show(
    ctx: click.Context, agent: str, measure: bool | None, as_json: bool, project: Path | None
) -> None:
    """Show an agent's composed prompt and exactly how a worker of it is started.

    The prompt is what the model gets as its system prompt: skills, expertise and body. The
    environment is all that the process gets, with secrets masked.

    It ends with the size of what each task sends besides its own text: tools, system prompt, and
    what Claude Code says of the environment. For that a worker is started against an offline
    model, in a temporary home; with --no-measure nothing is started.

    \b
    Example:
      agent-pool show code-reviewer
      agent-pool show code-reviewer --json --measure | jq .size
      agent-pool show code-reviewer --json | jq -r .prompt | wc -c
    """
    settings = settings_of(ctx, project)
    pool = AgentPool(settings)
    found = pool.catalog.find(agent)
    launch = run_async(pool.launch(agent))
    if as_json:
        size = run_async(measure_prompt(launch, settings)) if measure else None
        print_json(
            {
                **as_object(found, settings),
                "prompt": launch.prompt,
                "argv": list(launch.argv),
                "cwd": str(launch.cwd),
                "env": launch.shown_env(),
                **({"size": _as_object(size)} if size else {}),
            }
        )
    else:
        _print(found, launch)
        if measure is not False:
            _measure(launch, settings, is_asked_for=measure is True)


def _measure(launch: Launch, settings: Settings, *, is_asked_for: bool) -> None:
    try:
        _print_size(run_async(measure_prompt(launch, settings)))
    except AgentPoolError as error:
        if is_asked_for:
            raise
        click.echo(f"What every task sends could not be measured: {error}", err=True)


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


def _as_object(size: PromptSize) -> dict[str, Any]:
    return {**asdict(size), "total": size.total, "tokens": size.tokens}


def _print_size(size: PromptSize) -> None:
    click.secho(
        f"Sent with every task ({size.total:,} characters, about {size.tokens:,} tokens)", bold=True
    )
    tools = sum(size.tools.values())
    for name, length in (
        ("system prompt", size.system),
        ("messages", size.messages),
        (count(len(size.tools), "tool"), tools),
        *((f"  {name}", length) for name, length in size.tools.items()),
    ):
        click.echo(f"{length:>9,}  {name}")
