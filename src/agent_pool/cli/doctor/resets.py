"""The check whether the CLI is known to forget between two tasks of each agent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Final

from agent_pool import AgentPoolError, PoolAPI, ResetVerdict, SpawnError
from agent_pool.cli.doctor.findings import Finding

SUBJECT: Final = "Reset"


async def check_resets(pool: PoolAPI, *, probe: bool) -> AsyncIterator[Finding]:
    """Report the stored verdict on each agent's options; with `probe`, find it out again."""
    names = [agent.name for agent in (await pool.agents()).usable]
    agents: defaultdict[ResetVerdict | None, list[str]] = defaultdict(list)
    for name in names:
        try:
            agents[await pool.reset_verdict(name, refresh=probe)].append(name)
        except SpawnError:
            return  # `check_cli` has reported this problem of the CLI
        except AgentPoolError as error:
            yield Finding(SUBJECT, "wrong", f"{name}: {error}")
    for verdict, known in agents.items():
        yield _verdict_finding(verdict, ", ".join(known))


def _verdict_finding(verdict: ResetVerdict | None, names: str) -> Finding:
    if verdict is None:
        message = f"not yet known for {names}; found out at the first task, or by --probe"
        return Finding(SUBJECT, "note", message)
    if verdict.forgets:
        message = f"{verdict.reason}: workers of {names} are used again"
        return Finding(SUBJECT, "ok", message)
    message = f"{verdict.reason}: each task of {names} gets a process of its own"
    return Finding(SUBJECT, "warning", message, "update Claude Code")
