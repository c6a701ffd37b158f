import asyncio
from typing import Any

import pytest

from agent_pool import ConfigError, Queued, TaskRequest, TaskResult, ToolUse
from agent_pool.api import OnEvent
from agent_pool.mcp.server import build_server
from support.fake_pool import FakePool, make_result
from support.mcp_client import ERAS, connected, text_of
from support.waiting import run

pytestmark = pytest.mark.parametrize("era", ERAS)


def tasks(*given: tuple[str, ...]) -> dict[str, object]:
    names = ("agent", "task", "conversation")
    return {"tasks": [dict(zip(names, one, strict=False)) for one in given]}


def test_many_tasks_run_together_and_are_answered_in_order(era: str) -> None:
    async def main() -> None:
        together = asyncio.Barrier(3)

        async def meeting(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            await together.wait()
            return make_result(f"{agent} did {task}", agent=agent)

        async with connected(build_server(FakePool(meeting)), era) as client:
            given = tasks(("a", "one"), ("b", "two"), ("a", "three"))
            answer = await client.call_tool("invoke_many", given)
        assert not answer.is_error
        first, *sections = text_of(answer).split("\n\n")
        assert first == "3 tasks: 3 done, 0 failed."
        headings = [heading.split(" (")[0] for heading in sections[::2]]
        assert headings == ["## 1. a", "## 2. b", "## 3. a"]
        assert sections[1::2] == ["a did one", "b did two", "a did three"]
        assert answer.meta is not None
        rows = answer.meta["agent-pool/results"]
        assert [(row["agent"], row["is_error"]) for row in rows] == [
            ("a", False),
            ("b", False),
            ("a", False),
        ]
        assert [row["agent-pool/result"]["pid"] for row in rows] == [4711] * 3

    run(main())


async def failing_on_request(agent: str, task: str, on_event: OnEvent) -> TaskResult:
    match task:
        case "refuse":
            raise ConfigError("no such thing")
        case "break":
            raise ZeroDivisionError("oops")
        case "report":
            return make_result("API Error: 500", agent=agent, is_error=True, subtype="error")
    return make_result(f"{agent} did {task}", agent=agent)


def test_failed_tasks_are_reported_beside_the_successful_ones(era: str) -> None:
    async def main() -> None:
        async with connected(build_server(FakePool(failing_on_request)), era) as client:
            given = tasks(("a", "refuse"), ("b", "work"), ("c", "break"), ("d", "report"))
            answer = await client.call_tool("invoke_many", given)
        assert not answer.is_error
        text = text_of(answer)
        assert text.startswith("4 tasks: 1 done, 3 failed.\n\n## 1. a (failed after ")
        for part in ("no such thing", "b did work", "a bug in agent-pool", "d failed (error): API"):
            assert part in text
        assert answer.meta is not None
        rows = answer.meta["agent-pool/results"]
        assert [row["is_error"] for row in rows] == [True, False, True, True]
        codes = [row.get("agent-pool/error", {}).get("code") for row in rows]
        assert codes == ["config_error", None, "internal_error", None]

    run(main())


def test_the_answer_is_an_error_when_all_tasks_failed(era: str) -> None:
    async def main() -> None:
        async with connected(build_server(FakePool(failing_on_request)), era) as client:
            given = tasks(("a", "refuse"), ("b", "report"))
            assert (await client.call_tool("invoke_many", given)).is_error

    run(main())


def test_tasks_of_one_conversation_run_in_order_beside_other_tasks(era: str) -> None:
    async def main() -> None:
        other_began, order = asyncio.Event(), []

        async def working(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            if task == "other":
                other_began.set()
            else:
                await other_began.wait()
                order.append(f"{task} begins")
                await asyncio.sleep(0)
                order.append(f"{task} ends")
            return make_result(task)

        pool = FakePool(working)
        async with connected(build_server(pool), era) as client:
            given = tasks(("a", "1", "q3"), ("a", "2", "q3"), ("a", "other"))
            await client.call_tool("invoke_many", given)
        assert order == ["1 begins", "1 ends", "2 begins", "2 ends"]
        assert ("invoke", "a", "2", "q3") in pool.calls

    run(main())


def test_failed_task_prevents_the_later_tasks_of_its_conversation(era: str) -> None:
    async def main() -> None:
        pool = FakePool(failing_on_request)
        async with connected(build_server(pool), era) as client:
            given = tasks(("a", "refuse", "q3"), ("a", "more", "q3"), ("a", "work", "q4"))
            answer = await client.call_tool("invoke_many", given)
        assert [call[2] for call in pool.calls] == ["refuse", "work"]
        reason = "not started: task 1 of this batch, an earlier one of the conversation 'q3', did"
        assert f"{reason} not succeed, so the context is lost" in text_of(answer)
        assert answer.meta is not None
        codes = [row.get("agent-pool/error") for row in answer.meta["agent-pool/results"]]
        assert codes[1] == {"code": "context_lost", "retryable": False}
        assert codes[2] is None

    run(main())


def test_progress_lines_name_the_task_and_their_numbers_grow(era: str) -> None:
    async def main() -> None:
        received = asyncio.Event()
        lines: list[tuple[float, str | None]] = []

        async def working(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            if agent == "b":
                on_event(ToolUse("1", "Bash", {"command": "make"}))
            await received.wait()
            return make_result()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            lines.append((progress, message))
            if message == "1 running, 1 waiting | 2/2 b: Bash: make":
                received.set()

        async with connected(build_server(FakePool(working)), era) as client:
            await client.call_tool(
                "invoke_many", tasks(("a", "one"), ("b", "two")), progress_callback=on_progress
            )
        assert [number for number, _ in lines] == sorted({number for number, _ in lines})

    run(main())


def test_progress_shows_in_which_state_every_task_is(era: str) -> None:
    async def main() -> None:
        lines: list[str | None] = []
        gates = {name: asyncio.Event() for name in "abcd"}

        async def working(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            on_event(
                Queued(1, agent="d") if agent == "d" else ToolUse("1", "Bash", {"command": "make"})
            )
            await gates[agent].wait()
            if agent == "b":
                raise ConfigError("no")
            return make_result(agent)

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            lines.append(message)
            match message:
                case "3 running, 1 waiting | 4/4 d waits for a worker, place 1 in the queue":
                    gates["a"].set()
                case "2 running, 1 waiting, 1 done | 1/4 a: done":
                    gates["b"].set()
                case "1 running, 1 waiting, 1 done, 1 failed | 2/4 b: failed":
                    gates["c"].set()
                    gates["d"].set()

        async with connected(build_server(FakePool(working)), era) as client:
            given = tasks(*((name, "work") for name in "abcd"))
            await client.call_tool("invoke_many", given, progress_callback=on_progress)

    run(main())


def test_a_cancelled_call_cancels_all_of_its_tasks(era: str) -> None:
    async def main() -> None:
        began, cancelled = asyncio.Barrier(3), asyncio.Barrier(3)

        async def endless(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            await began.wait()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                asyncio.get_running_loop().create_task(cancelled.wait())
            raise AssertionError

        async with connected(build_server(FakePool(endless)), era) as client:
            call = asyncio.create_task(
                client.call_tool("invoke_many", tasks(("a", "1"), ("b", "2")))
            )
            await began.wait()
            call.cancel()
            await cancelled.wait()

    run(main())


def test_first_answer_of_a_conversation_states_that_it_began(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        async with connected(build_server(pool), era) as client:
            given = {"agent": "a", "task": "read", "conversation": "q3"}
            first, second = [await client.call_tool("invoke", given) for _ in range(2)]
        assert text_of(first) == "a did read\n\n(The conversation 'q3' began with this task.)"
        assert text_of(second) == "a did read"
        for place, answer in enumerate((first, second), 1):
            assert answer.meta is not None
            figures = answer.meta["agent-pool/result"]
            assert (figures["conversation"], figures["place"]) == ("q3", place)
        assert pool.calls == [("invoke", "a", "read", "q3")] * 2

    run(main())


def test_a_conversation_can_be_ended_without_stopping_its_agent(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        async with connected(build_server(pool), era) as client:
            answers = [
                text_of(await client.call_tool("reset", {"agent": "a", "conversation": name}))
                for name in ("open", "unknown")
            ]
        assert answers == [
            "The conversation 'open' with a has ended.",
            "There is no conversation 'unknown' with a.",
        ]
        assert [call[0] for call in pool.calls] == ["end_conversation"] * 2

    run(main())


def test_options_of_a_call_reach_the_pool_but_no_variables(era: str) -> None:
    options: dict[str, Any] = {
        **{"cwd": "/srv/shop", "model": "opus", "effort": "low", "permission_mode": "plan"},
        **{"isolation": "worktree", "max_budget_usd": 0.5, "max_tokens": 1000},
    }
    wanted = TaskRequest(
        "a",
        "one",
        "/srv/shop",
        model="opus",
        effort="low",
        permission_mode="plan",
        isolation="worktree",
        max_budget_usd=0.5,
        max_tokens=1000,
    )

    async def main() -> None:
        pool = FakePool()
        async with connected(build_server(pool), era) as client:
            one = {"agent": "a", "task": "one", **options}
            await client.call_tool("invoke", one)
            await client.call_tool("invoke_many", {"tasks": [one]})
            refused = await client.call_tool("invoke", {**one, "env": {"A": "b"}})
            assert refused.is_error
            assert "unknown argument 'env'" in text_of(refused)
            refused = await client.call_tool("invoke", {**one, "attachments": ["/etc/passwd"]})
            assert "unknown argument 'attachments'" in text_of(refused)
        assert pool.requests == [wanted, wanted]

    run(main())
