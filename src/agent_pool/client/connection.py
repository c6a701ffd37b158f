"""A connection to the daemon: requests that are answered in JSON, and streams of events.

A daemon can end and be started again, by an upgrade for one. A request that was not answered is
sent again if that is safe, for `RECONNECT_SECONDS` at most.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import httpx2

from agent_pool.client.unix_streams import UnixTransport
from agent_pool.errors import DaemonUnavailable, PoolClosed
from agent_pool.models import error_from_json
from agent_pool.runtime import DaemonAddress

RECONNECT_SECONDS: Final = 30.0
"""How long a lost daemon is looked for before callers get `DaemonUnavailable`."""
RETRY_PAUSE: Final = 0.2
"""Seconds between two attempts to reach it."""
CONNECT_TIMEOUT: Final = 5.0
ANSWER_TIMEOUT: Final = 900.0
"""Seconds for an answer; a request that warms an agent up can wait for a worker."""
SILENCE_TIMEOUT: Final = 60.0
"""Seconds without a byte after which a stream is lost; the daemon sends a comment every 15."""
MAX_EVENT: Final = 128 << 20
"""Bytes of one event; a line of a worker has 32 MiB at most, and JSON in JSON is longer."""
_UNIX_URL: Final = "http://localhost"

FindDaemon = Callable[[], Awaitable[DaemonAddress]]
"""Returns the address of the daemon that runs, and starts one if there is none."""


CONNECTION_ERRORS: Final = (httpx2.TransportError, OSError, PoolClosed, DaemonUnavailable)
"""What a request fails with if the daemon has ended, ends just now, or is being started.

