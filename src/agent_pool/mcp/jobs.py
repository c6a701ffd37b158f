"""Tool calls that outlive the request that began them: run, asked about, kept for a while."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, CallToolResult, ErrorData

from agent_pool import AgentPoolError, PermissionRequest
from agent_pool.mcp.interfaces import Caller, Report
from agent_pool.mcp.permissions import Verdict

MOST_JOBS: Final = 128
"""Jobs of one connection, those that have ended included."""

KEPT: Final = 900.0
"""Seconds for which the answer of an ended job can be fetched."""

LONGEST: Final = 86400.0
"""Seconds after which a job is cancelled, whatever the settings allow its tasks."""

logger = logging.getLogger(__name__)

Run = Callable[[Caller], Awaitable[CallToolResult]]


class TooManyCalls(AgentPoolError):  # noqa: N818
    """So many calls of this client run that there is no room for another."""

    code = "too_many_calls"
    retryable = True


@dataclass(frozen=True, slots=True)
class Question:
    """A permission request that waits for a person."""

    request: PermissionRequest
    answer: asyncio.Future[Verdict]


class Job:
    """One tool call, run by a task of its own.

    Attributes:
        id: a secret that stands for it.
        line: the latest line of progress, empty at first.
        questions: what a person is asked now, by keys that are never used twice.
        created: when it began.
        updated: when something about it last changed.
        result: the tool's answer, None before there is one.
        error: the protocol error that it ended with, usually None.
        is_cancelled: whether it was given up.
        listener: hears of progress while a request waits for the job, else None.

    Args:
        run: the call.
        can_ask: whether there is a person to ask.
        most_questions: after so many all others are denied.
    """

    def __init__(
        self,
        run: Run,
        *,
        can_ask: bool,
        most_questions: int | None = None,
    ) -> None:
        self.id = secrets.token_urlsafe(24)
        self.line = ""
        self.questions: dict[str, Question] = {}
        self.created = self.updated = datetime.now(UTC)
        self.result: CallToolResult | None = None
        self.error: ErrorData | None = None
        self.is_cancelled = False
        self.listener: Report | None = None
        self._asked = 0
        self._most_questions = most_questions
        self._news = asyncio.Event()
        caller = Caller(self._report, self._ask if can_ask else None)
        self.running = asyncio.create_task(self._run(run, caller))

    @property
    def has_ended(self) -> bool:
        """Whether nothing about it changes any more."""
        return self.is_cancelled or self.result is not None or self.error is not None

    async def until_news(self) -> None:
        """Wait until it has ended or a person must be asked."""
        while not self.has_ended and not self.questions:
            self._news.clear()
            await self._news.wait()

    def answer(self, verdicts: Mapping[str, Verdict]) -> None:
        """Pass answers on; those to questions that are not open are ignored."""
        for key in verdicts.keys() & self.questions.keys():
            answer = self.questions.pop(key).answer
            if not answer.done():  # as it is when time has just run out
                answer.set_result(verdicts[key])
        self._touch()

    def cancel(self) -> None:
        """Give it up, unless it has ended; its agents are interrupted."""
        if not self.has_ended:
            self.is_cancelled = True
            self.running.cancel()
            self.questions.clear()
            self._touch()

    async def _run(self, run: Run, caller: Caller) -> None:
        try:
            self.result = await run(caller)
        except MCPError as error:
            self.error = error.error
        except Exception as error:
            logger.exception("bug: a call failed")
            self.error = ErrorData(code=INTERNAL_ERROR, message=f"{type(error).__name__}: {error}")
        finally:
            self._touch()

    async def _report(self, number: int, line: str) -> None:
        self.line = line
        self._touch()
        if self.listener is not None:
            await self.listener(number, line)

    async def _ask(self, request: PermissionRequest) -> Verdict:
        if self._asked == self._most_questions:
            return Verdict.TOO_OFTEN
        self._asked += 1
        key = f"permission-{self._asked}"
        question = Question(request, asyncio.get_running_loop().create_future())
        self.questions[key] = question
        self._touch()
        try:
            return await question.answer
        finally:
            self.questions.pop(key, None)
            self._touch()

    def _touch(self) -> None:
        self.updated = datetime.now(UTC)
        self._news.set()


class Jobs:
    """The jobs of one connection: its client alone can find them.

    Attributes:
        kept: seconds for which a job can be found after it has ended.
    """

    def __init__(self, *, most: int = MOST_JOBS, kept: float = KEPT) -> None:
        self.kept = kept
        self._most = most
        self._jobs: dict[str, Job] = {}

    def add(self, make: Callable[[], Job]) -> Job:
        """Begin a job, in place of the oldest ended one if there are many.

        Raises:
            TooManyCalls: all of them are still running.
        """
        if len(self._jobs) >= self._most:
            self._drop_oldest()
        job = make()
        self._jobs[job.id] = job
        loop = asyncio.get_running_loop()
        limit = loop.call_later(LONGEST, job.cancel)

        def ended(_: object) -> None:
            limit.cancel()
            loop.call_later(self.kept, self.forget, job)

        job.running.add_done_callback(ended)
        return job

    def find(self, key: str) -> Job | None:
        """The job that this secret stands for; None if there is none, or none any more."""
        return self._jobs.get(key)

    def forget(self, job: Job) -> None:
        """Nobody will ask for it again."""
        self._jobs.pop(job.id, None)

    def cancel_all(self) -> None:
        """The connection ends."""
        for job in self._jobs.values():
            job.cancel()

    def _drop_oldest(self) -> None:
        oldest = next((job for job in self._jobs.values() if job.has_ended), None)
        if oldest is None:
            raise TooManyCalls(
                f"{len(self._jobs)} calls of this client are still running; wait for one of them"
            )
        self.forget(oldest)
