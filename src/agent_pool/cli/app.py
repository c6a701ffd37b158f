"""`agent-pool` itself: the list of commands, loaded one at a time."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, Final, TextIO, cast

import click

from agent_pool.cli.command import WIDTH, project_option

COMMANDS: Final = {
    "run": "Give an agent one task and print its answer.",
    "batch": "Give agents many tasks, side by side.",
    "agents": "List the agents that are defined.",
    "show": "Show an agent's prompt and how it is started.",
    "init": "Write a starter agent, skill and expertise.",
    "stats": "Show every running pool: workers, tasks, tokens, cost.",
    "doctor": "Say what is found and what is wrong.",
    "demo": "Show what the pool does, offline and at no cost.",
    "bench": "Measure the pool beside every other way, offline and at no cost.",
    "install": "Register the MCP server and the hook with Claude Code.",
    "uninstall": "Undo what install did.",
    "serve": "Run the MCP server on stdin and stdout.",
}
"""Each with its line in the list; the command `run` is `run` in `agent_pool.cli.run`."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"agent_pool.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


EPILOG = """
\b
A first tour, with nothing but this package and a Claude Code CLI:
  agent-pool doctor          is everything there?
  agent-pool demo            a pool at work, offline
  agent-pool init            a starter agent in .claude/
  agent-pool run code-reviewer 'Review the last commit.'
  agent-pool install         let Claude Code delegate to the pool

\b
Exit codes:
  0    it worked
  1    it did not: the agent reported an error, a check failed, output was refused
  2    the command line was wrong
  3    it could not start: settings, a batch's lines, no such agent, no usable Claude Code CLI
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
    kept alive and cleared between tasks, so that a task costs no start-up and reads its prompt
    from the cache. Agents work with permissions bypassed: only run definitions that you trust.
    """
    ctx.obj = project


def main() -> None:
    """The console script; ends in SystemExit."""
    sys.stdout, sys.stderr = map(_forgiving, (sys.stdout, sys.stderr))
    try:
        cli.main(prog_name="agent-pool")
    finally:
        _drop_unwritten()


def _forgiving(stream: Any) -> TextIO:
    """The stream, or one that leads nowhere when the program was started without it.

    What an agent writes must not end the program, whatever the terminal's encoding.
    """
    if stream is None:
        return Path(os.devnull).open("w")
    stream.reconfigure(errors="backslashreplace")
    return cast(TextIO, stream)


def _drop_unwritten() -> None:
    """Python flushes stdout at its end, and complains when that fails: told once is enough."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
