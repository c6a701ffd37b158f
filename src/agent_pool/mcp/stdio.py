"""The process around the server: stdin and stdout, signals, and an end that leaves nothing behind.

A client ends its server by closing stdin, or by SIGINT, SIGTERM 100 ms later and SIGKILL soon
after. So the first of them kills the workers at once, and the process leaves without unwinding:
there is no time for more, and nothing that a worker could still say has a reader.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn, Self, cast

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCResponse

from agent_pool import AgentPool, AgentPoolError
from agent_pool.mcp.greeting import RequestId
from agent_pool.mcp.interfaces import Pool
from agent_pool.mcp.opening import Opening
from agent_pool.mcp.server import build_server, initialization_options
from agent_pool.mcp.unusable import UnusablePool
from agent_pool.mcp.wire import Wire

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_WORDS: Final = 0.5  # seconds for answers under way after the client has closed stdin
LOG_LEVEL: Final = "AGENT_POOL_LOG"  # debug, info, warning (the default) or error

Message = SessionMessage | Exception
logger = logging.getLogger(__name__)


def run(overrides: Mapping[str, Any], opening: Opening) -> NoReturn:
    """Serve until the end of the process; see `agent_pool.mcp.run`."""
    _log_to_stderr(os.environ.get(LOG_LEVEL, "warning"))
    asyncio.run(serve(_make_pool(overrides), opening))
    raise AssertionError("unreachable: serve() ends the process")


def _make_pool(overrides: Mapping[str, Any]) -> AgentPool | UnusablePool:
    try:
        return AgentPool(**overrides)
    except AgentPoolError as error:
        return UnusablePool(error)


async def serve(pool: AgentPool | UnusablePool, opening: Opening) -> NoReturn:
    """Open the pool and serve it on stdin and stdout; ends the process, every worker killed."""
    loop = asyncio.get_running_loop()

    def leave(status: int) -> NoReturn:
        try:
            pool.kill()
        except Exception:
            logger.exception("bug: the workers cannot be killed")
        finally:
            os._exit(status)

    def client_left() -> None:
        loop.call_later(LAST_WORDS, leave, 0)
        pool.kill()

    for number in SIGNALS:
        loop.add_signal_handler(number, leave, 128 + number)
    try:
        server = build_server(await _opened(pool))
        await _converse(server, opening, client_left, leave)
    except* (BrokenPipeError, anyio.BrokenResourceError):
        logger.info("the client closed our stdout")
    except* Exception:
        logger.exception("bug: the server failed")
        leave(1)
    leave(0)


async def _opened(pool: AgentPool | UnusablePool) -> Pool:
    try:
        await pool.open()
    except AgentPoolError as error:
        return UnusablePool(error)
    return pool


async def _converse(
    server: Server[Any],
    opening: Opening,
    client_left: Callable[[], None],
    leave: Callable[[int], NoReturn],
) -> None:
    """Serve until stdin ends and every answer under way is written."""
    stdin, answered = opening.hand_over()
    async with (
        stdio_server(anyio.wrap_file(stdin), _wire()) as (incoming, outgoing),
        anyio.create_task_group() as group,
    ):
        relay, requests = anyio.create_memory_object_stream[Message]()
        group.start_soon(_relay, incoming, relay, client_left)
        try:
            unsaid = Unsaid(outgoing, answered)
            await server.run(requests, unsaid, initialization_options(server))
        except asyncio.CancelledError:
            # Writing to stdout failed. Unwinding would wait for stdin, which is still open.
            leave(0)


def _wire() -> anyio.AsyncFile[str]:
    return cast("anyio.AsyncFile[str]", Wire())  # the SDK uses no more of it than there is


async def _relay(
    source: ObjectReceiveStream[Message],
    sink: ObjectSendStream[Message],
    at_end: Callable[[], None],
) -> None:
    """Pass messages on; `at_end` is called as soon as there is no other, before any unwinding."""
    async with sink:
        async for message in source:
            await sink.send(message)
        at_end()


class Unsaid:
    """A stream to the client without the answers that it has: the first to each of these ids."""

    def __init__(self, stream: WriteStream[SessionMessage], answered: Iterable[RequestId]) -> None:
        self._stream = stream
        self._answered = set(answered)

    async def send(self, item: SessionMessage) -> None:
        """Pass a message on, unless the client has it."""
        number = getattr(item.message, "id", None) if self._answered else None
        if number in self._answered and isinstance(item.message, JSONRPCResponse | JSONRPCError):
            self._answered.remove(number)
        else:
            await self._stream.send(item)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *how: Any) -> None:
        await self._stream.__aexit__(*how)


def _log_to_stderr(level: str) -> None:
    known = level.upper() in logging.getLevelNamesMapping()
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper() if known else logging.WARNING,
        format="agent-pool %(levelname)s %(name)s: %(message)s",
    )
    if not known:
        logger.warning("%s: expected debug, info, warning or error, not %r", LOG_LEVEL, level)
