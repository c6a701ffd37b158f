"""`agent-pool run --ask`: permission requests, shown to the person at the terminal."""

from __future__ import annotations

import asyncio
import os
import sys
import termios
from collections.abc import Callable
from contextlib import AbstractContextManager

from agent_pool import Denied, PermissionRequest
from agent_pool.cli.output import echo
from agent_pool.text import one_line, printable, printable_json


class TerminalPrompt:
    """Asks one question after another on stderr, and reads the answers from stdin.

    Args:
        pause_output: entered while a question is open, so that no other output moves it.
    """

    def __init__(self, pause_output: Callable[[], AbstractContextManager[None]]) -> None:
        self._pause_output = pause_output
        self._one_at_a_time = asyncio.Lock()

    async def decide(self, request: PermissionRequest) -> bool | Denied:
        """Ask the person; Enter alone means no, and so does the end of the input."""
        async with self._one_at_a_time:
            with self._pause_output():
                # Text that was typed before the question is not an answer to it.
                termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
                echo(format_question(request), end="", err=True)
                try:
                    answer = await _read_line(sys.stdin.fileno())
                except asyncio.CancelledError:
                    # The pool ends the question after `permission_timeout`, or with the task.
                    echo("\nno answer came, so the request is denied", err=True)
                    raise
        if not answer:
            return Denied("This is not permitted: the question was closed without an answer.")
        return answer.strip().lower() in {"y", "yes"} or Denied()


class RefuseAll:
    """Refuses every request, and says on stderr how a person can be asked.

    Args:
        is_asked_for: ``--ask`` was given, but stdin is no terminal.
        quiet: say nothing.
    """

    def __init__(self, *, is_asked_for: bool, quiet: bool) -> None:
        self._advice = (
            "--ask needs a terminal as stdin" if is_asked_for else "--ask asks you, in a terminal"
        )
        self._quiet = quiet

    async def decide(self, request: PermissionRequest) -> Denied:
        """Refuse a request; the agent reads the advice too, so that its answer can name it."""
        if not self._quiet:
            asked = f"{request.agent} asked to use {request.tool}, which was denied"
            echo(f"  {one_line(asked)}: {self._advice}", err=True)
        return Denied(
            "This is not permitted: there is no person here to ask for permission "
            f"(agent-pool run: {self._advice})."
        )


def format_question(request: PermissionRequest) -> str:
    """Return the question for a request, as a person at a terminal is asked."""
    return f"{describe_request(request)}\nAllow it? [y/N] "


def describe_request(request: PermissionRequest) -> str:
    """Return what an agent asks for, with the whole input of the tool."""
    # Never shortened: a person must see all that is permitted.
    tool_input = printable_json(dict(request.input), indent=2)
    about = f" ({request.description})" if request.description else ""
    asked = printable(f"{request.agent} asks to use {request.tool}{about}:")
    return f"{asked}\n{tool_input}"


async def _read_line(terminal: int) -> str:
    """Wait for the next line that is typed; return an empty text at the end of the input."""
    # Not in a thread: a thread that waits for input cannot be cancelled and would hold up the end.
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(terminal, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(terminal)
    return os.read(terminal, 4096).decode(errors="replace")
