from __future__ import annotations

import pytest

from agent_pool.errors import TooManyRequests
from agent_pool.pool.actions import (
    Grant,
    Reason,
    Reset,
    Spawn,
    Stop,
    TicketState,
    WorkerState,
)
from pool.core_pool import A, B, C, Pool

# Serving


def test_the_first_caller_of_an_agent_waits_for_a_start_and_gets_that_worker() -> None:
    pool = Pool()
    ticket = pool.request()
    [spawn] = pool.actions
    assert spawn == Spawn("worker-1", A, "f")
    assert (ticket.state, pool.core.waiting) == (TicketState.WAITING, 1)
    assert pool.tell("started", "worker-1") == [Grant(ticket, "worker-1")]
    assert (ticket.state, ticket.worker) == (TicketState.GRANTED, "worker-1")
    assert (pool.core.waiting, pool.state("worker-1")) == (0, WorkerState.LEASED)


def test_an_idle_worker_is_granted_at_once() -> None:
    pool = Pool()
    name = pool.idle()
    ticket = pool.request()
    assert pool.actions == [Grant(ticket, name)]


def test_a_used_worker_is_granted_again_only_after_its_reset() -> None:
    pool = Pool(max_size=1)
    name = pool.leased()
    waiting = pool.request()
    assert pool.tell("release", name) == [Reset(name)]
    assert waiting.state is TicketState.WAITING
    assert pool.tell("was_reset", name, True) == [Grant(waiting, name)]


def test_a_worker_whose_reset_failed_is_stopped_and_replaced_for_who_waits() -> None:
    pool = Pool(max_size=1)
    name = pool.leased()
    pool.request()
    pool.tell("release", name)
    stop, spawn = pool.tell("was_reset", name, False)
    assert stop == Stop(name, Reason.TAINTED)
    assert isinstance(spawn, Spawn)


def test_callers_of_an_agent_are_served_first_come_first_served() -> None:
    pool = Pool(max_size=1)
    name = pool.leased()
    tickets = [pool.request() for _ in range(3)]
    assert [pool.core.position(ticket) for ticket in tickets] == [1, 2, 3]
    for ticket in tickets:
        assert pool.use(name)[0] == Grant(ticket, name)
    assert pool.core.position(tickets[0]) == 0


def test_the_worker_that_was_used_last_is_used_again_so_that_the_others_idle_out() -> None:
    pool = Pool(max_size=2)
    first, second = pool.leased(), pool.leased()
    pool.use(second)
    pool.now = 1.0
    pool.use(first)
    assert pool.leased() == first


# Limits


def test_no_more_workers_of_an_agent_than_max_size() -> None:
    pool = Pool(max_size=2, max_workers=5)
    for _ in range(4):
        pool.request()
    assert len(pool.core.workers) == 2


def test_no_more_workers_in_all_than_max_workers() -> None:
    pool = Pool(max_size=5, max_workers=3)
    for ref in (A, B, A, B, C):
        pool.request(ref)
    assert len(pool.core.workers) == 3


def test_a_stopping_worker_still_takes_room() -> None:
    pool = Pool(max_workers=1)
    name = pool.leased()
    pool.request(B)
    pool.tell("stop", name, Reason.ASKED)
    assert [type(action) for action in pool.actions] == [Stop]
    [spawn] = pool.tell("gone", name)
    assert spawn == Spawn("worker-2", B, "f")


def test_no_more_starts_at_once_than_spawn_concurrency() -> None:
    pool = Pool(max_size=4, spawn_concurrency=2)
    for _ in range(4):
        pool.request()
    assert len(pool.core.workers) == 2
    pool.tell("started", "worker-1")
    assert len(pool.core.workers) == 3


def test_one_caller_more_than_max_waiting_is_refused_and_leaves_nothing() -> None:
    pool = Pool(max_size=1, max_waiting=2)
    pool.leased()
    pool.request()
    pool.request()
    with pytest.raises(TooManyRequests, match=r"2 callers .*max_waiting.* 'a'"):
        pool.request()
    assert pool.core.waiting == 2


def test_a_caller_who_need_not_wait_is_served_although_the_queue_is_full() -> None:
    pool = Pool(max_size=1, max_waiting=1)
    name = pool.idle(B)
    pool.leased(A)
    pool.request(A)
    ticket = pool.request(B)
    assert ticket.worker == name


def test_a_worker_that_has_just_idled_out_serves_rather_than_goes() -> None:
    pool = Pool(max_size=1, max_waiting=1, max_idle=10)
    name = pool.idle(B)
    pool.leased(A)
    pool.request(A)
    pool.now = 100.0
    assert pool.request(B).worker == name


def test_a_replacement_beside_its_elder_does_not_raise_the_number_of_tasks_at_once() -> None:
    pool = Pool(max_size=1)
    elder = pool.leased()
    pool.tell("drain")
    successor = pool.spawned()
    pool.tell("started", successor)
    ticket = pool.request()
    assert (ticket.state, pool.core.waiting) == (TicketState.WAITING, 1)
    stop, grant = pool.tell("release", elder)
    assert (stop, grant) == (Stop(elder, Reason.DRAINED), Grant(ticket, successor))


# Room for others


def test_the_least_recently_used_idle_worker_makes_room_for_another_agent() -> None:
    pool = Pool(max_size=2, max_workers=2)
    first, second = pool.leased(), pool.leased()
    pool.use(first)
    pool.now = 1.0
    pool.use(second)
    pool.request(B)
    assert pool.actions == [Stop(first, Reason.ROOM)]
    [spawn] = pool.tell("gone", first)
    assert isinstance(spawn, Spawn)
    assert spawn.ref == B


