from __future__ import annotations

import pytest

from support.pool_observers import AdjustableClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> AdjustableClock:
    """Give the pool a clock that a test can move forward, and twenty ticks a second."""
    clock = AdjustableClock()
    monkeypatch.setattr("agent_pool.pool.supervisor._now", clock)
    monkeypatch.setattr("agent_pool.pool.supervisor.TICK_SECONDS", 0.05)
    return clock
