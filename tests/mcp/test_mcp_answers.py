"""Long answers: whole for every client, in parts for those that cut them."""

from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import CallToolResult, Implementation

from agent_pool import TaskResult
from agent_pool.api import OnEvent
from agent_pool.loopback import LoopbackAPI
from agent_pool.mcp.answers import MAX_ANSWERS, LongAnswers, NoSuchAnswer
from agent_pool.mcp.results import text_result
from agent_pool.mcp.server import build_server
from support.fake_pool import FakePool, make_result
from support.mcp_client import ERAS, connected, text_of
from support.mcp_server import ServerProject
from support.waiting import run

A_CALL = {"agent": "reviewer", "task": "look"}
LONG = "".join(f"{number:05}," for number in range(5000))  # 30,000 characters on one line


async def long_answer(agent: str, task: str, on_event: OnEvent) -> TaskResult:
    return make_result(LONG)


async def read_in_parts(client: Client, answer: CallToolResult, seen: int) -> str:
    """Return an answer of which the client has seen so many characters."""
    note, _, text = text_of(answer).partition("\n\n")
    assert note.startswith("(This answer has 30,000 characters. ")
    assert 'answer="answer-1"' in note
    whole = text[:seen]
    for _ in range(3):
        call: dict[str, Any] = {"answer": "answer-1", "start": len(whole)}
        part = text_of(await client.call_tool("read_answer", call))
        assert len(part) < 12_000
        whole += part.partition("\n\n")[2]
    assert part.startswith("(Characters ")
    assert "This is the end." in part
    return whole


@pytest.mark.parametrize("era", ERAS)
def test_client_that_cuts_a_long_answer_can_read_the_rest(era: str) -> None:
    async def main() -> None:
        async with connected(build_server(FakePool(long_answer)), era) as client:
            answer = await client.call_tool("invoke", A_CALL)
            assert await read_in_parts(client, answer, 9000) == LONG

    run(main())


@pytest.mark.parametrize("era", ERAS)
def test_claude_code_gets_a_long_answer_without_a_note(era: str) -> None:
    async def main() -> None:
        claude = Implementation(name="claude-code", version="2.1.332")
        server = build_server(FakePool(long_answer))
        async with connected(server, era, client_info=claude) as client:
            assert text_of(await client.call_tool("invoke", A_CALL)) == LONG

    run(main())


def test_the_real_server_lets_a_client_read_a_long_answer_in_parts(tmp_path: Path) -> None:
    async def main() -> None:
        async with LoopbackAPI(lambda request: LONG) as api:
            project = ServerProject(tmp_path, api)
            async with project.client("2026-07-28") as client:
                answer = await client.call_tool("invoke", A_CALL)
                assert await read_in_parts(client, answer, 10_000) == LONG

    run(main())


def test_only_the_latest_long_answers_are_kept() -> None:
    answers = LongAnswers()
    assert text_of(answers.keep(text_result("x" * 10), 10)) == "x" * 10
    for number in range(MAX_ANSWERS + 1):
        answers.keep(text_result(f"{number}" + "x" * 10), 10)
    with pytest.raises(NoSuchAnswer, match="answer-2, answer-3"):
        answers.read("answer-1", 0)
    assert answers.read("answer-2", 1).endswith("\n\n" + "x" * 10)
    assert answers.read("answer-2", 99).startswith("(Characters 99 to 99 of 11. This is the end.)")
