from __future__ import annotations

from typing import Any

import pytest

from agent_pool.pool.scheduler import (
    Assign,
    Grant,
    Refuse,
    RetireReason,
    Spawn,
    Stop,
    TicketState,
    WorkerState,
)
from agent_pool.pool.scheduler.scheduler import BACKOFF, START_ATTEMPTS
from support.scheduler_driver import A2, LONG, A, B, C, SchedulerDriver

# Workers that must not serve again


@pytest.mark.parametrize("reason", [RetireReason.DIED, RetireReason.TAINTED])
def test_an_idle_worker_that_became_unfit_is_stopped(reason: RetireReason) -> None:
    pool = SchedulerDriver()
    name = pool.idle()
    assert pool.tell("mark_unfit", name, reason) == [Stop(name, reason)]


def test_an_unfit_leased_worker_is_stopped_when_given_back() -> None:
    pool = SchedulerDriver()
    name = pool.leased()
    assert pool.tell("mark_unfit", name, RetireReason.DIED) == []
    assert pool.tell("release", name) == [Stop(name, RetireReason.DIED)]


def test_an_unfit_worker_is_stopped_even_if_it_was_unused() -> None:
    pool = SchedulerDriver()
    name = pool.leased()
    pool.tell("mark_unfit", name, RetireReason.DIED)
    assert pool.tell("return_unused", name) == [Stop(name, RetireReason.DIED)]


def test_a_worker_that_became_unfit_in_its_reset_is_stopped() -> None:
    pool = SchedulerDriver()
    name = pool.leased()
    pool.tell("release", name)
    pool.tell("mark_unfit", name, RetireReason.TAINTED)
    assert pool.tell("reset_finished", name, True) == [Stop(name, RetireReason.TAINTED)]


def test_a_caller_waiting_for_a_dead_worker_gets_another() -> None:
    pool = SchedulerDriver(max_size=1)
    name = pool.leased()
    ticket = pool.request()
    pool.tell("mark_unfit", name, RetireReason.DIED)
    stop, spawn = pool.tell("release", name)
    assert stop == Stop(name, RetireReason.DIED)
    assert isinstance(spawn, Spawn)
    assert pool.tell("started", spawn.worker) == [Grant(ticket, spawn.worker)]


def test_a_worker_that_stopped_makes_room_for_a_waiting_caller() -> None:
    pool = SchedulerDriver(max_workers=1)
    name = pool.leased()
    pool.request()
    assert pool.tell("stop", name, RetireReason.MAX_RSS) == [Stop(name, RetireReason.MAX_RSS)]
    assert isinstance(pool.tell("removed", name)[0], Spawn)


@pytest.mark.parametrize(
    "late",
    [("started",), ("start_failed", True), ("reset_finished", True), ("release",), ("stop", "x")],
)
def test_late_events_of_stopping_or_removed_workers_are_ignored(
    late: tuple[Any, ...],
) -> None:
    pool = SchedulerDriver()
    name = pool.leased()
    pool.tell("stop", name, RetireReason.ASKED)
    stimulus, *args = late
    assert pool.tell(stimulus, name, *args) == []
    assert pool.state(name) is WorkerState.STOPPING
    pool.tell("removed", name)
    assert pool.tell(stimulus, name, *args) == []
    assert pool.scheduler.workers == {}


# Edited definitions


def test_workers_of_an_edited_agent_are_replaced_and_not_granted() -> None:
    pool = SchedulerDriver()
    old = pool.idle(A)
    ticket = pool.request(A2)
    stop, spawn = pool.actions
    assert stop == Stop(old, RetireReason.EDITED)
    assert isinstance(spawn, Spawn)
    assert spawn.spec == A2
    assert pool.tell("started", spawn.worker) == [Grant(ticket, spawn.worker)]


def test_a_leased_worker_of_an_edited_agent_stops_after_release() -> None:
    pool = SchedulerDriver()
    old = pool.leased(A)
    pool.request(A2)
    assert pool.tell("release", old)[0] == Stop(old, RetireReason.EDITED)


