from __future__ import annotations

from typing import Any

import pytest

from agent_pool.pool.actions import (
    Adopt,
    Grant,
    Reason,
    Refuse,
    Spawn,
    Stop,
    TicketState,
    WorkerState,
)
from agent_pool.pool.policy import BACKOFF, START_ATTEMPTS
from pool.core_pool import A2, LONG, A, B, C, Pool

# Workers that must not serve again


@pytest.mark.parametrize("reason", [Reason.DIED, Reason.TAINTED])
def test_an_idle_worker_that_became_unfit_is_stopped(reason: Reason) -> None:
    pool = Pool()
    name = pool.idle()
    assert pool.tell("unfit", name, reason) == [Stop(name, reason)]


def test_a_leased_worker_that_became_unfit_is_stopped_when_it_is_given_back() -> None:
    pool = Pool()
    name = pool.leased()
    assert pool.tell("unfit", name, Reason.DIED) == []
    assert pool.tell("release", name) == [Stop(name, Reason.DIED)]


def test_an_unfit_worker_is_not_made_fit_by_leaving_it_unused() -> None:
    pool = Pool()
    name = pool.leased()
    pool.tell("unfit", name, Reason.DIED)
    assert pool.tell("unused", name) == [Stop(name, Reason.DIED)]


def test_a_worker_that_became_unfit_in_its_reset_is_stopped() -> None:
    pool = Pool()
    name = pool.leased()
    pool.tell("release", name)
    pool.tell("unfit", name, Reason.TAINTED)
    assert pool.tell("was_reset", name, True) == [Stop(name, Reason.TAINTED)]


def test_who_waits_for_a_worker_that_died_gets_another() -> None:
    pool = Pool(max_size=1)
    name = pool.leased()
    ticket = pool.request()
    pool.tell("unfit", name, Reason.DIED)
    stop, spawn = pool.tell("release", name)
    assert stop == Stop(name, Reason.DIED)
    assert isinstance(spawn, Spawn)
    assert pool.tell("started", spawn.worker) == [Grant(ticket, spawn.worker)]


def test_a_stopped_worker_makes_room_for_who_waits_when_it_is_gone() -> None:
    pool = Pool(max_workers=1)
    name = pool.leased()
    pool.request()
    assert pool.tell("stop", name, Reason.MAX_RSS) == [Stop(name, Reason.MAX_RSS)]
    assert isinstance(pool.tell("gone", name)[0], Spawn)


@pytest.mark.parametrize(
    "late", [("started",), ("start_failed", True), ("was_reset", True), ("release",), ("stop", "x")]
)
def test_what_is_heard_of_a_stopping_or_forgotten_worker_changes_nothing(
    late: tuple[Any, ...],
) -> None:
    pool = Pool()
    name = pool.leased()
    pool.tell("stop", name, Reason.ASKED)
    stimulus, *args = late
    assert pool.tell(stimulus, name, *args) == []
    assert pool.state(name) is WorkerState.STOPPING
    pool.tell("gone", name)
    assert pool.tell(stimulus, name, *args) == []
    assert pool.core.workers == {}


# Edited definitions


def test_workers_of_an_edited_agent_are_replaced_and_not_granted() -> None:
    pool = Pool()
    old = pool.idle(A)
    ticket = pool.request(A2)
    stop, spawn = pool.actions
    assert stop == Stop(old, Reason.EDITED)
    assert isinstance(spawn, Spawn)
    assert spawn.ref == A2
    assert pool.tell("started", spawn.worker) == [Grant(ticket, spawn.worker)]


def test_a_leased_worker_of_an_edited_agent_goes_when_it_is_given_back() -> None:
    pool = Pool()
    old = pool.leased(A)
    pool.request(A2)
    assert pool.tell("release", old)[0] == Stop(old, Reason.EDITED)


