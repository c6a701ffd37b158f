"""What tests of the real CLI share: its path, an environment built from nothing, a project."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from agent_pool.claude.binary import bundled_cli

T = TypeVar("T")

BOUND = 60.0
"""Seconds in which an asynchronous test must have ended."""


def real_cli() -> Path:
    """The CLI that the claude-agent-sdk package carries; never one that is on the machine."""
    cli = bundled_cli()
    assert cli is not None, "pip install -e '.[dev]' brings the CLI"
    return cli


def run(main: Coroutine[Any, Any, T], bound: float = BOUND) -> T:
    """Run an asynchronous test within a bound."""

    async def bounded() -> T:
        async with asyncio.timeout(bound):
            return await main

    return asyncio.run(bounded())


def cli_environment(home: Path, url: str, **more: str) -> dict[str, str]:
    """An environment in which the real CLI talks to `url` and to nothing else."""
    return {
        "HOME": str(home),
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "dummy",
        "IS_SANDBOX": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CLI": str(real_cli()),
        **more,
    }


class Project:
    """A temporary project with agents, and a home of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.home = root / "home"
        (self.root / ".claude" / "agents").mkdir(parents=True)
        self.home.mkdir()

    def agent(self, name: str, body: str = "You test.", **fields: str) -> Path:
        """Define an agent; returns its file."""
        path = self.root / ".claude" / "agents" / f"{name}.md"
        lines = [f"{key}: {value}" for key, value in {"name": name, **fields}.items()]
        path.write_text("---\n" + "\n".join(lines) + f"\n---\n{body}\n", encoding="utf-8")
        return path

    def environment(self, url: str, **more: str) -> dict[str, str]:
        """The environment of a pool that works in this project against this API."""
        return cli_environment(self.home, url, CLAUDE_PROJECT_DIR=str(self.root), **more)
