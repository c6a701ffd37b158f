"""The check how the workers of each agent treat memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Final

from agent_pool import AgentPoolError, PoolAPI
from agent_pool.cli.doctor.findings import Finding

SUBJECT: Final = "Worker memory"
_MEANINGS: Final = {
    "lean": "Claude Code's JavaScript engine compiles nothing, and they stay small",
    "fast": "Claude Code's JavaScript engine compiles, and they grow",
}


async def check_memory(pool: PoolAPI) -> AsyncIterator[Finding]:
    """Report which agents' workers are lean and which are fast."""
    agents: defaultdict[str, list[str]] = defaultdict(list)
    for agent in (await pool.agents()).usable:
        try:
            agents[(await pool.launch_spec(agent.name)).memory].append(agent.name)
        except AgentPoolError:
            continue  # `check_cli`, `check_agents` and `check_resets` report such problems
    for memory, names in agents.items():
        message = f"workers of {', '.join(names)} are {memory}: {_MEANINGS[memory]}"
        yield Finding(SUBJECT, "note", message)
