"""Tool calls that outlive the request that began them: run, polled, and kept for some time."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, CallToolResult, ErrorData

from agent_pool import AgentPoolError, PermissionRequest
from agent_pool.mcp.answers import LongAnswers
from agent_pool.mcp.kept_tasks import KeptTasks
from agent_pool.mcp.permissions import AskPerson, Decision
from agent_pool.mcp.progress import SendProgress

MAX_CALLS: Final = 128
"""Calls of one connection that are kept, ended ones included."""

KEPT_SECONDS: Final = 900.0
"""Seconds for which the result of an ended call can be fetched."""

MAX_CALL_SECONDS: Final = 86400.0
"""Seconds after which a call is cancelled, whatever the settings allow its tasks."""

MAX_NAME_IN_ID: Final = 32
"""Characters of a call's name in its id."""

_NOT_IN_IDS: Final = re.compile(r"[^A-Za-z0-9_-]+")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """How a running call reaches the client that made it.

    Attributes:
        report: sends a line of progress.
        ask: puts a permission request to a person; None if that is impossible.
        accepted: is called when the pool has taken a task: from then on it waits or works.
        answers: the long answers of its connection.
        tasks: where tasks in the background are kept; None if that is impossible.
        parent: the id that the tasks of this call get as their parent; None for no parent.
    """

    report: SendProgress
    ask: AskPerson | None = None
    accepted: Callable[[], None] = lambda: None
    answers: LongAnswers = field(default_factory=LongAnswers)
    tasks: KeptTasks | None = None
    parent: str | None = None


def _name_in_id(name: str) -> str:
    """Return the part of a name that can stand in an id: ASCII, without spaces."""
    return _NOT_IN_IDS.sub("-", name)[:MAX_NAME_IN_ID].strip("-") or "call"


RunCall = Callable[[Caller], Awaitable[CallToolResult]]


class TooManyCalls(AgentPoolError):  # noqa: N818
    """So many calls of the client are kept that there is no room for another."""

    code = "too_many_calls"
    retryable = True


@dataclass(frozen=True, slots=True)
class OpenQuestion:
    """A permission request that waits for a person."""

    request: PermissionRequest
    answer: asyncio.Future[Decision]


