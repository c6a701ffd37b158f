"""Calls whose client is asked between two requests of it, as the newest protocol has it.

Where something must be asked, the answer to a call is the question, and the client repeats the
call with what the person said. The agent waits meanwhile, in a job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ElicitResult,
    InputRequests,
    InputRequiredResult,
)

from agent_pool import AgentPoolError
from agent_pool.mcp import answers
from agent_pool.mcp.interfaces import Report
from agent_pool.mcp.jobs import MOST_JOBS, Job, Run, TooManyCalls
from agent_pool.mcp.permissions import question, verdict_of

MOST_QUESTIONS: Final = 8
"""Questions in one call; clients give up after ten rounds, and everything would be lost."""

ABSENCE: Final = 180.0
"""Seconds after which a client that does not come back is taken to have left, if there is no
question any more that its person may be thinking about."""


class CallExpired(AgentPoolError):  # noqa: N818
    """A call was repeated that nobody waits for any more."""

    code = "call_expired"
    retryable = True


@dataclass(frozen=True, slots=True)
class _Paused:
    """A job whose client is away, with the person, who is asked the questions of these keys."""

    job: Job
    asked: frozenset[str]
    name: str
    arguments: Mapping[str, Any] | None
    end: asyncio.TimerHandle


class Rounds:
    """The calls of one connection that may need several requests."""

    def __init__(self, *, absence: float = ABSENCE, most: int = MOST_JOBS) -> None:
        self._absence = absence
        self._most = most
        self._paused: dict[str, _Paused] = {}

    async def call(
        self, params: CallToolRequestParams, run: Run, report: Report
    ) -> CallToolResult | InputRequiredResult:
        """Begin a call or go on with it, until it ends or a person must be asked."""
        try:
            job = self._resume(params) if params.request_state else self._begin(run)
        except AgentPoolError as error:
            return answers.refusal(error)
        job.listener = report
        try:
            await job.until_news()
        except asyncio.CancelledError:
            job.cancel()
            raise
        finally:
            job.listener = None
        return self._pause(job, params) if job.questions else _answer_of(job)

    def cancel_all(self) -> None:
        """The connection ends."""
        for paused in self._paused.values():
            paused.end.cancel()
            paused.job.cancel()
        self._paused.clear()

    def _begin(self, run: Run) -> Job:
        if len(self._paused) >= self._most:
            raise TooManyCalls(f"{len(self._paused)} calls wait for a person; answer one of them")
        return Job(run, can_ask=True, most_questions=MOST_QUESTIONS)

    def _pause(self, job: Job, params: CallToolRequestParams) -> InputRequiredResult:
        asked = frozenset(job.questions)
        end = self._end_later(job)
        self._paused[job.id] = _Paused(job, asked, params.name, params.arguments, end)
        questions: InputRequests = {
            key: question(asked.request) for key, asked in job.questions.items()
        }
        return InputRequiredResult(input_requests=questions, request_state=job.id)

    def _resume(self, params: CallToolRequestParams) -> Job:
        paused = self._paused.get(params.request_state or "")
        if paused is None or (paused.name, paused.arguments) != (params.name, params.arguments):
            raise CallExpired("this call is not waiting for an answer, or not any more")
        del self._paused[paused.job.id]
        paused.end.cancel()
        replies = params.input_responses or {}
        paused.job.answer(
            {
                key: verdict_of(reply)
                for key, reply in replies.items()
                if isinstance(reply, ElicitResult)
            }
        )
        return paused.job

    def _end_later(self, job: Job) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._absence, self._give_up, job)

    def _give_up(self, job: Job) -> None:
        paused = self._paused.pop(job.id)
        if paused.asked & job.questions.keys():  # which the pool bounds
            self._paused[job.id] = replace(paused, end=self._end_later(job))
        else:
            job.cancel()


def _answer_of(job: Job) -> CallToolResult:
    if job.error is not None:
        raise MCPError.from_error_data(job.error)
    assert job.result is not None, "only whoever waits for it cancels it"
    return job.result
