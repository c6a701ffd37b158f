"""The official client, the server as a process, the real pool and the real Claude Code."""

import asyncio
import json
from collections.abc import Iterator
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
from support.mcp_client import find_tool, listening, text_of
from support.mcp_harness import ServerHarness
from support.mcp_server import ServerProject
from support.variants import later
from support.waiting import run

CHANGED = "notifications/tools/list_changed"


class News:
    """Counts the notifications of a changed list of tools that a client receives."""

    def __init__(self) -> None:
        self.changes: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, message: Any) -> None:
        if message.method == CHANGED:
            self.changes.put_nowait(CHANGED)


@pytest.fixture(scope="module")
def news() -> News:
    return News()


@pytest.fixture(scope="module", params=[later("legacy"), "2026-07-28"])
def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, news: News
) -> Iterator[ServerHarness]:
    """Start a server that gives each agent one worker."""
    one = {"AGENT_POOL_MAX_SIZE": "1"}
    folder = tmp_path_factory.mktemp("server")
    harness = ServerHarness(folder, request.param, one, message_handler=news)
    harness.open()
    news.changes = asyncio.Queue()  # of this client alone
    yield harness
    harness.close()


def pid_of(answer: CallToolResult) -> int:
    assert answer.meta is not None
    return int(answer.meta["agent-pool/result"]["pid"])


async def listed(harness: ServerHarness) -> dict[str, Any]:
    """Return the row of the only worker of `reviewer`."""
    rows = json.loads(text_of(await harness.client.call_tool("list", {})))
    (row,) = [row for row in rows if row["name"] == "reviewer"]
    return dict(row)


def test_tasks_run_one_after_another_in_one_process(harness: ServerHarness) -> None:
    async def main() -> None:
        lines: list[str | None] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            lines.append(message)

        harness.api.script = call_tools(ToolUseBlock("Bash", {"command": "echo from the shell"}))
        answers, rows = [], []
        for number in range(2):
            answers.append(
                await harness.invoke("reviewer", f"task {number}", progress_callback=on_progress)
            )
            rows.append(await listed(harness))
        assert [text_of(answer) for answer in answers] == ["tool: from the shell"] * 2
        assert {pid_of(answer) for answer in answers} == {row["pid"] for row in rows}
        assert rows[0]["pid"] == rows[1]["pid"]
        assert rows[1]["memory_bytes"] > 50 * 2**20
        assert rows[1]["tasks"] - rows[0]["tasks"] == 1
        assert lines

    harness.run(main())


def test_a_cancelled_call_frees_its_worker(harness: ServerHarness) -> None:
    async def main() -> None:
        asked = asyncio.Event()

        async def script(request: ModelRequest) -> Any:
            if "for ever" not in request.last_user_text:
                return "at once"
            asked.set()
            return ModelReply("too late", delay=1000)

        harness.api.script = script
        first = await harness.invoke("reviewer", "hello")
        call = asyncio.create_task(harness.invoke("reviewer", "wait for ever"))
        await asked.wait()
        call.cancel()
        second = await harness.invoke("reviewer", "hello again")
        assert [text_of(first), text_of(second)] == ["at once", "at once"]
        assert pid_of(first) == pid_of(second)

    harness.run(main())


def test_new_and_edited_agents_work_without_a_restart(harness: ServerHarness, news: News) -> None:
    async def main() -> None:
        harness.api.script = lambda request: request.system_text
        client, project = harness.client, harness.project
        async with listening(client, harness.era):
            await client.list_tools()
            assert news.changes.empty()
            project.agent("writer", "You rhyme.", description="Writes poems.")
            await news.changes.get()
            description = (await find_tool(client, "invoke")).description or ""
            assert "- writer: Writes poems." in description
            for prompt in ("You rhyme.", "You never rhyme."):
                project.agent("writer", prompt)
                assert prompt in text_of(await harness.invoke("writer", "go"))

    harness.run(main())


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