def test_a_worker_whose_agent_was_edited_while_it_started_is_not_granted() -> None:
    pool = Pool(max_size=1)
    pool.request(A)
    pool.request(A2)
    stop, spawn = pool.tell("started", "worker-1")
    assert stop == Stop("worker-1", Reason.EDITED)
    assert isinstance(spawn, Spawn)
    assert spawn.ref == A2


# Starts that fail


def test_a_failed_start_is_tried_again_after_a_while() -> None:
    pool = Pool()
    ticket = pool.request()
    assert pool.tell("start_failed", "worker-1", False) == [Stop("worker-1", Reason.START_FAILED)]
    assert pool.tick(BACKOFF[0] - 0.1) == []
    [spawn] = pool.tick(0.1)
    assert isinstance(spawn, Spawn)
    assert pool.tell("started", spawn.worker) == [Grant(ticket, spawn.worker)]


def test_starts_that_keep_failing_are_told_to_who_waits() -> None:
    pool = Pool(max_size=1)
    tickets = [pool.request(), pool.request()]
    other = pool.request(B)
    for _ in range(START_ATTEMPTS - 1):
        name = next(n for n, r in pool.core.workers.items() if r.agent == "a")
        pool.tell("start_failed", name, False)
        pool.tell("gone", name)
        pool.tick(LONG)
    name = next(n for n, r in pool.core.workers.items() if r.agent == "a")
    pool.tell("start_failed", name, False)
    assert pool.actions[1:] == [Refuse(ticket, Reason.START_FAILED) for ticket in tickets]
    assert [ticket.state for ticket in tickets] == [TicketState.REFUSED] * 2
    assert other.state is TicketState.WAITING


def test_who_waits_for_an_agent_that_has_a_worker_waits_on_when_another_cannot_be_started() -> None:
    pool = Pool(max_size=2)
    first = pool.leased()
    waiting = pool.request()
    pool.tell("start_failed", pool.spawned(), True)
    assert waiting.state is TicketState.WAITING
    pool.use(first)
    assert (waiting.state, waiting.worker) == (TicketState.GRANTED, first)


def test_a_worker_that_is_to_be_replaced_serves_who_waits_when_its_replacement_fails() -> None:
    pool = Pool(max_size=1, max_tasks=1)
    first = pool.leased()
    pool.tell("release", first)
    replacement = pool.spawned()
    waiting = pool.request()
    pool.tell("start_failed", replacement, True)
    assert waiting.state is TicketState.WAITING
    pool.tell("was_reset", first, True)
    assert (waiting.state, waiting.worker) == (TicketState.GRANTED, first)


def test_a_worker_of_an_older_edition_is_no_reason_to_wait_on() -> None:
    pool = Pool(max_size=2)
    pool.leased()
    waiting = pool.request(A2)
    pool.tell("start_failed", pool.spawned(), True)
    assert waiting.state is TicketState.REFUSED


def test_a_start_that_can_never_succeed_is_told_at_once() -> None:
    pool = Pool()
    ticket = pool.request()
    pool.tell("start_failed", "worker-1", True)
    assert pool.actions == [
        Stop("worker-1", Reason.START_FAILED),
        Refuse(ticket, Reason.START_FAILED),
    ]


def test_a_refusal_does_not_hold_for_callers_to_come() -> None:
    pool = Pool()
    pool.request()
    pool.tell("start_failed", "worker-1", True)
    pool.now += LONG
    ticket = pool.request()
    assert pool.tell("started", pool.spawned()) == [Grant(ticket, "worker-2")]


def test_a_start_that_succeeds_ends_the_waiting_after_failures() -> None:
    pool = Pool(max_size=3)
    pool.request()
    pool.tell("start_failed", "worker-1", False)
    pool.tick(LONG)
    pool.tell("started", "worker-2")
    pool.request()
    assert isinstance(pool.actions[0], Spawn)


def test_failures_of_one_agent_do_not_hold_up_another() -> None:
    pool = Pool()
    pool.request(A)
    pool.tell("start_failed", "worker-1", False)
    pool.request(B)
    assert isinstance(pool.actions[0], Spawn)


