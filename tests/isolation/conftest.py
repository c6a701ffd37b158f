from __future__ import annotations

from collections.abc import Callable

import pytest

from support.pool_harness import PoolHarness


@pytest.fixture(scope="module")
def harness(open_harness: Callable[..., PoolHarness]) -> PoolHarness:
    """Open a pool on the current CLI, with one worker for all tasks of the module."""
    return open_harness(max_size=1)
