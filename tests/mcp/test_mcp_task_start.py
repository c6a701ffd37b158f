"""The begin of tasks in the real server, with the real CLI behind it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp_types import INVALID_PARAMS, CallToolResult

from agent_pool.loopback import LoopbackAPI, ModelRequest
from support.mcp_client import text_of
from support.mcp_server import ServerProject
from support.mcp_task_client import TasksOfClient, begin_task, send_request, wait_for_status
from support.waiting import run

A_CALL = {"agent": "reviewer", "task": "look"}


async def call_directly(client: Client, name: str, arguments: dict[str, Any]) -> str:
    """Call a tool; return the text of the failure, which must not be a task."""
    answer = await client.session.call_tool(name, arguments, allow_claimed=True)
    assert isinstance(answer, CallToolResult), answer
    assert answer.is_error, text_of(answer)
    return text_of(answer)


def test_real_server_refuses_hopeless_calls_at_once_and_names_tasks(tmp_path: Path) -> None:
    async def main() -> None:
        asked, release = asyncio.Event(), asyncio.Event()

        async def script(request: ModelRequest) -> str:
            asked.set()
            await release.wait()
            return "fine"

        async with LoopbackAPI(script) as api:
            project = ServerProject(tmp_path, api)
            project.agent("broken", expertise="nowhere")
            project.env |= {"AGENT_POOL_MAX_WORKERS": "1", "AGENT_POOL_MAX_WAITING": "1"}
            async with project.client("2026-07-28", extensions=[TasksOfClient()]) as client:
                for name, reason in (("revewer", "reviewer"), ("broken", "nowhere")):
                    call = A_CALL | {"agent": name}
                    assert reason in await call_directly(client, "invoke", call)
                    many = {"tasks": [call, call]}
                    assert reason in await call_directly(client, "invoke_many", many)
                assert "'task' is missing" in await call_directly(client, "invoke", {"agent": "x"})
                working = await begin_task(client, "invoke", A_CALL)
                await asked.wait()
                waiting = await begin_task(client, "invoke", A_CALL)
                full = await call_directly(client, "invoke", A_CALL)
                assert "1 callers are waiting already" in full
                for task in (working, waiting):
                    assert task.task_id.startswith("reviewer-")
                    state = await send_request(client.session, "tasks/get", taskId=task.task_id)
                    assert state["statusMessage"].startswith("reviewer")
                release.set()
                for task in (working, waiting):
                    state = await wait_for_status(client.session, task.task_id, "completed")
                    assert state["statusMessage"] == "reviewer: done"
                with pytest.raises(MCPError, match=r"Task not found: reviewer-0.*again") as raised:
                    await send_request(client.session, "tasks/get", taskId="reviewer-0")
                assert raised.value.code == INVALID_PARAMS

    run(main())
