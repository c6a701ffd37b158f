"""The real interactive Claude Code, which declares the Tasks extension, delegates side by side."""

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import LoopbackAPI, ModelReply, ModelRequest, ToolUseBlock
from support.interactive_terminal import interactive
from support.mcp_server import ServerProject
from support.waiting import run

pytestmark = pytest.mark.long
TOOL = "mcp__agent-pool__invoke"
BOUND = 110.0  # seconds: the terminal alone needs ten to start on a busy machine


class InteractiveModel:
    """The model: it delegates three parts in one turn, stops the last one, and gets the others."""

    def __init__(self) -> None:
        self.parts: dict[int, ModelRequest] = {}
        self.all_began = asyncio.Event()
        self.has_stopped = asyncio.Event()
        self.delivered = asyncio.Event()

    async def __call__(self, request: ModelRequest) -> Any:
        if "You are the reviewer." in request.system_text:
            return await self.review(request)
        return "a title" if request.is_side else await self.delegate(request)

    async def review(self, request: ModelRequest) -> Any:
        part = int(request.last_user_text.split()[-1])
        self.parts[part] = request
        if len(self.parts) == 3:
            self.all_began.set()
        if part == 2:
            return ModelReply("too late", delay=1000)
        await self.has_stopped.wait()
        return f"part {part} is fine"

    async def delegate(self, request: ModelRequest) -> Any:
        """Reply by the request's messages, not by earlier replies: a request can be made twice."""
        seen = json.dumps(request.messages)
        if all(f"part {part} is fine" in seen for part in (0, 1)):
            self.delivered.set()
        if TOOL not in request.tools:  # the server is still starting
            return ToolUseBlock("Bash", {"command": "true"})
        tasks = re.findall(r"moved to the background as task (\w+)", seen)
        if not tasks:
            return [
                ToolUseBlock(TOOL, {"agent": "reviewer", "task": f"part {part}"})
                for part in range(3)
            ]
        await self.all_began.wait()
        if "TaskStop" in called(request):
            self.has_stopped.set()
            return "noted"
        return ToolUseBlock("TaskStop", {"task_id": tasks[2]})


def called(request: ModelRequest) -> set[str]:
    """Return the names of the tools that were called so far."""
    contents = (message["content"] for message in request.messages)
    blocks = (block for content in contents if isinstance(content, list) for block in content)
    return {block["name"] for block in blocks if block["type"] == "tool_use"}


ENTER = "\r"


def test_person_at_the_terminal_permits_a_tool_for_the_agent(tmp_path: Path) -> None:
    async def main() -> None:
        project: ServerProject
        asked, permitted = asyncio.Event(), asyncio.Event()
        write = ToolUseBlock("Bash", {"command": "tee made.txt <<< hello"})

        def script(request: ModelRequest) -> Any:
            if "You are the reviewer." in request.system_text:
                if not (project.root / "made.txt").exists():
                    asked.set()
                    return write  # again: a key that came too early counts as a refusal
                permitted.set()
                return "done"
            if request.is_side or "started server-side task" in json.dumps(request.messages):
                return "noted"
            if TOOL not in request.tools:
                return ToolUseBlock("Bash", {"command": "true"})
            return ToolUseBlock(TOOL, {"agent": "reviewer", "task": "write"})

        async with LoopbackAPI(script) as api:
            project = ServerProject(tmp_path, api)
            project.agent("reviewer", "You are the reviewer.", permissionMode="default")
            async with interactive(project, "delegate it") as terminal:
                while not permitted.is_set():
                    asked.clear()
                    # Keep the default, accept. Without a form these keys do nothing.
                    for key in (ENTER, ENTER):
                        await asyncio.sleep(0.5)
                        if asked.is_set():  # a new form: without the first key it is refused again
                            break
                        terminal.press(key)

    run(main(), BOUND)


def test_three_delegated_tasks_run_together_and_one_can_be_stopped(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        model = InteractiveModel()
        async with LoopbackAPI(model) as api:
            project = ServerProject(tmp_path, api)
            async with interactive(project, "delegate it") as terminal:
                await model.all_began.wait()
                await model.delivered.wait()
                while not model.parts[2].disconnected:  # noqa: ASYNC110 - the API notices
                    await asyncio.sleep(0.01)
                alive = project.processes()
                terminal.process.send_signal(signal.SIGTERM)
                await project.wait_until_gone(alive, within=10)

    run(main(), BOUND)


def test_one_search_brings_the_tools_of_a_server_that_is_still_starting(tmp_path: Path) -> None:
    async def main() -> None:
        searched: list[bool] = []
        has_tool = asyncio.Event()

        def script(request: ModelRequest) -> Any:
            if request.is_side:
                return "a title"
            if TOOL in request.tools:
                has_tool.set()
                return "done"
            # The client sends its first request before it has asked a server for its tools.
            assert "agent-pool" in json.dumps(request.body)
            searched.append("ToolSearch" in called(request))
            return ToolUseBlock("ToolSearch", {"query": f"select:{TOOL}", "max_results": 5})

        async with LoopbackAPI(script) as api:
            async with interactive(ServerProject(tmp_path, api), "delegate it"):
                await has_tool.wait()
            assert searched in ([], [False])

    run(main(), BOUND)


def test_unknown_task_ends_within_seconds_after_continue(tmp_path: Path) -> None:
    async def main() -> None:
        began, failed = asyncio.Event(), asyncio.Event()
        seconds = 0.0

        def script(request: ModelRequest) -> Any:
            seen = json.dumps(request.messages)
            if "You are the reviewer." in request.system_text:
                return ModelReply("too late", delay=1000)
            if request.is_side:
                return "a title"
            if "A task ends with its server" in seen:
                failed.set()
            if "moved to the background as task" in seen:
                began.set()
                return "noted"
            if TOOL not in request.tools:
                return ToolUseBlock("Bash", {"command": "true"})
            return ToolUseBlock(TOOL, {"agent": "reviewer", "task": "look"})

        async with LoopbackAPI(script) as api:
            project = ServerProject(tmp_path, api)
            async with interactive(project, "delegate it"):
                await began.wait()
                await asyncio.sleep(1)  # until the transcript has the task
            async with interactive(project, "and now?", "--continue"):
                asked = asyncio.get_running_loop().time()
                await failed.wait()
                seconds = asyncio.get_running_loop().time() - asked
        # With the start of the terminal. An error of the protocol is asked for again for 300 s.
        assert seconds < 60

    run(main(), BOUND)
