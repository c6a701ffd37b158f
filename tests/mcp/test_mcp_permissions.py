import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ClientCapabilities,
    ElicitationCapability,
    ElicitRequestFormParams,
    ElicitResult,
    FormElicitationCapability,
    InputRequiredResult,
    UrlElicitationCapability,
)

from agent_pool import Denied, PermissionRequest
from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock, echo
from agent_pool.mcp.calls import Caller
from agent_pool.mcp.capabilities import can_elicit
from agent_pool.mcp.elicitation import ElicitationRounds
from agent_pool.mcp.permissions import (
    MAX_INPUT_SHOWN,
    Decision,
    TaskPermissions,
    decision_of,
    permission_form,
)
from agent_pool.mcp.results import text_result
from agent_pool.mcp.server import build_server
from support.fake_pool import FakePool
from support.mcp_client import ERAS, connected, ignore_progress, text_of
from support.mcp_server import ServerProject
from support.waiting import run

A_CALL = {"agent": "reviewer", "task": "look"}


class ElicitedAnswers:
    """Answers elicitations with one decision after the other, and keeps their messages."""

    def __init__(self, *decisions: str) -> None:
        self.decisions = list(decisions)
        self.asked: list[str] = []

    async def __call__(self, context: Any, params: ElicitRequestFormParams) -> ElicitResult:
        self.asked.append(params.message)
        decision = self.decisions.pop(0)
        if decision in ("decline", "cancel"):
            return ElicitResult(action=decision)
        return ElicitResult(action="accept", content={"decision": decision})


def invoked(era: str, person: ElicitedAnswers | None, asks: Sequence[str]) -> CallToolResult:
    async def main() -> CallToolResult:
        pool = FakePool()
        pool.asks = tuple(asks)
        options: dict[str, Any] = {"elicitation_callback": person} if person else {}
        async with connected(build_server(pool), era, **options) as client:
            return await client.call_tool("invoke", A_CALL)

    return run(main())


@pytest.mark.parametrize("era", ERAS)
def test_person_decides_each_permission_request_separately(era: str) -> None:
    person = ElicitedAnswers("allow once", "deny", "decline", "decline")
    answer = invoked(era, person, ["Bash", "Write", "Edit", "Read"])
    assert text_of(answer) == "reviewer did look, permitted ['Bash']"
    assert person.asked[0] == ("The agent reviewer asks for permission to use Bash:\n| for: look")
    assert answer.meta is not None
    assert [row["tool"] for row in answer.meta["agent-pool/refused"]] == ["Write", "Edit", "Read"]


@pytest.mark.parametrize("era", ERAS)
def test_a_person_can_permit_the_rest_of_a_task(era: str) -> None:
    person = ElicitedAnswers("deny", "allow everything in this task")
    answer = invoked(era, person, ["Bash", "Write", "Edit", "Read"])
    assert text_of(answer) == "reviewer did look, permitted ['Write', 'Edit', 'Read']"
    assert len(person.asked) == 2


@pytest.mark.parametrize("era", ERAS)
def test_answer_explains_how_to_permit_if_the_client_cannot_ask(era: str) -> None:
    answer = invoked(era, None, ["Bash", "Bash"])
    assert not answer.is_error
    assert text_of(answer) == (
        "reviewer did look, permitted []\n\n(reviewer was not permitted to use Bash: the client "
        "cannot ask. To permit more, change `permissionMode` in the agent's definition "
        "(acceptEdits, bypassPermissions), the setting AGENT_POOL_PERMISSION_CEILING, or the rules "
        "in `permissions` of Claude Code's settings (`deny`, `ask`, `allow`).)"
    )


