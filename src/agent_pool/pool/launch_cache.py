"""The launches of agents, each built once, and the version of the binary in use."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from agent_pool.agents import Agent, Project
from agent_pool.claude.binary import VERSION_TIMEOUT, cli_version, find_cli
from agent_pool.claude.launch import LaunchConfig, build_launch
from agent_pool.errors import PoolClosed, SpawnError
from agent_pool.models import AgentKey

log = logging.getLogger("agent_pool")

_Binary = tuple[Path, int, int]
"""A binary as it is now: path, size, and time of its last change in ns."""


class LaunchCache:
    """Builds the launch of each agent once, and again when something that it depends on changed.

    A binary is asked for its version once, and again when its file was replaced, e.g. by an update.
    """

    def __init__(self) -> None:
        self._versions: dict[_Binary, str] = {}
        self._queries: dict[_Binary, asyncio.Task[str]] = {}
        self._launches: dict[AgentKey, tuple[tuple[str, str, str], LaunchConfig]] = {}
        self._reported: set[tuple[str, str, str]] = set()

    async def get(
        self, agent: Agent, project: Project, place: Project | None = None
    ) -> LaunchConfig:
        """Return how a worker of an agent is started.

        Args:
            agent: the agent.
            project: its project, which gives the binary too.
            place: the project as a single call has it, with a folder or variables of its own; the
                launch is then built for this call alone. None for the project itself.

        Raises:
            SpawnError: there is no usable binary.
            ConfigError: the agent names an MCP server that is configured nowhere.
        """
        cli = find_cli(project.settings, project.environ)
        version = await self._version(cli, project)
        if place is not None:
            # Not kept: each call can have other variables, and it would take the place of the
            # launch that the agent's other calls share.
            return self._build(cli, version, agent, place)
        key, basis = project.key(agent.name), (agent.fingerprint, str(cli), version)
        known = self._launches.get(key)
        if known is None or known[0] != basis or _reads_files(agent, project):
            known = self._launches[key] = basis, self._build(cli, version, agent, project)
        return known[1]

    def _build(self, cli: Path, version: str, agent: Agent, project: Project) -> LaunchConfig:
        """Build a launch; warn of each option that the binary does not know, once."""
        launch = build_launch(cli, version, agent, project)
        for option, cost in launch.left_out.items():
            if (report := (str(cli), version, option)) not in self._reported:
                self._reported.add(report)
                log.warning("%s (%s) does not know %s: %s", cli, version, option, cost)
        return launch

    def forget_versions(self) -> None:
        """Ask each binary for its version again when it is next needed."""
        self._versions.clear()

    async def close(self) -> None:
        """Cancel the version queries that still run, and wait for their end."""
        queries = list(self._queries.values())
        for query in queries:
            query.cancel()
        # Waited for: a cancelled query kills its process before it ends.
        if queries:
            await asyncio.wait(queries, timeout=VERSION_TIMEOUT)

    async def _version(self, cli: Path, project: Project) -> str:
        try:
            status = os.stat(cli)  # noqa: PTH116 - ruff takes Path.stat in a coroutine for slow IO
        except OSError as error:  # it was removed after `find_cli`, e.g. by an update
            raise SpawnError(f"{cli} cannot be run: {error.strerror}") from None
        binary = cli, status.st_size, status.st_mtime_ns
        if binary not in self._versions:
            return await self._query(binary, project)
        return self._versions[binary]

    async def _query(self, binary: _Binary, project: Project) -> str:
        # Callers that come at the same time share one query, so they go on in the order in which
        # they came; the cancellation of one of them must not cancel it for the others.
        if binary not in self._queries:
            query = asyncio.get_running_loop().create_task(cli_version(binary[0], project.environ))
            query.add_done_callback(lambda done: self._answered(binary, done))
            self._queries[binary] = query
        query = self._queries[binary]
        try:
            # The result of the query itself: a caller that comes between the end of the query and
            # the loop step in which `_answered` runs does not find it in `_versions` yet.
            return await asyncio.shield(query)
        except asyncio.CancelledError:
            # The pool closes, or this caller is cancelled; the former only cancels the query.
            task = asyncio.current_task()
            if query.cancelled() and not (task and task.cancelling()):
                raise PoolClosed("the pool was closed; open a new one") from None
            raise

    def _answered(self, binary: _Binary, query: asyncio.Task[str]) -> None:
        del self._queries[binary]
        # A failure is not kept: the binary can be repaired before the next task.
        if not query.cancelled() and query.exception() is None:
            self._versions[binary] = query.result()


def _reads_files(agent: Agent, project: Project) -> bool:
    """Check whether a launch depends on files of Claude Code, which can be edited at any time."""
    # They hold the MCP servers, and say whether the folder is trusted, which hooks depend on.
    return bool(
        agent.hooks
        or agent.mcp_servers
        or any(tool.startswith("mcp__") for tool in agent.tools or ())
        or "mcp" in project.settings.inherit
    )
