"""The agents that the scheduler's specs stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from agent_pool.agents import Agent, Projects
from agent_pool.claude.launch import LaunchConfig
from agent_pool.errors import ConfigError
from agent_pool.pool.launch_cache import LaunchCache
from agent_pool.pool.scheduler import AgentSpec

KEPT_VERSIONS: Final = 8
"""Versions of an edited agent that are kept although no worker has them: a caller that has just
resolved its agent can still ask for one."""


class AgentRegistry:
    """Resolves the names in requests, and keeps agent and launch behind each `AgentSpec`.

    Args:
        projects: the projects of the pool.
        launches: how agents are started.
        in_use: returns the specs that workers have now.
    """

    def __init__(
        self,
        projects: Projects,
        launches: LaunchCache,
        in_use: Callable[[], Collection[AgentSpec | None]],
    ) -> None:
        self._projects = projects
        self._launches = launches
        self._in_use = in_use
        self._known: dict[AgentSpec, tuple[Agent, LaunchConfig]] = {}
        self._blank: dict[str, LaunchConfig] = {}

    async def resolve(self, name: str, project: str | None = None, schema: str = "") -> AgentSpec:
        """Return the spec of an agent as it is defined now.

        Args:
            name: the agent's name, or that of its file.
            project: the project's folder; `None` for the pool's own.
            schema: the JSON schema of its answers as JSON; empty for plain text.

        Raises:
            AgentNotFound, ConfigError, SpawnError: see `PoolAPI.invoke`.
        """
        place = self._projects.get(project)
        agent = place.catalog.find(name)
        launch = await self._launches.get(agent, place)
        # A schema is sent with `initialize`, as the prompt is; older versions ignore the prompt
        # there.
        if schema and not launch.prompt_by_initialize:
            raise ConfigError(
                f"Claude Code {launch.version} cannot answer by a schema; update Claude Code"
            )
        # The CLI takes a schema once, with `initialize`: each schema has workers of its own.
        variant = hashlib.sha256(schema.encode()).hexdigest()[:8] if schema else ""
        if schema:
            launch = replace(launch, schema=schema)
        role = launch.role.name if launch.role else ""
        spec = AgentSpec(
            key=place.key(agent.name, f"schema {variant}" if variant else ""),
            version=f"{agent.fingerprint} {launch.profile} {role}",
            profile=launch.profile,
            is_role=launch.takes_roles,
            base=launch.base_profile,
        )
        # Removed first: a definition that was edited back must count as the newest version again.
        self._known.pop(spec, None)
        self._known[spec] = agent, launch
        self._blank.setdefault(spec.profile, _blank(launch))
        if spec.base:
            self._blank.setdefault(spec.base, replace(_blank(launch), awaits_claim=True))
        self._forget_old_versions(spec)
        return spec

    def _forget_old_versions(self, spec: AgentSpec) -> None:
        in_use = self._in_use()
        old = [known for known in self._known if known.key == spec.key and known not in in_use]
        # A dictionary keeps its order, so the oldest versions come first.
        for known in old[:-KEPT_VERSIONS]:
            del self._known[known]

    def specs_of(self, project: str, agent: str) -> set[AgentSpec]:
        """Return all specs of an agent: its versions, with and without schemas."""
        return {
            spec for spec in self._known if (spec.key.project, spec.key.name) == (project, agent)
        }

    def agent(self, spec: AgentSpec | None) -> Agent | None:
        """Return the agent of a spec; `None` for a spare."""
        known = self._known.get(spec) if spec else None
        return known[0] if known else None

    def launch(self, spec: AgentSpec | None, profile: str) -> LaunchConfig:
        """Return how workers of a spec are started; without a spec, how a spare is."""
        return self._known[spec][1] if spec else self._blank[profile]


def _blank(launch: LaunchConfig) -> LaunchConfig:
    """Return how a spare is started that can become an agent with this launch."""
    if launch.takes_roles:
        # `initialize` is behind such a spare, and it carries the schema.
        return replace(launch, role=None, prompt="")
    return replace(launch, schema="")
