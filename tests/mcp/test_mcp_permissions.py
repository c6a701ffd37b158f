import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import (
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
from agent_pool.loopback import LoopbackAPI, Request, ToolUse, echo
from agent_pool.mcp.answers import said
from agent_pool.mcp.clients import can_be_asked
from agent_pool.mcp.interfaces import Caller
from agent_pool.mcp.permissions import SHOWN, Permissions, Verdict, form, verdict_of
from agent_pool.mcp.rounds import Rounds
from agent_pool.mcp.server import build_server
from mcp_fakes import ERAS, FakePool, connected, text_of
from mcp_world import World
from support import run

A_CALL = {"agent": "reviewer", "task": "look"}


class Person:
    """Decides one thing after another, and remembers what was asked."""

    def __init__(self, *decisions: str) -> None:
        self.decisions = list(decisions)
        self.asked: list[str] = []

    async def __call__(self, context: Any, params: ElicitRequestFormParams) -> ElicitResult:
        self.asked.append(params.message)
        decision = self.decisions.pop(0)
        if decision in ("decline", "cancel"):
            return ElicitResult(action=decision)  # type: ignore[arg-type]
        return ElicitResult(action="accept", content={"decision": decision})


def invoked(era: str, person: Person | None, asks: Sequence[str]) -> CallToolResult:
    async def main() -> CallToolResult:
        pool = FakePool()
        pool.asks = tuple(asks)
        options: dict[str, Any] = {"elicitation_callback": person} if person else {}
        async with connected(build_server(pool), era, **options) as client:
            return await client.call_tool("invoke", A_CALL)

    return run(main())


@pytest.mark.parametrize("era", ERAS)
def test_a_person_decides_each_request(era: str) -> None:
    person = Person("allow once", "deny", "decline", "decline")
    answer = invoked(era, person, ["Bash", "Write", "Edit", "Read"])
    assert text_of(answer) == "reviewer did look, permitted ['Bash']"
    assert person.asked[0] == (
        'The agent reviewer asks for permission to use Bash:\n{"for": "look"}'
    )
    assert answer.meta is not None
    assert [row["tool"] for row in answer.meta["agent-pool/refused"]] == ["Write", "Edit", "Read"]


@pytest.mark.parametrize("era", ERAS)
def test_a_person_can_permit_the_rest_of_a_task(era: str) -> None:
    person = Person("deny", "allow everything in this task")
    answer = invoked(era, person, ["Bash", "Write", "Edit", "Read"])
    assert text_of(answer) == "reviewer did look, permitted ['Write', 'Edit', 'Read']"
    assert len(person.asked) == 2


@pytest.mark.parametrize("era", ERAS)
def test_a_client_that_cannot_ask_is_told_how_to_permit(era: str) -> None:
    answer = invoked(era, None, ["Bash", "Bash"])
    assert not answer.is_error
    assert text_of(answer) == (
        "reviewer did look, permitted []\n\n(reviewer was not permitted to use Bash: the client "
        "cannot ask. To permit more, change `permissionMode` in the agent's definition "
        "(acceptEdits, bypassPermissions), or the setting AGENT_POOL_PERMISSION_CEILING.)"
    )


@pytest.mark.parametrize("era", ERAS)
def test_each_task_of_many_asks_for_itself(era: str) -> None:
    async def main() -> None:
        pool = FakePool()
        pool.asks = ("Bash", "Write")
        person = Person(*["allow once"] * 4)
        async with connected(build_server(pool), era, elicitation_callback=person) as client:
            answer = await client.call_tool(
                "invoke_many", {"tasks": [A_CALL, {"agent": "writer", "task": "write"}]}
            )
        text = text_of(answer)
        assert "reviewer did look, permitted ['Bash', 'Write']" in text
        assert "writer did write, permitted ['Bash', 'Write']" in text
        assert len(person.asked) == 4

    run(main())


def test_a_call_with_many_questions_ends_well_before_the_client_gives_up() -> None:
    answer = invoked("2026-07-28", Person(*["allow once"] * 20), ["Bash"] * 12)
    assert text_of(answer).startswith(f"reviewer did look, permitted {['Bash'] * 8}\n\n")
    assert "Bash: asked too often" in text_of(answer)


# Calls of several requests


async def unheard(number: int, line: str) -> None:
    pass


async def asks_once(caller: Caller) -> CallToolResult:
    assert caller.ask is not None
    return said(await caller.ask(PermissionRequest("reviewer", "Bash", {})))


def repeated(state: str | None, *, task: str = "look", **replies: Any) -> CallToolRequestParams:
    return CallToolRequestParams(
        name="invoke",
        arguments=A_CALL | {"task": task},
        request_state=state,
        input_responses=replies or None,
    )


YES = ElicitResult(action="accept", content={"decision": "allow once"})


def test_a_repeated_call_goes_on_where_it_was_and_only_once() -> None:
    async def main() -> None:
        rounds = Rounds()
        first = await rounds.call(repeated(None), asks_once, unheard)
        assert isinstance(first, InputRequiredResult)
        assert list(first.input_requests or {}) == ["permission-1"]
        again = repeated(first.request_state, **{"permission-1": YES})
        second = await rounds.call(again, asks_once, unheard)
        assert isinstance(second, CallToolResult)
        assert text_of(second) == "allowed once"
        third = await rounds.call(again, asks_once, unheard)
        assert isinstance(third, CallToolResult)
        assert third.is_error
        assert "not waiting for an answer" in text_of(third)

    run(main())


def test_the_state_of_a_call_serves_no_other_call() -> None:
    async def main() -> None:
        rounds = Rounds()
        first = await rounds.call(repeated(None), asks_once, unheard)
        assert isinstance(first, InputRequiredResult)
        other = repeated(first.request_state, task="else", **{"permission-1": YES})
        for wrong in (other, repeated("made up", **{"permission-1": YES})):
            answer = await rounds.call(wrong, asks_once, unheard)
            assert isinstance(answer, CallToolResult)
            assert answer.is_error
        rounds.cancel_all()

    run(main())


def test_without_the_answer_the_question_is_put_again() -> None:
    async def main() -> None:
        rounds = Rounds()
        first = await rounds.call(repeated(None), asks_once, unheard)
        assert isinstance(first, InputRequiredResult)
        second = await rounds.call(repeated(first.request_state), asks_once, unheard)
        assert isinstance(second, InputRequiredResult)
        assert second.input_requests == first.input_requests
        rounds.cancel_all()

    run(main())


def test_an_agent_whose_client_does_not_come_back_is_interrupted() -> None:
    async def main() -> None:
        interrupted = asyncio.Event()

        async def waits(caller: Caller) -> CallToolResult:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):  # as the pool does
                    await asks_once(caller)
            try:
                return await asyncio.get_running_loop().create_future()
            finally:
                interrupted.set()

        first = await Rounds(absence=0.001).call(repeated(None), waits, unheard)
        assert isinstance(first, InputRequiredResult)
        await interrupted.wait()

    run(main())


