from __future__ import annotations

import pytest

from agent_pool.errors import TooManyRequests
from agent_pool.pool.scheduler import (
    Grant,
    Reset,
    RetireReason,
    Spawn,
    Stop,
    TicketState,
    WorkerState,
)
from support.scheduler_driver import OTHER_A, A, B, C, SchedulerDriver

# Serving


def test_the_first_caller_gets_the_worker_started_for_it() -> None:
    pool = SchedulerDriver()
    ticket = pool.request()
    [spawn] = pool.actions
    assert spawn == Spawn("worker-1", A, "f")
    assert (ticket.state, pool.scheduler.waiting) == (TicketState.WAITING, 1)
    assert pool.tell("started", "worker-1") == [Grant(ticket, "worker-1")]
    assert (ticket.state, ticket.worker) == (TicketState.GRANTED, "worker-1")
    assert (pool.scheduler.waiting, pool.state("worker-1")) == (0, WorkerState.LEASED)


def test_an_idle_worker_is_granted_at_once() -> None:
    pool = SchedulerDriver()
    name = pool.idle()
    ticket = pool.request()
    assert pool.actions == [Grant(ticket, name)]


def test_a_used_worker_is_granted_again_only_after_its_reset() -> None:
    pool = SchedulerDriver(max_size=1)
    name = pool.leased()
    waiting = pool.request()
    assert pool.tell("release", name) == [Reset(name)]
    assert waiting.state is TicketState.WAITING
    assert pool.tell("reset_finished", name, True) == [Grant(waiting, name)]


def test_a_failed_reset_replaces_the_worker_for_the_waiting_caller() -> None:
    pool = SchedulerDriver(max_size=1)
    name = pool.leased()
    pool.request()
    pool.tell("release", name)
    stop, spawn = pool.tell("reset_finished", name, False)
    assert stop == Stop(name, RetireReason.TAINTED)
    assert isinstance(spawn, Spawn)


def test_waiting_callers_are_served_in_order_of_arrival() -> None:
    pool = SchedulerDriver(max_size=1)
    name = pool.leased()
    tickets = [pool.request() for _ in range(3)]
    assert [pool.scheduler.position(ticket) for ticket in tickets] == [1, 2, 3]
    for ticket in tickets:
        assert pool.use(name)[0] == Grant(ticket, name)
    assert pool.scheduler.position(tickets[0]) == 0


def test_a_repeated_request_gets_its_old_place_in_a_full_queue() -> None:
    pool = SchedulerDriver(max_size=1, max_waiting=2)
    first = pool.leased_ticket()
    second, third = pool.request(), pool.request()
    repeated, _ = pool.scheduler.request(A, pool.now, first)
    assert [pool.scheduler.position(one) for one in (repeated, second, third)] == [1, 2, 3]
    assert (repeated.since, repeated.number) == (first.since, first.number)
    assert pool.use(first.worker)[0] == Grant(repeated, first.worker)


def test_an_agent_without_workers_and_callers_is_forgotten() -> None:
    pool = SchedulerDriver(max_size=1, max_workers=1, max_waiting=1)
    name = pool.leased()
    waiting = pool.request()
    with pytest.raises(TooManyRequests):
        pool.request(B)
    assert pool.scheduler.agents == {A.key}
    pool.tell("abandon", waiting)
    pool.tell("stop", name, RetireReason.ASKED)
    assert pool.scheduler.agents == {A.key}
    pool.tell("removed", name)
    assert pool.scheduler.agents == set()


def test_the_most_recently_used_worker_is_used_again_first() -> None:
    pool = SchedulerDriver(max_size=2)
    first, second = pool.leased(), pool.leased()
    pool.use(second)
    pool.now = 1.0
    pool.use(first)
    assert pool.leased() == first


# Limits


def test_an_agent_never_has_more_workers_than_max_size() -> None:
    pool = SchedulerDriver(max_size=2, max_workers=5)
    for _ in range(4):
        pool.request()
    assert len(pool.scheduler.workers) == 2


def test_all_agents_together_never_exceed_max_workers() -> None:
    pool = SchedulerDriver(max_size=5, max_workers=3)
    for spec in (A, B, A, B, C):
        pool.request(spec)
    assert len(pool.scheduler.workers) == 3


