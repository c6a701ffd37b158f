"""Two sessions of the real Claude Code, one at a terminal and one without, on one daemon."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_pool import TaskFilter
from agent_pool.client.connect import connect
from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock
from support.environment import real_cli
from support.interactive_terminal import interactive
from support.relays import RelayProject
from support.waiting import run

TOOL = "mcp__agent-pool__invoke"
RESULT = "mcp__agent-pool__result"


@pytest.fixture
def relays(tmp_path: Path, short_folder: Path) -> Iterator[RelayProject]:
    """Return a project with a daemon of its own; afterwards none of its processes lives."""
    project = RelayProject(tmp_path, short_folder)
    yield project
    project.end()
    assert [" ".join(process.cmdline()) for process in project.processes()] == []


class TwoSessions:
    """The model of both sessions and of their agent.

    Attributes:
        task: the id of the task that the session at the terminal has begun.
        began: the agent has it.
        delivered: its answer has reached that session.
    """

    def __init__(self) -> None:
        self.task = ""
        self.began, self.delivered = asyncio.Event(), asyncio.Event()
        self._go = asyncio.Event()

    async def __call__(self, request: ModelRequest) -> Any:
        if "You are the reviewer." in request.system_text:
            return await self._review(request)
        if request.is_side:
            return "a title"
        seen = json.dumps(request.messages)
        if "at the terminal" in seen:
            return self._at_terminal(request, seen)
        if not request.tool_results:
            return ToolUseBlock(RESULT, {"id": self.task, "wait_seconds": 0})
        if "has not ended" in seen and "echo: quick" not in seen:
            self._go.set()
            return ToolUseBlock(TOOL, {"agent": "reviewer", "task": "quick"})
        return "reported"

    async def _review(self, request: ModelRequest) -> Any:
        self.began.set()
        if "slow" in request.last_user_text:
            await self._go.wait()
        return f"echo: {request.last_user_text.strip()}"

    def _at_terminal(self, request: ModelRequest, seen: str) -> Any:
        if "echo: slow" in seen:
            self.delivered.set()
        if TOOL not in request.tools:  # the server is still starting
            return ToolUseBlock("Bash", {"command": "true"})
        if "started server-side task" in seen or "moved to the background" in seen:
            return "noted"
        return ToolUseBlock(TOOL, {"agent": "reviewer", "task": "slow"})


async def report(project: RelayProject) -> bytes:
    """Run a session without a terminal; return its output."""
    program, *arguments = project.server_command
    servers = {"mcpServers": {"agent-pool": {"command": program, "args": arguments}}}
    async with project.run_program(
        *(str(real_cli()), "-p", "without a terminal", "--mcp-config", json.dumps(servers)),
        *("--strict-mcp-config", "--dangerously-skip-permissions"),
    ) as claude:
        stdout, _ = await claude.communicate()
    return stdout.strip()


@pytest.mark.long
def test_two_sessions_share_workers_and_see_each_others_tasks(relays: RelayProject) -> None:
    async def main() -> None:
        model = TwoSessions()
        async with LoopbackAPI(model) as api:
            relays.use(api)
            async with (
                interactive(relays, "at the terminal"),
                connect(environ=relays.env) as pool,
            ):
                await model.began.wait()
                (record,) = await pool.tasks(TaskFilter())
                model.task = record.id
                assert await report(relays) == b"reported"
                await model.delivered.wait()
                records = await pool.tasks(TaskFilter())
                assert sorted(one.request.task for one in records) == ["quick", "slow"]
                assert {one.state for one in records} == {"succeeded"}
                assert len(await pool.workers()) <= 2

    run(main(), 110)