@pytest.mark.parametrize("era", ERAS)
def test_each_of_many_tasks_asks_for_its_own_permission(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        pool.asks = ("Bash", "Write")
        person = ElicitedAnswers(*["allow once"] * 4)
        async with connected(build_server(pool), era, elicitation_callback=person) as client:
            answer = await client.call_tool(
                "invoke_many", {"tasks": [A_CALL, {"agent": "writer", "task": "write"}]}
            )
        text = text_of(answer)
        assert "reviewer did look, permitted ['Bash', 'Write']" in text
        assert "writer did write, permitted ['Bash', 'Write']" in text
        assert len(person.asked) == 4

    run(main())


def test_call_denies_permission_requests_after_the_eighth_elicitation() -> None:
    answer = invoked("2026-07-28", ElicitedAnswers(*["allow once"] * 20), ["Bash"] * 12)
    assert text_of(answer).startswith(f"reviewer did look, permitted {['Bash'] * 8}\n\n")
    assert "Bash: asked too often" in text_of(answer)


# Calls that need several requests


async def asks_once(caller: Caller) -> CallToolResult:
    assert caller.ask is not None
    return text_result(await caller.ask(PermissionRequest("reviewer", "Bash", {})))


def repeated(
    state: str | None, replies: Any = None, *, task: str = "look"
) -> CallToolRequestParams:
    return CallToolRequestParams(
        name="invoke",
        arguments=A_CALL | {"task": task},
        request_state=state,
        input_responses=replies,
    )


YES = ElicitResult(action="accept", content={"decision": "allow once"})


def test_repeated_request_continues_the_call_but_only_once() -> None:
    async def main() -> None:
        rounds = ElicitationRounds()
        first = await rounds.call(repeated(None), asks_once, ignore_progress)
        assert isinstance(first, InputRequiredResult)
        assert list(first.input_requests or {}) == ["permission-1"]
        again = repeated(first.request_state, {"permission-1": YES})
        second = await rounds.call(again, asks_once, ignore_progress)
        assert isinstance(second, CallToolResult)
        assert text_of(second) == "allowed once"
        with pytest.raises(MCPError, match="does not wait for an answer") as refused:
            await rounds.call(again, asks_once, ignore_progress)
        assert refused.value.code == INVALID_PARAMS
        assert refused.value.error.data == {"code": "call_expired", "retryable": True}

    run(main())


def test_request_state_of_a_call_is_refused_for_another_call() -> None:
    async def main() -> None:
        rounds = ElicitationRounds()
        first = await rounds.call(repeated(None), asks_once, ignore_progress)
        assert isinstance(first, InputRequiredResult)
        other = repeated(first.request_state, {"permission-1": YES}, task="else")
        for wrong in (other, repeated("made up", {"permission-1": YES})):
            with pytest.raises(MCPError, match="does not wait for an answer") as refused:
                await rounds.call(wrong, asks_once, ignore_progress)
            assert refused.value.code == INVALID_PARAMS
        rounds.cancel_all()

    run(main())


def test_repeated_request_without_an_answer_gets_the_same_elicitation() -> None:
    async def main() -> None:
        rounds = ElicitationRounds()
        first = await rounds.call(repeated(None), asks_once, ignore_progress)
        assert isinstance(first, InputRequiredResult)
        second = await rounds.call(repeated(first.request_state), asks_once, ignore_progress)
        assert isinstance(second, InputRequiredResult)
        assert second.input_requests == first.input_requests
        rounds.cancel_all()

    run(main())


def test_agent_is_interrupted_if_its_client_does_not_return() -> None:
    async def main() -> None:
        interrupted = asyncio.Event()

        async def waits(caller: Caller) -> CallToolResult:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):  # as the pool does
                    await asks_once(caller)
            try:
                return await asyncio.Future[CallToolResult]()
            finally:
                interrupted.set()

        first = await ElicitationRounds(absence=0.001).call(repeated(None), waits, ignore_progress)
        assert isinstance(first, InputRequiredResult)
        await interrupted.wait()

    run(main())


def test_client_can_stay_away_while_its_person_decides() -> None:
    async def main() -> None:
        rounds = ElicitationRounds(absence=0)
        first = await rounds.call(repeated(None), asks_once, ignore_progress)
        assert isinstance(first, InputRequiredResult)
        for _ in range(10):
            await asyncio.sleep(0)
        again = repeated(first.request_state, {"permission-1": YES})
        second = await rounds.call(again, asks_once, ignore_progress)
        assert isinstance(second, CallToolResult)
        assert text_of(second) == "allowed once"

    run(main())


def test_a_cancelled_call_interrupts_its_agent() -> None:
    async def main() -> None:
        began, interrupted = asyncio.Event(), asyncio.Event()

        async def endless(caller: Caller) -> CallToolResult:
            began.set()
            try:
                return await asyncio.Future[CallToolResult]()
            except asyncio.CancelledError:
                interrupted.set()
                raise

        call = asyncio.create_task(
            ElicitationRounds().call(repeated(None), endless, ignore_progress)
        )
        await began.wait()
        call.cancel()
        await interrupted.wait()

    run(main())


def test_calls_that_wait_for_a_person_are_limited() -> None:
    async def main() -> None:
        rounds = ElicitationRounds(most=1)
        await rounds.call(repeated(None), asks_once, ignore_progress)
        answer = await rounds.call(repeated(None), asks_once, ignore_progress)
        assert isinstance(answer, CallToolResult)
        assert "1 calls wait for a person" in text_of(answer)
        rounds.cancel_all()

    run(main())


# Clients that can be asked


@pytest.mark.parametrize(
    ("offered", "can"),
    [
        (None, False),
        (ElicitationCapability(), True),
        (ElicitationCapability(form=FormElicitationCapability()), True),
        (ElicitationCapability(url=UrlElicitationCapability()), False),
    ],
)
def test_client_can_be_asked_only_if_it_supports_forms(
    offered: ElicitationCapability | None, can: bool
) -> None:
    session = SimpleNamespace(client_capabilities=ClientCapabilities(elicitation=offered))
    assert can_elicit(SimpleNamespace(session=session)) is can  # type: ignore[arg-type]


# Elicitations and their answers


