"""The offline Messages API: routes, records and accounts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from anyio.from_thread import start_blocking_portal
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agent_pool.loopback import wire
from agent_pool.loopback.books import Books, Line
from agent_pool.loopback.cache import InvalidRequest, Prompt, PromptCache, Usage, measure
from agent_pool.loopback.exchange import Exchange
from agent_pool.loopback.reply import Failure
from agent_pool.loopback.request import Request, check_body
from agent_pool.loopback.scripts import Script, echo
from agent_pool.loopback.server import HOST, Server

MAX_BODY: Final = 64 * 1024 * 1024
METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
MODELS: Final = ("claude-opus-5", "claude-sonnet-5", "claude-haiku-4-5")


@dataclass(frozen=True, slots=True)
class OtherRequest:
    """A request that was not a well-formed call of `/v1/messages`, and the status it got."""

    method: str
    path: str
    status: int


class LoopbackAPI:
    """A scripted Messages API on 127.0.0.1, for one `async with` or one `with ….in_thread()`.

    Args:
        script: what the model says; sync or async, called once per request. An exception in it
            gives the client a 400 that is not retried, and is raised again when the server ends.
        port: 0 takes any free one; a taken one raises ConfigError on entering.
        cache: the prompt cache; None makes one with the models' own minimum lengths.
        keep_requests: how many requests `requests`, `other_requests` and `books.lines` keep.
        max_body: bytes of a request's body; a longer one gets a 413.
        clock: seconds, for `received_at` and the cache's lifetimes.
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
        self.books = Books(keep_requests)
        self._port = port
        self._cache = PromptCache() if cache is None else cache
        self._max_body = max_body
        self._clock = clock
        self._requests: deque[Request] = deque(maxlen=keep_requests)
        self._others: deque[OtherRequest] = deque(maxlen=keep_requests)
        self._received = 0
        self._script_error: Exception | None = None
        self._watchers = _Watchers()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        if self._server is not None:
            raise RuntimeError("this LoopbackAPI was started before; make a new one")
        self._server = Server(self._app(), self._port)
        self._port = self._server.port
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        await self._server.stop()
        if self._script_error is None:
            return
        if error is None:
            raise self._script_error
        error.add_note(f"a loopback script had raised: {self._script_error!r}")

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
        if self._server is None:
            raise RuntimeError("this LoopbackAPI is not started; enter it with `async with` first")
        return f"http://{HOST}:{self._port}"

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
        return list(self._requests)

    @property
    def other_requests(self) -> list[OtherRequest]:
        """Whatever else was asked for, and malformed calls; oldest first."""
        return list(self._others)

    def when(self, condition: Callable[[], bool]) -> Future[None]:
        """A future that is done once `condition()` holds; looked at whenever a request arrives,
        begins to be answered, or ends. `api.when(lambda: len(api.requests) > 2).result(5)`.
        """
        return self._watchers.add(condition)

    async def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """`when` for coroutines; raises TimeoutError after `timeout` seconds."""
        await asyncio.wait_for(asyncio.wrap_future(self.when(condition)), timeout)

    # What an exchange tells.

    def charge(self, request: Request, prompt: Prompt) -> Usage:
        return self._cache.charge(prompt, request.received_at)

    def begin(self, request: Request, prompt: Prompt, usage: Usage) -> None:
        self._cache.commit(prompt, request.received_at)
        request.usage = usage
        self.books.enter(Line(request.index, request.model, request.is_side, usage))
        self._watchers.look()

    def end(self, request: Request) -> None:
        self._watchers.look()

    def script_failed(self, error: Exception) -> None:
        self._script_error = self._script_error or error

    # Routes.

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/", self._root, methods=["GET"]),
                Route("/{path:path}", self._other, methods=METHODS),
            ]
        )

    async def _messages(self, http: HttpRequest) -> ASGIApp:
        try:
            body, prompt = await self._parse(http)
        except (InvalidRequest, _TooLarge) as error:
            return self._refuse(http, error)
        request = Request(
            body=body,
            headers=dict(http.headers),
            path=_path(http),
            index=self._received,
            received_at=self._clock(),
        )
        self._received += 1
        self._requests.append(request)
        self._watchers.look()
        server, client = self._server, http.scope["client"]
        assert server is not None
        return Exchange(self, request, prompt, abort=lambda: server.abort(tuple(client)))

    async def _count_tokens(self, http: HttpRequest) -> Response:
        try:
            _, prompt = await self._parse(http)
        except (InvalidRequest, _TooLarge) as error:
            return self._refuse(http, error)
        return self._note(http, 200, {"input_tokens": prompt.total})

    async def _models(self, http: HttpRequest) -> Response:
        models = [{"type": "model", "id": name, "display_name": name} for name in MODELS]
        page = {"data": models, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
        return self._note(http, 200, page)

    async def _root(self, http: HttpRequest) -> Response:
        return self._note(http, 200, {"loopback": "agent-pool"})

    async def _other(self, http: HttpRequest) -> Response:
        failure = Failure(404, message=f"{http.method} {http.url.path} is not served here")
        return self._note(http, 404, wire.error_body(failure))

    def _refuse(self, http: HttpRequest, error: InvalidRequest | _TooLarge) -> Response:
        status = 413 if isinstance(error, _TooLarge) else 400
        return self._note(http, status, wire.error_body(Failure(status, message=str(error))))

    def _note(self, http: HttpRequest, status: int, body: dict[str, Any]) -> Response:
        self._others.append(OtherRequest(http.method, _path(http), status))
        self._watchers.look()
        return JSONResponse(body, status)

    async def _parse(self, http: HttpRequest) -> tuple[dict[str, Any], Prompt]:
        data = await self._read(http)
        try:
            body = check_body(_loads(data))
            return body, measure(body)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"The request body is not valid JSON: {error}") from error

    async def _read(self, http: HttpRequest) -> bytes:
        parts, size = [], 0
        try:
            async for part in http.stream():
                size += len(part)
                if size > self._max_body:
                    raise _TooLarge(f"the request is longer than {self._max_body} bytes")
                parts.append(part)
        except ClientDisconnect:
            raise InvalidRequest("the client went away before its request was whole") from None
        return b"".join(parts)


class _TooLarge(Exception):  # noqa: N818
    """A body over the limit."""


class _Watchers:
    """Conditions that somebody waits for; any thread may add one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Callable[[], bool], Future[None]]] = []

    def add(self, condition: Callable[[], bool]) -> Future[None]:
        future: Future[None] = Future()
        with self._lock:
            self._waiting.append((condition, future))
        self.look()
        return future

    def look(self) -> None:
        """Complete every future whose condition holds now."""
        with self._lock:
            self._waiting = [(c, f) for c, f in self._waiting if not _settle(c, f)]


def _settle(condition: Callable[[], bool], future: Future[None]) -> bool:
    if future.done():
        return True
    try:
        if not condition():
            return False
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(None)
    return True


def _loads(data: bytes) -> Any:
    try:
        return from_json(data)
    except ValueError:  # wrong, or right with lone surrogates
        return json.loads(data)


def _path(http: HttpRequest) -> str:
    return f"{http.url.path}?{http.url.query}" if http.url.query else http.url.path