def test_an_agent_edited_during_a_start_gets_a_new_worker() -> None:
    pool = SchedulerDriver(max_size=1)
    pool.request(A)
    pool.request(A2)
    stop, spawn = pool.tell("started", "worker-1")
    assert stop == Stop("worker-1", RetireReason.EDITED)
    assert isinstance(spawn, Spawn)
    assert spawn.spec == A2


# Starts that fail


def test_a_failed_start_is_tried_again_after_a_backoff() -> None:
    pool = SchedulerDriver()
    ticket = pool.request()
    assert pool.tell("start_failed", "worker-1", False) == [
        Stop("worker-1", RetireReason.START_FAILED)
    ]
    assert pool.tick(BACKOFF[0] - 0.1) == []
    [spawn] = pool.tick(0.1)
    assert isinstance(spawn, Spawn)
    assert pool.tell("started", spawn.worker) == [Grant(ticket, spawn.worker)]


def test_waiting_callers_are_refused_after_repeated_failed_starts() -> None:
    pool = SchedulerDriver(max_size=1)
    tickets = [pool.request(), pool.request()]
    other = pool.request(B)
    for _ in range(START_ATTEMPTS - 1):
        name = next(n for n, r in pool.scheduler.workers.items() if r.key == A.key)
        pool.tell("start_failed", name, False)
        pool.tell("removed", name)
        pool.tick(LONG)
    name = next(n for n, r in pool.scheduler.workers.items() if r.key == A.key)
    pool.tell("start_failed", name, False)
    assert pool.actions[1:] == [Refuse(ticket, RetireReason.START_FAILED) for ticket in tickets]
    assert [ticket.state for ticket in tickets] == [TicketState.REFUSED] * 2
    assert other.state is TicketState.WAITING


def test_a_failed_extra_start_does_not_refuse_the_waiting_caller() -> None:
    pool = SchedulerDriver(max_size=2)
    first = pool.leased()
    waiting = pool.request()
    pool.tell("start_failed", pool.spawned(), True)
    assert waiting.state is TicketState.WAITING
    pool.use(first)
    assert (waiting.state, waiting.worker) == (TicketState.GRANTED, first)


def test_a_retiring_worker_keeps_serving_if_its_replacement_fails() -> None:
    pool = SchedulerDriver(max_size=1, max_tasks=1)
    first = pool.leased()
    pool.tell("release", first)
    replacement = pool.spawned()
    waiting = pool.request()
    pool.tell("start_failed", replacement, True)
    assert waiting.state is TicketState.WAITING
    pool.tell("reset_finished", first, True)
    assert (waiting.state, waiting.worker) == (TicketState.GRANTED, first)


def test_an_outdated_worker_does_not_keep_a_caller_waiting() -> None:
    pool = SchedulerDriver(max_size=2)
    pool.leased()
    waiting = pool.request(A2)
    pool.tell("start_failed", pool.spawned(), True)
    assert waiting.state is TicketState.REFUSED


def test_a_start_that_cannot_succeed_refuses_callers_at_once() -> None:
    pool = SchedulerDriver()
    ticket = pool.request()
    pool.tell("start_failed", "worker-1", True)
    assert pool.actions == [
        Stop("worker-1", RetireReason.START_FAILED),
        Refuse(ticket, RetireReason.START_FAILED),
    ]


def test_a_refusal_does_not_affect_later_callers() -> None:
    pool = SchedulerDriver()
    pool.request()
    pool.tell("start_failed", "worker-1", True)
    pool.now += LONG
    ticket = pool.request()
    assert pool.tell("started", pool.spawned()) == [Grant(ticket, "worker-2")]


def test_a_successful_start_ends_the_backoff_after_failures() -> None:
    pool = SchedulerDriver(max_size=3)
    pool.request()
    pool.tell("start_failed", "worker-1", False)
    pool.tick(LONG)
    pool.tell("started", "worker-2")
    pool.request()
    assert isinstance(pool.actions[0], Spawn)


def test_failed_starts_of_one_agent_do_not_delay_another() -> None:
    pool = SchedulerDriver()
    pool.request(A)
    pool.tell("start_failed", "worker-1", False)
    pool.request(B)
    assert isinstance(pool.actions[0], Spawn)