def test_no_more_room_is_made_than_is_needed() -> None:
    pool = Pool(max_size=2, max_workers=2)
    names = [pool.leased(), pool.leased()]
    for name in names:
        pool.use(name)
    pool.request(B)
    assert pool.tick() == []
    assert [pool.state(name) for name in names].count(WorkerState.STOPPING) == 1


def test_an_agents_own_idle_worker_is_not_stopped_to_make_room_for_it() -> None:
    pool = Pool(max_size=2, max_workers=1)
    name = pool.idle()
    assert pool.request().worker == name
    pool.request()
    assert pool.actions == []


def test_a_spare_makes_room_before_any_agents_worker() -> None:
    pool = Pool(max_workers=2, spares=1)
    worker = pool.leased(A)
    spare = next(name for name in pool.core.workers if name != worker)
    pool.tell("started", spare)
    pool.use(worker)
    pool.request(C)
    assert pool.actions == [Stop(spare, Reason.ROOM)]


def test_a_worker_that_is_kept_warm_makes_room_only_as_the_last_one() -> None:
    pool = Pool(max_workers=2)
    pool.tell("warm", A, 1)
    warm = pool.spawned()
    pool.tell("started", warm)
    pool.now = 1.0
    other = pool.idle(B)
    pool.request(C)
    assert pool.actions == [Stop(other, Reason.ROOM)]
    pool.tell("gone", other)
    pool.tell("started", pool.spawned())
    pool.request(B)
    assert pool.actions == [Stop(warm, Reason.ROOM)]


# Fairness between agents


def test_an_agent_without_any_worker_is_started_before_one_that_has_some() -> None:
    pool = Pool(max_size=3, max_workers=3, spawn_concurrency=1)
    pool.request(A)
    pool.request(A)
    pool.request(B)
    [_, spawn] = pool.tell("started", "worker-1")
    assert isinstance(spawn, Spawn)
    assert spawn.ref == B


def test_a_busy_agent_yields_to_one_that_waits_longer_and_has_no_worker() -> None:
    pool = Pool(max_workers=1)
    name = pool.leased(A)
    other = pool.request(B)
    pool.request(A)
    assert pool.tell("release", name) == [Stop(name, Reason.ROOM)]
    pool.tell("gone", name)
    assert pool.tell("started", pool.spawned()) == [Grant(other, "worker-2")]


def test_a_busy_agent_whose_own_caller_waits_longer_keeps_its_worker() -> None:
    pool = Pool(max_workers=1)
    name = pool.leased(A)
    own = pool.request(A)
    pool.request(B)
    assert pool.use(name)[0] == Grant(own, name)


def test_a_busy_agent_does_not_yield_where_idle_workers_make_the_room() -> None:
    pool = Pool(max_workers=2)
    idle = pool.idle(C)
    name = pool.leased(A)
    pool.request(B)
    assert pool.actions == [Stop(idle, Reason.ROOM)]
    assert pool.tell("release", name) == [Reset(name)]


def test_two_agents_that_share_one_place_take_turns() -> None:
    pool = Pool(max_workers=1)
    tickets = [pool.request(ref) for ref in (A, A, B, A, B)]
    served = []
    for _ in tickets:
        pool.settle()
        [name] = pool.all_leased()
        served.append(
            next(t.number for t in tickets if t.worker == name and t.number not in served)
        )
        pool.tell("release", name)
    assert served == [1, 2, 3, 4, 5]


# Leaving


def test_a_caller_who_leaves_the_queue_is_not_served() -> None:
    pool = Pool()
    first, second = pool.request(), pool.request()
    assert pool.tell("abandon", first) == []
    assert pool.tell("started", "worker-1") == [Grant(second, "worker-1")]
    assert first.state is TicketState.GONE


def test_a_caller_who_leaves_after_the_grant_gives_the_worker_to_the_next() -> None:
    pool = Pool(max_size=1)
    first, second = pool.request(), pool.request()
    pool.tell("started", "worker-1")
    assert pool.tell("abandon", first) == [Grant(second, "worker-1")]


@pytest.mark.parametrize("way", ["abandon", "unused"])
def test_a_worker_that_was_told_nothing_needs_no_reset(way: str) -> None:
    pool = Pool()
    ticket = pool.leased_ticket()
    name = ticket.worker
    assert pool.tell(way, ticket if way == "abandon" else name) == []
    assert (pool.state(name), pool.core.workers[name].tasks) == (WorkerState.IDLE, 0)


def test_leaving_twice_changes_nothing() -> None:
    pool = Pool(max_size=1)
    ticket = pool.leased_ticket()
    pool.tell("abandon", ticket)
    other = pool.request()
    assert other.worker == ticket.worker
    pool.tell("abandon", ticket)
    assert pool.state(other.worker) is WorkerState.LEASED


def test_a_refused_caller_may_still_leave() -> None:
    pool = Pool()
    ticket = pool.request()
    pool.tell("start_failed", "worker-1", True)
    assert ticket.state is TicketState.REFUSED
    pool.tell("abandon", ticket)
    assert ticket.state is TicketState.GONE


def test_a_start_goes_on_when_its_caller_has_left() -> None:
    pool = Pool()
    ticket = pool.request()
    pool.tell("abandon", ticket)
    assert pool.tell("started", "worker-1") == []
    assert pool.state("worker-1") is WorkerState.IDLE
