import asyncio
import json
from typing import Any

import pytest
from mcp import MCPError

from agent_pool import AgentNotFound, ConfigError, TaskResult, ToolUse, WorkerDied
from agent_pool.api import OnEvent
from agent_pool.mcp.greeting import package_version
from agent_pool.mcp.server import build_server
from agent_pool.mcp.unusable_pool import UnusablePool
from support.fake_pool import (
    FakePool,
    make_agent,
    make_broken,
    make_result,
    make_stats,
    make_worker,
)
from support.mcp_client import ERAS, connected, find_tool, listening, text_of
from support.waiting import run

TOOLS = ["invoke", "invoke_many", "result", "agents", "read_answer"]
TOOLS += ["warmup", "list", "stats", "reset"]

pytestmark = pytest.mark.parametrize("era", ERAS)


def test_the_tools_are_declared_without_structured_output(era: str) -> None:
    async def main() -> None:
        async with connected(build_server(FakePool()), era) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert list(tools) == TOOLS
            assert all(tool.output_schema is None for tool in tools.values())
            for name in ("invoke", "invoke_many"):
                assert tools[name].meta == {
                    "anthropic/alwaysLoad": True,
                    "anthropic/maxResultSizeChars": 500_000,
                }
            hints = {name: tool.annotations for name, tool in tools.items()}
            read_only = [name for name, hint in hints.items() if hint and hint.read_only_hint]
            assert read_only == ["result", "agents", "read_answer", "list", "stats"]

    run(main())


def test_server_reports_its_name_version_instructions_and_capabilities(era: str) -> None:
    async def main() -> None:
        mode = "legacy" if era == "legacy" else "auto"  # auto asks a modern server for its name
        async with connected(build_server(FakePool()), mode) as client:
            assert client.protocol_version == ("2025-11-25" if era == "legacy" else era)
            assert client.server_info is not None
            assert client.server_info.name == "agent-pool"
            assert client.server_info.version == package_version()
            assert client.instructions is not None
            assert "invoke" in client.instructions
            assert client.server_capabilities.tools is not None
            assert client.server_capabilities.tools.list_changed is True

    run(main())


