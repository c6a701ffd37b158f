"""One request and its answer on the wire."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from starlette.types import Receive, Scope, Send

from agent_pool.loopback import wire
from agent_pool.loopback.cache import Prompt
from agent_pool.loopback.record import Record
from agent_pool.loopback.reply import Cut, Failure, Outcome, Reply, StreamError, as_outcome
from agent_pool.loopback.request import Request
from agent_pool.loopback.scripts import Script

JSON = {"content-type": "application/json"}
FINAL = {"x-should-retry": "false"}  # or Claude Code would ask ten times
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class Exchange:
    """Asks the script and sends what it says; an ASGI application for one request.

    `abort` drops the client's connection.
    """

    def __init__(
        self,
        record: Record,
        script: Script,
        request: Request,
        prompt: Prompt,
        abort: Callable[[], None],
    ) -> None:
        self._record = record
        self._script = script
        self._request = request
        self._prompt = prompt
        self._abort = abort
        self._charged = record.charge(request, prompt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(self._answer(send))
        leaving = asyncio.create_task(_client_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done() and (error := answering.exception()):
                self._blame(error)
                self._abort()
        finally:
            self._request.disconnected = leaving.done() and not self._request.completed
            await _cancel(answering, leaving)
            self._record.changed()

    async def _answer(self, send: Send) -> None:
        outcome = await self._ask()
        if not isinstance(outcome, Cut):
            await asyncio.sleep(outcome.delay)
        if isinstance(outcome, Reply) and outcome.fault and not self._request.stream:
            outcome = _unstreamed(outcome.fault)
        match outcome:
            case Cut():
                self._cut()
            case Failure():
                self._request.completed = True
                await send_failure(send, outcome)
            case Reply():
                await self._reply(outcome, send)

    def _cut(self) -> None:
        self._request.completed = True
        self._abort()

    async def _ask(self) -> Outcome:
        try:
            answer: Any = self._script(self._request)
            return as_outcome(await answer if inspect.isawaitable(answer) else answer)
        except Exception as error:  # a test's own assertion, most often
            self._blame(error)
            said = f"the loopback script raised {type(error).__name__}: {error}"
            return Failure(500, message=said, headers=FINAL)

    def _blame(self, error: BaseException) -> None:
        self._record.script_error = self._record.script_error or error

    async def _reply(self, reply: Reply, send: Send) -> None:
        blocks = wire.blocks_of(reply)
        usage = replace(self._charged, output_tokens=wire.output_tokens(blocks))
        usage = replace(usage, **reply.usage)
        self._record.begin(self._request, self._prompt, usage)
        message = wire.message(self._request.model, blocks, reply, usage)
        if self._request.stream:
            await self._stream(wire.events(message, reply), reply, send)
        else:
            body = wire.to_bytes(message)
            self._request.completed = True
            await send_response(send, 200, JSON, body)

    async def _stream(self, events: Iterator[bytes], reply: Reply, send: Send) -> None:
        await _send_start(send, 200, EVENTS)
        parts = list(events) if reply.pace > 0 else [b"".join(events)]
        match reply.fault:
            case None:
                last = parts.pop()
            case StreamError() as fault:
                last = wire.error_event(fault)
        for part in parts:
            if wire.is_delta(part):
                await asyncio.sleep(reply.pace)
            await _send_part(send, part)
        if isinstance(reply.fault, Cut):
            self._cut()
        else:
            self._request.completed = True
            await _send_part(send, last, more=False)


def _unstreamed(fault: Cut | StreamError) -> Outcome:
    """What a fault is to a client that does not stream: the whole answer."""
    if isinstance(fault, Cut):
        return fault
    return Failure(wire.status_of(fault.type), fault.type, fault.message)


async def send_failure(send: Send, failure: Failure) -> None:
    """Send a failure as a whole response."""
    headers = {**JSON, **failure.headers}
    if failure.retry_after is not None:
        headers["retry-after"] = f"{failure.retry_after:g}"
    await send_response(send, failure.status, headers, wire.to_bytes(wire.error_body(failure)))


async def send_response(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Send a response whose body is known."""
    await _send_start(send, status, {**headers, "content-length": str(len(body))})
    await _send_part(send, body, more=False)


async def _send_start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    named = {"request-id": wire.new_id("req"), **headers}
    raw = [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in named.items()
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _send_part(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
