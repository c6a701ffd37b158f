"""The usage of a task, its worker, its agent and the pool is exactly the tokens billed for it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_pool import TaskFailed, TaskResult, TaskTimeout, Text, Usage, WorkerDied
from agent_pool.loopback import DroppedConnection, ErrorResponse, ModelReply
from support.model_scripts import Gate, bash, shell, tool
from support.pool_harness import PoolHarness
from support.process_checks import read_pid
from support.usage_totals import (
    UsageTotals,
    agent_stats,
    is_same,
    total_usage,
    usage_and_cost,
    workers_of,
)

FORM = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
LONG = "word " * 200


async def ask(harness: PoolHarness, agent: str, *steps: Any, **options: Any) -> TaskResult:
    return (await harness.ask(harness.plan(*steps), agent, **options)).result


def test_each_task_reports_exactly_the_usage_billed_for_it(
    harness: PoolHarness, totals: UsageTotals, served_alone: str
) -> None:
    async def main() -> None:
        sub = harness.word("sub")
        harness.project.agent(sub, "You are a sub-agent.", description="Helps.", model="haiku")
        harness.plan_for("subtask", bash("echo sub"), "the sub-agent's answer")
        await totals.learn_prices("inherit", "haiku")
        began, before = totals.mark(), (await harness.pool.stats()).total
        given = {"description": "Tests.", "prompt": "subtask", "subagent_type": sub}
        results = []
        for steps in (  # the third uses more tokens of each kind than the second
            ["short"],
            ["short"],
            [bash("echo one"), bash("echo two"), "done"],
            [LONG],
            [tool("Agent", **given), "delegated"],
            ["after"],
        ):
            mark = totals.mark()
            result = await ask(harness, served_alone, *steps)
            billed = totals.of(result)
            assert billed == totals.since(mark)
            assert is_same(
                (result.usage, result.cost_usd), (total_usage(billed), totals.cost(billed))
            )
            results.append(result)
        await harness.wait_until_idle()
        whole = totals.since(began)
        assert len({entry.model for entry in whole}) == 2
        assert len({result.session_id for result in results}) == 6
        expected = total_usage(whole), totals.cost(whole)
        (worker,) = await workers_of(harness, served_alone)
        stats, total = await agent_stats(harness, served_alone), (await harness.pool.stats()).total
        assert is_same(usage_and_cost(results), expected)
        assert is_same((worker.usage, worker.cost_usd), expected)
        assert is_same((stats.usage, stats.cost_usd), expected)
        gained = total.usage - before.usage, total.cost_usd - before.cost_usd
        assert is_same(gained, expected)
        assert stats.usage.cache_read_tokens > 0
        read, whole_input = stats.usage.cache_read_tokens, stats.usage.cache_write_tokens
        whole_input += stats.usage.input_tokens + read
        assert stats.cache_hit_rate == pytest.approx(read / whole_input)

    harness.run(main())


def test_a_follow_up_reports_only_its_own_usage(
    harness: PoolHarness, totals: UsageTotals, served_alone: str
) -> None:
    async def main() -> None:
        began, results = totals.mark(), []
        for steps in (["one"], [bash("echo two"), "two"], [LONG], ["four"]):
            mark = totals.mark()
            results.append(await ask(harness, served_alone, *steps, conversation="talk"))
            assert results[-1].usage == total_usage(totals.of(results[-1], mark))
            assert results[-1].usage == total_usage(totals.since(mark))
        assert len({result.session_id for result in results}) == 1
        await harness.pool.end_conversation(served_alone, "talk")
        await harness.wait_until_idle()
        (worker,) = await workers_of(harness, served_alone)
        assert (
            worker.usage
            == (await agent_stats(harness, served_alone)).usage
            == total_usage(totals.since(began))
        )

    harness.run(main())


def test_a_failed_task_reports_the_usage_until_its_failure(
    harness: PoolHarness, totals: UsageTotals, agent: str
) -> None:
    async def main() -> None:
        short = harness.word("short")
        harness.project.agent(short, description="Tests.", maxTurns="1")
        began = totals.mark()
        refused = await ask(harness, agent, bash("echo one"), lambda _: ErrorResponse(400))
        assert (refused.is_error, refused.usage) == (True, total_usage(totals.since(began)))
        after = await ask(harness, agent, "yes")
        assert after.usage == total_usage(totals.of(after))
        await harness.wait_until_idle()
        stats = await agent_stats(harness, agent)
        assert stats.usage == total_usage(totals.since(began)) != refused.usage
        assert (stats.tasks, dict(stats.failed)) == (2, {"task_failed": 1})
        mark = totals.mark()
        stopped = await ask(harness, short, bash("echo one"), bash("echo two"))
        assert stopped.subtype == "error_max_turns"
        assert (
            stopped.usage
            == total_usage(totals.since(mark))
            == (await agent_stats(harness, short)).usage
        )

    harness.run(main())


def test_structured_answers_report_their_usage_even_if_invalid(
    harness: PoolHarness, totals: UsageTotals, agent: str
) -> None:
    async def main() -> None:
        began = totals.mark()
        right = await ask(harness, agent, tool("StructuredOutput", a=1), "done", schema=FORM)
        assert right.structured == {"a": 1}
        assert right.usage == total_usage(totals.since(began))
        mark = totals.mark()
        with pytest.raises(TaskFailed) as caught:
            await ask(harness, agent, *["no"] * 9, schema=FORM)
        assert caught.value.result is not None
        assert caught.value.result.usage == total_usage(totals.since(mark))
        await harness.wait_until_idle()
        assert (await agent_stats(harness, agent)).usage == total_usage(totals.since(began))

    harness.run(main())


def test_side_requests_of_the_cli_count_towards_the_task(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear")
    hook = '{"hooks": {"Stop": [{"hooks": [{"type": "prompt", "prompt": "Is it $ARGUMENTS?"}]}]}}'
    (harness.project.root / ".claude" / "settings.json").write_text(hook)
    harness.plan_for("Is", '{"ok": true}')

    async def main() -> None:
        totals = UsageTotals(harness)
        result = await ask(harness, "tester", "yes")
        billed = totals.since()
        assert [entry.is_side for entry in billed] == [False, True]
        assert result.usage == total_usage(billed) == total_usage(totals.of(result))

    harness.run(main())


# Interrupted tasks


def test_a_stopped_task_counts_the_requests_before_the_stop(
    harness: PoolHarness, totals: UsageTotals, served_alone: str, tmp_path: Path
) -> None:
    async def main() -> None:
        began = totals.mark()
        with pytest.raises(TaskTimeout):
            await ask(
                harness, served_alone, bash("echo one"), bash(shell(tmp_path / "pid")), timeout=1.5
            )
        await harness.wait_until_idle()
        billed = totals.since(began)
        assert billed != []
        stats = await agent_stats(harness, served_alone)
        (worker,) = await workers_of(harness, served_alone)
        assert stats.usage == worker.usage == total_usage(billed)
        assert (stats.tasks, dict(stats.failed)) == (1, {"task_timeout": 1})
        after = await ask(harness, served_alone, "yes")
        assert (after.pid, after.usage) == (worker.pid, total_usage(totals.of(after)))

    harness.run(main())


def test_an_interrupted_answer_counts_its_prompt_and_partial_output(
    harness: PoolHarness, totals: UsageTotals, agent: str
) -> None:
    async def main() -> None:
        began, arrived = totals.mark(), asyncio.Event()
        answer = ModelReply(["a beginning", LONG], delta_interval=0.05)
        task = harness.plan(answer)
        call = asyncio.create_task(
            harness.pool.invoke(
                agent, task, on_event=lambda e: arrived.set() if isinstance(e, Text) else None
            )
        )
        await arrived.wait()
        call.cancel()
        await asyncio.wait([call])
        await harness.wait_until_idle()
        assert_only_output_is_less(
            (await agent_stats(harness, agent)).usage, total_usage(totals.since(began))
        )

    harness.run(main())


def test_an_answer_cut_off_counts_the_output_already_received(
    harness: PoolHarness, totals: UsageTotals, agent: str
) -> None:
    async def main() -> None:
        began = totals.mark()
        answers = iter(
            [
                ModelReply(["half an answer, and more", DroppedConnection()], delta_interval=0.1),
                ModelReply("whole"),
            ]
        )
        result = await ask(harness, agent, lambda _: next(answers))
        broken, whole = totals.since(began)
        assert result.text == "whole"
        if result.usage != whole.usage:  # else no token had arrived
            assert_only_output_is_less(result.usage - whole.usage, broken.usage)

    harness.run(main())


def assert_only_output_is_less(found: Usage, billed: Usage) -> None:
    assert 0 < found.output_tokens < billed.output_tokens
    missing = billed - found
    assert (missing.input_tokens, missing.cache_write_tokens, missing.cache_read_tokens) == (0,) * 3


def test_an_unanswered_request_does_not_count_in_the_stats(
    harness: PoolHarness, totals: UsageTotals, agent: str
) -> None:
    async def main() -> None:
        began, gate = totals.mark(), Gate()
        call = asyncio.create_task(ask(harness, agent, gate))
        await gate.reached.wait()
        call.cancel()
        await asyncio.wait([call])
        await harness.wait_until_idle()
        assert totals.since(began) == []
        stats = await agent_stats(harness, agent)
        assert (stats.usage, stats.cost_usd) == (Usage(), 0)
        assert (stats.tasks, dict(stats.failed)) == (1, {"cancelled": 1})

    harness.run(main())


def test_the_turn_of_a_killed_process_adds_no_usage(
    harness: PoolHarness, totals: UsageTotals, served_alone: str, tmp_path: Path
) -> None:
    async def main() -> None:
        first = await ask(harness, served_alone, "yes")
        mark, path = totals.mark(), tmp_path / "pid"
        call = asyncio.create_task(ask(harness, served_alone, bash(shell(path))))
        await read_pid(path)
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            await call
        assert len(totals.since(mark)) == 1  # the CLI reports it only when the turn ends
        last = await ask(harness, served_alone, "again")
        await harness.wait_until_idle()
        stats = await agent_stats(harness, served_alone)
        (worker,) = await workers_of(harness, served_alone)
        assert stats.usage == total_usage([*totals.of(first), *totals.of(last)])
        assert worker.usage == last.usage == total_usage(totals.of(last))
        assert (stats.tasks, dict(stats.failed)) == (3, {"worker_died": 1})

    harness.run(main())


# Names


def test_an_agent_called_by_its_file_name_has_one_entry(
    harness: PoolHarness, totals: UsageTotals
) -> None:
    name, file = harness.word("name"), harness.word("file")
    path = harness.project.agent(name, description="Tests.")
    path.rename(path.with_stem(file))

    async def main() -> None:
        began = totals.mark()
        await ask(harness, file, "yes")
        await ask(harness, name, "yes")
        await ask(harness, file, "yes", conversation="talk")
        await harness.pool.end_conversation(name, "talk")
        stats = await agent_stats(harness, name)
        assert (stats.tasks, stats.usage) == (3, total_usage(totals.since(began)))
        assert file not in [one.agent for one in (await harness.pool.stats()).agents]

    harness.run(main())
