"""`agent-pool` itself: the list of commands, loaded one at a time."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Final

import click
from click.shell_completion import CompletionItem

from agent_pool.cli.command import WIDTH, project_option
from agent_pool.cli.completion import VARIABLE
from agent_pool.cli.output import guard_streams
from agent_pool.text import did_you_mean

GROUPS: Final = {
    "Give tasks": {
        "run": "Give an agent one task and print its answer.",
        "batch": "Give agents many tasks, side by side.",
        "submit": "Give an agent a task that outlives this terminal; print its id.",
        "wait": "Wait for submitted tasks and print their answers.",
    },
    "Follow tasks": {
        "tasks": "List the tasks: those that need you first.",
        "task": "Show everything about one task, each step of it.",
        "logs": "Print the steps of a task as lines, also as they come.",
        "answer": "Allow or deny what a task asks permission for.",
        "cancel": "Cancel tasks.",
        "retry": "Queue a task again that did not succeed.",
    },
    "Agents": {
        "agents": "List the agents that are defined.",
        "show": "Show an agent's prompt and how it is started.",
        "init": "Write a starter agent, skill and expertise.",
        "warmup": "Start a worker of an agent before its first task.",
        "reset": "Stop the workers of an agent; it gets new processes.",
    },
    "The pool": {
        "top": "Show what the agents do now, refreshed as they change.",
        "open": "Open the dashboard in the browser.",
        "stats": "Show every running pool: workers, tasks, tokens, cost.",
        "daemon": "Control the pool that all sessions share.",
        "doctor": "Check the installation and report what is wrong.",
        "demo": "Compare a pool with `claude -p`, offline and at no cost.",
    },
    "Connect": {
        "install": "Register the MCP server and the hook with Claude Code.",
        "uninstall": "Undo `agent-pool install`.",
        "serve": "Run the MCP server on stdin and stdout.",
        "completion": "Print a script that completes names in your shell.",
    },
}
"""The commands under their headings, each with its line in the list."""
COMMANDS: Final = {name: line for group in GROUPS.values() for name, line in group.items()}
"""All commands in the order of the list. The command `run` is `run` in `agent_pool.cli.run`."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is called, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"agent_pool.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command {name!r}{did_you_mean(name, COMMANDS)}.")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # click's own version imports every command, to read its help.
        if not incomplete.startswith("-"):
            return [
                CompletionItem(name, help=help_text)
                for name, help_text in COMMANDS.items()
                if name.startswith(incomplete)
            ]
        return super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click's own version imports every command, to read its help.
        widest = max(map(len, COMMANDS))
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                # Blanks, so that the lines of all groups begin at the same place.
                formatter.write_dl([(name.ljust(widest), line) for name, line in commands.items()])


EPILOG: Final = """
\b
First steps, with only this package and a Claude Code CLI:
  agent-pool doctor          check that everything is there
  agent-pool demo            see a pool at work, offline
  agent-pool init            write a starter agent into .claude/
  agent-pool run code-reviewer 'Review the last commit.'
  agent-pool install         let Claude Code delegate to the pool

\b
Exit codes:
  0    success
  1    failure: the agent reported an error, a check failed, output could not be written
  2    the command line is wrong
  3    not started: a wrong setting or batch line, no such agent or task, no usable CLI, no daemon
  124  a time limit passed
  128+n  stopped by signal n: 130 by Ctrl-C, 143 by SIGTERM
"""


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
)
@click.version_option(package_name="claude-agent-pool", prog_name="agent-pool")
@project_option
@click.pass_context
def cli(ctx: click.Context, project: Path | None) -> None:
    """Keep Claude Code agents warm and give them tasks.

    Agents are Markdown files in .claude/agents. Each runs in a real Claude Code process that is
    kept alive and cleared between tasks, so that a task needs no start-up and reads its prompt
    from the cache. Agents work with permissions bypassed: only run definitions that you trust.
    """
    ctx.obj = project


def main() -> None:
    """Run the command line; always ends in SystemExit."""
    if VARIABLE not in os.environ:  # then click writes bytes for the shell, and no text
        guard_streams()
    try:
        cli.main(prog_name="agent-pool")
    finally:
        _discard_unwritten_output()


def _discard_unwritten_output() -> None:
    """Flush stdout; if that fails, send what is left to the null device."""
    try:
        sys.stdout.flush()
    except OSError:
        # The command has reported this error. Without the redirection Python would flush again at
        # its exit and print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
