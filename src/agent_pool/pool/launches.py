"""The binary in use, looked at once, and the launches made for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from agent_pool.agents import Agent
from agent_pool.claude.binary import cli_version, find_cli
from agent_pool.claude.launch import Launch, build_launch
from agent_pool.settings import Settings


class Launches:
    """Builds a launch for each agent; asks a binary for its version once, and again when it
    was exchanged, as an update does."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self._versions: dict[tuple[Path, int, int], str] = {}
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
        if known is None or known[0] != key:
            launch = build_launch(cli, version, agent, self._settings, self._environ)
            known = self._launches[agent.name] = key, launch
        return known[1]

    async def _version(self, cli: Path) -> str:
        status = os.stat(cli)  # noqa: PTH116 - Path.stat in a coroutine is taken for slow IO
        key = cli, status.st_size, status.st_mtime_ns
        if key not in self._versions:
            self._versions[key] = await cli_version(cli, self._environ)
        return self._versions[key]
