"""What a task has used is known while it runs, and its budget ends it: on the real CLI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from agent_pool import (
    BudgetReached,
    ConfigError,
    Ended,
    PermissionRequest,
    Spent,
    TaskCancelled,
    TaskEvent,
    TaskFailed,
    TaskRequest,
    TaskResult,
    TaskTimeout,
    Usage,
)
from agent_pool.loopback import ModelReply, ToolUseBlock
from support.fake_cli import Act
from support.model_scripts import Gate, bash, tool
from support.pool_harness import PoolHarness
from support.pools import PoolProject, wait_until_idle
from support.usage_totals import UsageTotals, is_same, total_usage
from support.variants import later

COSTLY = {"output_tokens": 100_000}
"""Tokens of one answer that cost some dollars with every model."""


def costly(words: str, command: str = "echo done") -> ModelReply:
    """Build an answer that costs much, says `words` and goes on."""
    call = ToolUseBlock("Bash", {"command": command, "description": "Tests."})
    return ModelReply([words, call], usage=COSTLY)


async def run(
    harness: PoolHarness, agent: str, *steps: Any, **fields: Any
) -> tuple[TaskResult, list[TaskEvent]]:
    """Run a task of these steps; return its result and its events."""
    events: list[TaskEvent] = []
    request = TaskRequest(agent, harness.plan(*steps), **fields)
    handle = await harness.pool.submit(request, on_event=events.append)
    result = await handle.result()
    # The same process can be asked for its state again: nothing of this task is under way.
    await harness.wait_until_idle()
    return result, events


def spent_of(events: list[TaskEvent]) -> list[Spent]:
    return [event for event in events if isinstance(event, Spent)]


# While it runs


def test_spent_events_are_exact_while_a_task_runs(
    harness: PoolHarness, totals: UsageTotals, agent: str
) -> None:
    async def main() -> None:
        await totals.learn_prices("inherit")
        for steps in (
            [bash("echo one"), bash("echo two"), "done"],
            [ModelReply(["some words", "and more", ToolUseBlock("Bash", {"command": "ls"})]), "x"],
        ):
            mark = totals.mark()
            result, events = await run(harness, agent, *steps)
            billed = totals.since(mark)
            spent = spent_of(events)
            for event, known in zip(spent, range(1, len(billed)), strict=True):
                expected = total_usage(billed[:known]), totals.cost(billed[:known])
                assert is_same((event.usage, event.cost_usd), expected)
                # The context is what the last request sent, as `/context` counts it.
                assert event.context_tokens == billed[known - 1].usage.prompt_tokens
                assert event.context_window >= 200_000
            assert spent[-1].usage == result.usage - billed[-1].usage
            assert isinstance(events[-1], Ended)

    harness.run(main())


def test_spent_events_count_the_answers_of_sub_agents(
    harness: PoolHarness, totals: UsageTotals, agent: str
) -> None:
    sub = harness.word("sub")
    harness.project.agent(sub, "You are a sub-agent.", description="Helps.", model="haiku")
    # Each waits until the answers before it were reported: two could be reported together.
    gates = {2: Gate("the sub-agent's answer"), 3: Gate("delegated")}
    harness.plan_for("subtask", bash("echo sub"), gates[2])
    given = {"description": "Tests.", "prompt": "subtask", "subagent_type": sub}

    async def main() -> None:
        mark = totals.mark()
        known: set[Usage] = set()

        def note(event: TaskEvent) -> None:
            if isinstance(event, Spent):
                known.add(event.usage)
                answered = totals.since(mark)
                for count, gate in gates.items():
                    if len(answered) >= count and event.usage == total_usage(answered[:count]):
                        gate.open()

        request = TaskRequest(agent, harness.plan(tool("Agent", **given), gates[3]))
        await (await harness.pool.submit(request, on_event=note)).result()
        await harness.wait_until_idle()
        billed = totals.since(mark)
        assert len({entry.model for entry in billed}) == 2
        # The sub-agent's first answer is reported while it works, its last one with its end.
        assert {total_usage(billed[:2]), total_usage(billed[:3])} <= known

    harness.run(main())


def test_a_task_of_one_answer_is_not_asked_for_its_usage(harness: PoolHarness, agent: str) -> None:
    async def main() -> None:
        result, events = await run(harness, agent, "done")
        assert (spent_of(events), result.usage.output_tokens > 0) == ([], True)

    harness.run(main())


# At the limit


@pytest.mark.parametrize("unit", ["usd", "tokens"])
def test_a_task_over_its_budget_is_interrupted_and_keeps_its_words(
    harness: PoolHarness, totals: UsageTotals, agent: str, unit: str
) -> None:
    fields: dict[str, Any] = {"max_budget_usd": 1.5} if unit == "usd" else {"max_tokens": 100_000}

    async def main() -> None:
        mark = totals.mark()
        result, events = await run(
            harness, agent, costly("I have begun", "sleep 30"), "never said", **fields
        )
        assert (result.is_error, result.code) == (True, "budget_limit")
        assert result.partial == "I have begun"
        assert result.usage == total_usage(totals.since(mark))
        used = f"{result.cost_usd:.4f} US dollars" if unit == "usd" else "tokens, those read"
        limit = "1.5 (max_budget_usd of" if unit == "usd" else "100,000 (max_tokens of the call)"
        assert used in result.text
        assert limit in result.text
        with pytest.raises(BudgetReached, match="or raise its budget"):
            result.raise_for_error()
        assert isinstance(events[-1], Ended)
        assert events[-1].failure == "budget_limit"
        after, _ = await run(harness, agent, bash("echo one"), "done", **fields)
        assert (after.text, after.pid) == ("done", result.pid)

    harness.run(main())


def test_a_sub_agent_uses_up_the_budget_of_its_task(harness: PoolHarness, agent: str) -> None:
    sub = harness.word("sub")
    harness.project.agent(sub, description="Helps.")
    harness.plan_for("subspend", costly("sub words", "sleep 30"), "never said")
    given = {"description": "Tests.", "prompt": "subspend", "subagent_type": sub}

    async def main() -> None:
        result, _ = await run(harness, agent, tool("Agent", **given), "no", max_tokens=90_000)
        assert (result.code, result.usage.output_tokens >= 100_000) == ("budget_limit", True)

    harness.run(main())


def test_a_budget_ends_a_task_that_waits_for_a_permission(harness: PoolHarness) -> None:
    agent = harness.word("asker")
    harness.project.agent(agent, description="Tests.", permissionMode="default")

    async def never(asked: PermissionRequest) -> bool:
        await asyncio.Event().wait()
        return True

    async def main() -> None:
        task = harness.plan(costly("may I", "touch made-by-the-agent"), "no")
        result = await harness.pool.invoke(agent, task, max_tokens=90_000, on_permission=never)
        assert (result.code, result.partial) == ("budget_limit", "may I")
        await harness.wait_until_idle()
        assert not (harness.project.root / "made-by-the-agent").exists()
        after, _ = await run(harness, agent, "done")
        assert (after.text, after.pid) == ("done", result.pid)

    harness.run(main())


def test_tokens_read_from_the_cache_do_not_use_up_a_budget(
    harness: PoolHarness, agent: str
) -> None:
    read = {
        **{"input_tokens": 1, "cache_creation_input_tokens": 0, "output_tokens": 1},
        "cache_read_input_tokens": 500_000,
    }
    call = ToolUseBlock("Bash", {"command": "echo one", "description": "Tests."})

    async def main() -> None:
        result, events = await run(
            harness, agent, ModelReply([call], usage=read), "done", max_tokens=100_000
        )
        assert result.text == "done"
        assert [event.usage for event in spent_of(events)] == [Usage(1, 1, 0, 500_000)]

    harness.run(main())


def test_an_answer_that_is_complete_is_not_cut_by_a_budget(
    harness: PoolHarness, agent: str
) -> None:
    async def main() -> None:
        result, _ = await run(
            harness, agent, bash("echo"), ModelReply("all of it", usage=COSTLY), max_tokens=50_000
        )
        assert (result.text, result.is_error) == ("all of it", False)

    harness.run(main())


@pytest.mark.parametrize("reset", ["auto", later("clear")])
def test_the_cost_of_one_task_never_counts_for_the_next(
    open_harness: Callable[..., PoolHarness], reset: str
) -> None:
    harness = open_harness(reset=reset, max_workers=1)
    harness.project.agent("other", "You do other things.", description="Tests.", tools="Bash")

    async def main() -> None:
        for agent in (*["tester"] * 5, "other", "tester"):
            # Each alone is below the limit, two together are not.
            result, events = await run(harness, agent, costly("words"), "done", max_tokens=180_000)
            assert (result.text, len(spent_of(events))) == ("done", 1)
            assert spent_of(events)[0].usage.output_tokens == 100_000
        assert len({worker.pid for worker in await harness.pool.workers()}) == 1
        # The totals of a process go on after a rewind, and begin again at `/clear`.
        assert ((await harness.pool.stats()).rewinds > 0) == (reset == "auto")

    harness.run(main())


def test_each_task_of_a_conversation_has_a_budget_of_its_own(
    harness: PoolHarness, agent: str
) -> None:
    async def main() -> None:
        for number in range(3):
            # A plan counts the answers of the whole conversation: two for each task before.
            task = harness.plan(*[""] * 2 * number, costly("words"), "done")
            request = TaskRequest(agent, task, conversation="talk", max_tokens=180_000)
            result = await (await harness.pool.submit(request)).result()
            assert (result.text, result.place) == ("done", number + 1)
        await harness.pool.end_conversation(agent, "talk")

    harness.run(main())


# Whose budget


def test_the_smallest_of_call_definition_and_setting_counts(
    open_harness: Callable[..., PoolHarness],
) -> None:
    harness = open_harness(reset="clear", max_budget_usd=2, max_tokens=10_000_000)
    harness.project.agent("thrifty", description="Tests.", maxBudgetUsd="1.5")

    async def main() -> None:
        cases = (
            ("tester", None, "2 (setting max_budget_usd)"),
            ("thrifty", None, "1.5 (maxBudgetUsd of the definition "),
            ("thrifty", 1, "1 (max_budget_usd of the call)"),
            ("thrifty", 1000, "1.5 (maxBudgetUsd of the definition "),
            ("tester", 1000, "2 (setting max_budget_usd)"),
        )
        for agent, given, words in cases:
            steps = costly("a", "sleep 30"), "no"
            result, _ = await run(harness, agent, *steps, max_budget_usd=given)
            assert (result.code, words in result.text) == ("budget_limit", True), result.text

    harness.run(main())


@pytest.mark.parametrize("counts", [False, later(True)])
def test_dollars_do_not_count_with_a_subscription_unless_asked_for(
    open_harness: Callable[..., PoolHarness], counts: bool
) -> None:
    signed_in = {"ANTHROPIC_API_KEY": "", "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-dummy"}
    harness = open_harness(environ=signed_in, budget_with_subscription=counts)

    async def main() -> None:
        free, events = await run(harness, "tester", costly("a"), "done", max_budget_usd=0.01)
        assert free.code == ("budget_limit" if counts else "")
        assert spent_of(events)[0].cost_usd > 1
        bound, _ = await run(harness, "tester", costly("a"), "done", max_tokens=10)
        assert bound.code == "budget_limit"

    harness.run(main())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_budget_usd": 0}, "max_budget_usd: expected US dollars above 0, found 0"),
        ({"max_budget_usd": float("nan")}, "max_budget_usd: expected"),
        ({"max_budget_usd": float("inf")}, "max_budget_usd: expected"),
        ({"max_budget_usd": True}, "max_budget_usd: expected"),
        ({"max_budget_usd": "1"}, "max_budget_usd: expected"),
        ({"max_tokens": 0}, "max_tokens: expected a whole number above 0, found 0"),
        ({"max_tokens": 1.5}, "max_tokens: expected"),
        ({"max_tokens": True}, "max_tokens: expected"),
    ],
)
def test_a_wrong_budget_is_refused_before_a_worker_starts(
    harness: PoolHarness, fields: dict[str, Any], words: str
) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=words):
            await harness.pool.check(TaskRequest("tester", "do it", **fields))

    harness.run(main())


# What a stopped task had said and used


def test_a_cancelled_task_keeps_the_words_and_the_usage_so_far(
    harness: PoolHarness, totals: UsageTotals, agent: str
) -> None:
    async def main() -> None:
        for error in (None, TaskFailed("its day is over")):
            mark, gate = totals.mark(), Gate()
            handle = await harness.pool.submit(
                TaskRequest(agent, harness.plan(costly("so far"), gate))
            )
            await gate.reached.wait()
            assert await harness.pool.cancel(handle.id, error=error)
            with pytest.raises(TaskCancelled if error is None else TaskFailed) as caught:
                await handle.result()
            assert error is None or caught.value is error
            left = caught.value.result
            assert left is not None
            assert (left.partial, left.code) == ("so far", caught.value.code)
            assert left.usage == total_usage(totals.since(mark))
            assert left.cost_usd > 1
            await harness.wait_until_idle()

    harness.run(main())


def test_a_task_cancelled_in_the_queue_has_no_result(harness: PoolHarness, agent: str) -> None:
    async def main() -> None:
        gate = Gate()
        first = await harness.pool.submit(TaskRequest(agent, harness.plan(gate)))
        await gate.reached.wait()
        second = await harness.pool.submit(TaskRequest(agent, harness.plan("never")))
        assert await harness.pool.cancel(second.id)
        with pytest.raises(TaskCancelled) as caught:
            await second.result()
        assert caught.value.result is None
        gate.open()
        await first.result()

    harness.run(main())


def test_a_task_that_takes_too_long_has_its_usage_so_far(
    harness: PoolHarness, totals: UsageTotals, agent: str
) -> None:
    async def main() -> None:
        mark = totals.mark()
        task = harness.plan(bash("echo one"), bash("sleep 30"))
        with pytest.raises(TaskTimeout) as caught:
            await harness.pool.invoke(agent, task, timeout=6)
        await harness.wait_until_idle()
        assert caught.value.result is not None
        assert caught.value.result.usage == total_usage(totals.since(mark))

    harness.run(main())


# Other versions


def test_a_budget_is_refused_where_it_cannot_be_watched(pool_project: PoolProject) -> None:
    async def main() -> None:
        async with pool_project.faulty(version="2.1.300") as pool:
            with pytest.raises(ConfigError, match=r"Claude Code 2\.1\.300 does not report"):
                await (await pool.submit(TaskRequest("tester", "quince", max_tokens=5))).result()
            assert (await pool.invoke("tester", "quince")).text == "echo: quince"
            await wait_until_idle(pool)

    asyncio.run(main())


def test_a_turn_that_ignores_its_interrupt_ends_at_its_budget(pool_project: PoolProject) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {}}
    content = [{"type": "text", "text": "I work"}, call]
    frame = {"type": "assistant", "parent_tool_use_id": None, "message": {"content": content}}
    used = {"total_cost_usd": 0.5, "model_usage": {"fake": {"outputTokens": 5000}}}
    acts: tuple[Act, ...] = (
        {"at": "initialize", "do": "respond", "capabilities": ["get_usage_detached_v1"]},
        {"at": "prompt", "do": "say", "text": json.dumps(frame) + "\n", "match": "spend"},
        {"at": "prompt", "do": "hang", "match": "spend"},
        {"at": "control", "do": "respond", "match": "get_usage", "session": used},
        {"at": "interrupt", "do": "hang"},
    )

    async def main() -> None:
        async with pool_project.faulty(*acts) as pool:
            request = TaskRequest("tester", "spend", max_tokens=1000)
            with pytest.raises(BudgetReached, match="raise its budget") as caught:
                await (await pool.submit(request)).result()
            assert caught.value.result is not None
            assert caught.value.result.partial == "I work"
            assert caught.value.result.usage == Usage(output_tokens=5000)

    asyncio.run(main())
