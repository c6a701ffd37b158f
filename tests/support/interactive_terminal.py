"""The real interactive Claude Code in a pseudo-terminal, past its first-run questions."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.environment import real_cli
from support.mcp_server import ServerRunner

KEY = "dummy-key-that-cannot-be-taken-for-a-real-one"
LINES, COLUMNS = 50, 150


class InteractiveTerminal:
    """A running Claude Code and its keyboard; the output to its screen is ignored."""

    def __init__(self, process: asyncio.subprocess.Process, screen: int) -> None:
        self.process = process
        self._screen = screen

    def press(self, keys: str) -> None:
        """Type these keys."""
        os.write(self._screen, keys.encode())


@asynccontextmanager
async def interactive(
    project: ServerRunner, prompt: str, *more: str
) -> AsyncIterator[InteractiveTerminal]:
    """Start Claude Code with the pool's server and a prompt; kill it at the end.

    Args:
        project: the project.
        prompt: what the person types first; empty for nothing.
        more: further arguments of Claude Code.
    """
    answer_first_questions(project)
    program, *arguments = project.server_command
    servers = {"mcpServers": {"agent-pool": {"command": program, "args": arguments}}}
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *(str(real_cli()), prompt, "--mcp-config", json.dumps(servers), "--strict-mcp-config"),
        *("--dangerously-skip-permissions", *more),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=project.env | {"ANTHROPIC_API_KEY": KEY, "TERM": "xterm-256color"},
        cwd=project.root,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(terminal)
    loop = asyncio.get_running_loop()
    loop.add_reader(screen, discard, screen)
    try:
        yield InteractiveTerminal(process, screen)
    finally:
        loop.remove_reader(screen)
        project.end_processes(process)
        await process.wait()
        os.close(screen)


def answer_first_questions(project: ServerRunner) -> None:
    """Answer the first-run questions: theme, trust, API key, and bypassed permissions."""
    answers = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "bypassPermissionsModeAccepted": True,
        "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
        "projects": {str(project.root): {"hasTrustDialogAccepted": True}},
    }
    folder = project.home / ".claude"
    folder.mkdir(exist_ok=True)
    (folder / ".claude.json").write_text(json.dumps(answers), encoding="utf-8")


def take_terminal() -> None:
    """Make stdin the controlling terminal; runs in the child process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def discard(screen: int) -> None:
    """Read the screen's output, so that drawing never blocks."""
    try:
        os.read(screen, 65536)
    except OSError:  # EIO: no process has the terminal open any more
        asyncio.get_running_loop().remove_reader(screen)