def test_a_client_may_be_away_for_as_long_as_its_person_may_think() -> None:
    async def main() -> None:
        rounds = Rounds(absence=0)
        first = await rounds.call(repeated(None), asks_once, unheard)
        assert isinstance(first, InputRequiredResult)
        for _ in range(10):
            await asyncio.sleep(0)
        again = repeated(first.request_state, **{"permission-1": YES})
        second = await rounds.call(again, asks_once, unheard)
        assert isinstance(second, CallToolResult)
        assert text_of(second) == "allowed once"

    run(main())


def test_a_cancelled_call_interrupts_its_agent() -> None:
    async def main() -> None:
        began, interrupted = asyncio.Event(), asyncio.Event()

        async def endless(caller: Caller) -> CallToolResult:
            began.set()
            try:
                return await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                interrupted.set()
                raise

        call = asyncio.create_task(Rounds().call(repeated(None), endless, unheard))
        await began.wait()
        call.cancel()
        await interrupted.wait()

    run(main())


def test_so_many_calls_wait_for_a_person_at_the_most() -> None:
    async def main() -> None:
        rounds = Rounds(most=1)
        await rounds.call(repeated(None), asks_once, unheard)
        answer = await rounds.call(repeated(None), asks_once, unheard)
        assert isinstance(answer, CallToolResult)
        assert "1 calls wait for a person" in text_of(answer)
        rounds.cancel_all()

    run(main())


