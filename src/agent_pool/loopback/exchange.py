"""One HTTP exchange: a request, the script's answer, and its response."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from agent_pool.loopback import encoding
from agent_pool.loopback.cache import PromptPrefixes
from agent_pool.loopback.reply import (
    ApiResponse,
    DroppedConnection,
    ErrorResponse,
    ModelReply,
    StreamError,
    to_response,
)
from agent_pool.loopback.request import ModelRequest
from agent_pool.loopback.request_log import RequestLog
from agent_pool.loopback.scripts import Script

JSON_HEADERS: Final = {"content-type": "application/json"}
# Claude Code 2.1.330 sends a request again after a 500, up to ten times; this header prevents it.
NO_RETRY_HEADERS: Final = {"x-should-retry": "false"}
STREAM_HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
}


class ModelExchange:
    """An ASGI application for one request: it runs the script and sends the response.

    Args:
        log: the server's requests and their usage.
        script: decides the answer.
        request: the request.
        prompt: the prefixes of its prompt.
        abort: drops the client's connection.
    """

    def __init__(
        self,
        log: RequestLog,
        script: Script,
        request: ModelRequest,
        prompt: PromptPrefixes,
        abort: Callable[[], None],
    ) -> None:
        self._log = log
        self._script = script
        self._request = request
        self._prompt = prompt
        self._abort = abort
        # Count at the start: an entry that is written while the script runs cannot be read.
        self._prompt_usage = log.read_cache(request, prompt)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Both at once, so that the script is cancelled when the client leaves.
        answering = asyncio.create_task(self._answer(send))
        leaving = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done() and (error := answering.exception()):
                # The response can have begun, so it is too late for an error response.
                self._keep_error(error)
                self._abort()
        finally:
            # `_answer` sets `completed` before an abort, which ends `leaving` too.
            self._request.disconnected = leaving.done() and not self._request.completed
            await _cancel(answering, leaving)
            self._log.check_conditions()

    async def _answer(self, send: Send) -> None:
        response = await self._run_script()
        if not isinstance(response, DroppedConnection):
            await asyncio.sleep(response.delay)
        if isinstance(response, ModelReply) and response.fault and not self._request.stream:
            response = _without_stream(response.fault)
        match response:
            case DroppedConnection():
                self._drop_connection()
            case ErrorResponse():
                self._request.completed = True
                await send_error(send, response)
            case ModelReply():
                await self._send_reply(response, send)

    def _drop_connection(self) -> None:
        self._request.completed = True
        self._abort()

    async def _run_script(self) -> ApiResponse:
        try:
            answer: Any = self._script(self._request)
            return to_response(await answer if inspect.isawaitable(answer) else answer)
        # Most often an assertion of a test. `LoopbackAPI` raises it again when the server stops.
        except Exception as error:
            self._keep_error(error)
            message = f"the loopback script raised {type(error).__name__}: {error}"
            return ErrorResponse(500, message=message, headers=NO_RETRY_HEADERS)

    def _keep_error(self, error: BaseException) -> None:
        self._log.script_error = self._log.script_error or error

    async def _send_reply(self, reply: ModelReply, send: Send) -> None:
        blocks = encoding.build_blocks(reply)
        output_tokens = encoding.count_output_tokens(blocks)
        usage = replace(self._prompt_usage, output_tokens=output_tokens)
        usage = replace(usage, **reply.usage)
        self._log.start_reply(self._request, self._prompt, usage)
        message = encoding.build_message(self._request.model, blocks, reply, usage)
        if self._request.stream:
            await self._send_stream(encoding.iter_events(message, reply), reply, send)
        else:
            body = encoding.to_ascii_json(message)
            # Before the send: a client that has the whole reply can rely on `completed`.
            self._request.completed = True
            await send_response(send, 200, {**JSON_HEADERS, **reply.headers}, body)

    async def _send_stream(self, events: Iterator[bytes], reply: ModelReply, send: Send) -> None:
        await _send_start(send, 200, {**STREAM_HEADERS, **reply.headers})
        parts = list(events) if reply.delta_interval > 0 else [b"".join(events)]
        match reply.fault:
            case None:
                last = parts.pop()
            case StreamError() as fault:
                last = encoding.encode_error_event(fault)
        for part in parts:
            if encoding.is_delta(part):
                await asyncio.sleep(reply.delta_interval)
            await _send_part(send, part)
        if isinstance(reply.fault, DroppedConnection):
            self._drop_connection()
        else:
            self._request.completed = True
            await _send_part(send, last, more=False)


def _without_stream(fault: DroppedConnection | StreamError) -> ApiResponse:
    """Return the response to a client that does not stream: the fault is all that it gets."""
    if isinstance(fault, DroppedConnection):
        return fault
    return ErrorResponse(encoding.find_status(fault.type), fault.type, fault.message)


async def send_error(send: Send, error: ErrorResponse) -> None:
    """Send a whole error response."""
    headers = {**JSON_HEADERS, **error.headers}
    if error.retry_after is not None:
        headers["retry-after"] = f"{error.retry_after:g}"
    body = encoding.to_ascii_json(encoding.build_error(error))
    await send_response(send, error.status, headers, body)


async def send_response(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Send a whole response."""
    await _send_start(send, status, {**headers, "content-length": str(len(body))})
    await _send_part(send, body, more=False)


async def _send_start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    all_headers = {"request-id": encoding.new_id("req"), **headers}
    raw = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in all_headers.items()
    ]
    await send({"type": "http.response.start", "status": status, "headers": raw})


async def _send_part(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
