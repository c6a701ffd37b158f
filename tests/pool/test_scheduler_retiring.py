from __future__ import annotations

from collections import Counter

import pytest

from agent_pool.errors import PoolClosed, TooManyRequests
from agent_pool.pool.scheduler import (
    Assign,
    Grant,
    Limits,
    Refuse,
    Reset,
    RetireReason,
    Scheduler,
    Spawn,
    Stop,
    TicketState,
    WorkerState,
)
from support.scheduler_driver import LONG, A, B, C, SchedulerDriver

# Replacing before retiring


def test_a_worker_at_max_tasks_stops_after_its_replacement_starts() -> None:
    pool = SchedulerDriver(max_tasks=1, max_size=1, max_workers=1)
    name = pool.leased()
    reset, spawn = pool.tell("release", name)
    assert reset == Reset(name)
    assert isinstance(spawn, Spawn)
    pool.tell("reset_finished", name, True)
    assert pool.state(name) is WorkerState.IDLE
    assert pool.tell("started", spawn.worker) == [Stop(name, RetireReason.MAX_TASKS)]


def test_a_worker_at_its_limit_serves_until_it_is_replaced() -> None:
    pool = SchedulerDriver(max_tasks=1, max_size=1)
    name = pool.leased()
    pool.tell("release", name)
    ticket = pool.request()
    assert pool.tell("reset_finished", name, True) == [Grant(ticket, name)]


def test_a_worker_at_its_limit_retires_even_while_callers_wait() -> None:
    pool = SchedulerDriver(max_tasks=1, max_size=1, max_workers=1)
    tickets = [pool.request() for _ in range(20)]
    for _ in tickets:
        pool.settle()
        assert len(pool.scheduler.workers) <= 2
        for name in pool.all_leased():
            pool.tell("release", name)
    assert {ticket.state for ticket in tickets} == {TicketState.GRANTED}
    served = Counter(ticket.worker for ticket in tickets)
    assert max(served.values()) <= 2


def test_a_worker_at_its_limit_stops_if_callers_need_room() -> None:
    pool = SchedulerDriver(max_tasks=1, max_size=2, max_workers=1)
    name = pool.leased()
    pool.request()
    pool.request()
    assert pool.tell("release", name) == [Stop(name, RetireReason.MAX_TASKS)]
    assert isinstance(pool.tell("removed", name)[0], Spawn)


def test_each_task_of_a_lease_counts_towards_max_tasks() -> None:
    pool = SchedulerDriver(max_tasks=3, max_size=1)
    name = pool.leased()
    pool.scheduler.release(name, pool.now, 2)
    assert pool.scheduler.workers[name].retiring is None
    pool.tell("reset_finished", name, True)
    pool.request()
    pool.tell("release", name)
    assert pool.scheduler.workers[name].retiring is RetireReason.MAX_TASKS


def test_an_old_worker_is_replaced_while_it_is_idle() -> None:
    pool = SchedulerDriver(max_lifetime=100)
    name = pool.idle()
    assert pool.tick(99) == []
    [spawn] = pool.tick(1)
    assert isinstance(spawn, Spawn)
    assert pool.tell("started", spawn.worker) == [Stop(name, RetireReason.MAX_LIFETIME)]


def test_a_replacement_inherits_the_idle_time_of_the_old_worker() -> None:
    pool = SchedulerDriver(max_lifetime=100, max_idle=150)
    first = pool.idle()
    pool.tick(100)
    second = pool.spawned()
    pool.tell("started", second)
    pool.tell("removed", first)
    assert pool.tick(49) == []
    assert pool.tick(1) == [Stop(second, RetireReason.MAX_IDLE)]


def test_a_worker_that_grew_too_large_is_replaced_between_tasks() -> None:
    pool = SchedulerDriver(max_rss=100)
    name = pool.leased()
    assert pool.tell("memory_measured", {name: 101}) == []
    reset, spawn = pool.tell("release", name)
    assert reset == Reset(name)
    assert isinstance(spawn, Spawn)
    pool.tell("started", spawn.worker)
    assert pool.tell("reset_finished", name, True) == [Stop(name, RetireReason.MAX_RSS)]


def test_jitter_shortens_the_task_and_lifetime_limits() -> None:
    limits = Limits(max_tasks=10, max_tasks_jitter=0.5, max_lifetime=100, max_lifetime_jitter=0.5)
    core = Scheduler(limits, lambda: 1.0)
    core.request(A, 0.0)
    record = core.workers["worker-1"]
    assert (record.task_limit, record.expires) == (5, 50)


def test_only_one_replacement_starts_at_a_time_above_the_limit() -> None:
    pool = SchedulerDriver(max_size=2, max_workers=2)
    pool.leased()
    pool.leased()
    pool.tell("drain")
    assert [type(action) for action in pool.actions] == [Spawn]
    assert len(pool.scheduler.workers) == 3
    pool.settle()
    assert len(pool.scheduler.workers) == 3


def test_a_replacement_is_not_replaced_while_the_old_worker_works() -> None:
    pool = SchedulerDriver(max_size=1, max_workers=5)
    elder = pool.leased()
    for _ in range(3):
        pool.tell("drain")
        pool.settle()
    assert len(pool.scheduler.workers) == 2
    pool.end(elder)
    pool.settle()
    assert pool.agents() == ["a"]


