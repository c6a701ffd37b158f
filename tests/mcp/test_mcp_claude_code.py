"""The real Claude Code as the client of the server, and as the worker behind it."""

import asyncio
import json
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from agent_pool.loopback import LoopbackAPI, Request, ToolUse, echo, text_of
from mcp_world import Lifeline, World
from support import real_cli, run

TOOL = "mcp__agent-pool__invoke"


class Cast:
    """The model of both: the caller delegates and reports, the agent behind does as told."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent
        self.caller_saw: list[dict[str, Any]] = []

    def __call__(self, request: Request) -> Any:
        if "You are the reviewer." in request.system_text:
            return self.agent(request)
        if request.is_side:
            return "a title"
        if not request.tool_results:
            assert TOOL in request.tools
            return ToolUse(TOOL, {"agent": "reviewer", "task": "look at x.py"})
        self.caller_saw += request.tool_results
        return "reported"


def claude_code(world: World) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    program, *arguments = world.command
    server = {"command": program, "args": arguments}
    return world.start(
        str(real_cli()),
        "-p",
        "delegate it",
        "--mcp-config",
        json.dumps({"mcpServers": {"agent-pool": server}}),
        "--strict-mcp-config",
        "--dangerously-skip-permissions",
    )


def test_claude_code_delegates_a_task_and_sees_the_whole_answer(tmp_path: Path) -> None:
    long = "x.py is fine. " * 10_000  # more than Claude Code shows of an undeclared tool

    async def main() -> None:
        cast = Cast(lambda request: f"{request.last_user_text.strip()}: {long}")
        async with LoopbackAPI(cast) as api:
            world = World(tmp_path, api)
            async with claude_code(world) as caller:
                said, _ = await caller.communicate()
                assert (said, caller.returncode) == (b"reported\n", 0)
                (result,) = cast.caller_saw
                assert not result.get("is_error")
                assert text_of(result) == f"look at x.py: {long}"
                await world.until_gone([])

    run(main())


def test_when_claude_code_is_stopped_nothing_is_left(tmp_path: Path) -> None:
    async def main() -> None:
        async with Lifeline().open() as line:
            hold = ToolUse("Bash", {"command": f"bash -c '{line.hold}'"})
            cast = Cast(lambda request: echo(request) if request.tool_results else hold)
            async with LoopbackAPI(cast) as api:
                world = World(tmp_path, api)
                async with claude_code(world) as caller:
                    assert caller.stdin is not None
                    caller.stdin.close()
                    held = await line.taken()
                    alive = world.processes()
                    caller.send_signal(signal.SIGTERM)
                    assert await held.read() == b""
                    await world.until_gone(alive)

    run(main())
