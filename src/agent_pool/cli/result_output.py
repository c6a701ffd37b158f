"""How the result of a task is printed: the answer on stdout, the rest on stderr."""

from __future__ import annotations

import sys

from agent_pool import TaskResult
from agent_pool.cli.output import console, echo, print_answer, print_json
from agent_pool.cli.progress import result_text
from agent_pool.text import one_line, printable, printable_json


def print_partial(result: TaskResult) -> None:
    """Print on stderr what an agent had said when its task failed."""
    if result.partial:
        # Not on stdout: there, a program would take it for the answer.
        shown = printable(result.partial) if sys.stderr.isatty() else result.partial
        echo(f"what the agent had said, not a complete answer:\n{shown}", err=True)


def print_result(result: TaskResult, *, quiet: bool, as_json: bool) -> None:
    """Print the answer on stdout, and what else a person must know about it on stderr."""
    if as_json:
        print_json(result.as_json())
    elif result.is_error:
        how = f" ({result.code or result.subtype})"
        echo(f"{result.agent} failed{how}: {result.text}\n{result.advice}", err=True)
        print_partial(result)
    else:
        text = result.text
        if result.structured is not None:
            text = printable_json(result.structured)
        print_answer(text)
    if not quiet:
        console(err=True).print(result_text(result), style="dim")
    if not as_json:
        for denied in dict.fromkeys(f"{one.tool}: {one_line(one.reason)}" for one in result.denied):
            echo(f"not permitted: {denied}", err=True)
    # Even if quiet: otherwise its place would be known to no reader.
    if result.worktree and not as_json:
        echo(f"changes are in {result.worktree} (branch {result.branch})", err=True)
