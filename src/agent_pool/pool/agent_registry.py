"""The agents that the scheduler's specs stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from agent_pool.agents import Agent, Project, Projects
from agent_pool.claude.launch import LaunchConfig
from agent_pool.claude.protocol.role import Role
from agent_pool.claude.roles import ROLES_AHEAD
from agent_pool.claude.trust import permitted_agent
from agent_pool.errors import ConfigError, SpawnError
from agent_pool.pool.call_options import NO_OPTIONS, CallOptions
from agent_pool.pool.launch_cache import LaunchCache
from agent_pool.pool.scheduler import AgentSpec

KEPT_VERSIONS: Final = 8
"""Versions of an edited agent that are kept although no worker has them: a caller that has just
resolved its agent can still ask for one."""


@dataclass(frozen=True, slots=True)
class IsolatedFolder:
    """The folder of a single task.

    Attributes:
        path: the folder.
        slot: a number that no other task has now. It is part of the agent's key, so that tasks
            that run at once do not retire each other's workers; it is used again, so that the
            number of keys stays small.
    """

    path: Path
    slot: int

    @property
    def variant(self) -> str:
        """Return its part of the agent's key."""
        return f"worktree {self.slot}"


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
        isolated: IsolatedFolder | None = None,
    ) -> AgentSpec:
        """Return the spec of an agent as it is defined now, with the options of a call.

        Args:
            name: the agent's name, or that of its file.
            project: the project's folder; `None` for the pool's own.
            schema: the JSON schema of its answers as JSON; empty for plain text.
            options: what the call changes; workers of other options have another key.
            isolated: the folder that the worker works in, instead of the project's.

        Raises:
            AgentNotFound, ConfigError, SpawnError: see `PoolAPI.invoke`.
        """
        place = self._projects.get(project)
        while True:
            defined = place.catalog.find(name)
            agent = options.apply(defined, place.settings)
            changes = options.variant(defined, agent)
            launch = await self._launch(agent, place, options if changes else NO_OPTIONS, isolated)
            # The binary can have been asked for its version, and the file edited meanwhile. An
            # older definition must not be asked for after a newer one: its callers would get it.
            if place.catalog.find(name) == defined:
                break
        # A schema is sent with `initialize`, as the prompt is; older versions ignore the prompt
        # there.
        if schema and not launch.prompt_by_initialize:
            raise ConfigError(
                f"Claude Code {launch.version} cannot answer by a schema; update Claude Code"
            )
        if schema:
            launch = replace(launch, schema=schema)
        spec = _spec(place, agent, launch, changes, isolated)
        self._keep(spec, agent, launch)
        return spec

    async def _launch(
        self,
        agent: Agent,
        place: Project,
        options: CallOptions,
        isolated: IsolatedFolder | None,
    ) -> LaunchConfig:
        if options == NO_OPTIONS and isolated is None:
            return await self._launches.get(agent, place)
        derived = options.environment_of(place)
        if isolated is not None:
            derived = replace(derived, root=isolated.path)
        # Asked of the project itself: in another folder its agent files would pass for the user's.
        return await self._launches.get(permitted_agent(agent, place), place, derived)

    async def roles_beside(self, spec: AgentSpec) -> list[Role]:
        """Return the roles of the project's other agents that a worker of this spec can take.

        They are at most `ROLES_AHEAD`; agents that cannot be used are left out.
        """
        # Workers of a call's options serve that call again, and hardly another agent.
        if not spec.is_role or spec.key.variant:
            return []
        roles: list[Role] = []
        with suppress(ConfigError):  # the project's folder can be gone
            place = self._projects.get(spec.key.project)
            for agent in place.catalog.scan()[:ROLES_AHEAD]:
                if isinstance(agent, Agent) and agent.name != spec.key.name:
                    roles += await self._roles(agent, place, spec.profile)
        return roles

    async def _roles(self, agent: Agent, place: Project, profile: str) -> list[Role]:
        """Return the role of an agent if it has this profile."""
        try:
            launch = await self._launches.get(agent, place)
        except (ConfigError, SpawnError):  # its own tasks say why
            return []
        return [launch.role] if launch.role and launch.profile == profile else []

    def isolates(self, name: str, project: str | None, options: CallOptions) -> Project | None:
        """Return the project if a task of this agent gets a worktree; otherwise None.

        Raises:
            AgentNotFound, ConfigError: see `PoolAPI.invoke`.
        """
        place = self._projects.get(project)
        return place if options.isolates(place.catalog.find(name)) else None

    def forget_versions(self) -> None:
        """Ask the binaries for their versions again, at the next request."""
        self._launches.forget_versions()

    def forget(self, spec: AgentSpec) -> None:
        """Drop a spec that no caller can ask for again, and that no worker has."""
        self._known.pop(spec, None)

    def _keep(self, spec: AgentSpec, agent: Agent, launch: LaunchConfig) -> None:
        # Removed first: a definition that was edited back must count as the newest version again.
        self._known.pop(spec, None)
        self._known[spec] = agent, launch
        blank = _blank(launch)
        for profile, spare in (
            (spec.profile, blank),
            (spec.base, replace(blank, awaits_claim=True)),
        ):
            if profile:
                self._blank.pop(profile, None)
                self._blank[profile] = spare
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

    def specs_of(self, folder: str, agent: str) -> set[AgentSpec]:
        """Return all specs of an agent: its versions, schemas and options.

        Args:
            folder: the folder of its project, or the one that a worker of it works in.
            agent: the agent's own name.
        """
        return {
            spec
            for spec, (_, launch) in self._known.items()
            if spec.key.name == agent and folder in (spec.key.project, str(launch.cwd))
        }

    def agent(self, spec: AgentSpec | None) -> Agent | None:
        """Return the agent of a spec; `None` for a spare."""
        known = self._known.get(spec) if spec else None
        return known[0] if known else None

    def launch(self, spec: AgentSpec | None, profile: str) -> LaunchConfig:
        """Return how workers of a spec are started; without a spec, how a spare is."""
        return self._known[spec][1] if spec else self._blank[profile]


def _spec(
    place: Project,
    agent: Agent,
    launch: LaunchConfig,
    changes: str,
    isolated: IsolatedFolder | None,
) -> AgentSpec:
    """Return what the scheduler must know of an agent; `changes` are those of a call's options."""
    # The CLI takes a schema once, with `initialize`, and some options of a call at its start:
    # each of them has workers of its own. With one key for all, a call with options would
    # retire the agent's other workers as those of an older version.
    digest = hashlib.sha256(launch.schema.encode()).hexdigest()[:8] if launch.schema else ""
    folder = isolated.variant if isolated else ""
    names = (digest and f"schema {digest}", changes, folder)
    variant = ", ".join(filter(None, names))
    role = launch.role.name if launch.role else ""
    return AgentSpec(
        key=place.key(agent.name, variant),
        version=f"{agent.fingerprint} {launch.profile} {role}",
        # Without one no spare is started for it: the folder is gone when the task has ended.
        profile="" if isolated else launch.profile,
        is_role=launch.takes_roles,
        # A spare of no project can be claimed for the folder of a single task, too.
        base=launch.base_profile,
    )


def _blank(launch: LaunchConfig) -> LaunchConfig:
    """Return how a spare is started that can become an agent with this launch."""
    if launch.takes_roles:
        # `initialize` is behind such a spare, and it carries the schema.
        return replace(launch, role=None, prompt="")
    return replace(launch, schema="")
