"""The Tasks extension, driven by the official client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.client.extension import advertise
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, Implementation

from agent_pool import ConfigError, TaskResult, ToolUse
from agent_pool.api import OnEvent
from agent_pool.mcp.calls import ConnectionCalls
from agent_pool.mcp.server import build_server
from support.fake_pool import FakePool, make_result
from support.mcp_client import connected, text_of
from support.mcp_task_client import (
    EXTENSION,
    TasksOfClient,
    begin_task,
    send_request,
    wait_for_status,
)
from support.waiting import run

MODERN = "2026-07-28"
A_CALL = {"agent": "reviewer", "task": "look"}


class HeldInvocations:
    """Tasks that run until `open` is set, and record when they begin and are interrupted."""

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
        return make_result(f"did {task}")


@asynccontextmanager
async def client_with_tasks(
    pool: FakePool, calls: ConnectionCalls | None = None, **options: Any
) -> AsyncIterator[Client]:
    server = build_server(pool, calls=calls)
    async with connected(server, MODERN, extensions=[TasksOfClient()], **options) as client:
        yield client


def test_server_declares_the_tasks_extension_in_its_capabilities() -> None:
    async def main() -> None:
        async with connected(build_server(FakePool()), "auto") as client:
            assert client.server_capabilities.extensions == {EXTENSION: {}}

    run(main())


def test_three_tasks_run_together_and_deliver_their_results() -> None:
    async def main() -> None:
        gate = HeldInvocations()
        async with client_with_tasks(FakePool(gate)) as client:
            tasks = [
                await begin_task(client, "invoke", A_CALL | {"task": f"{n}"}) for n in range(3)
            ]
            assert {await gate.began.get() for _ in tasks} == {"0", "1", "2"}
            assert len({task.task_id for task in tasks}) == 3
            assert {task.status for task in tasks} == {"working"}
            assert text_of(await client.call_tool("list", {})) == "[]"  # the server still answers
            gate.open.set()
            for number, task in enumerate(tasks):
                state = await wait_for_status(client.session, task.task_id, "completed")
                assert state["result"]["content"] == [{"type": "text", "text": f"did {number}"}]
                assert state["result"]["_meta"]["agent-pool/result"]["pid"] == 4711
                assert state["result"]["isError"] is False

    run(main())


def test_ordinary_call_of_a_client_with_tasks_returns_the_answer() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool()) as client:
            many = {"tasks": [A_CALL, A_CALL]}
            assert text_of(await client.call_tool("invoke", A_CALL)) == "reviewer did look"
            assert "2 done" in text_of(await client.call_tool("invoke_many", many))

    run(main())


def test_task_state_shows_current_progress_and_the_poll_interval() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool(HeldInvocations())) as client:
            task = await begin_task(client, "invoke", A_CALL)
            assert task.poll_interval_ms == 1000
            assert task.ttl_ms == 24 * 3600 * 1000
            while True:
                state = await send_request(client.session, "tasks/get", taskId=task.task_id)
                if state["statusMessage"] == "reviewer: Bash: do look":
                    break
                await asyncio.sleep(0.001)
            assert state["status"] == "working"
            assert state["resultType"] == "complete"
            created, updated = (
                datetime.fromisoformat(state[key]) for key in ("createdAt", "lastUpdatedAt")
            )
            assert created <= updated

    run(main())


async def failing_after_a_while(agent: str, task: str, on_event: OnEvent) -> TaskResult:
    on_event(ToolUse("1", "Bash", {"command": "make"}))
    await asyncio.sleep(0.01)
    raise ConfigError("no such agent")


def test_tool_failure_is_a_completed_task_with_an_error_result() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool(failing_after_a_while)) as client:
            task = await begin_task(client, "invoke", A_CALL)
            state = await wait_for_status(client.session, task.task_id, "completed")
            assert state["statusMessage"] == "reviewer: failed"
            assert state["result"]["isError"] is True

    run(main())


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("invoke", A_CALL, "no such agent"),
        ("invoke_many", {"tasks": [A_CALL, A_CALL]}, "2 tasks: 0 done, 2 failed"),
        ("invoke", {"agent": "reviewer"}, "'task' is missing"),
        ("invoke_many", {"tasks": []}, "0 tasks, not 1 to 32"),
        ("invoke_many", {"tasks": 5}, "must be an array"),
    ],
)
def test_call_that_fails_at_once_is_answered_without_a_task(
    name: str, arguments: dict[str, Any], reason: str
) -> None:
    async def main() -> None:
        pool, calls = FakePool(), ConnectionCalls(most=1)
        pool.error = ConfigError("no such agent")
        async with client_with_tasks(pool, calls) as client:
            for _ in range(2):  # a failed call takes no place from others
                answer = await client.session.call_tool(name, arguments, allow_claimed=True)
                assert isinstance(answer, CallToolResult)
                assert answer.is_error
                assert reason in text_of(answer)

    run(main())


def test_cancelled_task_interrupts_its_agent_and_can_be_cancelled_again() -> None:
    async def main() -> None:
        gate = HeldInvocations()
        async with client_with_tasks(FakePool(gate)) as client:
            task = await begin_task(client, "invoke", A_CALL)
            await gate.began.get()
            for _ in range(2):
                done = await send_request(client.session, "tasks/cancel", taskId=task.task_id)
                assert done["resultType"] == "complete"
                state = await send_request(client.session, "tasks/get", taskId=task.task_id)
                assert (state["status"], "result" in state) == ("cancelled", False)
            assert await gate.interrupted.get() == "look"

    run(main())


def test_a_completed_task_stays_completed_when_it_is_cancelled() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool()) as client:
            task = await begin_task(client, "invoke", A_CALL)
            await wait_for_status(client.session, task.task_id, "completed")
            await send_request(client.session, "tasks/cancel", taskId=task.task_id)
            await wait_for_status(client.session, task.task_id, "completed")

    run(main())


METHODS: dict[str, dict[str, Any]] = {
    "tasks/get": {},
    "tasks/update": {"inputResponses": {}},
    "tasks/cancel": {},
}


@asynccontextmanager
async def client_and_unknown_ids(**options: Any) -> AsyncIterator[tuple[Client, list[str]]]:
    """Connect a client, to which the ids of an expired and of another client's task are unknown."""
    async with (
        client_with_tasks(FakePool(), ConnectionCalls(kept=0), **options) as client,
        client_with_tasks(FakePool()) as other,
    ):
        expired = await begin_task(client, "invoke", A_CALL)
        foreign = await begin_task(other, "invoke", A_CALL)
        await asyncio.sleep(0.01)
        yield client, [expired.task_id, foreign.task_id]