def test_a_parked_spare_is_adopted_as_the_replacement() -> None:
    pool = SchedulerDriver(spares=1, max_tasks=1)
    name = pool.leased()
    pool.settle()
    assert pool.tell("release", name)[:2] == [Reset(name), Assign("worker-2", A)]


def test_an_old_worker_still_serves_if_its_replacement_fails() -> None:
    pool = SchedulerDriver(max_lifetime=100)
    name = pool.idle()
    pool.tick(100)
    pool.tell("start_failed", pool.spawned(), False)
    ticket = pool.request()
    assert ticket.worker == name


def test_a_replacement_stopped_for_room_is_not_started_again() -> None:
    pool = SchedulerDriver(max_workers=1)
    name = pool.leased(A)
    pool.tell("drain")
    pool.settle()
    other = pool.request(B)
    pool.settle()
    assert list(pool.scheduler.workers) == [name]
    assert pool.end(name) == [Spawn("worker-3", B, "f")]
    assert pool.tell("started", "worker-3") == [Grant(other, "worker-3")]


# Workers that cannot be reset


def test_each_worker_serves_one_task_if_resets_cannot_work() -> None:
    pool = SchedulerDriver()
    pool.tell("forbid_reset", "f")
    ticket = pool.request()
    grant, spawn = pool.tell("started", pool.spawned())
    assert grant == Grant(ticket, "worker-1")
    assert isinstance(spawn, Spawn)
    assert pool.tell("release", "worker-1") == [Stop("worker-1", RetireReason.NO_RESET)]


def test_the_next_worker_is_ready_before_the_task_ends() -> None:
    pool = SchedulerDriver()
    pool.tell("forbid_reset", "f")
    name = pool.leased()
    successor = next(worker for worker in pool.scheduler.workers if worker != name)
    pool.tell("started", successor)
    pool.end(name)
    assert pool.request().worker == successor


def test_a_leased_worker_retires_if_resets_cannot_work() -> None:
    pool = SchedulerDriver()
    name = pool.leased()
    [spawn] = pool.tell("forbid_reset", "f")
    assert isinstance(spawn, Spawn)
    assert pool.tell("release", name) == [Stop(name, RetireReason.NO_RESET)]


def test_a_resetting_worker_retires_if_resets_cannot_work() -> None:
    pool = SchedulerDriver()
    name = pool.leased()
    pool.tell("release", name)
    pool.tell("forbid_reset", "f")
    assert pool.tell("reset_finished", name, False)[0] == Stop(name, RetireReason.NO_RESET)


def test_workers_with_other_flags_are_still_reset() -> None:
    pool = SchedulerDriver()
    pool.tell("forbid_reset", "g")
    name = pool.leased()
    assert pool.tell("release", name) == [Reset(name)]


def test_max_size_also_holds_for_workers_without_reset() -> None:
    pool = SchedulerDriver(max_size=1)
    pool.tell("forbid_reset", "f")
    pool.leased()
    for _ in range(5):
        pool.request()
        pool.settle()
    states = [record.state for record in pool.scheduler.workers.values()]
    assert states == [WorkerState.LEASED, WorkerState.IDLE]


# Pauses


def test_callers_wait_during_a_pause_and_are_served_after_it() -> None:
    pool = SchedulerDriver()
    name = pool.idle()
    pool.tell("pause", 10.0)
    ticket = pool.request()
    assert ticket.state is TicketState.WAITING
    assert pool.tick(9.9) == []
    assert pool.tick(0.1) == [Grant(ticket, name)]


def test_no_worker_starts_or_stops_for_callers_during_a_pause() -> None:
    pool = SchedulerDriver(max_workers=1)
    pool.idle(A)
    pool.tell("pause", 10.0)
    for spec in (A, B, A):
        pool.request(spec)
        assert pool.actions == []


def test_max_waiting_also_holds_during_a_pause() -> None:
    pool = SchedulerDriver(max_waiting=1)
    pool.idle()
    pool.tell("pause", 10.0)
    pool.request()
    with pytest.raises(TooManyRequests):
        pool.request()


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    pool = SchedulerDriver()
    pool.tell("pause", 10.0)
    pool.tell("pause", 5.0)
    assert pool.scheduler.paused_until == 10.0


# From outside


def test_retiring_an_agent_stops_all_its_workers_but_no_others() -> None:
    pool = SchedulerDriver()
    pool.tell("keep_warm", A, 1)
    pool.tell("started", "worker-1")
    leased, other = pool.leased(A), pool.idle(B)
    starting = pool.request(A)
    pool.tell("retire", A.key)
    stopped = {action.worker for action in pool.actions if isinstance(action, Stop)}
    assert stopped == {name for name, r in pool.scheduler.workers.items() if r.key == A.key} - {
        pool.spawned()
    }
    assert leased in stopped
    assert pool.state(other) is WorkerState.IDLE
    assert starting.state is TicketState.WAITING