A daemon that ends answers with `PoolClosed`, and has then carried nothing out.
"""
_NOT_SENT: Final = (httpx2.ConnectError, PoolClosed, DaemonUnavailable)
_GATEWAY_STATUSES: Final = frozenset({502, 503, 504})
"""What a proxy in front of a daemon answers while there is none."""


class _OtherServer(DaemonUnavailable):
    """What answers at the address is no daemon, and will be none at the next attempt."""


class DaemonConnection:
    """Requests to one daemon, and to the one that takes its place.

    Args:
        find: finds the daemon, and starts it if needed; None for a fixed address.
        address: where it is, if that is known: an address, or the URL of its TCP port.
        token: the bearer token for a URL.
        patience: seconds, see `RECONNECT_SECONDS`.

    Attributes:
        is_closed: `close` was called.
    """

    def __init__(
        self,
        find: FindDaemon | None,
        address: DaemonAddress | str | None = None,
        token: str = "",
        patience: float = RECONNECT_SECONDS,
    ) -> None:
        self._find = find
        self._address = address
        self._token = token
        self.patience = patience
        self._client: httpx2.AsyncClient | None = None
        self._is_current = False  # whether `_client` is that of the daemon that runs
        self._former: list[httpx2.AsyncClient] = []
        self._opening: asyncio.Task[httpx2.AsyncClient] | None = None
        self.is_closed = False

    async def open(self) -> None:
        """Find the daemon, and start it if needed.

        Raises:
            DaemonUnavailable: there is none, and it cannot be started.
        """
        await self.open_client()

    async def close(self) -> None:
        """Drop all connections; requests that wait for an answer fail with `PoolClosed`."""
        self.is_closed = True
        if self._opening is not None:
            self._opening.cancel()
        for client in (*self._former, *([self._client] if self._client else ())):
            await client.aclose()

    def closed_error(self) -> PoolClosed:
        """Build the error for a caller that still waits when the connection is closed."""
        return PoolClosed(
            "the connection to the daemon was closed; tasks that were submitted go on there"
        )

    @property
    def had_daemon(self) -> bool:
        """Return whether a daemon was found before."""
        return self._client is not None

    @property
    def place(self) -> str:
        """Return the socket or the URL, for messages."""
        if isinstance(self._address, DaemonAddress):
            return self._address.http_socket
        return self._address or "the daemon"

    # Requests

    async def get(self, *path: str, **query: Any) -> Any:
        """Return the answer to a GET; see `request`."""
        return await self.request("GET", *path, query=query)

    async def post(self, *path: str, body: Any = None, **query: Any) -> Any:
        """Return the answer to a POST; see `request`."""
        return await self.request("POST", *path, body=body, query=query)

    async def request(
        self,
        method: str,
        *path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        is_repeatable: bool = True,
    ) -> Any:
        """Send a request, again if the connection is lost, and return the answer's JSON.

        Args:
            method: the HTTP method.
            path: the parts of the path below ``/v1``.
            body: the JSON of the body; None for no body.
            query: the parameters; those that are None are left out.
            is_repeatable: it can be sent again although it can have been carried out.

        Raises:
            AgentPoolError: the daemon's answer is an error.
            DaemonUnavailable: the daemon cannot be reached.
        """
        url = _url(path)
        content = None if body is None else json.dumps(body).encode()
        params = _params(query or {})

        async def send(client: httpx2.AsyncClient) -> Any:
            answer = await client.request(method, url, params=params, content=content)
            return _read_answer(answer)

        return await self._repeat(send, is_repeatable)

    async def _repeat(
        self, send: Callable[[httpx2.AsyncClient], Awaitable[Any]], is_repeatable: bool
    ) -> Any:
        search = Search(self)
        while True:
            try:
                return await send(await self.open_client())
            except CONNECTION_ERRORS as error:
                if not (is_repeatable or isinstance(error, _NOT_SENT)):
                    raise self.unavailable(error, "; whether it was done is unknown") from error
                await search.failed(error)

    @asynccontextmanager
    async def stream(
        self, *path: str, last_id: str = "", query: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[AsyncIterator[tuple[str, Any]], None]:
        """Open a stream of events once, without a second attempt.

        Yields:
            The id and the JSON of each event.

        Raises:
            AgentPoolError: the daemon's answer is an error.
            httpx2.TransportError: there is no connection, or it is lost.
        """
        client = await self.open_client()
        headers = {"Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        timeout = httpx2.Timeout(SILENCE_TIMEOUT, connect=CONNECT_TIMEOUT)
        async with client.stream(
            "GET", _url(path), params=_params(query or {}), headers=headers, timeout=timeout
        ) as answer:
            if answer.status_code != 200:
                await answer.aread()
                _read_answer(answer)
            yield _read_events(answer)

    def unavailable(self, cause: BaseException, more: str = "") -> DaemonUnavailable:
        """Build the error for a daemon that cannot be reached."""
        return DaemonUnavailable(
            f"the daemon at {self.place} does not answer{more}: {type(cause).__name__}: {cause}. "
            "`agent-pool daemon status` shows whether it runs, `agent-pool daemon logs` why not"
        )

    # The client

    async def open_client(self) -> httpx2.AsyncClient:
        """Return the client of the daemon that runs; all callers wait for one search.

        Raises:
            DaemonUnavailable: there is no daemon, and none can be started.
            PoolClosed: `close` was called.
        """
        if self.is_closed:
            raise self.closed_error()
        if self._client is not None and self._is_current:
            return self._client
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._make_client(), name="agent-pool connect")
        try:
            # Shielded: the others still wait for it when one caller leaves.
            return await asyncio.shield(self._opening)
        except asyncio.CancelledError:
            if self.is_closed:
                raise self.closed_error() from None
            raise

    async def _make_client(self) -> httpx2.AsyncClient:
        address = await self._find() if self._find is not None else self._address
        assert address is not None
        if self._client is None or address != self._address:
            # The former one is not closed yet: its answers can be on their way.
            self._former += [self._client] if self._client is not None else []
            self._client = _make_client(address, self._token)
        self._address, self._is_current = address, True
        return self._client

    def forget(self) -> None:
        """Look for the daemon again at the next request: it can be another one by now."""
        self._is_current = False


class Search:
    """The attempts to reach a daemon again, after it was lost.

    Args:
        connection: what failed.
    """

    def __init__(self, connection: DaemonConnection) -> None:
        self._connection = connection
        self._until: float | None = None

    def succeeded(self) -> None:
        """Note that the daemon was reached; the next failure begins a new search."""
        self._until = None

    async def failed(self, cause: Exception) -> None:
        """Wait before the next attempt.

        Args:
            cause: why the last one failed.

        Raises:
            PoolClosed: the connection was closed.
            DaemonUnavailable: the time for the search is over, there never was a daemon, or what
                answers is none.
        """
        connection = self._connection
        connection.forget()
        if connection.is_closed:
            raise connection.closed_error()
        # A daemon that was never there will not come back.
        if not connection.had_daemon or isinstance(cause, _OtherServer):
            raise cause
        if self._until is None:
            self._until = time.monotonic() + connection.patience
        if time.monotonic() >= self._until:
            if isinstance(cause, DaemonUnavailable):
                raise cause
            raise connection.unavailable(cause) from cause
        await asyncio.sleep(RETRY_PAUSE)


def _make_client(address: DaemonAddress | str, token: str) -> httpx2.AsyncClient:
    # As many connections as tasks: each can have a stream of its own.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    transport: httpx2.AsyncBaseTransport
    if isinstance(address, DaemonAddress):
        url = _UNIX_URL
        transport = UnixTransport(address.http_socket, limits)
    else:
        url = address.rstrip("/")
        # Without a context for TLS, which takes 60 ms to load, where no TLS is spoken.
        is_tls = url.startswith("https:")
        transport = httpx2.AsyncHTTPTransport(limits=limits, verify=is_tls, trust_env=False)
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    # Without the proxies of the environment: they must not see the token and the tasks.
    return httpx2.AsyncClient(
        base_url=f"{url}/v1/",
        transport=transport,
        headers=headers,
        timeout=httpx2.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT, pool=None),
        trust_env=False,
    )


def _url(path: tuple[str, ...]) -> str:
    return "/".join(quote(part, safe="") for part in path)


def _params(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _read_answer(answer: httpx2.Response) -> Any:
    """Return the JSON of an answer.

    Raises:
        AgentPoolError: it is an error, or it is not JSON.
    """
    try:
        found = json.loads(answer.content)
    except (ValueError, RecursionError):
        found = None
    if answer.is_success and found is not None:
        return found
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        raise error_from_json(error)
    kind = DaemonUnavailable if answer.status_code in _GATEWAY_STATUSES else _OtherServer
    raise kind(
        f"the server at {answer.url} answered with status {answer.status_code} and nothing that "
        "this client knows; is it agent-pool?"
    )


async def _read_events(answer: httpx2.Response) -> AsyncIterator[tuple[str, Any]]:
    async for event in httpx2.EventSource(answer, max_event_size=MAX_EVENT):
        yield event.id, json.loads(event.data)