def test_agent_list_is_part_of_the_invoke_description(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        pool.definitions.found = [make_agent("writer", "Writes."), make_broken("bad")]
        async with connected(build_server(pool), era) as client:
            description = (await find_tool(client, "invoke")).description or ""
            assert "\n- writer: Writes.\n" in description
            assert description.endswith(": bad")

    run(main())


def test_invoke_description_stays_within_the_limit_for_many_agents(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        pool.definitions.found = [make_agent(f"agent-{n}", "word " * 100) for n in range(40)]
        async with connected(build_server(pool), era) as client:
            description = (await find_tool(client, "invoke")).description or ""
            assert len(description) <= 4096
            assert all(f"- agent-{n}" in description for n in range(40))

    run(main())


def test_agents_tool_returns_the_agents_that_a_query_means(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        pool.definitions.found = [make_agent("reviewer"), make_agent("writer", "Writes.")]
        async with connected(build_server(pool), era) as client:
            for query, found in ({}, 2), ({"query": "writes"}, 1), ({"query": "no"}, 0):
                text = text_of(await client.call_tool("agents", query))
                assert text.count("\n- ") == found

    run(main())


def test_invoke_answers_with_text_and_puts_figures_in_meta(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        async with connected(build_server(pool), era) as client:
            answer = await client.call_tool("invoke", {"agent": "writer", "task": "a poem"})
            assert text_of(answer) == "writer did a poem"
            assert not answer.is_error
            assert answer.meta is not None
            assert answer.meta["agent-pool/result"]["pid"] == 4711
        assert pool.calls == [("invoke", "writer", "a poem")]

    run(main())


def test_warmup_and_reset_answer_in_sentences_and_list_in_json(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        async with connected(build_server(pool), era) as client:
            warm = await client.call_tool("warmup", {"agent": "writer"})
            assert text_of(warm) == ("writer is warm: worker writer-1, pid 4711, idle, 181.2 MiB.")
            for count, part in ((0, "had no worker"), (1, "Stopped 1 worker "), (2, "2 workers")):
                pool.worker_infos = [make_worker()] * count
                assert part in text_of(await client.call_tool("reset", {"agent": "writer"}))
            rows = json.loads(text_of(await client.call_tool("list", {})))
            assert [row["worker"] for row in rows] == ["reviewer-1", "reviewer-1"]

    run(main())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AgentNotFound("no agent 'x'; the closest is 'y'"), "the closest is 'y'"),
        (WorkerDied("killed by signal 9", worker="w-1"), "killed by signal 9"),
        (ZeroDivisionError("oops"), "A bug in agent-pool stopped this call"),
    ],
)
def test_failed_call_is_a_tool_error_and_the_server_continues(
    era: str, error: Exception, expected: str
) -> None:
    async def main() -> None:
        pool = FakePool()
        async with connected(build_server(pool), era) as client:
            for name, arguments in (
                ("invoke", {"agent": "x", "task": "y"}),
                ("warmup", {"agent": "x"}),
                ("reset", {"agent": "x"}),
                ("list", {}),
                ("stats", {}),
                ("reset", {"agent": "x", "conversation": "y"}),
                ("invoke_many", {"tasks": [{"agent": "x", "task": "y"}]}),
            ):
                pool.error = error
                answer = await client.call_tool(name, arguments)
                assert answer.is_error
                assert expected in text_of(answer)
            pool.error = None
            assert not (await client.call_tool("list", {})).is_error

    run(main())


def test_wrong_arguments_are_a_tool_error_without_a_pool_call(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        async with connected(build_server(pool), era) as client:
            answer = await client.call_tool("invoke", {"agent": 3, "tusk": "x"})
            assert answer.is_error
            for part in ("'agent' must be a string", "'task' is missing", "did you mean task?"):
                assert part in text_of(answer)
        assert pool.calls == []

    run(main())


def test_unknown_tool_is_a_protocol_error_with_the_closest_name(era: str) -> None:
    async def main() -> None:
        async with connected(build_server(FakePool()), era) as client:
            with pytest.raises(MCPError, match=r"Unknown tool: invoice \(did you mean invoke\?\)"):
                await client.call_tool("invoice", {})

    run(main())


def test_stats_tool_answers_with_the_figures_as_json(era: str) -> None:
    async def main() -> None:
        async with connected(build_server(FakePool()), era) as client:
            figures = json.loads(text_of(await client.call_tool("stats", {})))
            assert figures == make_stats().as_json()

    run(main())


def test_error_result_of_an_agent_is_a_tool_error(era: str) -> None:
    async def failing(agent: str, task: str, on_event: OnEvent) -> TaskResult:
        return make_result("API Error: 500", is_error=True, subtype="error_during_execution")

    async def main() -> None:
        async with connected(build_server(FakePool(failing)), era) as client:
            answer = await client.call_tool("invoke", {"agent": "x", "task": "y"})
            assert answer.is_error
            assert "API Error: 500" in text_of(answer)

    run(main())


def test_client_gets_progress_while_the_agent_is_working(era: str) -> None:
    async def main() -> None:
        received = asyncio.Event()
        lines: list[tuple[float, str | None]] = []

        async def working(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            on_event(ToolUse("1", "Bash", {"command": "npm test"}))
            await received.wait()
            return make_result()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            lines.append((progress, message))
            if message == "Bash: npm test":
                received.set()

        async with connected(build_server(FakePool(working)), era) as client:
            await client.call_tool(
                "invoke", {"agent": "x", "task": "y"}, progress_callback=on_progress
            )
        assert lines[-1][1] == "Bash: npm test"
        assert [number for number, _ in lines] == sorted({number for number, _ in lines})

    run(main())


def test_cancelled_call_cancels_its_task_and_the_server_continues(era: str) -> None:
    async def main() -> None:
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def endless(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            started.set()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

        async with connected(build_server(FakePool(endless)), era) as client:
            call = asyncio.create_task(client.call_tool("invoke", {"agent": "x", "task": "y"}))
            await started.wait()
            call.cancel()
            await cancelled.wait()
            assert text_of(await client.call_tool("list", {})) == "[]"

    run(main())


def test_calls_of_one_client_run_at_the_same_time(era: str) -> None:
    async def main() -> None:
        together = asyncio.Barrier(3)

        async def meeting(agent: str, task: str, on_event: OnEvent) -> TaskResult:
            await together.wait()
            return make_result(task)

        async with connected(build_server(FakePool(meeting)), era) as client:
            calls = [client.call_tool("invoke", {"agent": "x", "task": str(n)}) for n in range(3)]
            assert [text_of(answer) for answer in await asyncio.gather(*calls)] == ["0", "1", "2"]

    run(main())


def test_each_change_of_the_agent_files_is_announced_once(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        news: asyncio.Queue[str] = asyncio.Queue()

        async def on_message(message: Any) -> None:
            news.put_nowait(message.method)

        server = build_server(pool, watch_interval=0.001)
        async with (
            connected(server, era, message_handler=on_message) as client,
            listening(client, era),
        ):
            await client.list_tools()
            for name in ("writer", "reader"):
                pool.definitions.change(make_agent(name))
                assert await news.get() == "notifications/tools/list_changed"
                await pool.definitions.wait_for_checks(3)
                assert f"- {name}" in ((await find_tool(client, "invoke")).description or "")
            assert news.empty()

    run(main())


def test_unreadable_agent_list_is_explained_and_read_again_later(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        async with connected(build_server(pool), era) as client:
            for error in (ConfigError("/x is not a folder"), OSError("/x is not a folder")):
                pool.definitions.error = error
                description = (await find_tool(client, "invoke")).description or ""
                assert description.endswith("The agents cannot be listed now: /x is not a folder")
            pool.definitions.error = None
            assert "- reviewer" in ((await find_tool(client, "invoke")).description or "")

    run(main())


def test_every_tool_explains_the_error_in_wrong_settings(era: str) -> None:
    async def main() -> None:
        pool = UnusablePool(ConfigError("AGENT_POOL_MAX_SIZE: max_size: expected a number"))
        async with connected(build_server(pool), era) as client:
            assert "max_size" in ((await find_tool(client, "invoke")).description or "")
            for name, arguments in (
                ("invoke", {"agent": "x", "task": "y"}),
                ("warmup", {"agent": "x"}),
                ("reset", {"agent": "x"}),
                ("list", {}),
                ("stats", {}),
                ("reset", {"agent": "x", "conversation": "y"}),
                ("invoke_many", {"tasks": [{"agent": "x", "task": "y"}]}),
            ):
                answer = await client.call_tool(name, arguments)
                assert answer.is_error
                assert "AGENT_POOL_MAX_SIZE" in text_of(answer)
                assert "then connect to it again" in text_of(answer)

    run(main())
