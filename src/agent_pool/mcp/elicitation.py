"""Calls that ask a person between two requests of the client, as the newest protocol has it.

If a person must be asked, the response to the call is the question, and the client repeats the call
with the person's answer. The agent waits for it in a `Call`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ElicitResult,
    InputRequests,
    InputRequiredResult,
)

from agent_pool import AgentPoolError
from agent_pool.mcp import results
from agent_pool.mcp.calls import MAX_CALLS, Call, RunCall, TooManyCalls, ended_result
from agent_pool.mcp.permissions import decision_of, permission_elicitation
from agent_pool.mcp.progress import SendProgress

MAX_QUESTIONS: Final = 8
"""Questions of one call: clients give up after ten rounds, and the whole work would be lost."""

ABSENCE_SECONDS: Final = 180.0
"""Seconds after which a client that does not come back has left, unless its person can still be
thinking about an open question."""


@dataclass(frozen=True, slots=True)
class _PausedCall:
    """A call whose client asks its person the questions of these keys."""

    call: Call
    asked: frozenset[str]
    name: str
    arguments: Mapping[str, Any] | None
    end: asyncio.TimerHandle


class ElicitationRounds:
    """The calls of one connection that can need several requests."""

    def __init__(self, *, absence: float = ABSENCE_SECONDS, most: int = MAX_CALLS) -> None:
        self._absence = absence
        self._most = most
        self._paused: dict[str, _PausedCall] = {}

    async def call(
        self, params: CallToolRequestParams, run: RunCall, report: SendProgress
    ) -> CallToolResult | InputRequiredResult:
        """Begin or resume a call; return when it has ended or a person must be asked.

        Raises:
            MCPError: the client repeats a call that does not wait for an answer.
        """
        try:
            call = self._resume(params) if params.request_state else self._begin(run)
        except AgentPoolError as error:
            return results.error_result(error)
        call.listener = report
        try:
            await call.wait_for_client()
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            call.listener = None
        return self._pause(call, params) if call.questions else ended_result(call)

    def cancel_all(self) -> None:
        """Cancel all calls, because the connection ends."""
        for paused in self._paused.values():
            paused.end.cancel()
            paused.call.cancel()
        self._paused.clear()

    def _begin(self, run: RunCall) -> Call:
        if len(self._paused) >= self._most:
            raise TooManyCalls(f"{len(self._paused)} calls wait for a person; answer one of them")
        return Call(run, can_ask=True, max_questions=MAX_QUESTIONS)

    def _pause(self, call: Call, params: CallToolRequestParams) -> InputRequiredResult:
        asked = frozenset(call.questions)
        end = self._end_later(call)
        self._paused[call.id] = _PausedCall(call, asked, params.name, params.arguments, end)
        questions: InputRequests = {
            key: permission_elicitation(question.request)
            for key, question in call.questions.items()
        }
        return InputRequiredResult(input_requests=questions, request_state=call.id)

    def _resume(self, params: CallToolRequestParams) -> Call:
        paused = self._paused.get(params.request_state or "")
        if paused is None or (paused.name, paused.arguments) != (params.name, params.arguments):
            # The protocol demands an error for a state that the server has not given.
            words = "this call does not wait for an answer, or not any more"
            raise MCPError(INVALID_PARAMS, words, {"code": "call_expired", "retryable": True})
        del self._paused[paused.call.id]
        paused.end.cancel()
        replies = params.input_responses or {}
        paused.call.answer(
            {
                key: decision_of(reply)
                for key, reply in replies.items()
                if isinstance(reply, ElicitResult)
            }
        )
        return paused.call

    def _end_later(self, call: Call) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._absence, self._check_absence, call)

    def _check_absence(self, call: Call) -> None:
        paused = self._paused.pop(call.id)
        if paused.asked & call.questions.keys():  # still open: the pool bounds this time
            self._paused[call.id] = replace(paused, end=self._end_later(call))
        else:
            call.cancel()
