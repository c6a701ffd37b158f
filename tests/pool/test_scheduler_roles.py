"""Agents as roles: which worker a caller gets, and which agents take over workers of others."""

from __future__ import annotations

from agent_pool.pool.scheduler import (
    Assign,
    Grant,
    Reset,
    RetireReason,
    Spawn,
    Stop,
    TicketState,
    WorkerState,
)
from support.scheduler_driver import (
    LONG,
    OTHER_PROJECT,
    ROLE_A,
    ROLE_B,
    ROLE_C,
    C,
    SchedulerDriver,
    spec,
)

EDITED_A = spec("a", "2", profile="r", is_role=True)
ELSEWHERE = spec("b", profile="r", project=OTHER_PROJECT, is_role=True)

CLAIMS = spec("a", profile="here", is_role=True, base="base")
CLAIMS_ELSEWHERE = spec("a", profile="elsewhere", project=OTHER_PROJECT, is_role=True, base="base")


def switching(**limits: object) -> SchedulerDriver:
    """Return a scheduler whose workers of the profile of the roles can become other agents."""
    pool = SchedulerDriver(**limits)
    pool.tell("allow_switching", "r")
    return pool


# Who gets which worker


def test_an_idle_worker_with_this_role_comes_first() -> None:
    pool = switching()
    mine = pool.leased(ROLE_A)
    other = pool.leased(ROLE_B)
    pool.use(mine)
    pool.now += 1
    pool.use(other)
    ticket = pool.request(ROLE_A)
    assert pool.actions == [Grant(ticket, mine)]


def test_an_idle_worker_of_the_project_comes_before_a_spare() -> None:
    pool = switching(spares=1)
    name = pool.idle(ROLE_A)
    pool.settle()
    ticket = pool.request(ROLE_B)
    assert pool.actions == [Assign(name, ROLE_B, ROLE_A.key)]
    assert pool.tell("started", name) == [Grant(ticket, name)]


def test_a_spare_comes_before_a_new_process() -> None:
    pool = switching(spares=1)
    pool.leased(ROLE_A)
    pool.settle()
    pool.request(ROLE_B)
    assert pool.actions[0] == Assign("worker-2", ROLE_B, None)


def test_a_new_process_comes_before_the_worker_of_another_project() -> None:
    pool = switching(max_workers=2)
    pool.idle(ELSEWHERE)
    pool.request(ROLE_A)
    assert [type(action) for action in pool.actions] == [Spawn]


def test_the_longest_unused_worker_of_any_project_makes_room() -> None:
    pool = switching(max_workers=2)
    first, second = pool.leased(ELSEWHERE), pool.leased(C)
    pool.use(first)
    pool.now += 1
    pool.use(second)
    pool.request(ROLE_A)
    assert pool.actions == [Stop(first, RetireReason.ROOM)]


def test_the_longest_unused_of_several_idle_workers_is_taken_over() -> None:
    pool = switching()
    first, second = pool.leased(ROLE_A), pool.leased(ROLE_B)
    pool.use(second)
    pool.now += 1
    pool.use(first)
    pool.request(ROLE_C)
    assert pool.actions == [Assign(second, ROLE_C, ROLE_B.key)]


def test_a_worker_of_another_project_is_never_taken_over() -> None:
    pool = switching(max_workers=1)
    name = pool.idle(ELSEWHERE)
    pool.request(ROLE_A)
    assert pool.actions == [Stop(name, RetireReason.ROOM)]


def test_no_worker_is_taken_over_before_switching_is_allowed() -> None:
    pool = SchedulerDriver()
    name = pool.idle(ROLE_A)
    pool.request(ROLE_B)
    assert [type(action) for action in pool.actions] == [Spawn]
    pool.tell("started", pool.spawned())
    assert pool.state(name) is WorkerState.IDLE


def test_a_worker_in_its_reset_is_awaited_instead_of_a_start() -> None:
    pool = switching()
    name = pool.leased(ROLE_A)
    pool.tell("release", name)
    pool.request(ROLE_B)
    assert pool.actions == []
    assert pool.tell("reset_finished", name, True) == [Assign(name, ROLE_B, ROLE_A.key)]


def test_a_process_starts_when_the_awaited_reset_fails() -> None:
    pool = switching()
    name = pool.leased(ROLE_A)
    pool.tell("release", name)
    pool.request(ROLE_B)
    stop, spawn = pool.tell("reset_finished", name, False)
    assert stop == Stop(name, RetireReason.TAINTED)
    assert isinstance(spawn, Spawn)


def test_role_changes_do_not_count_as_starts() -> None:
    pool = switching(spawn_concurrency=1)
    names = [pool.leased(one) for one in (ROLE_A, ROLE_A)]
    for name in names:
        pool.use(name)
    pool.request(ROLE_B)
    pool.request(ROLE_C)
    assert [type(action) for action in pool.actions] == [Assign]
    pool.request(C)
    assert [type(action) for action in pool.actions] == [Spawn]


# Fairness


def test_an_agent_without_a_worker_is_served_in_its_turn() -> None:
    pool = switching(max_workers=1)
    name = pool.leased(ROLE_A)
    other = pool.request(ROLE_B)
    again = pool.request(ROLE_A)
    assert pool.tell("release", name) == [Reset(name)]
    assert pool.tell("reset_finished", name, True) == [Assign(name, ROLE_B, ROLE_A.key)]
    assert pool.tell("started", name) == [Grant(other, name)]
    pool.tell("release", name)
    assert pool.tell("reset_finished", name, True) == [Assign(name, ROLE_A, ROLE_B.key)]
    assert pool.tell("started", name) == [Grant(again, name)]


