"""`agent-pool completion`: names of commands, options and agents for the Tab key of a shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem, get_completion_class

from agent_pool.cli.command import Command, load_command_settings, run_async
from agent_pool.cli.output import echo
from agent_pool.errors import AgentPoolError
from agent_pool.text import one_line

if TYPE_CHECKING:
    from agent_pool import TaskAPI, TaskRecord

PROGRAM: Final = "agent-pool"
VARIABLE: Final = "_AGENT_POOL_COMPLETE"
"""The variable by which the shell asks for names; click makes it of the program's name."""
_HELP_WIDTH: Final = 60


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script for your shell that completes commands, options and agents.

    \b
    Example:
      eval "$(agent-pool completion bash)"      in ~/.bashrc
      eval "$(agent-pool completion zsh)"       in ~/.zshrc, after compinit
      agent-pool completion fish | source       in ~/.config/fish/config.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    echo(made(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())


def complete_agent(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the usable agents whose names begin with the typed text; none if they are unknown."""
    from agent_pool.cli.connect import make_pool

    # The commands are not run for a completion, so `--project` is read from the parameters.
    root = ctx.find_root()
    project: Path | None = ctx.params.get("project") or root.params.get("project")
    try:
        found = run_async(make_pool(load_command_settings(ctx, project)).agents())
    except (AgentPoolError, OSError):  # a wrong setting: the command itself will report it
        return []
    quote = _quote()
    return [
        CompletionItem(quote(agent.name), help=one_line(agent.description, _HELP_WIDTH))
        for agent in found.usable
        if agent.name.startswith(incomplete)
    ]


def complete_task(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the newest tasks whose ids begin with the typed text; none if no daemon runs."""
    from agent_pool.cli.connect import find_tasks

    try:
        pool = find_tasks()
        found = [] if pool is None else run_async(_newest(pool))
    except (AgentPoolError, OSError):  # the command itself will report it
        return []
    quote = _quote()
    return [
        CompletionItem(
            quote(one.id), help=one_line(f"{one.state}: {one.request.task}", _HELP_WIDTH)
        )
        for one in found
        if one.id.startswith(incomplete)
    ]


async def _newest(pool: TaskAPI) -> list[TaskRecord]:
    async with pool:
        return await pool.tasks()


def _quote() -> Callable[[str], str]:
    # zsh and fish put quotes where they are needed; bash takes the text as it is.
    return shlex.quote if os.environ.get(VARIABLE, "").startswith("bash") else str
