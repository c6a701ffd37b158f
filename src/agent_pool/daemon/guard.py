"""The guard before the application: who may ask, how much, and how long it may take.

It is plain ASGI, so that streams pass it without a copy. On the Unix socket the kernel names the
user of the other end. On TCP, where every user and every web page of a browser can connect, a
request needs the token, and its `Host` and `Origin` must be the daemon's own.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_pool.api import TaskAPI
from agent_pool.daemon.callers import Peer, identify_peer, refuse_nested
from agent_pool.daemon.http_server import Connection
from agent_pool.errors import NestingRefused
from agent_pool.settings import Settings

log = logging.getLogger("agent_pool")

MAX_BODY: Final = 4 << 20
MAX_TASK_BODY: Final = 32 << 20
"""Bytes of a body; a task can have attachments."""
MAX_BODIES: Final = 128 << 20
"""Bytes of the bodies of all requests that run."""
TASK_PATHS: Final = ("/v1/tasks",)
BODY_SECONDS: Final = 30.0
"""Seconds in which the whole body must have arrived."""
SEND_SECONDS: Final = 60.0
"""Seconds in which a client must take some of what it is sent."""
PAGES: Final = "/ui/"
"""The beginning of the paths of the dashboard."""
FREE_PATHS: Final = ("/v1/health",)
"""What a process of a worker can ask although `allow_nested` is off."""


class RefusedRequest(Exception):  # noqa: N818 - not an error of the daemon
    """A request that is not passed on.

    Args:
        status: of HTTP.
        code: for programs.
        message: for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return further headers of the answer."""
        # Closed: the rest of a refused body must not be read.
        close = [(b"connection", b"close")]
        # No `resource_metadata`: a client of MCP would try OAuth.
        return [(b"www-authenticate", b"Bearer"), *close] if self.status == 401 else close


class Guard:
    """Passes requests on to the application, or refuses them.

    It sets ``scope["state"]["peer"]``, a `Peer`.

    Args:
        app: the application.
        pool: knows the workers and their tasks.
        settings: says whether workers may call.
        token: what a request on TCP must have.
        port: of TCP.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        pool: TaskAPI,
        settings: Settings,
        token: str,
        port: int,
    ) -> None:
        self._app = app
        self._pool = pool
        self._settings = settings
        self._token = token.encode()
        hosts = [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]
        self._hosts = frozenset(host.encode() for host in hosts)
        self._origins = frozenset(f"http://{host}".encode() for host in hosts)
        self._held = 0

    def __repr__(self) -> str:  # without the token: it stands in tracebacks
        return "<Guard>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        connection: Connection = scope["state"]["connection"]
        exchange = _BoundedRequest(self, connection, receive, send, _most_bytes(scope["path"]))
        try:
            headers: dict[bytes, bytes] = dict(scope["headers"])
            if not connection.is_private:
                self._check_tcp(headers, scope["path"])
            peer = await self._identify(connection)
            if scope["path"].startswith(PAGES):
                _refuse_other_user(peer)
            if scope["path"] not in FREE_PATHS:
                refuse_nested(peer, self._settings)
            exchange.check_length(headers)
        except RefusedRequest as refusal:
            await exchange.refuse(refusal)
        except NestingRefused as error:
            await exchange.refuse(RefusedRequest(403, error.code, error.message))
        else:
            scope["state"]["peer"] = peer
            await exchange.run(self._app, scope)

    def _check_tcp(self, headers: Mapping[bytes, bytes], path: str) -> None:
        # Before the token: a page of a browser that guesses must not learn whether it was right.
        if headers.get(b"host", b"").lower() not in self._hosts:
            raise RefusedRequest(
                403, "foreign_host", "the Host header is not this daemon's address"
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() not in self._origins:
            raise RefusedRequest(403, "foreign_origin", "pages of other origins are not served")
        if path.startswith(PAGES):
            return  # a browser has no token; the dashboard checks its cookie
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            raise RefusedRequest(
                401, "unauthorized", "send the daemon's token: Authorization: Bearer TOKEN"
            )

    async def _identify(self, connection: Connection) -> Peer:
        # Again for each request of a worker's process: its worker can have another task by now.
        if connection.peer is None or connection.peer.is_nested:
            try:
                connection.peer = await identify_peer(connection.socket, self._pool)
            except PermissionError as error:
                raise RefusedRequest(403, "foreign_user", str(error)) from None
            except OSError:  # the client has left
                raise RefusedRequest(403, "no_peer", "the connection has ended") from None
        return connection.peer

    def hold(self, size: int) -> bool:
        """Count bytes of a body that the application has; return False if they are too many."""
        self._held += size
        return self._held <= MAX_BODIES

    def let_go(self, size: int) -> None:
        """Count these bytes no more."""
        self._held -= size


def _refuse_other_user(peer: Peer) -> None:
    """Refuse a page to another user, who can have got the cookie of a browser.

    While no daemon runs, anyone can listen on its port, and an open page asks there with its
    cookie. Root is let in: on WSL it passes on the connections of the browser.
    """
    if peer.uid not in (os.getuid(), 0):
        raise RefusedRequest(403, "foreign_user", "pages are shown to the user of the daemon only")


def _most_bytes(path: str) -> int:
    return MAX_TASK_BODY if path in TASK_PATHS else MAX_BODY


class _BoundedRequest:
    """One request and its answer, with their bounds."""

    def __init__(
        self, guard: Guard, connection: Connection, receive: Receive, send: Send, most: int
    ) -> None:
        self._guard = guard
        self._connection = connection
        self._receive, self._send = receive, send
        self._most = most
        self._received = 0
        self._is_whole = False
        self._has_begun = False
        self._refusal: RefusedRequest | None = None
        self._deadline = asyncio.get_running_loop().time() + BODY_SECONDS

    def check_length(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a body whose stated length is too large, before it is read."""
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            raise self._too_large()

    def _too_large(self) -> RefusedRequest:
        return RefusedRequest(413, "body_too_large", f"a body can have {self._most:,} bytes here")

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Let the application answer."""
        try:
            await app(scope, self.receive, self.send)
        except _ClientGone:
            pass
        except Exception:
            # It sees a client that has left when its body is refused.
            if self._refusal is None:
                raise
        finally:
            self._guard.let_go(self._received)
        if self._refusal is not None:
            await self.refuse(self._refusal)

    async def receive(self) -> Message:
        """Return the next message of the client, within the bounds."""
        if self._is_whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            seconds = f"the body did not arrive within {BODY_SECONDS:g} s"
            return self._stop(RefusedRequest(408, "body_too_slow", seconds))
        size = len(message.get("body", b""))
        self._received += size
        self._is_whole = not message.get("more_body", False)
        if not self._guard.hold(size):
            return self._stop(
                RefusedRequest(503, "busy", "too many large requests run; try again later")
            )
        if self._received > self._most:
            return self._stop(self._too_large())
        return message

    def _stop(self, refusal: RefusedRequest) -> Message:
        self._refusal = refusal
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send a message of the application."""
        if self._refusal is None:
            await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._has_begun = True
            kept = [one for one in message.get("headers", []) if one[0].lower() != b"cache-control"]
            message = {**message, "headers": [*kept, (b"cache-control", b"no-store")]}
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._send(message)
        except TimeoutError:
            log.info("a client has read nothing for %g s; its connection is closed", SEND_SECONDS)
            self._connection.abort()
            raise _ClientGone from None

    async def _discard(self) -> None:
        """Read the rest of a body that is not much too large.

        A client that still writes when the connection is closed does not get the answer.
        """
        left = 2 * self._most
        try:
            async with asyncio.timeout_at(self._deadline):
                while not self._is_whole and left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self._is_whole = not message.get("more_body", False)
        except TimeoutError:
            pass

    async def refuse(self, refusal: RefusedRequest) -> None:
        """Answer with a refusal, unless an answer has begun; the connection is closed then."""
        if self._has_begun:
            self._connection.abort()
            return
        if refusal.status == 413:
            await self._discard()
        body = json.dumps({"error": _error_value(refusal)}).encode()
        headers = [(b"content-type", b"application/json"), *refusal.headers()]
        length = (b"content-length", str(len(body)).encode())
        start = {"type": "http.response.start", "status": refusal.status}
        try:
            await self._pass_on({**start, "headers": [*headers, length]})
            await self._pass_on({"type": "http.response.body", "body": body})
        except _ClientGone:
            pass


class _ClientGone(Exception):  # noqa: N818 - ends the application's work for this client
    """A client that does not read what it is sent."""


def _error_value(refusal: RefusedRequest) -> dict[str, Any]:
    """Return a refusal in the form of `AgentPoolError.as_json`."""
    retryable = refusal.status in (408, 503)
    return {"code": refusal.code, "message": refusal.message, "retryable": retryable}