def test_an_agent_that_cannot_start_is_no_longer_kept_warm() -> None:
    pool = SchedulerDriver()
    pool.tell("keep_warm", A, 1)
    pool.tell("start_failed", "worker-1", True)
    pool.tell("removed", "worker-1")
    assert pool.tick(LONG) == []


# Spares


def test_spares_start_with_the_flags_of_the_latest_request() -> None:
    pool = SchedulerDriver(spares=2)
    pool.request(A)
    assert pool.actions == [
        Spawn("worker-1", A, "f"),
        Spawn("worker-2", None, "f"),
        Spawn("worker-3", None, "f"),
    ]


def test_no_spare_starts_before_a_request_or_without_room() -> None:
    assert SchedulerDriver(spares=2).tick() == []
    pool = SchedulerDriver(spares=2, max_workers=1)
    pool.request(A)
    assert pool.actions == [Spawn("worker-1", A, "f")]


def test_a_parked_spare_is_adopted_for_the_requested_agent() -> None:
    pool = SchedulerDriver(spares=1)
    pool.request(A)
    pool.tell("started", "worker-2")
    ticket = pool.request(B)
    assert pool.actions == [Assign("worker-2", B), Spawn("worker-3", None, "f")]
    assert pool.tell("started", "worker-2") == [Grant(ticket, "worker-2")]


def test_a_spare_with_other_flags_is_not_adopted() -> None:
    pool = SchedulerDriver(spares=1)
    pool.request(A)
    pool.tell("started", "worker-2")
    pool.request(C)
    assert pool.actions == [Spawn("worker-3", C, "g")]


def test_a_spare_that_is_not_parked_yet_is_not_adopted() -> None:
    pool = SchedulerDriver(spares=1)
    pool.request(A)
    pool.request(B)
    assert pool.actions == [Spawn("worker-3", B, "f")]


def test_a_spare_that_failed_to_start_is_not_retried() -> None:
    pool = SchedulerDriver(spares=1)
    pool.request(A)
    assert pool.tell("start_failed", "worker-2", False) == [
        Stop("worker-2", RetireReason.START_FAILED)
    ]
    pool.tell("removed", "worker-2")
    assert pool.tick(LONG) == []


def test_a_spare_that_died_is_not_replaced_at_once() -> None:
    pool = SchedulerDriver(spares=1)
    pool.request(A)
    pool.settle()
    assert pool.tell("mark_unfit", "worker-2", RetireReason.DIED) == [
        Stop("worker-2", RetireReason.DIED)
    ]
    assert pool.tell("removed", "worker-2") == []


def test_a_spare_past_max_idle_stops_and_is_not_replaced() -> None:
    pool = SchedulerDriver(spares=1, max_idle=10)
    pool.request(A)
    pool.tell("started", "worker-1")
    pool.tell("started", "worker-2")
    assert pool.tick(10) == [Stop("worker-2", RetireReason.MAX_IDLE)]
    assert pool.tell("removed", "worker-2") == []


# Warm


def test_warm_starts_workers_without_a_request_up_to_max_size() -> None:
    pool = SchedulerDriver(max_size=2)
    assert pool.tell("keep_warm", A, 5) == [Spawn("worker-1", A, "f"), Spawn("worker-2", A, "f")]


def test_a_worker_kept_warm_stays_and_is_replaced_on_death() -> None:
    pool = SchedulerDriver(max_idle=10)
    pool.tell("keep_warm", A, 1)
    pool.tell("started", "worker-1")
    assert pool.tick(100) == []
    stop, spawn = pool.tell("mark_unfit", "worker-1", RetireReason.DIED)
    assert stop == Stop("worker-1", RetireReason.DIED)
    assert isinstance(spawn, Spawn)


def test_an_idle_worker_is_stopped_after_max_idle() -> None:
    pool = SchedulerDriver(max_idle=10)
    name = pool.idle()
    assert pool.tick(9.9) == []
    assert pool.tick(0.1) == [Stop(name, RetireReason.MAX_IDLE)]


# Memory


