from __future__ import annotations

from collections import Counter

import pytest

from agent_pool.errors import PoolClosed, TooManyRequests
from agent_pool.pool.actions import (
    Adopt,
    Grant,
    Reason,
    Refuse,
    Reset,
    Spawn,
    Stop,
    TicketState,
    WorkerState,
)
from agent_pool.pool.core import PoolCore
from agent_pool.pool.policy import Limits
from pool.core_pool import LONG, A, B, C, Pool

# Replacing before retiring


def test_a_worker_at_max_tasks_goes_when_its_replacement_is_ready() -> None:
    pool = Pool(max_tasks=1, max_size=1, max_workers=1)
    name = pool.leased()
    reset, spawn = pool.tell("release", name)
    assert reset == Reset(name)
    assert isinstance(spawn, Spawn)
    pool.tell("was_reset", name, True)
    assert pool.state(name) is WorkerState.IDLE
    assert pool.tell("started", spawn.worker) == [Stop(name, Reason.MAX_TASKS)]


def test_a_worker_at_its_limit_serves_until_its_replacement_is_ready() -> None:
    pool = Pool(max_tasks=1, max_size=1)
    name = pool.leased()
    pool.tell("release", name)
    ticket = pool.request()
    assert pool.tell("was_reset", name, True) == [Grant(ticket, name)]


def test_a_worker_at_its_limit_goes_also_while_others_wait() -> None:
    pool = Pool(max_tasks=1, max_size=1, max_workers=1)
    tickets = [pool.request() for _ in range(20)]
    for _ in tickets:
        pool.settle()
        assert len(pool.core.workers) <= 2
        for name in pool.all_leased():
            pool.tell("release", name)
    assert {ticket.state for ticket in tickets} == {TicketState.GRANTED}
    served = Counter(ticket.worker for ticket in tickets)
    assert max(served.values()) <= 2


def test_a_worker_at_its_limit_goes_at_once_where_a_replacement_would_take_others_room() -> None:
    pool = Pool(max_tasks=1, max_size=2, max_workers=1)
    name = pool.leased()
    pool.request()
    pool.request()
    assert pool.tell("release", name) == [Stop(name, Reason.MAX_TASKS)]
    assert isinstance(pool.tell("gone", name)[0], Spawn)


def test_each_task_of_a_lease_counts() -> None:
    pool = Pool(max_tasks=3, max_size=1)
    name = pool.leased()
    pool.core.release(name, pool.now, 2)
    assert pool.core.workers[name].retiring is None
    pool.tell("was_reset", name, True)
    pool.request()
    pool.tell("release", name)
    assert pool.core.workers[name].retiring is Reason.MAX_TASKS


def test_an_old_worker_is_replaced_while_it_is_idle() -> None:
    pool = Pool(max_lifetime=100)
    name = pool.idle()
    assert pool.tick(99) == []
    [spawn] = pool.tick(1)
    assert isinstance(spawn, Spawn)
    assert pool.tell("started", spawn.worker) == [Stop(name, Reason.MAX_LIFETIME)]


def test_a_worker_that_nobody_asks_for_idles_out_although_it_is_replaced_meanwhile() -> None:
    pool = Pool(max_lifetime=100, max_idle=150)
    first = pool.idle()
    pool.tick(100)
    second = pool.spawned()
    pool.tell("started", second)
    pool.tell("gone", first)
    assert pool.tick(49) == []
    assert pool.tick(1) == [Stop(second, Reason.MAX_IDLE)]


def test_a_worker_that_grew_too_large_is_replaced_between_tasks() -> None:
    pool = Pool(max_rss=100)
    name = pool.leased()
    assert pool.tell("sampled", {name: 101}) == []
    reset, spawn = pool.tell("release", name)
    assert reset == Reset(name)
    assert isinstance(spawn, Spawn)
    pool.tell("started", spawn.worker)
    assert pool.tell("was_reset", name, True) == [Stop(name, Reason.MAX_RSS)]


def test_limits_are_shortened_by_chance() -> None:
    limits = Limits(max_tasks=10, max_tasks_jitter=0.5, max_lifetime=100, max_lifetime_jitter=0.5)
    core = PoolCore(limits, lambda: 1.0)
    core.request(A, 0.0)
    record = core.workers["worker-1"]
    assert (record.task_limit, record.expires) == (5, 50)


def test_one_replacement_comes_at_a_time_and_one_above_the_limit() -> None:
    pool = Pool(max_size=2, max_workers=2)
    pool.leased()
    pool.leased()
    pool.tell("drain")
    assert [type(action) for action in pool.actions] == [Spawn]
    assert len(pool.core.workers) == 3
    pool.settle()
    assert len(pool.core.workers) == 3


