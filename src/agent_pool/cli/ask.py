"""`agent-pool run --ask`: permission requests, put to whoever sits at the terminal."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import termios
from collections.abc import Callable
from contextlib import AbstractContextManager

import click

from agent_pool import Denied, PermissionRequest
from agent_pool.cli.output import printable


class Terminal:
    """Asks one question after another on stderr and takes the answers from stdin.

    Args:
        silence: entered while a question stands, so that nothing else moves there.
    """

    def __init__(self, silence: Callable[[], AbstractContextManager[None]]) -> None:
        self._silence = silence
        self._one_at_a_time = asyncio.Lock()

    async def permit(self, request: PermissionRequest) -> bool | Denied:
        """Whether the person says yes; Enter alone is no, and so is the end of the input."""
        async with self._one_at_a_time:
            with self._silence():
                # What was typed before the question is no answer to it.
                termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
                click.echo(question(request), nl=False, err=True)
                try:
                    answer = await _line(sys.stdin.fileno())
                except asyncio.CancelledError:
                    click.echo("\nno answer came, so it is denied", err=True)
                    raise
        if not answer:
            return Denied("This is not permitted: the question was closed without an answer.")
        return answer.strip().lower() in {"y", "yes"} or Denied()


def question(request: PermissionRequest) -> str:
    """All that is asked for: who cuts it short can be led to permit what he does not see."""
    what = json.dumps(request.input, indent=2, ensure_ascii=False)
    about = f" ({request.description})" if request.description else ""
    asked = f"{request.agent} asks to use {request.tool}{about}:\n{what}"
    return f"{printable(asked)}\nAllow it? [y/N] "


async def _line(terminal: int) -> str:
    """The next line typed."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(terminal, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(terminal)
    return os.read(terminal, 4096).decode(errors="replace")
