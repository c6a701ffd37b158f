from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.pool_harness import PoolHarness


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    """Open a pool for many agents; other tests check that its resets forget."""
    harness = open_harness(reset="clear", max_workers=3, max_size=1, acquire_timeout=30)
    harness.project.trust()
    return harness


@pytest.fixture
def define(harness: PoolHarness) -> Callable[..., str]:
    """Define an agent of the test's own in the harness; return its name."""

    def define(body: str = "You test.", **fields: Any) -> str:
        name = harness.word("agent")
        harness.project.agent(name, body, description="Tests.", **fields)
        return name

    return define
