"""`agent-pool show`: one agent, and how its workers are started."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from agent_pool import AgentInfo, AgentPoolError, LaunchSpec, PoolAPI, PromptSize
from agent_pool.cli.command import (
    Command,
    json_option,
    load_command_settings,
    project_option,
    run_async,
)
from agent_pool.cli.completion import complete_agent
from agent_pool.cli.connect import make_pool
from agent_pool.cli.output import console, echo, print_json
from agent_pool.text import count


@click.command(cls=Command)
@click.argument("agent", shell_complete=complete_agent)
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

    The prompt is the system prompt that the model gets: skills, expertise and body. The
    environment is the whole environment of the process, with secrets masked.

    The output ends with the size of everything that each task sends in addition to its own text:
    tools, system prompt, and Claude Code's description of the environment. To measure it, a
    worker is started with an offline model, in a temporary home; with --no-measure no process is
    started.

    \b
    Example:
      agent-pool show code-reviewer
      agent-pool show code-reviewer --json --measure | jq .size
      agent-pool show code-reviewer --json | jq -r .prompt | wc -c
    """
    pool = make_pool(load_command_settings(ctx, project))
    if as_json:
        print_json(run_async(_as_json(pool, agent, measure=measure is True)))
    else:
        run_async(_print_agent(pool, agent, measure))


async def _as_json(pool: PoolAPI, name: str, *, measure: bool) -> dict[str, Any]:
    info, launch = await _describe(pool, name)
    size = await pool.prompt_size(name) if measure else None
    return {
        **info.as_json(),
        "prompt": launch.prompt,
        "argv": list(launch.argv),
        "cwd": launch.cwd,
        "env": dict(launch.env),
        "role": launch.role,
        "effort": launch.effort,
        "profile": launch.profile,
        "left_out": dict(launch.left_out),
        **({"size": _size_as_json(size)} if size else {}),
    }


async def _print_agent(pool: PoolAPI, name: str, measure: bool | None) -> None:
    """Print an agent and, unless `measure` is False, the size of its prompt.

    Raises:
        AgentPoolError: the agent cannot be used; or, if `measure` is True, its prompt cannot be
            measured.
    """
    _print_launch(*await _describe(pool, name))
    if measure is False:
        return
    try:
        _print_size(await pool.prompt_size(name))
    except AgentPoolError as error:
        if measure:
            raise
        echo(f"The size of the prompt could not be measured: {error}", err=True)


async def _describe(pool: PoolAPI, name: str) -> tuple[AgentInfo, LaunchSpec]:
    launch = await pool.launch_spec(name)  # first: it raises if the agent cannot be used
    agents = (await pool.agents()).agents
    listed = (agent for agent in agents if agent.path == launch.path)
    # An agent can be found by its file's name and still not be listed: an earlier folder hides it.
    return next(listed, AgentInfo(name, launch.path)), launch


def _print_launch(agent: AgentInfo, launch: LaunchSpec) -> None:
    out = console()
    variables = "\n".join(f"{name}={value}" for name, value in launch.env.items())
    left_out = "\n".join(f"{option}: {cost}" for option, cost in launch.left_out.items())
    for heading, content in (
        ("File", agent.path),
        ("Command", shlex.join(launch.argv)),
        *(
            ((f"Options that Claude Code {launch.version} does not know", left_out),)
            if left_out
            else ()
        ),
        ("Folder", launch.cwd),
        ("Environment", variables),
        *(
            (("Budget of a task", f"{agent.max_budget_usd:g} US dollars (maxBudgetUsd)"),)
            if agent.max_budget_usd is not None
            else ()
        ),
        *((("Role, taken after the start", launch.role.rstrip()),) if launch.role else ()),
        # A setting of the process: in a definition it has no effect on a main agent (2.1.332).
        *((("Effort, set with the role", launch.effort),) if launch.effort else ()),
        (f"System prompt ({len(launch.prompt):,} characters)", launch.prompt),
    ):
        out.print(Text(heading, style="bold"))
        out.print(content, end="\n\n")


def _size_as_json(size: PromptSize) -> dict[str, Any]:
    return {**size.as_json(), "total": size.total, "tokens": size.tokens}


def _print_size(size: PromptSize) -> None:
    heading = f"Sent with every task ({size.total:,} characters, about {size.tokens:,} tokens)"
    console().print(heading, style="bold")
    tools = sum(size.tools.values())
    for name, length in (
        ("system prompt", size.system),
        ("messages", size.messages),
        (count(len(size.tools), "tool"), tools),
        *((f"  {name}", length) for name, length in size.tools.items()),
    ):
        echo(f"{length:>9,}  {name}")