def test_an_agent_that_cannot_start_is_kept_warm_no_longer() -> None:
    pool = Pool()
    pool.tell("warm", A, 1)
    pool.tell("start_failed", "worker-1", True)
    pool.tell("gone", "worker-1")
    assert pool.tick(LONG) == []


# Spares


def test_spares_are_kept_with_the_flags_that_were_asked_for_last() -> None:
    pool = Pool(spares=2)
    pool.request(A)
    assert pool.actions == [
        Spawn("worker-1", A, "f"),
        Spawn("worker-2", None, "f"),
        Spawn("worker-3", None, "f"),
    ]


def test_no_spare_is_started_before_anybody_asks_or_without_room() -> None:
    assert Pool(spares=2).tick() == []
    pool = Pool(spares=2, max_workers=1)
    pool.request(A)
    assert pool.actions == [Spawn("worker-1", A, "f")]


def test_a_parked_spare_becomes_the_agent_that_is_wanted() -> None:
    pool = Pool(spares=1)
    pool.request(A)
    pool.tell("started", "worker-2")
    ticket = pool.request(B)
    assert pool.actions == [Adopt("worker-2", B), Spawn("worker-3", None, "f")]
    assert pool.tell("started", "worker-2") == [Grant(ticket, "worker-2")]


def test_a_spare_with_other_flags_is_not_adopted() -> None:
    pool = Pool(spares=1)
    pool.request(A)
    pool.tell("started", "worker-2")
    pool.request(C)
    assert pool.actions == [Spawn("worker-3", C, "g")]


def test_a_spare_that_is_not_parked_yet_is_not_adopted() -> None:
    pool = Pool(spares=1)
    pool.request(A)
    pool.request(B)
    assert pool.actions == [Spawn("worker-3", B, "f")]


def test_a_spare_that_failed_to_start_is_not_tried_again_before_it_is_wanted() -> None:
    pool = Pool(spares=1)
    pool.request(A)
    assert pool.tell("start_failed", "worker-2", False) == [Stop("worker-2", Reason.START_FAILED)]
    pool.tell("gone", "worker-2")
    assert pool.tick(LONG) == []


def test_a_spare_that_died_is_not_replaced_before_one_is_wanted() -> None:
    pool = Pool(spares=1)
    pool.request(A)
    pool.settle()
    assert pool.tell("unfit", "worker-2", Reason.DIED) == [Stop("worker-2", Reason.DIED)]
    assert pool.tell("gone", "worker-2") == []


def test_a_spare_that_nobody_needed_goes_and_no_other_takes_its_place() -> None:
    pool = Pool(spares=1, max_idle=10)
    pool.request(A)
    pool.tell("started", "worker-1")
    pool.tell("started", "worker-2")
    assert pool.tick(10) == [Stop("worker-2", Reason.MAX_IDLE)]
    assert pool.tell("gone", "worker-2") == []


# Warm


def test_as_many_workers_as_are_to_be_warm_are_started_unasked() -> None:
    pool = Pool(max_size=2)
    assert pool.tell("warm", A, 5) == [Spawn("worker-1", A, "f"), Spawn("worker-2", A, "f")]


def test_a_warm_worker_does_not_idle_out_and_is_restored_when_it_dies() -> None:
    pool = Pool(max_idle=10)
    pool.tell("warm", A, 1)
    pool.tell("started", "worker-1")
    assert pool.tick(100) == []
    stop, spawn = pool.tell("unfit", "worker-1", Reason.DIED)
    assert stop == Stop("worker-1", Reason.DIED)
    assert isinstance(spawn, Spawn)


def test_an_idle_worker_goes_after_max_idle() -> None:
    pool = Pool(max_idle=10)
    name = pool.idle()
    assert pool.tick(9.9) == []
    assert pool.tick(0.1) == [Stop(name, Reason.MAX_IDLE)]


# Memory


