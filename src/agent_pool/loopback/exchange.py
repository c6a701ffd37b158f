"""One request and its answer on the wire."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from agent_pool.loopback import wire
from agent_pool.loopback.cache import Prompt, Usage
from agent_pool.loopback.reply import Cut, Failure, Outcome, Reply, StreamError, as_outcome
from agent_pool.loopback.request import Request
from agent_pool.loopback.scripts import Script

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class Host(Protocol):
    """What an exchange tells and asks the API that it is part of."""

    script: Script

    def charge(self, request: Request, prompt: Prompt) -> Usage: ...
    def begin(self, request: Request, prompt: Prompt, usage: Usage) -> None: ...
    def end(self, request: Request) -> None: ...
    def script_failed(self, error: Exception) -> None: ...


class Exchange:
    """Asks the script and sends what it says; an ASGI application for one request."""

    def __init__(
        self, host: Host, request: Request, prompt: Prompt, abort: Callable[[], None]
    ) -> None:
        self._host = host
        self._request = request
        self._prompt = prompt
        self._abort = abort
        self._charged = host.charge(request, prompt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.create_task(self._answer(send))
        leaving = asyncio.create_task(_client_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._request.disconnected = leaving.done() and not self._request.completed
            await _cancel(answering, leaving)
            self._host.end(self._request)
        if not answering.cancelled():
            answering.result()

    async def _answer(self, send: Send) -> None:
        match await self._ask():
            case Cut():
                await self._cut()
            case Failure() as failure:
                await self._fail(failure, send)
            case Reply(fault=None) as reply:
                await self._reply(reply, send)
            case Reply(fault=fault) as reply if self._request.stream:
                await self._reply(reply, send)
                await self._break(fault, send)
            case Reply(fault=StreamError() as fault) as reply:
                status = wire.status_of(fault.type)
                failure = Failure(status, fault.type, fault.message, delay=reply.delay)
                await self._fail(failure, send)
            case Reply() as reply:
                await asyncio.sleep(reply.delay)
                await self._cut()
        self._request.completed = True

    async def _cut(self) -> None:
        self._request.completed = True
        self._abort()
        await asyncio.sleep(0)  # until the server has noticed that the connection is gone

    async def _ask(self) -> Outcome:
        try:
            answer: Any = self._host.script(self._request)
            return as_outcome(await answer if inspect.isawaitable(answer) else answer)
        except Exception as error:  # a test's own assertion, most often
            self._host.script_failed(error)
            said = f"the loopback script raised {type(error).__name__}: {error}"
            return Failure(400, message=said, headers={"x-should-retry": "false"})

    async def _reply(self, reply: Reply, send: Send) -> None:
        blocks = wire.blocks_of(reply)
        usage = replace(self._charged, output_tokens=wire.output_tokens(blocks))
        usage = replace(usage, **reply.usage)
        await asyncio.sleep(reply.delay)
        self._host.begin(self._request, self._prompt, usage)
        model = self._request.model
        if not self._request.stream:
            body = wire.to_bytes(wire.message(model, blocks, reply, usage))
            await send_response(send, 200, JSON, body)
            return
        await _send_start(send, 200, EVENTS)
        stream = wire.events(model, blocks, reply, usage)
        if reply.pace > 0:
            for event in stream:
                if wire.is_delta(event):
                    await asyncio.sleep(reply.pace)
                await _send_part(send, event)
            await _send_part(send, b"", more=reply.fault is not None)
        else:
            await _send_part(send, b"".join(stream), more=reply.fault is not None)

    async def _break(self, fault: Cut | StreamError | None, send: Send) -> None:
        if isinstance(fault, StreamError):
            error = {"type": fault.type, "message": fault.message}
            await _send_part(send, wire.event("error", error=error), more=False)
        else:
            await self._cut()

    async def _fail(self, failure: Failure, send: Send) -> None:
        await asyncio.sleep(failure.delay)
        await send_failure(send, failure)


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
