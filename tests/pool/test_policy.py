from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_pool.pool.actions import AgentRef, Reason, WorkerState
from agent_pool.pool.policy import (
    BACKOFF,
    Limits,
    Record,
    backoff,
    has_idled_out,
    retire_reason,
    shortened,
)

SHARES = st.floats(0, 1)


def record(**fields: object) -> Record:
    values: dict[str, object] = {
        "name": "w",
        "number": 1,
        "ref": AgentRef("a", "1", "f"),
        "flags": "f",
        "state": WorkerState.IDLE,
        "born": 0.0,
        "task_limit": 10,
        "expires": 100.0,
        "since": 50.0,
        **fields,
    }
    return Record(**values)  # type: ignore[arg-type]


def test_a_worker_within_all_its_limits_is_kept() -> None:
    kept = record(tasks=9, rss=500)
    assert retire_reason(kept, Limits(max_rss=500), now=99.9) is None


def test_without_limits_a_worker_is_kept_for_ever() -> None:
    old = record(tasks=10**6, rss=10**12, task_limit=math.inf, expires=math.inf)
    assert retire_reason(old, Limits(), now=1e9) is None


@pytest.mark.parametrize(
    ("fields", "now", "reason"),
    [
        ({"tasks": 10}, 0.0, Reason.MAX_TASKS),
        ({"tasks": 11}, 0.0, Reason.MAX_TASKS),
        ({}, 100.0, Reason.MAX_LIFETIME),
        ({"rss": 501}, 0.0, Reason.MAX_RSS),
    ],
)
def test_a_worker_at_a_limit_is_to_be_replaced(
    fields: dict[str, object], now: float, reason: Reason
) -> None:
    assert retire_reason(record(**fields), Limits(max_rss=500), now) is reason


@pytest.mark.parametrize(("now", "is_out"), [(59.9, False), (60.0, True), (1000.0, True)])
def test_a_worker_idles_out_after_max_idle(now: float, is_out: bool) -> None:
    assert has_idled_out(record(since=50.0), Limits(max_idle=10.0), now) is is_out


def test_without_max_idle_no_worker_idles_out() -> None:
    assert not has_idled_out(record(), Limits(max_idle=None), now=1e9)


@given(limit=st.floats(1, 1e6), jitter=SHARES, chance=SHARES)
def test_jitter_shortens_a_limit_by_no_more_than_its_share(
    limit: float, jitter: float, chance: float
) -> None:
    assert limit * (1 - jitter) * (1 - 1e-9) <= shortened(limit, jitter, chance) <= limit


def test_jitter_spreads_a_limit_by_chance() -> None:
    assert [shortened(200, 0.1, chance) for chance in (0.0, 0.5, 1.0)] == [200, 190, 180]


def test_no_limit_stays_no_limit() -> None:
    assert shortened(None, 0.5, 1.0) == math.inf


def test_the_wait_after_failed_starts_doubles_up_to_a_bound() -> None:
    assert [backoff(failures) for failures in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(10_000) == BACKOFF[1]


def test_a_spare_belongs_to_no_agent() -> None:
    assert (record(ref=None).agent, record().agent) == ("", "a")
