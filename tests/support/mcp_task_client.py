"""The client's side of the Tasks extension, for the official client, which has none built in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from mcp import Client
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp_types import CallToolResult, Request, Result
from pydantic import ConfigDict, TypeAdapter
from pydantic.alias_generators import to_camel

EXTENSION = "io.modelcontextprotocol/tasks"
ANYTHING: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class CreatedTask(Result):
    model_config = ConfigDict(alias_generator=to_camel)

    result_type: Literal["task"]
    task_id: str
    status: str
    status_message: str
    created_at: str
    last_updated_at: str
    ttl_ms: int
    poll_interval_ms: int


class TasksOfClient(ClientExtension):
    """Declares the extension; an ordinary `call_tool` waits for the task's end."""

    identifier = EXTENSION

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=CreatedTask, resolve=self._finish)]

    async def _finish(self, task: CreatedTask, context: ClaimContext) -> CallToolResult:
        state = await wait_for_status(context.session, task.task_id, "completed")
        return CallToolResult.model_validate(state["result"])


async def begin_task(client: Client, name: str, arguments: dict[str, Any]) -> CreatedTask:
    """Call a tool, which must be answered with a task."""
    created = await client.session.call_tool(name, arguments, allow_claimed=True)
    assert isinstance(created, CreatedTask)
    return created


async def send_request(session: Any, method: str, **params: Any) -> dict[str, Any]:
    """Send a request for which the client has no method; return its result."""
    wanted = Request[dict[str, Any], str](method=method, params=params)
    answer: dict[str, Any] = await session.send_request(wanted, ANYTHING)
    return answer


async def wait_for_status(session: Any, task: str, status: str) -> dict[str, Any]:
    """Poll a task until it has this status; fail if it ends in another way."""
    while True:
        state = await send_request(session, "tasks/get", taskId=task)
        if state["status"] == status:
            return state
        assert state["status"] in ("working", "input_required"), state
        await asyncio.sleep(0.001)
