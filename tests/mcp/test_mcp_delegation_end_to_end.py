"""Delegation by the official client, through the server as a process, to the real Claude Code."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp_types import ElicitRequestFormParams, ElicitResult

from agent_pool.loopback import LoopbackAPI, ModelReply, ModelRequest, ToolUseBlock, call_tools
from support.mcp_client import text_of
from support.mcp_harness import ServerHarness
from support.mcp_server import ServerProject
from support.mcp_task_client import TasksOfClient, begin_task, send_request, wait_for_status
from support.model_scripts import TaskBarrier
from support.variants import later
from support.waiting import run


class Person:
    """Answers elicitations with the decision of the test that runs, and keeps their messages."""

    def __init__(self) -> None:
        self.decision = ""
        self.asked: list[str] = []

    async def __call__(self, context: Any, params: ElicitRequestFormParams) -> ElicitResult:
        self.asked.append(params.message)
        return ElicitResult(action="accept", content={"decision": self.decision})


@pytest.fixture(scope="module")
def person() -> Person:
    return Person()


@pytest.fixture(scope="module", params=[later("legacy"), "2026-07-28"])
def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, person: Person
) -> Iterator[ServerHarness]:
    """Start a server with the agents `reviewer`, `talker` and `asker`."""
    folder = tmp_path_factory.mktemp("server")
    harness = ServerHarness(folder, request.param, elicitation_callback=person)
    harness.open()
    harness.project.agent("talker", "You talk.")
    harness.project.agent("asker", "You ask.", permissionMode="default")
    yield harness
    harness.close()


def test_many_tasks_run_at_the_same_time_on_separate_workers(harness: ServerHarness) -> None:
    async def main() -> None:
        barrier = TaskBarrier(3)

        async def script(request: ModelRequest) -> str:
            task = request.last_user_text.strip()
            await barrier.join(task)
            return f"did {task}"

        harness.api.script = script
        tasks = [{"agent": "reviewer", "task": f"part {n}"} for n in (1, 2, 3)]
        answer = await harness.client.call_tool("invoke_many", {"tasks": tasks})
        text = text_of(answer)
        assert text.startswith("3 tasks: 3 done, 0 failed.\n\n## 1. reviewer (")
        assert [f"\n\ndid part {n}" in text for n in (1, 2, 3)] == [True] * 3
        assert answer.meta is not None
        pids = {row["agent-pool/result"]["pid"] for row in answer.meta["agent-pool/results"]}
        assert len(pids) == 3

    harness.run(main())


def test_conversation_keeps_its_context_until_it_is_reset(harness: ServerHarness) -> None:
    def script(request: ModelRequest) -> str:
        return f"{sum(message['role'] == 'assistant' for message in request.messages)} answers"

    async def main() -> None:
        harness.api.script = script
        client = harness.client
        call = {"agent": "talker", "task": "go on", "conversation": "q3"}
        answers = [text_of(await client.call_tool("invoke", call)) for _ in range(2)]
        ended = await client.call_tool("reset", {"agent": "talker", "conversation": "q3"})
        answers.append(text_of(await client.call_tool("invoke", call)))
        figures = json.loads(text_of(await client.call_tool("stats", {})))
        note = "\n\n(The conversation 'q3' began with this task.)"
        assert answers == [f"0 answers{note}", "1 answers", f"0 answers{note}"]
        assert text_of(ended) == "The conversation 'q3' with talker has ended."
        assert [row["tasks"] for row in figures["agents"] if row["agent"] == "talker"] == [3]
        assert figures["total"]["usage"]["output_tokens"] > 0

    harness.run(main())


@pytest.mark.long
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


@pytest.mark.parametrize(
    ("decision", "expected"), [("allow once", "tool: hello\n"), ("deny", "has not permitted this")]
)
def test_person_decides_whether_the_agent_can_use_a_tool(
    harness: ServerHarness, person: Person, decision: str, expected: str
) -> None:
    made = harness.project.root / f"made {decision}.txt"
    command = f"tee '{made}' <<< hello"

    async def main() -> None:
        person.decision = decision
        person.asked.clear()
        harness.api.script = call_tools(ToolUseBlock("Bash", {"command": command}))
        answer = await harness.invoke("asker", "write")
        assert expected.strip() in text_of(answer)
        assert made.exists() is (decision == "allow once")
        (question,) = person.asked
        assert question.startswith("The agent asker asks for permission to use Bash")
        assert command in question

    harness.run(main())
