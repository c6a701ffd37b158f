"""The process around the server: stdin and stdout, signals, and an end that leaves no process.

A client ends its server by closing stdin, or by SIGINT, then SIGTERM 100 ms later, then SIGKILL.
So the first of these kills the workers at once, and the process exits without unwinding: there is
no time for more, and no reader for what a worker could still report.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, Protocol, Self, cast

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp_types import (
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCResponse,
)

from agent_pool import AgentPool, AgentPoolError, ConfigError, PoolAPI
from agent_pool.mcp.greeting import SUBSCRIPTION_ID, Greeter
from agent_pool.mcp.lines import CheckedLines
from agent_pool.mcp.opening import Opening
from agent_pool.mcp.server import EarlyList, build_server, initialization_options
from agent_pool.mcp.unusable_pool import UnusablePool
from agent_pool.mcp.wire import Wire
from agent_pool.text import printable

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
DRAIN_SECONDS: Final = 0.5
"""Seconds for responses that are being written when the client closes stdin."""
LOG_LEVEL: Final = "AGENT_POOL_LOG"
"""The variable for the log level: debug, info, warning (the default) or error."""

Message = SessionMessage | Exception
logger = logging.getLogger(__name__)


def run(overrides: Mapping[str, Any], opening: Opening) -> NoReturn:
    """Serve until the end of the process; see `agent_pool.mcp.run`."""
    _log_to_stderr(os.environ.get(LOG_LEVEL, "warning"))
    asyncio.run(serve(_make_pool(overrides), opening))
    raise AssertionError("unreachable: serve() ends the process")


def _make_pool(overrides: Mapping[str, Any]) -> PoolAPI:
    try:
        pool = AgentPool(**overrides)
        if pool.settings.ray is not None:
            raise ConfigError(
                f"the nodes of {pool.settings.ray} belong to the daemon, which AGENT_POOL_DAEMON "
                "switches off; unset one of both (setting ray)"
            )
        return pool
    except AgentPoolError as error:
        return UnusablePool(error)


async def serve(pool: PoolAPI, opening: Opening) -> NoReturn:
    """Open the pool and serve it on stdin and stdout; kill every worker and exit at the end."""
    loop = asyncio.get_running_loop()

    def leave(status: int) -> NoReturn:
        try:
            pool.kill()
        except Exception:
            logger.exception("bug: the workers cannot be killed")
        finally:
            os._exit(status)

    def client_left() -> None:
        loop.call_later(DRAIN_SECONDS, leave, 0)
        pool.kill()

    for number in SIGNALS:
        loop.add_signal_handler(number, leave, 128 + number)
    try:
        early = EarlyList()
        server = build_server(await _opened(pool), early=early)
        await _converse(server, opening, early, client_left, leave)
    except* (BrokenPipeError, anyio.BrokenResourceError):
        logger.info("the client closed our stdout")
    except* Exception:
        logger.exception("bug: the server failed")
        leave(1)
    leave(0)


async def _opened(pool: PoolAPI) -> PoolAPI:
    try:
        await pool.open()
    except AgentPoolError as error:
        return UnusablePool(error)
    return pool


async def _converse(
    server: Server[Any],
    opening: Opening,
    early: EarlyList,
    client_left: Callable[[], None],
    leave: Callable[[int], NoReturn],
) -> None:
    """Serve until stdin ends and every response is written."""
    stdin, greeter = opening.hand_over()
    wire = Wire()
    lines = CheckedLines(anyio.wrap_file(stdin), wire.write)
    async with (
        stdio_server(_as_file(lines), _as_file(wire)) as (incoming, outgoing),
        anyio.create_task_group() as group,
    ):
        relay, requests = anyio.create_memory_object_stream[Message]()
        group.start_soon(_relay, incoming, relay, client_left)
        try:
            unanswered = UnansweredOnly(outgoing, greeter, early)
            await server.run(requests, unanswered, initialization_options(server))
        except asyncio.CancelledError:
            # Writing to stdout failed. Unwinding would wait for stdin, which is still open.
            leave(0)


def _as_file(stream: CheckedLines | Wire) -> anyio.AsyncFile[str]:
    return cast("anyio.AsyncFile[str]", stream)  # the SDK uses only the methods of these


async def _relay(
    source: ObjectReceiveStream[Message],
    sink: ObjectSendStream[Message],
    at_end: Callable[[], None],
) -> None:
    """Pass messages on; call `at_end` as soon as the source has ended, before any unwinding."""
    async with sink:
        async for message in source:
            await sink.send(message)
        at_end()


class _MessageSink(Protocol):
    """The stream to the client, as the SDK gives it."""

    async def send(self, item: SessionMessage, /) -> None: ...
    async def aclose(self) -> None: ...
    async def __aenter__(self) -> Any: ...
    async def __aexit__(self, *how: Any) -> Any: ...


class UnansweredOnly:
    """A stream to the client that drops messages which the client has already.

    Args:
        stream: the stream to the client.
        greeter: has answered the first requests; the first response to each of them is dropped.
        early: learns whether the list of tools that the client has is not the right one.
    """

    def __init__(self, stream: _MessageSink, greeter: Greeter, early: EarlyList) -> None:
        self._stream = stream
        self._answered = set(greeter.answered)
        self._acknowledged = set(greeter.acknowledged)
        self._listed = greeter.listed
        self._early = early

    async def send(self, item: SessionMessage) -> None:
        """Pass a message on, unless the client has it already."""
        if (self._answered or self._acknowledged) and self._has(item.message):
            return
        await self._stream.send(item)

    def _has(self, message: JSONRPCMessage) -> bool:
        match message:
            case JSONRPCResponse(id=number) | JSONRPCError(id=number) if number in self._answered:
                self._answered.remove(number)
                listed = self._listed.get(number)
                if listed is not None and getattr(message, "result", None) != listed:
                    self._early.is_wrong = True
                return True
            case JSONRPCNotification(method="notifications/subscriptions/acknowledged"):
                number = (message.params or {}).get("_meta", {}).get(SUBSCRIPTION_ID)
                known = number in self._acknowledged
                self._acknowledged.discard(number)
                return known
        return False

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *how: Any) -> None:
        await self._stream.__aexit__(*how)


class PrintableFormatter(logging.Formatter):
    """Formats log lines that can go to a terminal, tracebacks included.

    Arguments of calls, definitions and answers are in them, and a client can show its servers'
    stderr as it is.
    """

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _log_to_stderr(level: str) -> None:
    known = level.upper() in logging.getLevelNamesMapping()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("agent-pool %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper() if known else logging.WARNING)
    if not known:
        logger.warning("%s: expected debug, info, warning or error, not %r", LOG_LEVEL, level)
