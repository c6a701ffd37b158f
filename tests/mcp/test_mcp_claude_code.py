"""The real Claude Code as the client of the server, and as the worker behind it."""

import asyncio
import inspect
import json
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from agent_pool.loopback import LoopbackAPI, Request, ToolUse, echo, text_of
from mcp_world import Lifeline, Meeting, World
from support import real_cli, run

TOOL = "mcp__agent-pool__invoke"
A_CALL = ToolUse(TOOL, {"agent": "reviewer", "task": "look at x.py"})


class Cast:
    """The model of both: the caller delegates and reports, the agent behind does as told."""

    def __init__(self, agent: Any, call: ToolUse = A_CALL) -> None:
        self.agent = agent
        self.call = call
        self.caller_saw: list[dict[str, Any]] = []

    async def __call__(self, request: Request) -> Any:
        if "You are the reviewer." in request.system_text:
            said = self.agent(request)
            return await said if inspect.isawaitable(said) else said
        if request.is_side:
            return "a title"
        if not request.tool_results:
            assert self.call.name in request.tools
            return self.call
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


def test_claude_code_gives_out_many_tasks_in_one_call(tmp_path: Path) -> None:
    async def main() -> None:
        meeting = Meeting(3)

        async def review(request: Request) -> str:
            task = request.last_user_text.strip()
            await meeting.join(task)
            return f"{task}: fine"

        tasks = [{"agent": "reviewer", "task": f"look at {name}.py"} for name in "xyz"]
        cast = Cast(review, ToolUse(f"{TOOL}_many", {"tasks": tasks}))
        async with LoopbackAPI(cast) as api, claude_code(World(tmp_path, api)) as caller:
            said, _ = await caller.communicate()
            assert (said, caller.returncode) == (b"reported\n", 0)
        (result,) = cast.caller_saw
        assert not result.get("is_error")
        shown = text_of(result)
        assert shown.startswith("3 tasks: 3 done, 0 failed.\n\n## 1. reviewer (")
        places = [shown.index(f"look at {name}.py: fine") for name in "xyz"]
        assert places == sorted(places)

    run(main())


def test_where_nobody_can_be_asked_the_agent_is_denied_and_the_caller_told(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        write = ToolUse("Bash", {"command": "tee made.txt <<< hello"})
        cast = Cast(lambda request: echo(request) if request.tool_results else write)
        async with LoopbackAPI(cast) as api:
            world = World(tmp_path, api)
            world.agent("reviewer", "You are the reviewer.", permissionMode="default")
            async with claude_code(world) as caller:
                said, _ = await caller.communicate()
                assert (said, caller.returncode) == (b"reported\n", 0)
        (result,) = cast.caller_saw
        shown = text_of(result)
        assert "has not permitted this" in shown
        assert "Bash: the question was closed without an answer" in shown
        assert "permissionMode" in shown
        assert not (world.root / "made.txt").exists()

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
