"""The real interactive Claude Code, which declares the Tasks extension, delegates side by side."""

import asyncio
import json
import re
import signal
from pathlib import Path
from typing import Any

from agent_pool.loopback import LoopbackAPI, Reply, Request, ToolUse
from interactive import interactive
from mcp_world import World
from support import run

TOOL = "mcp__agent-pool__invoke"
BOUND = 110.0  # seconds; the terminal's start alone takes ten on a busy machine


class Cast:
    """The model: it delegates three parts in one turn, stops the last, and hears of the others."""

    def __init__(self) -> None:
        self.parts: dict[int, Request] = {}
        self.all_began = asyncio.Event()
        self.has_stopped = asyncio.Event()
        self.delivered = asyncio.Event()

    async def __call__(self, request: Request) -> Any:
        if "You are the reviewer." in request.system_text:
            return await self.review(request)
        return "a title" if request.is_side else await self.delegate(request)

    async def review(self, request: Request) -> Any:
        part = int(request.last_user_text.split()[-1])
        self.parts[part] = request
        if len(self.parts) == 3:
            self.all_began.set()
        if part == 2:
            return Reply("too late", delay=1000)
        await self.has_stopped.wait()
        return f"part {part} is fine"

    async def delegate(self, request: Request) -> Any:
        """By what was said, not by what was answered: a request may be made twice."""
        said = json.dumps(request.messages)
        if all(f"part {part} is fine" in said for part in (0, 1)):
            self.delivered.set()
        if TOOL not in request.tools:  # the server is still starting
            return ToolUse("Bash", {"command": "true"})
        tasks = re.findall(r"moved to the background as task (\w+)", said)
        if not tasks:
            return [
                ToolUse(TOOL, {"agent": "reviewer", "task": f"part {part}"}) for part in range(3)
            ]
        await self.all_began.wait()
        if "TaskStop" in called(request):
            self.has_stopped.set()
            return "noted"
        return ToolUse("TaskStop", {"task_id": tasks[2]})


def called(request: Request) -> set[str]:
    """The names of the tools that were called so far."""
    contents = (message["content"] for message in request.messages)
    blocks = (block for content in contents if isinstance(content, list) for block in content)
    return {block["name"] for block in blocks if block["type"] == "tool_use"}


RIGHT, ENTER = "\x1b[C", "\r"


def test_a_person_at_the_terminal_permits_what_an_agent_asks_for(tmp_path: Path) -> None:
    async def main() -> None:
        world: World
        permitted = asyncio.Event()
        write = ToolUse("Bash", {"command": "tee made.txt <<< hello"})

        def script(request: Request) -> Any:
            if "You are the reviewer." in request.system_text:
                if not (world.root / "made.txt").exists():
                    return write  # again, where a key came too early and was taken for a no
                permitted.set()
                return "done"
            if request.is_side or "started server-side task" in json.dumps(request.messages):
                return "noted"
            if TOOL not in request.tools:
                return ToolUse("Bash", {"command": "true"})
            return ToolUse(TOOL, {"agent": "reviewer", "task": "write"})

        async with LoopbackAPI(script) as api:
            world = World(tmp_path, api)
            world.agent("reviewer", "You are the reviewer.", permissionMode="default")
            async with interactive(world, "delegate it") as terminal:
                while not permitted.is_set():
                    # Open the choice, take the first, accept; harmless before there is a form.
                    for key in (RIGHT, ENTER, ENTER):
                        terminal.press(key)
                        await asyncio.sleep(0.5)

    run(main(), BOUND)


def test_three_delegations_of_one_turn_run_side_by_side_and_one_is_stopped(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        cast = Cast()
        async with LoopbackAPI(cast) as api:
            world = World(tmp_path, api)
            async with interactive(world, "delegate it") as terminal:
                await cast.all_began.wait()
                await cast.delivered.wait()
                while not cast.parts[2].disconnected:  # noqa: ASYNC110 - the API notices
                    await asyncio.sleep(0.01)
                alive = world.processes()
                terminal.process.send_signal(signal.SIGTERM)
                await world.until_gone(alive)

    run(main(), BOUND)