def test_replacements_are_not_replaced_while_their_elders_work() -> None:
    pool = Pool(max_size=1, max_workers=5)
    elder = pool.leased()
    for _ in range(3):
        pool.tell("drain")
        pool.settle()
    assert len(pool.core.workers) == 2
    pool.end(elder)
    pool.settle()
    assert pool.agents() == ["a"]


def test_a_parked_spare_is_a_replacement() -> None:
    pool = Pool(spares=1, max_tasks=1)
    name = pool.leased()
    pool.settle()
    assert pool.tell("release", name)[:2] == [Reset(name), Adopt("worker-2", A)]


def test_a_replacement_that_fails_to_start_leaves_the_elder_at_work() -> None:
    pool = Pool(max_lifetime=100)
    name = pool.idle()
    pool.tick(100)
    pool.tell("start_failed", pool.spawned(), False)
    ticket = pool.request()
    assert ticket.worker == name


def test_replacements_and_room_for_others_do_not_chase_each_other() -> None:
    pool = Pool(max_workers=1)
    name = pool.leased(A)
    pool.tell("drain")
    pool.settle()
    other = pool.request(B)
    pool.settle()
    assert list(pool.core.workers) == [name]
    assert pool.end(name) == [Spawn("worker-3", B, "f")]
    assert pool.tell("started", "worker-3") == [Grant(other, "worker-3")]


# Workers that cannot be reset


def test_where_a_reset_forgets_nothing_each_worker_serves_one_task() -> None:
    pool = Pool()
    pool.tell("no_reset", "f")
    ticket = pool.request()
    grant, spawn = pool.tell("started", pool.spawned())
    assert grant == Grant(ticket, "worker-1")
    assert isinstance(spawn, Spawn)
    assert pool.tell("release", "worker-1") == [Stop("worker-1", Reason.NO_RESET)]


def test_the_next_worker_is_ready_before_the_task_of_the_first_has_ended() -> None:
    pool = Pool()
    pool.tell("no_reset", "f")
    name = pool.leased()
    successor = next(worker for worker in pool.core.workers if worker != name)
    pool.tell("started", successor)
    pool.end(name)
    assert pool.request().worker == successor


def test_a_worker_that_was_leased_before_it_was_known_goes_as_well() -> None:
    pool = Pool()
    name = pool.leased()
    [spawn] = pool.tell("no_reset", "f")
    assert isinstance(spawn, Spawn)
    assert pool.tell("release", name) == [Stop(name, Reason.NO_RESET)]


def test_a_reset_that_is_known_to_forget_nothing_retires_the_worker() -> None:
    pool = Pool()
    name = pool.leased()
    pool.tell("release", name)
    pool.tell("no_reset", "f")
    assert pool.tell("was_reset", name, False)[0] == Stop(name, Reason.NO_RESET)


def test_other_flags_go_on_being_reset() -> None:
    pool = Pool()
    pool.tell("no_reset", "g")
    name = pool.leased()
    assert pool.tell("release", name) == [Reset(name)]


def test_max_size_holds_for_workers_of_one_task_too() -> None:
    pool = Pool(max_size=1)
    pool.tell("no_reset", "f")
    pool.leased()
    for _ in range(5):
        pool.request()
        pool.settle()
    states = [record.state for record in pool.core.workers.values()]
    assert states == [WorkerState.LEASED, WorkerState.IDLE]


# Pauses


def test_nobody_is_served_in_a_pause_and_everybody_after_it() -> None:
    pool = Pool()
    name = pool.idle()
    pool.tell("pause", 10.0)
    ticket = pool.request()
    assert ticket.state is TicketState.WAITING
    assert pool.tick(9.9) == []
    assert pool.tick(0.1) == [Grant(ticket, name)]


def test_nothing_is_started_or_stopped_in_a_pause_for_who_waits() -> None:
    pool = Pool(max_workers=1)
    pool.idle(A)
    pool.tell("pause", 10.0)
    for ref in (A, B, A):
        pool.request(ref)
        assert pool.actions == []


def test_the_queue_is_bounded_in_a_pause_too() -> None:
    pool = Pool(max_waiting=1)
    pool.idle()
    pool.tell("pause", 10.0)
    pool.request()
    with pytest.raises(TooManyRequests):
        pool.request()


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    pool = Pool()
    pool.tell("pause", 10.0)
    pool.tell("pause", 5.0)
    assert pool.core.paused_until == 10.0


# From outside


def test_to_retire_an_agent_stops_all_its_workers_and_no_others() -> None:
    pool = Pool()
    pool.tell("warm", A, 1)
    pool.tell("started", "worker-1")
    leased, other = pool.leased(A), pool.idle(B)
    starting = pool.request(A)
    pool.tell("retire", "a")
    stopped = {action.worker for action in pool.actions if isinstance(action, Stop)}
    assert stopped == {name for name, r in pool.core.workers.items() if r.agent == "a"} - {
        pool.spawned()
    }
    assert leased in stopped
    assert pool.state(other) is WorkerState.IDLE
    assert starting.state is TicketState.WAITING


