"""What the core's names for agents stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final

from agent_pool.agents import Agent
from agent_pool.claude.launch import Launch
from agent_pool.pool.actions import AgentRef

KEPT_VERSIONS: Final = 8
"""Versions of an edited agent that are kept though no worker has them: a caller may be about to
ask for one."""


class Definitions:
    """The agents and launches behind the `AgentRef` of the core."""

    def __init__(self) -> None:
        self._known: dict[AgentRef, tuple[Agent, Launch]] = {}
        self._blank: dict[str, Launch] = {}

    def add(self, agent: Agent, launch: Launch, in_use: Collection[AgentRef | None]) -> AgentRef:
        """What the core calls this agent with this launch.

        An agent that must answer by a schema has workers of its own for each schema. Old versions
        that are not `in_use` are forgotten.
        """
        schema = hashlib.sha256(launch.schema.encode()).hexdigest()[:8] if launch.schema else ""
        ref = AgentRef(
            name=f"{agent.name} schema {schema}" if schema else agent.name,
            version=f"{agent.fingerprint} {launch.fingerprint}",
            flags=launch.fingerprint,
        )
        self._known[ref] = agent, launch
        self._blank.setdefault(ref.flags, launch)
        old = [known for known in self._known if known.name == ref.name and known not in in_use]
        for known in old[:-KEPT_VERSIONS]:
            del self._known[known]
        return ref

    def refs_of(self, agent: str) -> set[AgentRef]:
        """All that stand for the agent of this name."""
        return {ref for ref, (known, _) in self._known.items() if known.name == agent}

    def agent(self, ref: AgentRef | None) -> Agent | None:
        """The agent; None for a spare."""
        known = self._known.get(ref) if ref else None
        return known[0] if known else None

    def launch(self, ref: AgentRef | None, flags: str) -> Launch:
        """How its workers are started; without a `ref`, how a spare with these flags is."""
        return self._known[ref][1] if ref else self._blank[flags]