def test_a_retired_agent_is_no_longer_kept_warm() -> None:
    pool = SchedulerDriver()
    pool.tell("keep_warm", A, 1)
    pool.tell("started", "worker-1")
    assert pool.tell("retire", A.key) == [Stop("worker-1", RetireReason.ASKED)]
    assert pool.tell("removed", "worker-1") == []


def test_retiring_a_failing_agent_lets_it_start_at_once() -> None:
    pool = SchedulerDriver()
    pool.request()
    pool.tell("start_failed", "worker-1", False)
    pool.tell("removed", "worker-1")
    assert isinstance(pool.tell("retire", A.key)[0], Spawn)


def test_a_drained_pool_replaces_each_worker_before_it_stops() -> None:
    pool = SchedulerDriver()
    leased, idle = pool.leased(A), pool.idle(B)
    pool.tell("drain")
    pool.settle()
    assert idle not in pool.scheduler.workers
    assert pool.agents() == ["a", "a", "b"]
    assert pool.tell("release", leased) == [Stop(leased, RetireReason.DRAINED)]


def test_wider_limits_take_effect_at_once() -> None:
    pool = SchedulerDriver(max_size=1)
    pool.leased()
    pool.request()
    assert pool.actions == []
    [spawn] = pool.tell("resize", Limits(max_size=2))
    assert isinstance(spawn, Spawn)
    assert pool.scheduler.limits == Limits(max_size=2)


def test_narrower_limits_start_no_worker_above_them() -> None:
    pool = SchedulerDriver(max_size=2, max_workers=2)
    names = [pool.leased(), pool.leased()]
    pool.tell("resize", Limits(max_size=1, max_workers=1))
    pool.request()
    pool.request(B)
    for name in names:
        pool.tell("stop", name, RetireReason.ASKED)
    assert pool.tell("removed", names[0]) == []
    assert isinstance(pool.tell("removed", names[1])[0], Spawn)


# Closing


def test_close_refuses_waiting_callers_and_stops_unleased_workers() -> None:
    pool = SchedulerDriver(max_size=1)
    leased = pool.leased(A)
    waiting = pool.request(A)
    idle = pool.idle(B)
    pool.request(C)
    starting = pool.spawned()
    actions = pool.tell("close")
    assert Refuse(waiting, RetireReason.CLOSED) in actions
    assert {a.worker for a in actions if isinstance(a, Stop)} == {idle, starting}
    assert pool.state(leased) is WorkerState.LEASED
    assert pool.scheduler.waiting == 0


def test_a_closed_pool_refuses_requests_and_warmups() -> None:
    pool = SchedulerDriver()
    pool.tell("close")
    with pytest.raises(PoolClosed, match="open a new one"):
        pool.request()
    with pytest.raises(PoolClosed):
        pool.tell("keep_warm", A, 1)


@pytest.mark.parametrize("way", ["release", "return_unused", "abandon"])
def test_a_worker_given_back_to_a_closed_pool_is_stopped(way: str) -> None:
    pool = SchedulerDriver()
    ticket = pool.leased_ticket()
    pool.tell("close")
    given = ticket if way == "abandon" else ticket.worker
    assert pool.tell(way, given) == [Stop(ticket.worker, RetireReason.CLOSED)]
    pool.tell("removed", ticket.worker)
    assert pool.scheduler.workers == {}


def test_closing_a_pool_twice_stops_no_worker_twice() -> None:
    pool = SchedulerDriver(spares=1)
    pool.idle()
    assert pool.tell("close") != []
    assert pool.tell("close") == []


def test_a_closed_pool_starts_no_more_workers() -> None:
    pool = SchedulerDriver(spares=1, max_lifetime=10)
    pool.tell("keep_warm", A, 2)
    pool.settle()
    leased = pool.leased()
    pool.tell("close")
    for name in set(pool.scheduler.workers) - {leased}:
        assert pool.tell("removed", name) == []
    assert pool.tick(LONG) == []


def test_a_halted_pool_starts_and_grants_no_more_workers() -> None:
    pool = SchedulerDriver(spares=1)
    waiting = pool.request()
    pool.scheduler.halt()
    assert pool.tell("started", "worker-1") == [
        Refuse(waiting, RetireReason.CLOSED),
        Stop("worker-1", RetireReason.CLOSED),
    ]
    assert pool.tell("removed", "worker-1") == []
    with pytest.raises(PoolClosed):
        pool.request()


# Counting


def test_retired_workers_are_counted_by_reason() -> None:
    pool = SchedulerDriver()
    pool.tell("mark_unfit", pool.idle(), RetireReason.DIED)
    pool.tell("mark_unfit", pool.idle(), RetireReason.DIED)
    pool.tell("stop", pool.leased(), RetireReason.MAX_RSS)
    assert dict(pool.scheduler.retired) == {RetireReason.DIED: 2, RetireReason.MAX_RSS: 1}


def test_a_worker_name_is_never_used_twice() -> None:
    pool = SchedulerDriver()
    for number in range(1, 4):
        assert pool.leased() == f"worker-{number}"
        pool.tell("stop", f"worker-{number}", RetireReason.ASKED)
        pool.tell("removed", f"worker-{number}")
