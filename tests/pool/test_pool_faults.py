"""Processes that fail while they serve: each fault has its own error, and the pool goes on.

The real CLI will not do these on request, so `fake_cli` does them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent_pool import (
    PoolTimeout,
    Queued,
    RemoteProtocolError,
    TaskTimeout,
    WorkerDied,
)
from agent_pool.pool.launch_cache import LaunchCache
from support.fake_cli import Act
from support.pools import PoolProject, assert_serves, wait_until_idle
from support.process_checks import is_alive
from support.waiting import run, wait_until

# Turns


@pytest.mark.parametrize(
    ("act", "error", "said"),
    [
        ({"do": "exit", "code": 9, "stderr": "oh no"}, WorkerDied, "exit code 9 .*(?s:.*)oh no"),
        ({"do": "die"}, WorkerDied, "signal 9"),
        ({"do": "say", "text": '{"type": "result", \n'}, RemoteProtocolError, "broken JSON"),
        (
            {"do": "line", "size": 100_000},
            RemoteProtocolError,
            r"50,000 bytes .*max_line",
        ),
        (
            {"do": "stream", "size": 100_000},
            RemoteProtocolError,
            r"50,000 bytes .*max_line",
        ),
    ],
    ids=["exit", "killed", "garbage", "long-line", "endless-line"],
)
def test_a_faulty_worker_fails_its_task_and_is_replaced(
    pool_project: PoolProject, act: Act, error: type[Exception], said: str
) -> None:
    async def main() -> None:
        fault = {"at": "prompt", "match": "medlar", **act}
        async with pool_project.faulty(fault, max_line=50_000, max_size=1) as pool:
            doomed = await assert_serves(pool)
            with pytest.raises(error, match=said) as failure:
                await pool.invoke("tester", "medlar")
            # A task whose worker ended before it said anything was given to another one.
            last = "worker-2" if error is WorkerDied else "worker-1"
            assert last in str(failure.value)
            assert failure.value.retryable  # type: ignore[attr-defined]
            await assert_serves(pool, without=doomed)
            assert not is_alive(doomed)

    run(main())


@pytest.mark.parametrize(
    "act",
    [
        {"do": "hang"},
        {"do": "deaf"},
        {"do": "mute"},
        {"do": "reply", "user_message_uuid": "11111111-1111-4111-8111-111111111111"},
    ],
    ids=["no-answer", "not-reading", "mute", "answer-to-another"],
)
def test_an_unanswered_task_times_out_and_the_next_is_served(
    pool_project: PoolProject, act: Act
) -> None:
    async def main() -> None:
        fault = {"at": "prompt", "match": "medlar", **act}
        async with pool_project.faulty(fault, max_size=1) as pool:
            doomed = await assert_serves(pool)
            with pytest.raises(TaskTimeout, match=r"stopped after 0\.3 s"):
                await pool.invoke("tester", "medlar", timeout=0.3)
            without = None if act["do"] == "hang" else doomed  # which ends when interrupted
            await assert_serves(pool, without)

    run(main())


def test_a_cli_that_stops_reading_a_long_task_is_replaced(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        deaf = {"at": "clear", "do": "answer_and_read_no_more", "times": 1}
        async with pool_project.faulty(deaf, max_size=1) as pool:
            doomed = await assert_serves(pool)
            with pytest.raises(TaskTimeout):
                await pool.invoke("tester", "x" * 1_000_000, timeout=0.3)
            await assert_serves(pool, without=doomed)

    run(main())


@pytest.mark.parametrize("act", [{"do": "hang"}, {"do": "deaf"}, {"do": "exit"}, {"do": "die"}])
def test_a_worker_that_fails_at_its_interrupt_is_replaced(
    pool_project: PoolProject, act: Act
) -> None:
    async def main() -> None:
        faults: list[Act] = [
            {"at": "prompt", "do": "hang", "match": "medlar"},
            {"at": "interrupt", **act},
        ]
        async with pool_project.faulty(*faults, max_size=1) as pool:
            doomed = await assert_serves(pool)
            with pytest.raises(TaskTimeout):
                await pool.invoke("tester", "medlar", timeout=0.3)
            await assert_serves(pool, without=doomed)

    run(main())


@pytest.mark.parametrize(
    "act",
    [
        {"do": "complain", "size": 5_000_000},
        {"do": "say", "text": "Warning: a runtime has something to say\n\n[]\n42\nnull\n"},
        {"do": "line", "size": 3_000_000},
        {
            "do": "say",
            "text": '{"type":"control_request","request_id":"r","request":{"subtype":"x"}}\n',
        },
        {"do": "say", "text": '{"type":"new_in_this_release","x":[1]}\n{"type":["odd"]}\n{}\n'},
        {
            "do": "say",
            "text": '{"type":"assistant","message":"odd"}\n{"type":"user","message":7}\n',
        },
        {"do": "reply", "modelUsage": {"m": {"inputTokens": "many", "outputTokens": None}}},
        {"do": "reply", "modelUsage": ["odd"], "total_cost_usd": "a lot", "num_turns": []},
        {"do": "reply", "session_id": None, "modelUsage": None, "total_cost_usd": None},
    ],
)
def test_unexpected_output_of_a_worker_does_no_harm(pool_project: PoolProject, act: Act) -> None:
    async def main() -> None:
        async with pool_project.faulty(
            {"at": "prompt", "match": "medlar", **act}, max_size=1
        ) as pool:
            result = await pool.invoke("tester", "medlar", timeout=10)
            assert result.text == "echo: medlar"
            await assert_serves(pool)

    run(main())


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1" + "0" * 400])
def test_an_impossible_number_does_not_hide_the_answer(
    pool_project: PoolProject, number: str
) -> None:
    async def main() -> None:
        absurd = {"total_cost_usd": int(number) if number.isdigit() else float(number)}
        usage = {"modelUsage": {"m": {"inputTokens": absurd["total_cost_usd"]}}}
        fault = {"at": "prompt", "match": "medlar", "do": "reply", **absurd, **usage}
        async with pool_project.faulty(fault, max_size=1) as pool:
            result = await pool.invoke("tester", "medlar", timeout=5)
            assert result.text == "echo: medlar"
            await assert_serves(pool)

    run(main())


@pytest.mark.parametrize("fault", ["exit", "die"])
def test_a_worker_that_ends_before_the_turn_costs_its_caller_nothing(
    pool_project: PoolProject, fault: str
) -> None:
    async def main() -> None:
        act = {"at": "prompt", "do": fault, "times": 1, "match": "medlar"}
        async with pool_project.faulty(act, max_size=1) as pool:
            doomed = await assert_serves(pool)
            result = await pool.invoke("tester", "medlar")
            assert "medlar" in result.text
            assert result.pid != doomed
            assert (await pool.stats()).retired == {"died": 1}

    run(main())


def test_a_retried_task_waits_acquire_timeout_in_all(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty(max_size=1, acquire_timeout=60) as pool:
            await assert_serves(pool)
            supervisor = pool._supervisor
            (record,) = supervisor.scheduler.workers.values()
            assert record.spec is not None
            holder = await supervisor.acquire(record.spec, lambda _: None)
            place, has_waited = supervisor.new_place(), asyncio.Event()

            def listen(report: Queued) -> None:
                if report.waited > 0.5:
                    has_waited.set()

            waiting = asyncio.ensure_future(supervisor.acquire(record.spec, listen, place))
            await has_waited.wait()
            supervisor.return_unused(holder)
            worker = await waiting
            assert place.seconds < 60 - 0.4
            # It asks again, for example because this worker has ended, and no other is free.
            place.seconds = 0.1
            with pytest.raises(PoolTimeout):
                await supervisor.acquire(record.spec, lambda _: None, place)
            supervisor.return_unused(worker)

    run(main())


def test_a_task_is_not_repeated_once_its_turn_has_begun(pool_project: PoolProject) -> None:
    async def main() -> None:
        faults: list[Act] = [
            {"at": "prompt", "do": "say", "text": '{"type": "system"}\n', "match": "medlar"},
            {"at": "prompt", "do": "die", "times": 1, "match": "medlar"},
        ]
        async with pool_project.faulty(*faults, max_size=1) as pool:
            await assert_serves(pool)
            with pytest.raises(WorkerDied, match=r"worker-1 .*signal 9"):
                await pool.invoke("tester", "medlar")

    run(main())


def test_the_end_of_a_long_stderr_is_in_the_error(pool_project: PoolProject) -> None:
    async def main() -> None:
        faults: list[Act] = [
            {"at": "prompt", "do": "complain", "size": 5_000_000, "text": "the last words"},
            {"at": "prompt", "do": "exit"},
        ]
        async with pool_project.faulty(*faults) as pool:
            with pytest.raises(WorkerDied) as failure:
                await pool.invoke("tester", "one")
            assert failure.value.stderr_tail.endswith("the last words")
            assert len(failure.value.stderr_tail) <= 5000

    run(main())


def test_the_death_of_a_worker_is_noticed_despite_open_pipes(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    path = tmp_path / "child"

    async def main() -> None:
        faults: list[Act] = [
            {"at": "prompt", "do": "leave_child", "path": str(path), "match": "medlar"},
            {"at": "prompt", "do": "exit", "match": "medlar"},
        ]
        async with pool_project.faulty(*faults) as pool:
            with pytest.raises(WorkerDied):
                await pool.invoke("tester", "medlar", timeout=10)
            await wait_until(lambda: not is_alive(int(path.read_text())))
            await assert_serves(pool)

    run(main())


def test_a_stubborn_child_of_a_task_ends_before_the_next(
    pool_project: PoolProject, tmp_path: Path
) -> None:
    path = tmp_path / "child"

    async def main() -> None:
        child = {"at": "prompt", "do": "leave_child", "path": str(path), "tool": "Bash"}
        child["match"] = "medlar"
        async with pool_project.faulty(child, max_size=1) as pool:
            await pool.invoke("tester", "medlar")
            await assert_serves(pool)
            assert not is_alive(int(path.read_text()))

    run(main())


def test_a_worker_that_ends_after_its_answer_fails_no_task(
    pool_project: PoolProject,
) -> None:
    async def main() -> None:
        async with pool_project.faulty({"at": "prompt", "do": "answer_and_exit"}) as pool:
            for number in range(10):  # its end is noticed at different moments of its reset
                result = await pool.invoke("tester", f"task {number}")
                assert result.text == f"echo: task {number}"

    run(main())


# Results that nobody asked for


@pytest.mark.parametrize(
    "fields",
    [
        {"user_message_uuid": "11111111-1111-4111-8111-111111111111"},
        {"user_message_uuid": None},
        {"user_message_uuids": []},
        {"user_message_uuid": None, "origin": {"kind": "task-notification"}},
    ],
    ids=["of-another", "unstamped", "empty", "of-a-background-task"],
)
@pytest.mark.parametrize("at", ["prompt", "clear"])
def test_an_unrequested_result_never_reaches_any_caller(
    pool_project: PoolProject, at: str, fields: dict[str, Any]
) -> None:
    async def main() -> None:
        stray = {"type": "result", "subtype": "success", "is_error": False, "result": "STRAY"}
        late = {"at": at, "do": "add", **stray, **fields}
        async with pool_project.faulty(late, max_size=1) as pool:
            for number in range(6):
                result = await pool.invoke("tester", f"task {number}")
                assert result.text == f"echo: task {number}"
            await wait_until_idle(pool)

    run(main())


# Resets


@pytest.mark.parametrize(
    "act",
    [
        {"do": "hang"},
        {"do": "deaf"},
        {"do": "exit"},
        {"do": "die"},
        {"do": "answer_and_exit"},
        {"do": "reply", "result": "Unknown slash command: clear"},
        {"do": "reply", "is_error": True},
        {"do": "reply", "subtype": "error_during_execution"},
        {"do": "reply", "local_command": "cost"},
        {"do": "keep_session"},
        {"do": "say", "text": '{"type": "result", \n'},
    ],
    ids=lambda act: f"{act['do']}-{next((k for k in act if k != 'do'), '')}".strip("-"),
)
def test_a_worker_that_does_not_reset_correctly_is_replaced(
    pool_project: PoolProject, act: Act
) -> None:
    async def main() -> None:
        fault = {"at": "clear", "times": 1, **act}
        async with pool_project.faulty(fault, max_size=1, reset_timeout=1) as pool:
            doomed = await pool.invoke("tester", "medlar")
            assert doomed.text == "echo: medlar"
            try:
                await assert_serves(pool, without=doomed.pid)
            except WorkerDied:
                assert act["do"] == "answer_and_exit"  # it was clean, and gone a moment later
                await assert_serves(pool, without=doomed.pid)
            await wait_until(lambda: not is_alive(doomed.pid))

    run(main())


# Stops


@pytest.mark.parametrize(
    "acts",
    [
        [{"at": "eof", "do": "deaf"}],
        [{"at": "eof", "do": "deaf"}, {"at": "start", "do": "outlive_sigterm"}],
    ],
    ids=["ignores-eof", "ignores-sigterm"],
)
def test_an_idle_worker_that_will_not_stop_is_killed(
    pool_project: PoolProject, acts: list[Act]
) -> None:
    async def main() -> None:
        async with pool_project.faulty(*acts) as pool:
            pid = await assert_serves(pool)
            assert await pool.reset("tester") == 1
            assert not is_alive(pid)
            await assert_serves(pool)
        assert pool_project.fakes() == []

    run(main())


def test_a_busy_worker_that_will_not_stop_is_killed(pool_project: PoolProject) -> None:
    async def main() -> None:
        acts: list[Act] = [
            {"at": "start", "do": "outlive_sigterm"},
            {"at": "prompt", "do": "deaf", "match": "medlar"},
        ]
        async with pool_project.faulty(*acts) as pool:
            pid = await assert_serves(pool)
            running = asyncio.create_task(pool.invoke("tester", "medlar"))
            await wait_until(lambda: "prompt medlar" in pool_project.journal())
            stopped = asyncio.create_task(pool.reset("tester"))
            with pytest.raises(WorkerDied, match="its agent was reset"):
                await running
            assert await stopped == 1
            assert not is_alive(pid)
            await assert_serves(pool)

    run(main())


def test_a_definition_that_is_edited_while_the_cli_starts_is_read_again(
    pool_project: PoolProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = LaunchCache._version
    edits = iter(["You are edited.", "You are edited again."])

    async def edit_meanwhile(cache: LaunchCache, *args: Any) -> str:
        if prompt := next(edits, ""):
            pool_project.agent("tester", prompt)
        return await ask(cache, *args)

    async def main() -> None:
        async with pool_project.faulty() as pool:
            monkeypatch.setattr(LaunchCache, "_version", edit_meanwhile)
            spec = await pool._registry.resolve("tester")
            agent = pool._registry.agent(spec)
            assert agent is not None
            assert agent.prompt.strip() == "You are edited again."

    run(main())