@given(st.dictionaries(st.text() | st.just("command"), st.text()), st.text())
def test_elicitation_message_is_short_and_marks_each_line_of_input(
    given: dict[str, str], tool: str
) -> None:
    message = permission_form(PermissionRequest("reviewer", tool, given, tool)).message
    assert len(message) < MAX_INPUT_SHOWN + 500
    first, *rest = message.splitlines()
    assert first.startswith("The agent reviewer asks for permission to use ")
    assert all(line.startswith("| ") for line in rest)
    message.encode()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"command": "cat <<'E'\n\"two\"\nE", "description": "d"}, ["cat <<'E'", '"two"', "E"]),
        ({"command": "ls", "timeout": 5}, ["ls", "timeout: 5"]),
        ({"file_path": "/x", "edits": [{"a": 1}]}, ["file_path: /x", 'edits: [{"a": 1}]']),
        ({}, []),
    ],
)
def test_elicitation_shows_a_command_as_text(given: dict[str, Any], shown: list[str]) -> None:
    message = permission_form(PermissionRequest("reviewer", "Bash", given)).message
    assert message.splitlines()[1:] == [f"| {line}" for line in shown]


def test_elicitation_has_permission_for_once_as_its_default() -> None:
    schema = permission_form(PermissionRequest("reviewer", "Bash", {})).requested_schema
    decision = schema["properties"]["decision"]
    assert decision["default"] == decision["enum"][0] == "allow once"


def test_elicitation_message_counts_the_characters_that_are_not_shown() -> None:
    message = permission_form(
        PermissionRequest("reviewer", "Bash", {"command": "x" * 5000})
    ).message
    assert message.endswith("… and 1002 characters that are not shown")


@pytest.mark.parametrize(
    "answer",
    [
        ElicitResult(action="accept"),
        ElicitResult(action="accept", content={}),
        ElicitResult(action="accept", content={"decision": "ALLOW ONCE"}),
        ElicitResult(action="accept", content={"decision": True}),
        ElicitResult(action="decline", content={"decision": "allow once"}),
    ],
)
def test_every_answer_except_a_clear_permission_is_a_denial(answer: ElicitResult) -> None:
    assert decision_of(answer) is Decision.DENIED


def test_cancelled_elicitation_counts_as_closed_and_not_as_denied() -> None:
    assert decision_of(ElicitResult(action="cancel")) is Decision.CLOSED


A_REQUEST = PermissionRequest("a", "Bash", {})


@pytest.mark.parametrize(
    ("decision", "read"),
    [
        (None, "no person can be asked, as the client cannot ask"),
        (Decision.DENIED, ""),  # the agent reads the pool's usual text
        (Decision.CLOSED, "the question was closed without an answer"),
        (Decision.TOO_OFTEN, "you have asked too often"),
        (Decision.CANNOT_ASK, "no person can be asked, as the client cannot ask"),
    ],
)
def test_agent_gets_the_reason_for_a_denied_permission(
    decision: Decision | None, read: str
) -> None:
    async def ask(request: PermissionRequest) -> Decision:
        assert decision is not None
        return decision

    async def main() -> None:
        permissions = TaskPermissions(ask if decision else None)
        answer = await permissions.decide(A_REQUEST)
        assert isinstance(answer, Denied)
        assert read in answer.reason
        assert bool(answer.reason) is bool(read)
        assert permissions.refused == [("Bash", decision or Decision.CANNOT_ASK)]

    run(main())


def test_cancelled_permission_request_is_recorded_as_not_answered() -> None:
    async def never(request: PermissionRequest) -> Decision:
        return await asyncio.Future[Decision]()

    async def main() -> None:
        permissions = TaskPermissions(never)
        asking = asyncio.ensure_future(permissions.decide(A_REQUEST))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert permissions.refused == [("Bash", Decision.UNANSWERED)]

    run(main())


@pytest.mark.parametrize("era", ERAS)
def test_permission_is_denied_if_the_person_answers_too_late(tmp_path: Path, era: str) -> None:
    async def main() -> None:
        answer = asyncio.Event()

        async def slow(context: Any, params: ElicitRequestFormParams) -> ElicitResult:
            await answer.wait()
            return YES

        write = ToolUseBlock("Bash", {"command": "tee made.txt <<< hello"})

        def script(request: ModelRequest) -> Any:
            if request.tool_results:
                answer.set()
            return echo(request) if request.tool_results else write

        async with LoopbackAPI(script) as api:
            project = ServerProject(tmp_path, api)
            project.env["AGENT_POOL_PERMISSION_TIMEOUT"] = "200ms"
            project.agent("asker", "You ask.", permissionMode="default")
            async with project.client(era, elicitation_callback=slow) as client:
                text = text_of(await client.call_tool("invoke", {"agent": "asker", "task": "x"}))
            assert "there was no answer within 0.2 s (setting permission_timeout)" in text
            assert "(asker was not permitted to use Bash: no answer came in time." in text
            assert not (project.root / "made.txt").exists()

    run(main())