def test_a_busy_worker_over_max_rss_hard_is_stopped() -> None:
    pool = SchedulerDriver(max_rss_hard=100)
    name, other = pool.leased(), pool.leased()
    assert pool.tell("memory_measured", {name: 101, other: 100}) == [
        Stop(name, RetireReason.MAX_RSS)
    ]


def test_callers_of_an_agent_too_large_at_start_are_refused() -> None:
    pool = SchedulerDriver(max_rss_hard=100, max_size=1)
    pool.tell("keep_warm", A, 1)
    ticket, other = pool.request(A), pool.request(B)
    pool.tell("memory_measured", {"worker-1": 101})
    assert pool.actions == [
        Stop("worker-1", RetireReason.MAX_RSS),
        Refuse(ticket, RetireReason.MAX_RSS),
    ]
    assert other.state is TicketState.WAITING
    assert pool.tell("removed", "worker-1") == []


def test_a_too_large_extra_worker_does_not_refuse_the_caller() -> None:
    pool = SchedulerDriver(max_rss_hard=100, max_size=2)
    first = pool.leased()
    waiting = pool.request()
    second = pool.spawned()
    assert pool.tell("memory_measured", {second: 101}) == [Stop(second, RetireReason.MAX_RSS)]
    assert pool.tell("removed", second) == []
    pool.use(first)
    assert (waiting.state, waiting.worker) == (TicketState.GRANTED, first)


def test_a_caller_gets_another_worker_if_one_grew_too_large() -> None:
    pool = SchedulerDriver(max_rss_hard=100, max_size=1)
    name = pool.leased()
    ticket = pool.request()
    stop, spawn = pool.tell("memory_measured", {name: 101})
    assert stop == Stop(name, RetireReason.MAX_RSS)
    assert isinstance(spawn, Spawn)
    assert pool.tell("started", spawn.worker) == [Grant(ticket, spawn.worker)]


def test_idle_workers_are_stopped_while_total_memory_is_too_high() -> None:
    pool = SchedulerDriver(max_total_rss=100)
    first, second, busy = pool.leased(), pool.leased(), pool.leased()
    pool.use(first)
    pool.now = 1.0
    pool.use(second)
    pool.tell("memory_measured", {first: 40, second: 40, busy: 40})
    assert pool.actions == [Stop(first, RetireReason.MAX_TOTAL_RSS)]


def test_no_worker_starts_while_total_memory_is_too_high() -> None:
    pool = SchedulerDriver(max_total_rss=100, max_size=2)
    name = pool.leased()
    pool.tell("memory_measured", {name: 100})
    pool.request()
    assert pool.actions == []
    [spawn] = pool.tell("memory_measured", {name: 99})
    assert isinstance(spawn, Spawn)


def test_one_worker_can_start_even_with_a_tiny_memory_limit() -> None:
    pool = SchedulerDriver(max_total_rss=1)
    pool.request()
    assert pool.spawned() == "worker-1"


def test_a_worker_too_large_before_its_first_task_is_kept() -> None:
    pool = SchedulerDriver(max_rss=100)
    name = pool.idle()
    assert pool.tell("memory_measured", {name: 101}) == []
    assert pool.request().worker == name


def test_spares_stop_first_while_total_memory_is_too_high() -> None:
    pool = SchedulerDriver(max_total_rss=100, spares=1)
    name = pool.idle()
    pool.now = 1.0
    pool.settle()
    pool.tell("memory_measured", {name: 60, "worker-2": 60})
    assert pool.actions == [Stop("worker-2", RetireReason.MAX_TOTAL_RSS)]


def test_no_worker_is_kept_ready_without_memory_for_one_more() -> None:
    pool = SchedulerDriver(max_total_rss=100, max_size=2)
    name = pool.leased()
    pool.tell("memory_measured", {name: 50})
    assert pool.tell("keep_warm", A, 2) == []
    [spawn] = pool.tell("memory_measured", {name: 49})
    assert isinstance(spawn, Spawn)


def test_the_memory_of_an_unknown_worker_is_ignored() -> None:
    assert SchedulerDriver().tell("memory_measured", {"worker-9": 10**12}) == []