def test_a_worker_over_the_hard_limit_is_stopped_in_its_task() -> None:
    pool = Pool(max_rss_hard=100)
    name, other = pool.leased(), pool.leased()
    assert pool.tell("sampled", {name: 101, other: 100}) == [Stop(name, Reason.MAX_RSS)]


def test_who_waits_for_an_agent_that_is_too_large_from_the_start_is_told() -> None:
    pool = Pool(max_rss_hard=100, max_size=1)
    pool.tell("warm", A, 1)
    ticket, other = pool.request(A), pool.request(B)
    pool.tell("sampled", {"worker-1": 101})
    assert pool.actions == [Stop("worker-1", Reason.MAX_RSS), Refuse(ticket, Reason.MAX_RSS)]
    assert other.state is TicketState.WAITING
    assert pool.tell("gone", "worker-1") == []


def test_who_waits_is_served_by_the_worker_there_is_when_another_would_be_too_large() -> None:
    pool = Pool(max_rss_hard=100, max_size=2)
    first = pool.leased()
    waiting = pool.request()
    second = pool.spawned()
    assert pool.tell("sampled", {second: 101}) == [Stop(second, Reason.MAX_RSS)]
    assert pool.tell("gone", second) == []
    pool.use(first)
    assert (waiting.state, waiting.worker) == (TicketState.GRANTED, first)


def test_who_waits_for_an_agent_that_grew_too_large_in_a_task_gets_another_worker() -> None:
    pool = Pool(max_rss_hard=100, max_size=1)
    name = pool.leased()
    ticket = pool.request()
    stop, spawn = pool.tell("sampled", {name: 101})
    assert stop == Stop(name, Reason.MAX_RSS)
    assert isinstance(spawn, Spawn)
    assert pool.tell("started", spawn.worker) == [Grant(ticket, spawn.worker)]


def test_idle_workers_go_while_all_together_hold_too_much() -> None:
    pool = Pool(max_total_rss=100)
    first, second, busy = pool.leased(), pool.leased(), pool.leased()
    pool.use(first)
    pool.now = 1.0
    pool.use(second)
    pool.tell("sampled", {first: 40, second: 40, busy: 40})
    assert pool.actions == [Stop(first, Reason.MAX_TOTAL_RSS)]


def test_nothing_is_started_while_all_together_hold_too_much() -> None:
    pool = Pool(max_total_rss=100, max_size=2)
    name = pool.leased()
    pool.tell("sampled", {name: 100})
    pool.request()
    assert pool.actions == []
    [spawn] = pool.tell("sampled", {name: 99})
    assert isinstance(spawn, Spawn)


def test_one_worker_may_be_started_however_little_memory_is_allowed() -> None:
    pool = Pool(max_total_rss=1)
    pool.request()
    assert pool.spawned() == "worker-1"


def test_a_new_worker_that_is_too_large_is_not_replaced_by_another_as_large() -> None:
    pool = Pool(max_rss=100)
    name = pool.idle()
    assert pool.tell("sampled", {name: 101}) == []
    assert pool.request().worker == name


def test_spares_go_first_when_all_together_hold_too_much() -> None:
    pool = Pool(max_total_rss=100, spares=1)
    name = pool.idle()
    pool.now = 1.0
    pool.settle()
    pool.tell("sampled", {name: 60, "worker-2": 60})
    assert pool.actions == [Stop("worker-2", Reason.MAX_TOTAL_RSS)]


def test_nothing_is_kept_ready_where_memory_for_one_more_is_short() -> None:
    pool = Pool(max_total_rss=100, max_size=2)
    name = pool.leased()
    pool.tell("sampled", {name: 50})
    assert pool.tell("warm", A, 2) == []
    [spawn] = pool.tell("sampled", {name: 49})
    assert isinstance(spawn, Spawn)


def test_the_memory_of_an_unknown_worker_is_passed_over() -> None:
    assert Pool().tell("sampled", {"worker-9": 10**12}) == []