# Who can be asked


@pytest.mark.parametrize(
    ("offered", "can"),
    [
        (None, False),
        (ElicitationCapability(), True),
        (ElicitationCapability(form=FormElicitationCapability()), True),
        (ElicitationCapability(url=UrlElicitationCapability()), False),
    ],
)
def test_a_client_is_asked_only_by_forms(offered: ElicitationCapability | None, can: bool) -> None:
    session = SimpleNamespace(client_capabilities=ClientCapabilities(elicitation=offered))
    assert can_be_asked(SimpleNamespace(session=session)) is can  # type: ignore[arg-type]


# The question and the answer


@given(st.dictionaries(st.text(), st.text()), st.text())
def test_a_question_is_short_and_clean_whatever_is_asked(given: dict[str, str], tool: str) -> None:
    message = form(PermissionRequest("reviewer", tool, given, tool)).message
    assert len(message) < SHOWN + 500
    assert len(message.splitlines()) <= 2
    message.encode()


def test_what_is_not_shown_is_counted() -> None:
    message = form(PermissionRequest("reviewer", "Bash", {"command": "x" * 5000})).message
    assert message.endswith("… and 1015 characters that are not shown")


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
def test_anything_but_a_clear_permission_is_a_denial(answer: ElicitResult) -> None:
    assert verdict_of(answer) is Verdict.DENIED


def test_a_closed_question_is_told_from_a_denial() -> None:
    assert verdict_of(ElicitResult(action="cancel")) is Verdict.CLOSED


A_REQUEST = PermissionRequest("a", "Bash", {})


@pytest.mark.parametrize(
    ("verdict", "read"),
    [
        (None, "nobody can be asked, as the client cannot ask"),
        (Verdict.DENIED, ""),  # the usual words
        (Verdict.CLOSED, "the question was closed without an answer"),
        (Verdict.TOO_OFTEN, "you have asked too often"),
        (Verdict.CANNOT_ASK, "nobody can be asked, as the client cannot ask"),
    ],
)
def test_the_agent_reads_why_it_may_not(verdict: Verdict | None, read: str) -> None:
    async def ask(request: PermissionRequest) -> Verdict:
        assert verdict is not None
        return verdict

    async def main() -> None:
        permissions = Permissions(ask if verdict else None)
        answer = await permissions.permit(A_REQUEST)
        assert isinstance(answer, Denied)
        assert read in answer.reason
        assert bool(answer.reason) is bool(read)
        assert permissions.refused == [("Bash", verdict or Verdict.CANNOT_ASK)]

    run(main())


def test_a_question_that_the_pool_gives_up_was_not_answered_in_time() -> None:
    async def never(request: PermissionRequest) -> Verdict:
        return await asyncio.get_running_loop().create_future()

    async def main() -> None:
        permissions = Permissions(never)
        asking = asyncio.ensure_future(permissions.permit(A_REQUEST))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert permissions.refused == [("Bash", Verdict.UNANSWERED)]

    run(main())


@pytest.mark.parametrize("era", ERAS)
def test_a_person_that_does_not_answer_in_time_denies(tmp_path: Path, era: str) -> None:
    async def main() -> None:
        answer = asyncio.Event()

        async def slow(context: Any, params: ElicitRequestFormParams) -> ElicitResult:
            await answer.wait()
            return YES

        write = ToolUse("Bash", {"command": "tee made.txt <<< hello"})

        def script(request: Request) -> Any:
            if request.tool_results:
                answer.set()
            return echo(request) if request.tool_results else write

        async with LoopbackAPI(script) as api:
            world = World(tmp_path, api)
            world.env["AGENT_POOL_PERMISSION_TIMEOUT"] = "200ms"
            world.agent("asker", "You ask.", permissionMode="default")
            async with world.client(era, elicitation_callback=slow) as client:
                said = text_of(await client.call_tool("invoke", {"agent": "asker", "task": "x"}))
            assert "nobody answered within 0.2 s (setting permission_timeout)" in said
            assert "(asker was not permitted to use Bash: nobody answered in time." in said
            assert not (world.root / "made.txt").exists()

    run(main())
