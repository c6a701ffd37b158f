"""The binary in use, looked at once, and the launches made for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from agent_pool.agents import Agent
from agent_pool.claude.binary import VERSION_TIMEOUT, cli_version, find_cli
from agent_pool.claude.launch import Launch, build_launch
from agent_pool.settings import Settings

Binary = tuple[Path, int, int]
"""A binary as it is now: path, size and time of its last change."""


class Launches:
    """Builds a launch for each agent; asks a binary for its version once, and again when it
    was exchanged, as an update does."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._versions: dict[Binary, str] = {}
        self._asking: dict[Binary, asyncio.Task[str]] = {}
        self._launches: dict[str, tuple[tuple[str, str, str], Launch]] = {}

    async def get(self, agent: Agent) -> Launch:
        """How to start a worker for an agent.

        Raises:
            SpawnError: there is no usable binary.
        """
        cli = find_cli(self._settings, self._environ)
        version = await self._version(cli)
        key = agent.fingerprint, str(cli), version
        known = self._launches.get(agent.name)
        has_servers = bool(agent.mcp_servers) or "mcp" in self._settings.inherit
        if known is None or known[0] != key or has_servers:  # their configuration may be edited
            launch = build_launch(cli, version, agent, self._settings, self._environ)
            known = self._launches[agent.name] = key, launch
        return known[1]

    async def close(self) -> None:
        """End the questions that are still unanswered."""
        asking = list(self._asking.values())
        for question in asking:
            question.cancel()
        if asking:
            await asyncio.wait(asking, timeout=VERSION_TIMEOUT)

    async def _version(self, cli: Path) -> str:
        status = os.stat(cli)  # noqa: PTH116 - Path.stat in a coroutine is taken for slow IO
        key = cli, status.st_size, status.st_mtime_ns
        if key not in self._versions:
            await self._ask(key)
        return self._versions[key]

    async def _ask(self, key: Binary) -> None:
        """Callers that come at once share one question, so they go on in the order they came."""
        if key not in self._asking:
            question = asyncio.get_running_loop().create_task(cli_version(key[0], self._environ))
            question.add_done_callback(lambda done: self._answered(key, done))
            self._asking[key] = question
        await asyncio.shield(self._asking[key])

    def _answered(self, key: Binary, question: asyncio.Task[str]) -> None:
        del self._asking[key]
        if not question.cancelled() and question.exception() is None:
            self._versions[key] = question.result()
