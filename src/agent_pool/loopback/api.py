"""The offline Messages API: one object to start it, to read its requests, and to stop it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

from anyio.from_thread import start_blocking_portal
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from agent_pool.loopback.cache import PromptCache, PromptPrefixes
from agent_pool.loopback.exchange import ModelExchange
from agent_pool.loopback.request import ModelRequest
from agent_pool.loopback.request_log import OtherRequest, RequestLog
from agent_pool.loopback.routes import Routes, make_request
from agent_pool.loopback.scripts import Script, echo
from agent_pool.loopback.server import HOST, HttpServer
from agent_pool.loopback.usage import UsageLog

MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes of the longest body that is accepted by default."""


class LoopbackAPI:
    """A scripted Messages API on 127.0.0.1, for one `async with` or one `with ….in_thread()`.

    Args:
        script: decides the answers; sync or async, called once per request. If it raises an
            exception, the client gets a 500 that it does not retry, and the exception is raised
            again when the server stops.
        port: 0 takes any free one. Entering raises ConfigError if the port is in use.
        cache: the prompt cache; None makes one with the models' own minimum lengths.
        keep_requests: how many requests `requests`, `other_requests` and `usage.entries` keep.
        max_body: bytes of the longest body that is accepted; a longer one gets a 413.
        clock: returns seconds, for `received_at` and for the lifetimes of cache entries.

    Attributes:
        script: the script; a new one is used for all later requests.
    """

    def __init__(
        self,
        script: Script = echo,
        *,
        port: int = 0,
        cache: PromptCache | None = None,
        keep_requests: int = 1000,
        max_body: int = MAX_BODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.script = script
        self._log = RequestLog(PromptCache() if cache is None else cache, keep_requests)
        self._routes = Routes(self._answer, self._log.add_other, max_body)
        self._clock = clock
        self._port = port
        self._server: HttpServer | None = None

    async def __aenter__(self) -> Self:
        if self._server is not None:
            raise RuntimeError("this LoopbackAPI was started before; make a new one")
        self._server = HttpServer(self._routes.app(), self._port)
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._started_server.stop()
        if (script_error := self._log.script_error) is None:
            return
        if error is None:
            raise script_error
        # The caller's own exception comes first; it must not be replaced.
        error.add_note(f"the loopback script had raised {script_error!r}")

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Serve from a new thread with its own event loop, for callers without one.

        The script runs in that thread.
        """
        with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(self):
            yield self

    @property
    def url(self) -> str:
        """Return the value for ANTHROPIC_BASE_URL. Raises RuntimeError before the start."""
        return f"http://{HOST}:{self._started_server.port}"

    @property
    def env(self) -> dict[str, str]:
        """Return the variables that connect a Claude Code process to this API, and to no other."""
        return {
            "ANTHROPIC_BASE_URL": self.url,
            # Without a key, Claude Code 2.1.330 ends with "Not logged in" and sends no request.
            "ANTHROPIC_API_KEY": "loopback",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }

    @property
    def requests(self) -> list[ModelRequest]:
        """Return the last well-formed calls of `/v1/messages`, oldest first."""
        return list(self._log.requests)

    @property
    def other_requests(self) -> list[OtherRequest]:
        """Return the last other requests and malformed calls, oldest first."""
        return list(self._log.other_requests)

    @property
    def usage(self) -> UsageLog:
        """Return the billed tokens: request by request, by model, and in total."""
        return self._log.usage

    async def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until `condition()` is true.

        It is checked at once and, in the server's thread, whenever a request arrives, its reply
        begins, or it ends.

        Raises:
            TimeoutError: it was not true within `timeout` seconds.
            Exception: the condition raised it.
        """
        future = self._log.watch(condition)
        # Without this test `timeout=0` would fail for a condition that is true.
        if not future.done():
            await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        future.result()

    def block_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait like `wait_until`, in a thread without an event loop; for users of `in_thread`."""
        self._log.watch(condition).result(timeout)

    @property
    def _started_server(self) -> HttpServer:
        if self._server is None:
            raise RuntimeError("this LoopbackAPI is not started: enter it with `async with` first")
        return self._server

    def _answer(self, http: HttpRequest, body: dict[str, Any], prompt: PromptPrefixes) -> ASGIApp:
        request = make_request(http, body, self._log.received, self._clock())
        self._log.add(request)
        host, port = http.scope["client"]
        return ModelExchange(
            self._log,
            self.script,
            request,
            prompt,
            abort=lambda: self._started_server.abort((host, port)),
        )