def test_callers_who_waited_longer_keep_their_own_worker() -> None:
    pool = switching(max_workers=1)
    name = pool.leased(ROLE_A)
    mine = pool.request(ROLE_A)
    pool.request(ROLE_B)
    pool.tell("release", name)
    assert pool.tell("reset_finished", name, True) == [Grant(mine, name)]


# Edited agents


def test_the_worker_of_an_edited_agent_takes_the_new_version() -> None:
    pool = switching(max_size=1)
    name = pool.idle(ROLE_A)
    ticket = pool.request(EDITED_A)
    assert pool.actions == [Assign(name, EDITED_A, ROLE_A.key)]
    assert pool.tell("started", name) == [Grant(ticket, name)]


def test_an_edit_during_a_task_leaves_its_worker_to_be_reset() -> None:
    pool = switching(max_size=1)
    name = pool.leased(ROLE_A)
    ticket = pool.request(EDITED_A)
    assert pool.tell("release", name) == [Reset(name)]
    assert pool.tell("reset_finished", name, True) == [Assign(name, EDITED_A, ROLE_A.key)]
    pool.tell("started", name)
    assert ticket.state is TicketState.GRANTED


def test_an_edit_that_changes_the_process_replaces_the_worker() -> None:
    pool = switching()
    name = pool.idle(ROLE_A)
    pool.request(spec("a", "2", profile="other", is_role=True))
    assert pool.actions[0] == Stop(name, RetireReason.EDITED)


# Spares of no project


def parked(pool: SchedulerDriver) -> str:
    """Let a pool start and park a spare that can be claimed; return its name."""
    pool.tell("keep_warm", CLAIMS, 0)
    (action,) = pool.actions
    assert action == Spawn("worker-1", None, "base")
    assert pool.tell("started", "worker-1") == []
    return "worker-1"


def test_a_spare_of_no_project_serves_any_of_them() -> None:
    pool = switching(spares=1)
    name = parked(pool)
    ticket = pool.request(CLAIMS_ELSEWHERE)
    assert pool.actions[0] == Assign(name, CLAIMS_ELSEWHERE, None)
    assert Grant(ticket, name) in pool.tell("started", name)
    assert pool.scheduler.workers[name].profile == "elsewhere"


def test_a_refused_claim_leaves_the_spare_to_other_projects() -> None:
    pool = switching(spares=1)
    name = parked(pool)
    pool.request(CLAIMS_ELSEWHERE)
    actions = pool.tell("claim_refused", name)
    assert Spawn("worker-3", CLAIMS_ELSEWHERE, "elsewhere") in actions
    pool.request(CLAIMS)
    assert Assign(name, CLAIMS, None) in pool.actions


def test_a_project_that_cannot_be_claimed_gets_spares_of_its_own() -> None:
    pool = switching(spares=1)
    name = parked(pool)
    pool.request(CLAIMS_ELSEWHERE)
    pool.tell("claim_refused", name)
    for one in list(pool.scheduler.workers.values()):
        if one.profile == "base":
            pool.tell("stop", one.name, RetireReason.DIED)
    pool.settle()
    pool.request(CLAIMS_ELSEWHERE)
    pool.settle()
    spares = [one.profile for one in pool.scheduler.workers.values() if one.spec is None]
    assert spares == ["elsewhere"]


def test_no_spare_is_claimed_once_claims_are_forbidden() -> None:
    pool = switching(spares=1)
    name = parked(pool)
    assert pool.tell("forbid_claims", "base")[0] == Stop(name, RetireReason.DRAINED)
    pool.tell("removed", name)
    pool.request(CLAIMS)
    assert [type(action) for action in pool.actions] == [Spawn, Spawn]
    assert {action.profile for action in pool.actions if isinstance(action, Spawn)} == {"here"}


def test_a_claimed_worker_never_returns_to_another_project() -> None:
    pool = switching(spares=0, max_workers=1)
    name = pool.idle(CLAIMS)
    pool.request(CLAIMS_ELSEWHERE)
    assert pool.actions == [Stop(name, RetireReason.ROOM)]


# What goes wrong


def test_a_worker_that_does_not_take_its_role_is_replaced() -> None:
    pool = switching()
    name = pool.idle(ROLE_A)
    ticket = pool.request(ROLE_B)
    assert pool.tell("start_failed", name, False)[0] == Stop(name, RetireReason.START_FAILED)
    pool.tick(LONG)
    pool.tell("started", pool.spawned())
    assert ticket.state is TicketState.GRANTED


def test_a_caller_that_left_leaves_a_worker_with_its_role() -> None:
    pool = switching()
    name = pool.idle(ROLE_A)
    ticket = pool.request(ROLE_B)
    pool.tell("abandon", ticket)
    assert pool.tell("started", name) == []
    again = pool.request(ROLE_B)
    assert pool.actions == [Grant(again, name)]


def test_a_retiring_worker_takes_no_other_role() -> None:
    pool = switching(max_tasks=1, max_workers=2)
    name = pool.leased(ROLE_A)
    pool.tell("release", name)
    pool.request(ROLE_B)
    pool.settle()
    assert name not in pool.scheduler.workers


# Workers kept warm


def test_agents_of_one_profile_share_the_workers_kept_warm() -> None:
    pool = switching()
    pool.tell("keep_warm", ROLE_A, 1)
    pool.settle()
    pool.tell("keep_warm", ROLE_B, 1)
    pool.settle()
    assert len(pool.scheduler.workers) == 2
    ticket = pool.request(ROLE_C)
    pool.settle()
    assert ticket.state is TicketState.GRANTED
    assert len(pool.scheduler.workers) == 2