class Call:
    """One tool call, run by an asyncio task of its own.

    Attributes:
        id: a secret that stands for the call; it begins with its name.
        name: what the call is for, in a few characters: an agent's name.
        line: the latest line of progress; empty at first.
        questions: the open questions, by keys that are never used twice.
        created: when it began.
        updated: when it last changed.
        result: the tool's result; None before there is one.
        error: the protocol error that it ended with; usually None.
        is_cancelled: it was cancelled.
        is_fetched: the client knows how it ended.
        listener: gets the lines of progress while a request waits for the call; else None.

    Args:
        run: the call.
        can_ask: there is a person to ask.
        name: see above.
        max_questions: every further question is denied.
        is_parent: its tasks get its id as their parent.
    """

    def __init__(
        self,
        run: RunCall,
        *,
        can_ask: bool,
        name: str = "",
        max_questions: int | None = None,
        is_parent: bool = False,
    ) -> None:
        # The name first: Claude Code shows the person only the first eight characters (2.1.332).
        self.id = f"{_name_in_id(name)}-{secrets.token_hex(16)}"
        self.name = name
        self.line = ""
        self.questions: dict[str, OpenQuestion] = {}
        self.created = self.updated = datetime.now(UTC)
        self.result: CallToolResult | None = None
        self.error: ErrorData | None = None
        self.is_cancelled = False
        self.is_fetched = False
        self.listener: SendProgress | None = None
        self._asked = 0
        self._max_questions = max_questions
        self._changed = asyncio.Event()
        self._accepted = asyncio.Event()
        caller = Caller(
            self._report,
            self._ask if can_ask else None,
            self._accepted.set,
            parent=self.id if is_parent else None,
        )
        self.running = asyncio.create_task(self._run(run, caller))

    @property
    def has_ended(self) -> bool:
        """Return whether it will not change any more."""
        return self.is_cancelled or self.result is not None or self.error is not None

    async def wait_for_client(self) -> None:
        """Wait until it has ended or a person must be asked."""
        while not self.has_ended and not self.questions:
            self._changed.clear()
            await self._changed.wait()

    async def wait_until_accepted(self, seconds: float) -> None:
        """Wait until the pool has taken it, or it has ended without that; at most `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._accepted.wait()

    def answer(self, decisions: Mapping[str, Decision]) -> None:
        """Answer open questions; ignore answers to others."""
        for key in decisions.keys() & self.questions.keys():
            answer = self.questions.pop(key).answer
            if not answer.done():  # the pool cancels a question whose time has run out
                answer.set_result(decisions[key])
        self._touch()

    def cancel(self) -> None:
        """Cancel it unless it has ended; its agents are interrupted."""
        if not self.has_ended:
            self.is_cancelled = True
            self.running.cancel()
            self.questions.clear()
            self._touch()

    async def _run(self, run: RunCall, caller: Caller) -> None:
        try:
            self.result = await run(caller)
        except MCPError as error:
            self.error = error.error
        except Exception as error:
            logger.exception("bug: a call failed")
            self.error = ErrorData(code=INTERNAL_ERROR, message=f"{type(error).__name__}: {error}")
        finally:
            self._accepted.set()
            self._touch()

    async def _report(self, number: int, line: str) -> None:
        self.line = line
        self._touch()
        if self.listener is not None:
            await self.listener(number, line)

    async def _ask(self, request: PermissionRequest) -> Decision:
        if self._asked == self._max_questions:
            return Decision.TOO_OFTEN
        self._asked += 1
        key = f"permission-{self._asked}"
        question = OpenQuestion(request, asyncio.get_running_loop().create_future())
        self.questions[key] = question
        self._accepted.set()
        self._touch()
        try:
            return await question.answer
        finally:
            self.questions.pop(key, None)
            self._touch()

    def _touch(self) -> None:
        self.updated = datetime.now(UTC)
        self._changed.set()


def has_failed(call: Call) -> bool:
    """Check whether a call has ended without a useful result."""
    return call.error is not None or bool(call.result and call.result.is_error)


def ended_result(call: Call) -> CallToolResult:
    """Return the result of a call that has ended and was not cancelled.

    Raises:
        MCPError: it ended with a protocol error.
    """
    if call.error is not None:
        raise MCPError.from_error_data(call.error)
    assert call.result is not None, "only the request that waits for a call cancels it"
    return call.result


class ConnectionCalls:
    """The calls of one connection; only its client can find them.

    Attributes:
        kept: seconds for which a call can be found after it has ended.
    """

    def __init__(self, *, most: int = MAX_CALLS, kept: float = KEPT_SECONDS) -> None:
        self.kept = kept
        self._most = most
        self._calls: dict[str, Call] = {}

    def add(self, make: Callable[[], Call]) -> Call:
        """Begin a call; if there are `most` already, in place of one whose end the client knows.

        Raises:
            TooManyCalls: all of them are running, or ended and were not fetched.
        """
        if len(self._calls) >= self._most:
            self._drop_fetched()
        call = make()
        self._calls[call.id] = call
        loop = asyncio.get_running_loop()
        limit = loop.call_later(MAX_CALL_SECONDS, call.cancel)

        def ended(_: object) -> None:
            limit.cancel()
            loop.call_later(self.kept, self.forget, call)

        call.running.add_done_callback(ended)
        return call

    def find(self, key: str) -> Call | None:
        """Return the call that this secret stands for; None if there is none any more."""
        return self._calls.get(key)

    def forget(self, call: Call) -> None:
        """Keep an ended call no longer."""
        self._calls.pop(call.id, None)

    def cancel_all(self) -> None:
        """Cancel all calls, because the connection ends."""
        for call in self._calls.values():
            call.cancel()

    def _drop_fetched(self) -> None:
        # Never one that was not fetched: its result would be lost, and the agent's work with it.
        fetched = (call for call in self._calls.values() if call.has_ended and call.is_fetched)
        oldest = next(fetched, None)
        if oldest is None:
            raise self._full()
        self.forget(oldest)

    def _full(self) -> TooManyCalls:
        ended = sum(call.has_ended for call in self._calls.values())
        running = len(self._calls) - ended
        return TooManyCalls(
            f"this client has {len(self._calls)} tasks, the most that are kept: {running} are "
            f"running, {ended} have ended and their results were not fetched. Fetch them with "
            f"tasks/get or wait for one of them, then call again. A result that is not fetched is "
            f"removed {self.kept / 60:.0f} minutes after its end"
        )