def test_a_stopping_worker_still_counts_against_max_workers() -> None:
    pool = SchedulerDriver(max_workers=1)
    name = pool.leased()
    pool.request(B)
    pool.tell("stop", name, RetireReason.ASKED)
    assert [type(action) for action in pool.actions] == [Stop]
    [spawn] = pool.tell("removed", name)
    assert spawn == Spawn("worker-2", B, "f")


def test_no_more_workers_start_at_once_than_spawn_concurrency() -> None:
    pool = SchedulerDriver(max_size=4, spawn_concurrency=2)
    for _ in range(4):
        pool.request()
    assert len(pool.scheduler.workers) == 2
    pool.tell("started", "worker-1")
    assert len(pool.scheduler.workers) == 3


def test_a_caller_beyond_max_waiting_is_refused_and_not_queued() -> None:
    pool = SchedulerDriver(max_size=1, max_waiting=2)
    pool.leased()
    pool.request()
    pool.request()
    with pytest.raises(TooManyRequests, match=r"2 callers .*max_waiting.* 'a'"):
        pool.request()
    assert pool.scheduler.waiting == 2


def test_a_full_queue_still_serves_callers_with_an_idle_worker() -> None:
    pool = SchedulerDriver(max_size=1, max_waiting=1)
    name = pool.idle(B)
    pool.leased(A)
    pool.request(A)
    ticket = pool.request(B)
    assert ticket.worker == name


def test_a_request_gets_an_idle_worker_already_past_max_idle() -> None:
    pool = SchedulerDriver(max_size=1, max_waiting=1, max_idle=10)
    name = pool.idle(B)
    pool.leased(A)
    pool.request(A)
    pool.now = 100.0
    assert pool.request(B).worker == name


def test_a_ready_replacement_does_not_raise_the_number_of_leases() -> None:
    pool = SchedulerDriver(max_size=1)
    elder = pool.leased()
    pool.tell("drain")
    successor = pool.spawned()
    pool.tell("started", successor)
    ticket = pool.request()
    assert (ticket.state, pool.scheduler.waiting) == (TicketState.WAITING, 1)
    stop, grant = pool.tell("release", elder)
    assert (stop, grant) == (Stop(elder, RetireReason.DRAINED), Grant(ticket, successor))


# Room for others


def test_the_least_recently_used_worker_makes_room_for_another_agent() -> None:
    pool = SchedulerDriver(max_size=2, max_workers=2)
    first, second = pool.leased(), pool.leased()
    pool.use(first)
    pool.now = 1.0
    pool.use(second)
    pool.request(B)
    assert pool.actions == [Stop(first, RetireReason.ROOM)]
    [spawn] = pool.tell("removed", first)
    assert isinstance(spawn, Spawn)
    assert spawn.spec == B


def test_only_one_idle_worker_stops_for_one_waiting_caller() -> None:
    pool = SchedulerDriver(max_size=2, max_workers=2)
    names = [pool.leased(), pool.leased()]
    for name in names:
        pool.use(name)
    pool.request(B)
    assert pool.tick() == []
    assert [pool.state(name) for name in names].count(WorkerState.STOPPING) == 1


def test_an_agents_own_worker_is_not_stopped_to_make_room() -> None:
    pool = SchedulerDriver(max_size=2, max_workers=1)
    name = pool.idle()
    assert pool.request().worker == name
    pool.request()
    assert pool.actions == []


def test_a_spare_makes_room_before_any_agents_worker() -> None:
    pool = SchedulerDriver(max_workers=2, spares=1)
    worker = pool.leased(A)
    spare = next(name for name in pool.scheduler.workers if name != worker)
    pool.tell("started", spare)
    pool.use(worker)
    pool.request(C)
    assert pool.actions == [Stop(spare, RetireReason.ROOM)]


def test_a_worker_kept_warm_is_the_last_to_make_room() -> None:
    pool = SchedulerDriver(max_workers=2)
    pool.tell("keep_warm", A, 1)
    warm = pool.spawned()
    pool.tell("started", warm)
    pool.now = 1.0
    other = pool.idle(B)
    pool.request(C)
    assert pool.actions == [Stop(other, RetireReason.ROOM)]
    pool.tell("removed", other)
    pool.tell("started", pool.spawned())
    pool.request(B)
    assert pool.actions == [Stop(warm, RetireReason.ROOM)]


# Fairness between agents


def test_an_agent_without_workers_gets_the_next_start() -> None:
    pool = SchedulerDriver(max_size=3, max_workers=3, spawn_concurrency=1)
    pool.request(A)
    pool.request(A)
    pool.request(B)
    [_, spawn] = pool.tell("started", "worker-1")
    assert isinstance(spawn, Spawn)
    assert spawn.spec == B


