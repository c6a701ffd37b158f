import asyncio

import pytest
from mcp_types import CallToolResult

from agent_pool import PermissionRequest
from agent_pool.mcp.answers import said
from agent_pool.mcp.interfaces import Caller
from agent_pool.mcp.jobs import Job, Jobs, TooManyCalls
from agent_pool.mcp.permissions import Verdict
from mcp_fakes import text_of
from support import run

A_REQUEST = PermissionRequest("reviewer", "Bash", {"command": "make"})


def endless() -> Job:
    async def never(caller: Caller) -> CallToolResult:
        return await asyncio.get_running_loop().create_future()

    return Job(never, can_ask=False)


def quick() -> Job:
    async def at_once(caller: Caller) -> CallToolResult:
        return said("done")

    return Job(at_once, can_ask=False)


def asking(times: int, **options: object) -> Job:
    async def asks(caller: Caller) -> CallToolResult:
        assert caller.ask is not None
        return said(", ".join([await caller.ask(A_REQUEST) for _ in range(times)]))

    return Job(asks, can_ask=True, **options)  # type: ignore[arg-type]


def test_a_job_is_found_by_its_secret_and_no_other() -> None:
    async def main() -> None:
        jobs = Jobs()
        first, second = jobs.add(endless), jobs.add(endless)
        assert jobs.find(first.id) is first
        assert first.id != second.id
        assert len(first.id) >= 32
        assert jobs.find(first.id[:-1]) is None
        jobs.cancel_all()

    run(main())


def test_an_ended_job_is_forgotten_after_its_time() -> None:
    async def main() -> None:
        jobs = Jobs(kept=0)
        job = jobs.add(quick)
        await job.until_news()
        assert job.result is not None
        while jobs.find(job.id):  # noqa: ASYNC110
            await asyncio.sleep(0)

    run(main())


def test_the_oldest_ended_job_makes_room_and_running_ones_do_not() -> None:
    async def main() -> None:
        jobs = Jobs(most=2)
        ended, running = jobs.add(quick), jobs.add(endless)
        await ended.until_news()
        newest = jobs.add(endless)
        assert jobs.find(ended.id) is None
        assert jobs.find(running.id) is running
        with pytest.raises(TooManyCalls, match="2 calls of this client are still running"):
            jobs.add(endless)
        assert jobs.find(newest.id) is newest
        jobs.cancel_all()

    run(main())


def test_a_cancelled_job_stays_cancelled_and_an_ended_one_ended() -> None:
    async def main() -> None:
        for job in (endless(), quick()):
            await asyncio.sleep(0)
            has_ended = job.has_ended
            for _ in range(2):
                job.cancel()
                assert job.is_cancelled is not has_ended
            await asyncio.wait([job.running])
            assert job.is_cancelled is not has_ended

    run(main())


def test_an_answer_reaches_whoever_asked_and_answers_to_nothing_are_ignored() -> None:
    async def main() -> None:
        job = asking(2)
        await job.until_news()
        assert list(job.questions) == ["permission-1"]
        job.answer({"permission-1": Verdict.ONCE, "permission-2": Verdict.TASK})
        job.answer({"permission-1": Verdict.DENIED})
        await job.until_news()
        assert list(job.questions) == ["permission-2"]
        job.answer({"permission-2": Verdict.DENIED})
        await job.until_news()
        assert job.result is not None
        assert text_of(job.result) == "allowed once, denied by the person"

    run(main())


def test_a_question_that_is_given_up_is_not_open_any_more() -> None:
    async def impatient(caller: Caller) -> CallToolResult:
        assert caller.ask is not None
        try:
            async with asyncio.timeout(0.001):
                await caller.ask(A_REQUEST)
        except TimeoutError:
            return said("given up")
        raise AssertionError

    async def main() -> None:
        job = Job(impatient, can_ask=True)
        await asyncio.wait([job.running])
        assert job.result is not None
        assert text_of(job.result) == "given up"
        assert job.questions == {}
        job.answer({"permission-1": Verdict.ONCE})

    run(main())


def test_after_so_many_questions_the_others_are_denied() -> None:
    async def main() -> None:
        job = asking(3, most_questions=1)
        await job.until_news()
        job.answer({"permission-1": Verdict.ONCE})
        await job.until_news()
        assert job.result is not None
        assert text_of(job.result) == "allowed once, asked too often, asked too often"

    run(main())
