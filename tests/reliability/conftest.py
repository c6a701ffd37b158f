from __future__ import annotations

import time

import pytest

from pool.conftest import world as world  # the same fixture: nothing may be left of any test


class Clock:
    """The pool's time: it goes on by itself and may be put forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def skip(self, seconds: float) -> None:
        """Let so much time have passed for every limit of the pool."""
        self._ahead += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that a test can put forward; and a pool that looks at it twenty times a second."""
    clock = Clock()
    monkeypatch.setattr("agent_pool.pool.supervisor._now", clock)
    monkeypatch.setattr("agent_pool.pool.supervisor.TICK", 0.05)
    return clock
