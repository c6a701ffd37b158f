"""The agents that the scheduler's specs stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from agent_pool.agents import Agent, Projects
from agent_pool.claude.launch import LaunchConfig
from agent_pool.errors import ConfigError
from agent_pool.pool.call_options import NO_OPTIONS, CallOptions
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
        callers: the most callers that can wait at once, each with options of its own.
    """

    def __init__(
        self,
        projects: Projects,
        launches: LaunchCache,
        in_use: Callable[[], Collection[AgentSpec | None]],
        callers: int = 100,
    ) -> None:
        self._projects = projects
        self._launches = launches
        self._in_use = in_use
        self._kept_variants = callers + KEPT_VERSIONS
        self._known: dict[AgentSpec, tuple[Agent, LaunchConfig]] = {}
        self._blank: dict[str, LaunchConfig] = {}

    async def resolve(
        self,
        name: str,
        project: str | None = None,
        schema: str = "",
        options: CallOptions = NO_OPTIONS,
    ) -> AgentSpec:
        """Return the spec of an agent as it is defined now, with the options of a call.

        Args:
            name: the agent's name, or that of its file.
            project: the project's folder; `None` for the pool's own.
            schema: the JSON schema of its answers as JSON; empty for plain text.
            options: what the call changes; workers of other options have another key.

        Raises:
            AgentNotFound, ConfigError, SpawnError: see `PoolAPI.invoke`.
        """
        place = self._projects.get(project)
        defined = place.catalog.find(name)
        agent = options.apply(defined, place.settings)
        changes = options.variant(defined, agent)
        launch = await self._launches.get(
            agent, place, options.environment_of(place) if changes else None
        )
        # A schema is sent with `initialize`, as the prompt is; older versions ignore the prompt
        # there.
        if schema and not launch.prompt_by_initialize:
            raise ConfigError(
                f"Claude Code {launch.version} cannot answer by a schema; update Claude Code"
            )
        # The CLI takes a schema once, with `initialize`, and the options of a call at its start:
        # each of them has workers of its own. With one key for all, a call with options would
        # retire the agent's other workers as those of an older version.
        digest = hashlib.sha256(schema.encode()).hexdigest()[:8] if schema else ""
        variant = ", ".join(filter(None, (digest and f"schema {digest}", changes)))
        spec = AgentSpec(
            key=place.key(agent.name, variant),
            version=f"{agent.fingerprint} {launch.profile}",
            profile=launch.profile,
        )
        self._keep(spec, agent, launch, schema)
        return spec

    def _keep(self, spec: AgentSpec, agent: Agent, launch: LaunchConfig, schema: str) -> None:
        # Removed first: a definition that was edited back must count as the newest version again.
        self._known.pop(spec, None)
        self._known[spec] = agent, replace(launch, schema=schema) if schema else launch
        # Without the schema: a spare gets one when it becomes an agent.
        self._blank.pop(spec.profile, None)
        self._blank[spec.profile] = launch
        self._forget_old_versions(spec)

    def _forget_old_versions(self, spec: AgentSpec) -> None:
        in_use = self._in_use()
        # A dictionary keeps its order, so the oldest versions come first.
        unused = [known for known in self._known if known not in in_use]
        versions = [known for known in unused if known.key == spec.key]
        variants = [known for known in unused if known.key.variant]
        for known in {*versions[:-KEPT_VERSIONS], *variants[: -self._kept_variants]}:
            del self._known[known]
        # A spare has the profile of the latest request, or of one that was the latest a moment ago.
        for profile in list(self._blank)[: -self._kept_variants]:
            del self._blank[profile]

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
