"""The official client, the server as a process, the real pool and the real Claude Code."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mcp_types import CallToolResult

from agent_pool.loopback import (
    ErrorResponse,
    LoopbackAPI,
    ModelReply,
    ModelRequest,
    ToolUseBlock,
    call_tools,
)
from support.mcp_client import ERAS, find_tool, listening, text_of
from support.mcp_server import ServerProject
from support.waiting import run


def pid_of(answer: CallToolResult) -> int:
    assert answer.meta is not None
    return int(answer.meta["agent-pool/result"]["pid"])


@pytest.mark.parametrize("era", ERAS)
def test_tasks_run_one_after_another_in_one_process(tmp_path: Path, era: str) -> None:
    async def main() -> None:
        lines: list[str | None] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            lines.append(message)

        script = call_tools(ToolUseBlock("Bash", {"command": "echo from the shell"}))
        async with LoopbackAPI(script) as api, ServerProject(tmp_path, api).client(era) as client:
            answers = [
                await client.call_tool(
                    "invoke",
                    {"agent": "reviewer", "task": f"task {n}"},
                    progress_callback=on_progress,
                )
                for n in range(2)
            ]
            rows = json.loads(text_of(await client.call_tool("list", {})))
        assert [text_of(answer) for answer in answers] == ["tool: from the shell"] * 2
        assert pid_of(answers[0]) == pid_of(answers[1]) == rows[0]["pid"]
        assert rows[0]["memory_bytes"] > 50 * 2**20
        assert (rows[0]["name"], rows[0]["tasks"]) == ("reviewer", 2)
        assert lines

    run(main())


@pytest.mark.parametrize("era", ERAS)
def test_a_cancelled_call_frees_its_worker(tmp_path: Path, era: str) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def script(request: ModelRequest) -> Any:
            if "for ever" not in request.last_user_text:
                return "at once"
            asked.set()
            return ModelReply("too late", delay=1000)

        async with LoopbackAPI(script) as api:
            project = ServerProject(tmp_path, api)
            project.env["AGENT_POOL_MAX_SIZE"] = "1"
            async with project.client(era) as client:

                async def invoke(task: str) -> CallToolResult:
                    return await client.call_tool("invoke", {"agent": "reviewer", "task": task})

                first = await invoke("hello")
                call = asyncio.create_task(invoke("wait for ever"))
                await asked.wait()
                call.cancel()
                second = await invoke("hello again")
                assert [text_of(first), text_of(second)] == ["at once", "at once"]
                assert pid_of(first) == pid_of(second)

    run(main())


@pytest.mark.parametrize("era", ERAS)
def test_new_and_edited_agents_work_without_a_restart(tmp_path: Path, era: str) -> None:
    async def main() -> None:
        news: asyncio.Queue[str] = asyncio.Queue()

        async def on_message(message: Any) -> None:
            news.put_nowait(message.method)

        async with LoopbackAPI(lambda request: request.system_text) as api:
            project = ServerProject(tmp_path, api)
            async with (
                project.client(era, message_handler=on_message) as client,
                listening(client, era),
            ):
                await client.list_tools()
                project.agent("writer", "You rhyme.", description="Writes poems.")
                assert await news.get() == "notifications/tools/list_changed"
                assert "- writer: Writes poems." in (
                    (await find_tool(client, "invoke")).description or ""
                )
                for prompt in ("You rhyme.", "You never rhyme."):
                    project.agent("writer", prompt)
                    answer = await client.call_tool("invoke", {"agent": "writer", "task": "go"})
                    assert prompt in text_of(answer)

    run(main())


def test_failed_call_is_a_tool_error_with_a_clear_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(lambda _: ErrorResponse(400, message="no credit left")) as api:
            project = ServerProject(tmp_path, api)
            async with project.client("auto") as client:
                for arguments, expected in (
                    ({"agent": "reviewer", "task": "x"}, "no credit left"),
                    ({"agent": "reviewr", "task": "x"}, "did you mean reviewer?"),
                    ({"agent": "../x", "task": "x"}, "'../x'"),
                ):
                    answer = await client.call_tool("invoke", arguments)
                    assert answer.is_error
                    assert expected in text_of(answer)

    run(main())


def test_tool_call_explains_that_the_cli_is_missing(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            project = ServerProject(tmp_path, api)
            project.env["CLAUDE_CLI"] = "/nowhere/claude"
            async with project.client("auto") as client:
                assert "- reviewer" in ((await find_tool(client, "invoke")).description or "")
                answer = await client.call_tool("invoke", {"agent": "reviewer", "task": "x"})
                assert answer.is_error
                assert "CLAUDE_CLI names '/nowhere/claude', which does not exist" in text_of(answer)

    run(main())


def test_tool_call_explains_the_error_in_wrong_settings(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI() as api:
            project = ServerProject(tmp_path, api)
            project.env["AGENT_POOL_MAX_SIZE"] = "many"
            async with project.client("auto") as client:
                answer = await client.call_tool("invoke", {"agent": "reviewer", "task": "x"})
                assert answer.is_error
                assert "AGENT_POOL_MAX_SIZE: max_size:" in text_of(answer)
                assert "found 'many'" in text_of(answer)

    run(main())
