from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.pool.scheduler import RetireReason, Stop
from agent_pool.pool.scheduler.scheduler import BACKOFF, backoff, shortened
from support.scheduler_driver import SchedulerDriver

SHARES = st.floats(0, 1)


def test_a_worker_below_all_its_limits_is_kept() -> None:
    pool = SchedulerDriver(max_tasks=10, max_lifetime=100.0, max_rss=500)
    name = pool.leased()
    pool.actions = pool.scheduler.release(name, pool.now, 9)
    pool.tell("reset_finished", name, True)
    assert pool.tell("memory_measured", {name: 500}) == []
    assert pool.tick(99.9) == []
    assert pool.scheduler.workers[name].retiring is None


def test_a_pool_without_limits_never_replaces_a_worker() -> None:
    pool = SchedulerDriver()
    name = pool.leased()
    pool.actions = pool.scheduler.release(name, pool.now, 10**6)
    pool.tell("reset_finished", name, True)
    assert pool.tell("memory_measured", {name: 10**12}) == []
    assert pool.tick(1e9) == []


@pytest.mark.parametrize(
    ("tasks", "seconds", "rss", "reason"),
    [
        (10, 0.0, 0, RetireReason.MAX_TASKS),
        (11, 0.0, 0, RetireReason.MAX_TASKS),
        (1, 100.0, 0, RetireReason.MAX_LIFETIME),
        (1, 0.0, 501, RetireReason.MAX_RSS),
    ],
)
def test_a_worker_that_reaches_a_limit_will_be_replaced(
    tasks: int, seconds: float, rss: int, reason: RetireReason
) -> None:
    pool = SchedulerDriver(max_tasks=10, max_lifetime=100.0, max_rss=500)
    name = pool.leased()
    pool.tell("memory_measured", {name: rss})
    pool.now += seconds
    pool.actions = pool.scheduler.release(name, pool.now, tasks)
    assert pool.scheduler.workers[name].retiring is reason
    assert pool.scheduler.workers[pool.spawned()].replaces == name


@pytest.mark.parametrize(("seconds", "is_out"), [(9.9, False), (10.0, True), (1000.0, True)])
def test_an_idle_worker_is_stopped_after_max_idle(seconds: float, is_out: bool) -> None:
    pool = SchedulerDriver(max_idle=10.0)
    name = pool.idle()
    expected = [Stop(name, RetireReason.MAX_IDLE)] if is_out else []
    assert pool.tick(seconds) == expected


def test_without_max_idle_an_idle_worker_is_kept() -> None:
    pool = SchedulerDriver(max_idle=None)
    pool.idle()
    assert pool.tick(1e9) == []


@given(limit=st.floats(1, 1e6), jitter=SHARES, chance=SHARES)
def test_jitter_shortens_a_limit_by_at_most_its_share(
    limit: float, jitter: float, chance: float
) -> None:
    assert limit * (1 - jitter) * (1 - 1e-9) <= shortened(limit, jitter, chance) <= limit


def test_jitter_spreads_a_limit_by_a_random_share() -> None:
    assert [shortened(200, 0.1, chance) for chance in (0.0, 0.5, 1.0)] == [200, 190, 180]


def test_jitter_leaves_a_missing_limit_missing() -> None:
    assert shortened(None, 0.5, 1.0) == math.inf


def test_the_wait_after_failed_starts_doubles_to_a_bound() -> None:
    assert [backoff(failures) for failures in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(10_000) == BACKOFF[1]
