"""The real Claude Code as the client of the server, and as the worker behind it."""

import asyncio
import inspect
import json
import re
import signal
import unicodedata
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock, echo, get_result_text
from support.cli_runner import agent_pool
from support.environment import real_cli
from support.mcp_server import LivenessSocket, ServerProject
from support.model_scripts import TaskBarrier
from support.waiting import run

TOOL = "mcp__agent-pool__invoke"
A_CALL = ToolUseBlock(TOOL, {"agent": "reviewer", "task": "look at x.py"})


class DelegationModel:
    """The model of both: the caller delegates and reports; `agent` answers for the agent."""

    def __init__(self, agent: Any, call: ToolUseBlock = A_CALL) -> None:
        self.agent = agent
        self.call = call
        self.caller_saw: list[dict[str, Any]] = []

    async def __call__(self, request: ModelRequest) -> Any:
        if "You are the reviewer." in request.system_text:
            reply = self.agent(request)
            return await reply if inspect.isawaitable(reply) else reply
        if request.is_side:
            return "a title"
        if not request.tool_results:
            assert self.call.name in request.tools
            return self.call
        self.caller_saw += request.tool_results
        return "reported"


def claude_code(
    project: ServerProject, *options: str
) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    program, *arguments = project.server_command
    server = {"command": program, "args": arguments}
    return project.run_program(
        str(real_cli()),
        "-p",
        "delegate it",
        "--mcp-config",
        json.dumps({"mcpServers": {"agent-pool": server}}),
        "--strict-mcp-config",
        *(options or ("--dangerously-skip-permissions",)),
    )


def test_claude_code_delegates_a_task_and_sees_the_whole_answer(tmp_path: Path) -> None:
    long = "x.py is fine. " * 10_000  # more than Claude Code passes on without maxResultSizeChars

    async def main() -> None:
        model = DelegationModel(lambda request: f"{request.last_user_text.strip()}: {long}")
        async with LoopbackAPI(model) as api:
            project = ServerProject(tmp_path, api)
            async with claude_code(project) as caller:
                stdout, _ = await caller.communicate()
                assert (stdout, caller.returncode) == (b"reported\n", 0)
                (result,) = model.caller_saw
                assert not result.get("is_error")
                assert get_result_text(result) == f"look at x.py: {long}"
                await project.wait_until_gone([], within=10)

    run(main())


@pytest.mark.long
def test_names_of_two_hundred_agents_reach_the_model_at_once(tmp_path: Path) -> None:
    names = [f"agent-with-a-long-name-{number:03}" for number in range(200)]

    async def main() -> None:
        model = DelegationModel(lambda request: "fine")
        async with LoopbackAPI(model) as api:
            project = ServerProject(tmp_path, api)
            for name in names:
                project.agent(name, "You are it.", description=f"Reviews code… for {name}. " * 9)
            async with claude_code(project) as caller:
                stdout, _ = await caller.communicate()
            assert stdout == b"reported\n"
            first = next(one for one in api.requests if TOOL in one.tools)
            (tool,) = [one for one in first.body["tools"] if one["name"] == TOOL]
        assert 3900 < len(unicodedata.normalize("NFKC", tool["description"])) <= 4096
        argument = tool["input_schema"]["properties"]["agent"]["description"]
        declared = re.findall(r"agent-with-a-long-name-\d{3}(?!\d)", tool["description"] + argument)
        assert sorted(set(declared)) == names

    run(main())


@pytest.mark.long
def test_claude_code_runs_many_tasks_together_in_one_call(tmp_path: Path) -> None:
    async def main() -> None:
        barrier = TaskBarrier(3)

        async def review(request: ModelRequest) -> str:
            task = request.last_user_text.strip()
            await barrier.join(task)
            return f"{task}: fine"

        tasks = [{"agent": "reviewer", "task": f"look at {name}.py"} for name in "xyz"]
        model = DelegationModel(review, ToolUseBlock(f"{TOOL}_many", {"tasks": tasks}))
        async with LoopbackAPI(model) as api, claude_code(ServerProject(tmp_path, api)) as caller:
            stdout, _ = await caller.communicate()
            assert (stdout, caller.returncode) == (b"reported\n", 0)
        (result,) = model.caller_saw
        assert not result.get("is_error")
        shown = get_result_text(result)
        assert shown.startswith("3 tasks: 3 done, 0 failed.\n\n## 1. reviewer (")
        places = [shown.index(f"look at {name}.py: fine") for name in "xyz"]
        assert places == sorted(places)

    run(main())


@pytest.mark.long
def test_permission_is_denied_and_reported_if_claude_code_cannot_ask(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        write = ToolUseBlock("Bash", {"command": "tee made.txt <<< hello"})
        model = DelegationModel(lambda request: echo(request) if request.tool_results else write)
        async with LoopbackAPI(model) as api:
            project = ServerProject(tmp_path, api)
            project.agent("reviewer", "You are the reviewer.", permissionMode="default")
            async with claude_code(project) as caller:
                stdout, _ = await caller.communicate()
                assert (stdout, caller.returncode) == (b"reported\n", 0)
        (result,) = model.caller_saw
        shown = get_result_text(result)
        assert "has not permitted this" in shown
        assert "Bash: the question was closed without an answer" in shown
        assert "permissionMode" in shown
        assert not (project.root / "made.txt").exists()

    run(main())


@pytest.mark.long
def test_pool_tools_run_without_a_question_after_install_allow(tmp_path: Path) -> None:
    async def main() -> None:
        model = DelegationModel(echo)
        async with LoopbackAPI(model) as api:
            project = ServerProject(tmp_path, api)
            done = await asyncio.to_thread(agent_pool, project, "install", "--no-hook", "--allow")
            assert done.returncode == 0, done.stderr
            async with claude_code(project, "--permission-mode", "default") as caller:
                stdout, _ = await caller.communicate()
                assert (stdout, caller.returncode) == (b"reported\n", 0)
        (result,) = model.caller_saw
        assert not result.get("is_error")  # without the rule Claude Code denies the call

    run(main())


@pytest.mark.long
def test_all_processes_end_when_claude_code_is_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        async with LivenessSocket().open() as line:
            hold = ToolUseBlock("Bash", {"command": f"bash -c '{line.hold}'"})
            model = DelegationModel(lambda request: echo(request) if request.tool_results else hold)
            async with LoopbackAPI(model) as api:
                project = ServerProject(tmp_path, api)
                project.env["AGENT_POOL_SPARES"] = "1"
                async with claude_code(project) as caller:
                    assert caller.stdin is not None
                    caller.stdin.close()
                    held = await line.taken()
                    alive = project.processes()
                    caller.send_signal(signal.SIGTERM)
                    assert await held.read() == b""
                    await project.wait_until_gone(alive, within=10)

    run(main())
