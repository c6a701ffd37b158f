"""The Tasks extension, driven by the official client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.client.extension import advertise
from mcp_types import ElicitRequestParams, ElicitResult

from agent_pool import ConfigError, TaskResult, ToolUse
from agent_pool.mcp.jobs import Jobs
from agent_pool.mcp.server import build_server
from mcp_fakes import FakePool, OnEvent, a_result, connected, text_of
from mcp_tasks import EXTENSION, TasksOfClient, begin, request, until
from support import run

MODERN = "2026-07-28"
A_CALL = {"agent": "reviewer", "task": "look"}


class Gate:
    """Agents that work until they are let go, and tell when they begin and are interrupted."""

    def __init__(self) -> None:
        self.began: asyncio.Queue[str] = asyncio.Queue()
        self.interrupted: asyncio.Queue[str] = asyncio.Queue()
        self.open = asyncio.Event()

    async def __call__(self, agent: str, task: str, on_event: OnEvent) -> TaskResult:
        on_event(ToolUse("1", "Bash", {"command": f"do {task}"}))
        self.began.put_nowait(task)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.interrupted.put_nowait(task)
            raise
        return a_result(f"did {task}")


@asynccontextmanager
async def client_with_tasks(pool: FakePool, jobs: Jobs | None = None) -> AsyncIterator[Client]:
    server = build_server(pool, jobs=jobs)
    async with connected(server, MODERN, extensions=[TasksOfClient()]) as client:
        yield client


def test_the_server_declares_the_extension() -> None:
    async def main() -> None:
        async with connected(build_server(FakePool()), "auto") as client:
            assert client.server_capabilities.extensions == {EXTENSION: {}}

    run(main())


def test_three_tasks_run_side_by_side_and_deliver_their_results() -> None:
    async def main() -> None:
        gate = Gate()
        async with client_with_tasks(FakePool(gate)) as client:
            tasks = [await begin(client, "invoke", A_CALL | {"task": f"{n}"}) for n in range(3)]
            assert {await gate.began.get() for _ in tasks} == {"0", "1", "2"}
            assert len({task.task_id for task in tasks}) == 3
            assert {task.status for task in tasks} == {"working"}
            assert text_of(await client.call_tool("list", {})) == "[]"  # it goes on meanwhile
            gate.open.set()
            for number, task in enumerate(tasks):
                state = await until(client.session, task.task_id, "completed")
                assert state["result"]["content"] == [{"type": "text", "text": f"did {number}"}]
                assert state["result"]["_meta"]["agent-pool/result"]["pid"] == 4711
                assert state["result"]["isError"] is False

    run(main())


def test_an_ordinary_call_of_such_a_client_ends_with_the_answer() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool()) as client:
            many = {"tasks": [A_CALL, A_CALL]}
            assert text_of(await client.call_tool("invoke", A_CALL)) == "reviewer did look"
            assert "2 done" in text_of(await client.call_tool("invoke_many", many))

    run(main())


def test_a_task_says_what_happens_now_and_when_to_ask_again() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool(Gate())) as client:
            task = await begin(client, "invoke", A_CALL)
            assert task.poll_interval_ms == 1000
            assert task.ttl_ms == 24 * 3600 * 1000
            while True:
                state = await request(client.session, "tasks/get", taskId=task.task_id)
                if state["statusMessage"] == "Bash: do look":
                    break
                await asyncio.sleep(0.001)
            assert state["status"] == "working"
            assert state["resultType"] == "complete"
            created, updated = (
                datetime.fromisoformat(state[key]) for key in ("createdAt", "lastUpdatedAt")
            )
            assert created <= updated

    run(main())


def test_a_failure_of_the_tool_is_a_completed_task_with_an_error_in_its_result() -> None:
    async def main() -> None:
        pool = FakePool()
        pool.error = ConfigError("no such agent")
        async with client_with_tasks(pool) as client:
            task = await begin(client, "invoke", A_CALL)
            state = await until(client.session, task.task_id, "completed")
            assert state["statusMessage"] == "failed"
            assert state["result"]["isError"] is True

    run(main())


def test_a_cancelled_task_interrupts_its_agent_and_can_be_cancelled_again() -> None:
    async def main() -> None:
        gate = Gate()
        async with client_with_tasks(FakePool(gate)) as client:
            task = await begin(client, "invoke", A_CALL)
            await gate.began.get()
            for _ in range(2):
                done = await request(client.session, "tasks/cancel", taskId=task.task_id)
                assert done["resultType"] == "complete"
                state = await request(client.session, "tasks/get", taskId=task.task_id)
                assert (state["status"], "result" in state) == ("cancelled", False)
            assert await gate.interrupted.get() == "look"

    run(main())


def test_a_completed_task_stays_completed_when_it_is_cancelled() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool()) as client:
            task = await begin(client, "invoke", A_CALL)
            await until(client.session, task.task_id, "completed")
            await request(client.session, "tasks/cancel", taskId=task.task_id)
            await until(client.session, task.task_id, "completed")

    run(main())


METHODS: dict[str, dict[str, Any]] = {
    "tasks/get": {},
    "tasks/update": {"inputResponses": {}},
    "tasks/cancel": {},
}


@pytest.mark.parametrize("method", METHODS)
def test_an_expired_task_and_one_of_another_connection_are_unknown(method: str) -> None:
    async def main() -> None:
        async with (
            client_with_tasks(FakePool(), Jobs(kept=0)) as client,
            client_with_tasks(FakePool()) as other,
        ):
            expired = await begin(client, "invoke", A_CALL)
            foreign = await begin(other, "invoke", A_CALL)
            await asyncio.sleep(0.01)
            for task in (expired, foreign):
                with pytest.raises(MCPError, match="Task not found") as caught:
                    await request(client.session, method, taskId=task.task_id, **METHODS[method])
                assert caught.value.code == -32602

    run(main())


@pytest.mark.parametrize("method", METHODS)
def test_a_client_that_does_not_declare_the_extension_is_told_what_is_missing(method: str) -> None:
    async def main() -> None:
        async with connected(build_server(FakePool()), MODERN) as client:
            with pytest.raises(MCPError) as caught:
                await request(client.session, method, taskId="x", **METHODS[method])
            assert caught.value.code == -32021
            assert caught.value.data == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}

    run(main())


def test_the_older_protocols_have_no_tasks() -> None:
    async def main() -> None:
        options: dict[str, Any] = {"extensions": [advertise(EXTENSION)]}
        async with connected(build_server(FakePool()), "legacy", **options) as client:
            assert text_of(await client.call_tool("invoke", A_CALL)) == "reviewer did look"
            with pytest.raises(MCPError, match="Method not found"):
                await request(client.session, "tasks/get", taskId="x")

    run(main())


def test_each_request_decides_for_itself() -> None:
    async def main() -> None:
        server = build_server(FakePool())
        async with (
            connected(server, MODERN, extensions=[TasksOfClient()]) as able,
            connected(server, MODERN) as other,
        ):
            assert (await begin(able, "invoke", A_CALL)).status == "working"
            assert text_of(await other.call_tool("invoke", A_CALL)) == "reviewer did look"

    run(main())


def test_short_calls_are_answered_at_once() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool()) as client:
            for name, arguments in (("list", {}), ("warmup", {"agent": "a"})):
                answer = await client.session.call_tool(name, arguments, allow_claimed=True)
                assert answer.result_type == "complete"

    run(main())


def test_a_full_store_refuses_a_further_call() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool(Gate()), Jobs(most=1)) as client:
            await begin(client, "invoke", A_CALL)
            answer = await client.call_tool("invoke", A_CALL)
            assert answer.is_error
            assert "1 calls of this client are still running" in text_of(answer)

    run(main())


def test_the_end_of_the_connection_interrupts_its_tasks() -> None:
    async def main() -> None:
        gate = Gate()
        async with client_with_tasks(FakePool(gate)) as client:
            await begin(client, "invoke", A_CALL)
            await gate.began.get()
        assert await gate.interrupted.get() == "look"

    run(main())


# Permission requests


async def unasked(context: Any, params: ElicitRequestParams) -> ElicitResult:
    raise AssertionError("a task asks by its status")


@asynccontextmanager
async def asking_task(client_can: bool = True) -> AsyncIterator[tuple[Client, str]]:
    pool = FakePool()
    pool.asks = ("Bash", "Write")
    options: dict[str, Any] = {"elicitation_callback": unasked} if client_can else {}
    extensions = [TasksOfClient()]
    async with connected(build_server(pool), MODERN, extensions=extensions, **options) as client:
        yield client, (await begin(client, "invoke", A_CALL)).task_id


def test_a_task_asks_for_permission_and_goes_on_with_the_answer() -> None:
    async def main() -> None:
        async with asking_task() as (client, task):
            keys = []
            for decision in ("allow once", "deny"):
                state = await until(client.session, task, "input_required")
                assert state["statusMessage"].startswith("reviewer waits for permission to use ")
                ((key, asked),) = state["inputRequests"].items()
                keys.append(key)
                assert asked["method"] == "elicitation/create"
                assert "The agent reviewer asks for permission" in asked["params"]["message"]
                reply = {"action": "accept", "content": {"decision": decision}}
                done = await request(
                    client.session,
                    "tasks/update",
                    taskId=task,
                    inputResponses={key: reply, "unknown": {"odd": 1}},
                )
                assert done["resultType"] == "complete"
            state = await until(client.session, task, "completed")
            assert keys == ["permission-1", "permission-2"]
            (said,) = state["result"]["content"]
            assert said["text"] == "reviewer did look, permitted ['Bash']"
            assert state["result"]["_meta"]["agent-pool/refused"] == [
                {"tool": "Write", "why": "denied by the person"}
            ]

    run(main())


def test_an_answer_that_is_none_is_refused_and_the_question_stays_open() -> None:
    async def main() -> None:
        async with asking_task() as (client, task):
            await until(client.session, task, "input_required")
            with pytest.raises(MCPError, match=r"inputResponses\.permission-1: expected") as caught:
                await request(
                    client.session,
                    "tasks/update",
                    taskId=task,
                    inputResponses={"permission-1": {"action": "perhaps"}},
                )
            assert caught.value.code == -32602
            await until(client.session, task, "input_required")

    run(main())


def test_where_nobody_can_be_asked_the_task_is_denied_and_says_how_to_permit() -> None:
    async def main() -> None:
        async with asking_task(client_can=False) as (client, task):
            state = await until(client.session, task, "completed")
            (said,) = state["result"]["content"]
            assert said["text"].startswith("reviewer did look, permitted []\n\n(reviewer was not")
            assert "Bash: the client cannot ask; Write: the client cannot ask" in said["text"]
            assert "permissionMode" in said["text"]

    run(main())
