from __future__ import annotations

from collections.abc import Callable

import pytest

from support.pool_harness import PoolHarness
from support.usage_totals import UsageTotals


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    """Open a pool in which each test has an agent of its own; they share its workers."""
    return open_harness(reset="clear", max_workers=4, max_size=1, acquire_timeout=30)


@pytest.fixture(scope="module")
def totals(harness: PoolHarness) -> UsageTotals:
    """Return the totals that the API has billed to that pool."""
    return UsageTotals(harness)


@pytest.fixture
def agent(harness: PoolHarness) -> str:
    """Define an agent without any task yet; return its name."""
    name = harness.word("agent")
    harness.project.agent(name, description="Tests.")
    return name


@pytest.fixture
def served_alone(harness: PoolHarness, agent: str) -> str:
    """Give the agent a number of turns that no other has: its worker serves only this agent."""
    turns = 100 + int(agent.rpartition("-")[2].rstrip("x"))
    harness.project.agent(agent, description="Tests.", maxTurns=str(turns))
    return agent