def test_a_retired_agent_is_kept_warm_no_longer() -> None:
    pool = Pool()
    pool.tell("warm", A, 1)
    pool.tell("started", "worker-1")
    assert pool.tell("retire", "a") == [Stop("worker-1", Reason.ASKED)]
    assert pool.tell("gone", "worker-1") == []


def test_to_retire_an_agent_lets_a_failing_one_start_again_at_once() -> None:
    pool = Pool()
    pool.request()
    pool.tell("start_failed", "worker-1", False)
    pool.tell("gone", "worker-1")
    assert isinstance(pool.tell("retire", "a")[0], Spawn)


def test_a_drained_pool_replaces_every_worker_before_it_goes() -> None:
    pool = Pool()
    leased, idle = pool.leased(A), pool.idle(B)
    pool.tell("drain")
    pool.settle()
    assert idle not in pool.core.workers
    assert pool.agents() == ["a", "a", "b"]
    assert pool.tell("release", leased) == [Stop(leased, Reason.DRAINED)]


def test_wider_limits_are_used_at_once() -> None:
    pool = Pool(max_size=1)
    pool.leased()
    pool.request()
    assert pool.actions == []
    [spawn] = pool.tell("resize", Limits(max_size=2))
    assert isinstance(spawn, Spawn)
    assert pool.core.limits == Limits(max_size=2)


def test_narrower_limits_start_nothing_more() -> None:
    pool = Pool(max_size=2, max_workers=2)
    names = [pool.leased(), pool.leased()]
    pool.tell("resize", Limits(max_size=1, max_workers=1))
    pool.request()
    pool.request(B)
    for name in names:
        pool.tell("stop", name, Reason.ASKED)
    assert pool.tell("gone", names[0]) == []
    assert isinstance(pool.tell("gone", names[1])[0], Spawn)


# Closing


def test_close_refuses_who_waits_and_stops_who_is_not_at_work() -> None:
    pool = Pool(max_size=1)
    leased = pool.leased(A)
    waiting = pool.request(A)
    idle = pool.idle(B)
    pool.request(C)
    starting = pool.spawned()
    actions = pool.tell("close")
    assert Refuse(waiting, Reason.CLOSED) in actions
    assert {a.worker for a in actions if isinstance(a, Stop)} == {idle, starting}
    assert pool.state(leased) is WorkerState.LEASED
    assert pool.core.waiting == 0


def test_a_closed_pool_lets_nobody_in() -> None:
    pool = Pool()
    pool.tell("close")
    with pytest.raises(PoolClosed, match="open a new one"):
        pool.request()
    with pytest.raises(PoolClosed):
        pool.tell("warm", A, 1)


@pytest.mark.parametrize("way", ["release", "unused", "abandon"])
def test_a_worker_given_back_to_a_closed_pool_is_stopped(way: str) -> None:
    pool = Pool()
    ticket = pool.leased_ticket()
    pool.tell("close")
    given = ticket if way == "abandon" else ticket.worker
    assert pool.tell(way, given) == [Stop(ticket.worker, Reason.CLOSED)]
    pool.tell("gone", ticket.worker)
    assert pool.core.workers == {}


def test_a_pool_that_is_closed_twice_stops_nothing_twice() -> None:
    pool = Pool(spares=1)
    pool.idle()
    assert pool.tell("close") != []
    assert pool.tell("close") == []


def test_a_closed_pool_starts_nothing() -> None:
    pool = Pool(spares=1, max_lifetime=10)
    pool.tell("warm", A, 2)
    pool.settle()
    leased = pool.leased()
    pool.tell("close")
    for name in set(pool.core.workers) - {leased}:
        assert pool.tell("gone", name) == []
    assert pool.tick(LONG) == []


def test_a_halted_pool_starts_and_gives_out_nothing_more() -> None:
    pool = Pool(spares=1)
    waiting = pool.request()
    pool.core.halt()
    assert pool.tell("started", "worker-1") == [
        Refuse(waiting, Reason.CLOSED),
        Stop("worker-1", Reason.CLOSED),
    ]
    assert pool.tell("gone", "worker-1") == []
    with pytest.raises(PoolClosed):
        pool.request()


# Counting


def test_the_workers_that_went_are_counted_by_reason() -> None:
    pool = Pool()
    pool.tell("unfit", pool.idle(), Reason.DIED)
    pool.tell("unfit", pool.idle(), Reason.DIED)
    pool.tell("stop", pool.leased(), Reason.MAX_RSS)
    assert dict(pool.core.retired) == {Reason.DIED: 2, Reason.MAX_RSS: 1}


def test_names_are_never_used_twice() -> None:
    pool = Pool()
    for number in range(1, 4):
        assert pool.leased() == f"worker-{number}"
        pool.tell("stop", f"worker-{number}", Reason.ASKED)
        pool.tell("gone", f"worker-{number}")