@pytest.mark.parametrize("method", METHODS)
def test_expired_tasks_and_tasks_of_other_connections_are_unknown(method: str) -> None:
    async def main() -> None:
        async with client_and_unknown_ids() as (client, unknown):
            for task in unknown:
                with pytest.raises(MCPError, match="Task not found") as caught:
                    await send_request(client.session, method, taskId=task, **METHODS[method])
                assert caught.value.code == -32602

    run(main())


def test_claude_code_reads_that_an_unknown_task_has_failed() -> None:
    async def main() -> None:
        claude = Implementation(name="claude-code", version="2.1.332")
        async with client_and_unknown_ids(client_info=claude) as (client, unknown):
            for task in unknown:
                state = await send_request(client.session, "tasks/get", taskId=task)
                assert (state["taskId"], state["status"]) == (task, "failed")
                assert state["resultType"] == "complete"
                assert "A task ends with its server" in state["error"]["message"]
                assert state["statusMessage"] == state["error"]["message"]

    run(main())


def test_task_id_begins_with_the_name_of_the_agent() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool(HeldInvocations())) as client:
            names = {"code reviewer/ü": "code-reviewer-", "x": "x-", "ü": "call-"}
            for agent, beginning in names.items():
                task = await begin_task(client, "invoke", A_CALL | {"agent": agent})
                assert task.task_id.startswith(beginning)
                assert task.status_message.startswith(agent)
            many = {"tasks": [A_CALL, A_CALL, A_CALL | {"agent": "writer"}]}
            task = await begin_task(client, "invoke_many", many)
            assert task.task_id.startswith("reviewer-writer-")
            assert task.status_message.startswith("reviewer+writer: ")

    run(main())


@pytest.mark.parametrize("method", METHODS)
def test_task_request_without_the_extension_names_the_missing_capability(method: str) -> None:
    async def main() -> None:
        async with connected(build_server(FakePool()), MODERN) as client:
            with pytest.raises(MCPError) as caught:
                await send_request(client.session, method, taskId="x", **METHODS[method])
            assert caught.value.code == -32021
            assert caught.value.data == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}

    run(main())


def test_the_older_protocols_have_no_tasks() -> None:
    async def main() -> None:
        options: dict[str, Any] = {"extensions": [advertise(EXTENSION)]}
        async with connected(build_server(FakePool()), "legacy", **options) as client:
            assert text_of(await client.call_tool("invoke", A_CALL)) == "reviewer did look"
            with pytest.raises(MCPError, match="Method not found"):
                await send_request(client.session, "tasks/get", taskId="x")

    run(main())


