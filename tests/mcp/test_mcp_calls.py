import asyncio

import pytest
from mcp_types import CallToolResult

from agent_pool import PermissionRequest
from agent_pool.mcp.calls import Call, Caller, ConnectionCalls, TooManyCalls
from agent_pool.mcp.permissions import Decision
from agent_pool.mcp.results import text_result
from support.mcp_client import text_of
from support.waiting import run

A_REQUEST = PermissionRequest("reviewer", "Bash", {"command": "make"})


def endless() -> Call:
    async def never(caller: Caller) -> CallToolResult:
        return await asyncio.Future[CallToolResult]()

    return Call(never, can_ask=False)


def quick() -> Call:
    async def at_once(caller: Caller) -> CallToolResult:
        return text_result("done")

    return Call(at_once, can_ask=False)


def asking(times: int, **options: object) -> Call:
    async def asks(caller: Caller) -> CallToolResult:
        assert caller.ask is not None
        return text_result(", ".join([await caller.ask(A_REQUEST) for _ in range(times)]))

    return Call(asks, can_ask=True, **options)  # type: ignore[arg-type]


def test_call_is_found_only_by_its_own_secret_id() -> None:
    async def main() -> None:
        calls = ConnectionCalls()
        first, second = calls.add(endless), calls.add(endless)
        assert calls.find(first.id) is first
        assert first.id != second.id
        assert len(first.id) >= 32
        assert calls.find(first.id[:-1]) is None
        calls.cancel_all()

    run(main())


def test_ended_call_is_removed_after_its_retention_time() -> None:
    async def main() -> None:
        calls = ConnectionCalls(kept=0)
        call = calls.add(quick)
        await call.wait_for_client()
        assert call.result is not None
        while calls.find(call.id):  # noqa: ASYNC110
            await asyncio.sleep(0)

    run(main())


def test_full_store_removes_fetched_calls_but_keeps_all_others() -> None:
    async def main() -> None:
        calls = ConnectionCalls(most=2)
        ended, running = calls.add(quick), calls.add(endless)
        await ended.wait_for_client()
        with pytest.raises(TooManyCalls, match="1 are running, 1 have ended and their"):
            calls.add(endless)
        ended.is_fetched = True
        newest = calls.add(endless)
        assert calls.find(ended.id) is None
        assert calls.find(running.id) is running
        with pytest.raises(TooManyCalls, match="2 are running, 0 have ended"):
            calls.add(endless)
        assert calls.find(newest.id) is newest
        calls.cancel_all()

    run(main())


def test_cancelled_calls_stay_cancelled_and_ended_calls_stay_ended() -> None:
    async def main() -> None:
        for call in (endless(), quick()):
            await asyncio.sleep(0)
            has_ended = call.has_ended
            for _ in range(2):
                call.cancel()
                assert call.is_cancelled is not has_ended
            await asyncio.wait([call.running])
            assert call.is_cancelled is not has_ended

    run(main())


def test_answer_reaches_its_open_elicitation_and_other_answers_are_ignored() -> None:
    async def main() -> None:
        call = asking(2)
        await call.wait_for_client()
        assert list(call.questions) == ["permission-1"]
        call.answer({"permission-1": Decision.ONCE, "permission-2": Decision.TASK})
        call.answer({"permission-1": Decision.DENIED})
        await call.wait_for_client()
        assert list(call.questions) == ["permission-2"]
        call.answer({"permission-2": Decision.DENIED})
        await call.wait_for_client()
        assert call.result is not None
        assert text_of(call.result) == "allowed once, denied by the person"

    run(main())


def test_elicitation_that_timed_out_is_no_longer_open() -> None:
    async def impatient(caller: Caller) -> CallToolResult:
        assert caller.ask is not None
        try:
            async with asyncio.timeout(0.001):
                await caller.ask(A_REQUEST)
        except TimeoutError:
            return text_result("given up")
        raise AssertionError

    async def main() -> None:
        call = Call(impatient, can_ask=True)
        await asyncio.wait([call.running])
        assert call.result is not None
        assert text_of(call.result) == "given up"
        assert call.questions == {}
        call.answer({"permission-1": Decision.ONCE})

    run(main())


def test_elicitations_above_the_limit_are_denied_without_asking() -> None:
    async def main() -> None:
        call = asking(3, max_questions=1)
        await call.wait_for_client()
        call.answer({"permission-1": Decision.ONCE})
        await call.wait_for_client()
        assert call.result is not None
        assert text_of(call.result) == "allowed once, asked too often, asked too often"

    run(main())
