"""Delegation by the official client, through the server as a process, to the real Claude Code."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mcp_types import ElicitRequestFormParams, ElicitResult

from agent_pool.loopback import LoopbackAPI, ModelReply, ModelRequest, ToolUseBlock, call_tools
from support.mcp_client import ERAS, text_of
from support.mcp_server import ServerProject
from support.mcp_task_client import TasksOfClient, begin_task, send_request, wait_for_status
from support.model_scripts import TaskBarrier
from support.waiting import run


@pytest.mark.parametrize("era", ERAS)
def test_many_tasks_run_at_the_same_time_on_separate_workers(tmp_path: Path, era: str) -> None:
    async def main() -> None:
        barrier = TaskBarrier(3)

        async def script(request: ModelRequest) -> str:
            task = request.last_user_text.strip()
            await barrier.join(task)
            return f"did {task}"

        async with LoopbackAPI(script) as api, ServerProject(tmp_path, api).client(era) as client:
            tasks = [{"agent": "reviewer", "task": f"part {n}"} for n in (1, 2, 3)]
            answer = await client.call_tool("invoke_many", {"tasks": tasks})
        text = text_of(answer)
        assert text.startswith("3 tasks: 3 done, 0 failed.\n\n## 1. reviewer (")
        assert [f"\n\ndid part {n}" in text for n in (1, 2, 3)] == [True] * 3
        assert answer.meta is not None
        pids = {row["agent-pool/result"]["pid"] for row in answer.meta["agent-pool/results"]}
        assert len(pids) == 3

    run(main())


def test_conversation_keeps_its_context_until_it_is_reset(tmp_path: Path) -> None:
    def script(request: ModelRequest) -> str:
        return f"{sum(message['role'] == 'assistant' for message in request.messages)} answers"

    async def main() -> None:
        async with (
            LoopbackAPI(script) as api,
            ServerProject(tmp_path, api).client("auto") as client,
        ):
            call = {"agent": "reviewer", "task": "go on", "conversation": "q3"}
            answers = [text_of(await client.call_tool("invoke", call)) for _ in range(2)]
            ended = await client.call_tool("reset", {"agent": "reviewer", "conversation": "q3"})
            answers.append(text_of(await client.call_tool("invoke", call)))
            figures = json.loads(text_of(await client.call_tool("stats", {})))
        note = "\n\n(The conversation 'q3' began with this task.)"
        assert answers == [f"0 answers{note}", "1 answers", f"0 answers{note}"]
        assert text_of(ended) == "The conversation 'q3' with reviewer has ended."
        assert [(row["agent"], row["tasks"]) for row in figures["agents"]] == [("reviewer", 3)]
        assert figures["total"]["usage"]["output_tokens"] > 0

    run(main())


def test_cancelled_task_does_not_affect_the_two_other_tasks(tmp_path: Path) -> None:
    async def main() -> None:
        asked: asyncio.Queue[ModelRequest] = asyncio.Queue()
        go_on = asyncio.Event()

        async def script(request: ModelRequest) -> Any:
            asked.put_nowait(request)
            if "part 2" in request.last_user_text:
                return ModelReply("too late", delay=1000)
            await go_on.wait()
            return f"did {request.last_user_text.strip()}"

        async with LoopbackAPI(script) as api:
            project = ServerProject(tmp_path, api)
            async with project.client("auto", extensions=[TasksOfClient()]) as client:
                tasks = [
                    (await begin_task(client, "invoke", {"agent": "reviewer", "task": f"part {n}"}))
                    for n in range(3)
                ]
                requests = [await asked.get() for _ in tasks]
                for _ in range(2):
                    await send_request(client.session, "tasks/cancel", taskId=tasks[2].task_id)
                (cancelled,) = (one for one in requests if "part 2" in one.last_user_text)
                while not cancelled.disconnected:  # noqa: ASYNC110 - the server notices
                    await asyncio.sleep(0.01)
                go_on.set()
                for number in (0, 1):
                    state = await wait_for_status(
                        client.session, tasks[number].task_id, "completed"
                    )
                    assert state["result"]["content"][0]["text"] == f"did part {number}"

    run(main())


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(
    ("decision", "expected"), [("allow once", "tool: hello\n"), ("deny", "has not permitted this")]
)
def test_person_decides_whether_the_agent_can_use_a_tool(
    tmp_path: Path, era: str, decision: str, expected: str
) -> None:
    async def main() -> None:
        asked: list[str] = []

        async def person(context: Any, params: ElicitRequestFormParams) -> ElicitResult:
            asked.append(params.message)
            return ElicitResult(action="accept", content={"decision": decision})

        write = ToolUseBlock("Bash", {"command": "tee made.txt <<< hello"})
        async with LoopbackAPI(call_tools(write)) as api:
            project = ServerProject(tmp_path, api)
            project.agent("asker", "You ask.", permissionMode="default")
            async with project.client(era, elicitation_callback=person) as client:
                answer = await client.call_tool("invoke", {"agent": "asker", "task": "write"})
            assert expected.strip() in text_of(answer)
            assert (project.root / "made.txt").exists() is (decision == "allow once")
            (question,) = asked
            assert question.startswith("The agent asker asks for permission to use Bash")
            assert "tee made.txt <<< hello" in question

    run(main())