def test_clients_with_and_without_tasks_can_share_one_server() -> None:
    async def main() -> None:
        gate = HeldInvocations()
        server = build_server(FakePool(gate))
        async with (
            connected(server, MODERN, extensions=[TasksOfClient()]) as able,
            connected(server, MODERN) as other,
        ):
            assert (await begin_task(able, "invoke", A_CALL)).status == "working"
            gate.open.set()
            assert text_of(await other.call_tool("invoke", A_CALL)) == "did look"

    run(main())


def test_short_tool_calls_are_answered_directly_without_a_task() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool()) as client:
            for name, arguments in (("list", {}), ("warmup", {"agent": "a"})):
                answer = await client.session.call_tool(name, arguments, allow_claimed=True)
                assert isinstance(answer, CallToolResult)
                assert answer.result_type == "complete"

    run(main())


def test_full_store_of_calls_refuses_another_tool_call() -> None:
    async def main() -> None:
        async with client_with_tasks(
            FakePool(HeldInvocations()), ConnectionCalls(most=1)
        ) as client:
            await begin_task(client, "invoke", A_CALL)
            answer = await client.call_tool("invoke", A_CALL)
            assert answer.is_error
            assert "1 are running, 0 have ended and their results were not" in text_of(answer)

    run(main())


def test_results_that_were_not_fetched_are_never_dropped_for_others() -> None:
    async def main() -> None:
        async with client_with_tasks(FakePool(), ConnectionCalls(most=2)) as client:
            kept = [await begin_task(client, "invoke", A_CALL) for _ in range(2)]
            answer = await client.call_tool("invoke", A_CALL)
            assert answer.is_error
            assert "2 have ended and their results were not fetched" in text_of(answer)
            for task in kept:
                await wait_for_status(client.session, task.task_id, "completed")
                await begin_task(client, "invoke", A_CALL)  # in place of the one just fetched

    run(main())


def test_tasks_are_interrupted_when_the_connection_ends() -> None:
    async def main() -> None:
        gate = HeldInvocations()
        async with client_with_tasks(FakePool(gate)) as client:
            await begin_task(client, "invoke", A_CALL)
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
        yield client, (await begin_task(client, "invoke", A_CALL)).task_id


def test_task_asks_for_permission_and_continues_with_the_answer() -> None:
    async def main() -> None:
        async with asking_task() as (client, task):
            keys = []
            for decision in ("allow once", "deny"):
                state = await wait_for_status(client.session, task, "input_required")
                assert state["statusMessage"].startswith("reviewer waits for permission to use ")
                ((key, asked),) = state["inputRequests"].items()
                keys.append(key)
                assert asked["method"] == "elicitation/create"
                assert "The agent reviewer asks for permission" in asked["params"]["message"]
                reply = {"action": "accept", "content": {"decision": decision}}
                done = await send_request(
                    client.session,
                    "tasks/update",
                    taskId=task,
                    inputResponses={key: reply, "unknown": {"odd": 1}},
                )
                assert done["resultType"] == "complete"
            state = await wait_for_status(client.session, task, "completed")
            assert keys == ["permission-1", "permission-2"]
            (block,) = state["result"]["content"]
            assert block["text"] == "reviewer did look, permitted ['Bash']"
            assert state["result"]["_meta"]["agent-pool/refused"] == [
                {"tool": "Write", "why": "denied by the person"}
            ]

    run(main())


def test_invalid_answer_is_refused_and_the_elicitation_stays_open() -> None:
    async def main() -> None:
        async with asking_task() as (client, task):
            await wait_for_status(client.session, task, "input_required")
            with pytest.raises(MCPError, match=r"inputResponses\.permission-1: expected") as caught:
                await send_request(
                    client.session,
                    "tasks/update",
                    taskId=task,
                    inputResponses={"permission-1": {"action": "perhaps"}},
                )
            assert caught.value.code == -32602
            await wait_for_status(client.session, task, "input_required")

    run(main())


def test_task_explains_how_to_permit_if_the_client_cannot_ask() -> None:
    async def main() -> None:
        async with asking_task(client_can=False) as (client, task):
            state = await wait_for_status(client.session, task, "completed")
            (block,) = state["result"]["content"]
            assert block["text"].startswith("reviewer did look, permitted []\n\n(reviewer was not")
            assert "Bash: the client cannot ask; Write: the client cannot ask" in block["text"]
            assert "permissionMode" in block["text"]

    run(main())
