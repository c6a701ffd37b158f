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

from agent_pool.claude import tree
from mcp_world import World
from support import real_cli

KEY = "dummy-key-that-nobody-takes-for-a-real-one"
LINES, COLUMNS = 50, 150


class Terminal:
    """A running Claude Code and its keyboard; nothing waits for its screen."""

    def __init__(self, process: asyncio.subprocess.Process, screen: int) -> None:
        self.process = process
        self._screen = screen

    def press(self, keys: str) -> None:
        os.write(self._screen, keys.encode())


@asynccontextmanager
async def interactive(world: World, prompt: str) -> AsyncIterator[Terminal]:
    """Claude Code with the pool's server, given a prompt."""
    answer_first_questions(world)
    program, *arguments = world.command
    servers = {"mcpServers": {"agent-pool": {"command": program, "args": arguments}}}
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *(str(real_cli()), prompt, "--mcp-config", json.dumps(servers), "--strict-mcp-config"),
        "--dangerously-skip-permissions",
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=world.env | {"ANTHROPIC_API_KEY": KEY, "TERM": "xterm-256color"},
        cwd=world.root,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(terminal)
    loop = asyncio.get_running_loop()
    loop.add_reader(screen, discard, screen)
    try:
        yield Terminal(process, screen)
    finally:
        loop.remove_reader(screen)
        tree.kill(world.processes())
        await process.wait()
        os.close(screen)


def answer_first_questions(world: World) -> None:
    """Theme, trust in the folder, use of the key, and the warning of bypassed permissions."""
    answers = {
        "hasCompletedOnboarding": True,
        "theme": "dark",
        "bypassPermissionsModeAccepted": True,
        "customApiKeyResponses": {"approved": [KEY[-20:]], "rejected": []},
        "projects": {str(world.root): {"hasTrustDialogAccepted": True}},
    }
    folder = world.home / ".claude"
    folder.mkdir(exist_ok=True)
    (folder / ".claude.json").write_text(json.dumps(answers), encoding="utf-8")


def take_terminal() -> None:
    """In the child: its stdin is the terminal that controls it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def discard(screen: int) -> None:
    """Read what is drawn, so that drawing never waits."""
    try:
        os.read(screen, 65536)
    except OSError:  # nobody draws any more
        asyncio.get_running_loop().remove_reader(screen)
