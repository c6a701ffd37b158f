from __future__ import annotations

from collections.abc import Callable

import pytest

from support.pool_harness import PoolHarness
from support.usage_totals import UsageTotals


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    """Open a pool in which each test has an agent, and so a worker, of its own."""
    return open_harness(reset="clear", max_workers=4, max_size=1, acquire_timeout=30)


@pytest.fixture(scope="module")
def totals(harness: PoolHarness) -> UsageTotals:
    """Return the totals that the API has billed to that pool."""
    return UsageTotals(harness)


@pytest.fixture
def agent(harness: PoolHarness) -> str:
    """Define an agent without any task yet; return its name."""
    name = harness.word("agent")
    # A number of turns of its own: its worker serves no other agent.
    turns = 100 + int(name.rpartition("-")[2].rstrip("x"))
    harness.project.agent(name, description="Tests.", maxTurns=str(turns))
    return name
