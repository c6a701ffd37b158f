"""Whether the CLI is known to forget between two tasks of each agent."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Final

from agent_pool import Agent, AgentPool, AgentPoolError, Settings, SpawnError, Verdict
from agent_pool.cli.doctor.findings import Finding

ABOUT: Final = "Reset"


async def check_resets(
    settings: Settings, *, probe: bool, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Finding]:
    """The kept verdict for each agent's options; found out anew if `probe`."""
    pool = AgentPool(settings, environ=environ)
    names = [agent.name for agent in pool.catalog.scan() if isinstance(agent, Agent)]
    agents: defaultdict[Verdict | None, list[str]] = defaultdict(list)
    for name in names:
        try:
            agents[await pool.verdict(name, refresh=probe)].append(name)
        except SpawnError:
            return  # what is wrong with the CLI has been said
        except AgentPoolError as error:
            yield Finding(ABOUT, "wrong", f"{name}: {error}")
    for verdict, known in agents.items():
        yield _finding(verdict, ", ".join(known))


def _finding(verdict: Verdict | None, names: str) -> Finding:
    if verdict is None:
        said = f"not yet known for {names}; found out at the first task, or by --probe"
        return Finding(ABOUT, "note", said)
    if verdict.forgets:
        return Finding(ABOUT, "ok", f"{verdict.why}: workers of {names} are used again")
    said = f"{verdict.why}: each task of {names} gets a process of its own"
    return Finding(ABOUT, "warning", said, "update Claude Code")
