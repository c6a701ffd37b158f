"""The offline Messages API: one object to start, look at and stop."""

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

from agent_pool.loopback.books import Books
from agent_pool.loopback.cache import Prompt, PromptCache
from agent_pool.loopback.exchange import Exchange
from agent_pool.loopback.record import OtherRequest, Record
from agent_pool.loopback.request import Request
from agent_pool.loopback.routes import Routes, new_request
from agent_pool.loopback.scripts import Script, echo
from agent_pool.loopback.server import HOST, Server

MAX_BODY: Final = 64 * 1024 * 1024


class LoopbackAPI:
    """A scripted Messages API on 127.0.0.1, for one `async with` or one `with ….in_thread()`.

    Args:
        script: what the model says; sync or async, called once per request. An exception in it
            gives the client a 500 that is not retried, and is raised again when the server ends.
        port: 0 takes any free one; a taken one raises ConfigError on entering.
        cache: the prompt cache; None makes one with the models' own minimum lengths.
        keep_requests: how many requests `requests`, `other_requests` and `books.lines` keep.
        max_body: bytes of a request's body; a longer one gets a 413.
        clock: seconds, for `received_at` and the cache's lifetimes.

    Attributes:
        script: may be replaced at any time, for the requests to come.
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
        self._record = Record(PromptCache() if cache is None else cache, keep_requests)
        self._routes = Routes(self._answer, self._record.add_other, max_body)
        self._clock = clock
        self._port = port
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        if self._server is not None:
            raise RuntimeError("this LoopbackAPI was started before; make a new one")
        self._server = Server(self._routes.app(), self._port)
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._running.stop()
        if (raised := self._record.script_error) is None:
            return
        if error is None:
            raise raised
        error.add_note(f"the loopback script had raised {raised!r}")

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[Self]:
        """Serve from a thread and an event loop of its own, for callers without one.

        The script runs in that thread.
        """
        with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(self):
            yield self

    @property
    def url(self) -> str:
        """What ANTHROPIC_BASE_URL must be."""
        return f"http://{HOST}:{self._running.port}"

    @property
    def env(self) -> dict[str, str]:
        """The variables that point a Claude Code process here and keep it off the network."""
        return {
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "loopback",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        }

    @property
    def requests(self) -> list[Request]:
        """The last calls of `/v1/messages`, oldest first."""
        return list(self._record.requests)

    @property
    def other_requests(self) -> list[OtherRequest]:
        """Whatever else was asked for, and malformed calls; oldest first."""
        return list(self._record.others)

    @property
    def books(self) -> Books:
        """What was billed."""
        return self._record.books

    async def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait for `condition()` to hold; raises TimeoutError after `timeout` seconds.

        It is looked at whenever a request arrives, begins to be answered, or ends, in the
        server's thread.
        """
        future = self._record.watch(condition)
        if not future.done():
            await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        future.result()

    def block_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """`wait_until` for the callers of `in_thread`."""
        self._record.watch(condition).result(timeout)

    @property
    def _running(self) -> Server:
        if self._server is None:
            raise RuntimeError("this LoopbackAPI is not started: enter it with `async with` first")
        return self._server

    def _answer(self, http: HttpRequest, body: dict[str, Any], prompt: Prompt) -> ASGIApp:
        request = new_request(http, body, self._record.received, self._clock())
        self._record.add(request)
        host, port = http.scope["client"]
        return Exchange(
            self._record,
            self.script,
            request,
            prompt,
            abort=lambda: self._running.abort((host, port)),
        )