def test_a_busy_agent_makes_room_for_one_that_waits_longer() -> None:
    pool = SchedulerDriver(max_workers=1)
    name = pool.leased(A)
    other = pool.request(B)
    pool.request(A)
    assert pool.tell("release", name) == [Stop(name, RetireReason.ROOM)]
    pool.tell("removed", name)
    assert pool.tell("started", pool.spawned()) == [Grant(other, "worker-2")]


def test_an_agent_keeps_its_worker_if_its_caller_waits_longest() -> None:
    pool = SchedulerDriver(max_workers=1)
    name = pool.leased(A)
    own = pool.request(A)
    pool.request(B)
    assert pool.use(name)[0] == Grant(own, name)


def test_a_busy_worker_stays_if_an_idle_one_makes_room() -> None:
    pool = SchedulerDriver(max_workers=2)
    idle = pool.idle(C)
    name = pool.leased(A)
    pool.request(B)
    assert pool.actions == [Stop(idle, RetireReason.ROOM)]
    assert pool.tell("release", name) == [Reset(name)]


def test_two_agents_share_one_slot_in_order_of_arrival() -> None:
    pool = SchedulerDriver(max_workers=1)
    tickets = [pool.request(spec) for spec in (A, A, B, A, B)]
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


def test_a_caller_that_leaves_the_queue_is_not_served() -> None:
    pool = SchedulerDriver()
    first, second = pool.request(), pool.request()
    assert pool.tell("abandon", first) == []
    assert pool.tell("started", "worker-1") == [Grant(second, "worker-1")]
    assert first.state is TicketState.ABANDONED


def test_an_abandoned_grant_gives_the_worker_to_the_next_caller() -> None:
    pool = SchedulerDriver(max_size=1)
    first, second = pool.request(), pool.request()
    pool.tell("started", "worker-1")
    assert pool.tell("abandon", first) == [Grant(second, "worker-1")]


@pytest.mark.parametrize("way", ["abandon", "return_unused"])
def test_a_worker_that_got_no_task_needs_no_reset(way: str) -> None:
    pool = SchedulerDriver()
    ticket = pool.leased_ticket()
    name = ticket.worker
    assert pool.tell(way, ticket if way == "abandon" else name) == []
    assert (pool.state(name), pool.scheduler.workers[name].tasks) == (WorkerState.IDLE, 0)


def test_leaving_twice_does_not_end_the_next_callers_lease() -> None:
    pool = SchedulerDriver(max_size=1)
    ticket = pool.leased_ticket()
    pool.tell("abandon", ticket)
    other = pool.request()
    assert other.worker == ticket.worker
    pool.tell("abandon", ticket)
    assert pool.state(other.worker) is WorkerState.LEASED


def test_a_refused_caller_can_still_abandon_its_request() -> None:
    pool = SchedulerDriver()
    ticket = pool.request()
    pool.tell("start_failed", "worker-1", True)
    states = [ticket.state]
    pool.tell("abandon", ticket)
    states.append(ticket.state)
    assert states == [TicketState.REFUSED, TicketState.ABANDONED]


def test_a_start_continues_after_its_caller_has_left() -> None:
    pool = SchedulerDriver()
    ticket = pool.request()
    pool.tell("abandon", ticket)
    assert pool.tell("started", "worker-1") == []
    assert pool.state("worker-1") is WorkerState.IDLE


# Projects


def test_two_projects_with_one_agent_name_use_two_processes() -> None:
    pool = SchedulerDriver()
    for number in range(100):
        spec = (A, OTHER_A)[number % 2]
        name = pool.leased(spec)
        assert pool.scheduler.workers[name].key == spec.key
        pool.use(name)
    assert {record.key for record in pool.scheduler.workers.values()} == {A.key, OTHER_A.key}
    assert list(pool.scheduler.workers) == ["worker-1", "worker-2"]


def test_a_caller_waits_rather_than_use_another_projects_worker() -> None:
    pool = SchedulerDriver(max_size=1)
    pool.idle(A)
    busy = pool.leased(OTHER_A)
    ticket = pool.request(OTHER_A)
    assert pool.actions == []
    assert ticket.state is TicketState.WAITING
    assert pool.use(busy) == [Grant(ticket, busy)]
