"""The REST interface on a real Unix socket, in the event loop of the test."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx2
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from agent_pool import Settings
from agent_pool.api import PoolAPI, TaskAPI
from agent_pool.daemon.rest import rest_routes
from agent_pool.loopback.server import HttpServer
from agent_pool.runtime import DaemonAddress
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store


class _UnixServer(HttpServer):
    """The server of the offline model, on a Unix socket."""

    def __init__(self, app: ASGIApp, path: Path) -> None:
        super().__init__(app)
        self._socket.close()
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))


class Answer(NamedTuple):
    """An answer of the server."""

    status: int
    body: Any
    headers: Mapping[str, str]


class RestServer:
    """Serves a pool; it can be stopped and started again at the same place.

    Attributes:
        folder: a short path for sockets: they have at most 107 bytes.
        socket: the Unix socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "http.sock"
        self._server: HttpServer | None = None

    @property
    def address(self) -> DaemonAddress:
        """Return where it is."""
        return DaemonAddress(1, "1", 0.0, str(self.socket), "", "", "")

    @property
    def requests(self) -> int:
        """Return how many requests are being answered."""
        return 0 if self._server is None else len(self._server.server_state.tasks)

    async def start(self, pool: TaskAPI, **options: Any) -> None:
        """Serve a pool on the Unix socket."""
        routes = rest_routes(pool, **{"environ": {}, **options})
        await self.start_app(Starlette(routes=routes))

    async def start_app(self, app: ASGIApp) -> None:
        """Serve any application on the Unix socket."""

        async def with_connection(scope: Scope, receive: Receive, send: Send) -> None:
            """Give the application the connection, as the daemon's server does."""
            connection = cast(Any, send).__self__.transport
            scope.setdefault("state", {})["connection"] = connection
            await app(scope, receive, send)

        self._server = _UnixServer(with_connection, self.socket)
        await self._server.start()

    async def stop(self) -> None:
        """Abort every connection, and stop."""
        if self._server is not None:
            await self._server.stop()
            self._server = None

    def client(self) -> httpx2.AsyncClient:
        """Return a plain HTTP client."""
        transport = httpx2.AsyncHTTPTransport(uds=str(self.socket))
        return httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=30)

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Send one request; a body that is not bytes is sent as JSON."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with self.client() as client:
            answer = await client.request(method, path, content=content, **options)
            is_json = answer.headers["content-type"] == "application/json"
            found = json.loads(answer.content.decode()) if is_json else answer.content.decode()
            return Answer(answer.status_code, found, answer.headers)

    @asynccontextmanager
    async def events(self, path: str, **options: Any) -> AsyncIterator[AsyncIterator[Any]]:
        """Open a stream of events."""
        async with self.client() as client, client.stream("GET", path, **options) as answer:
            assert answer.status_code == 200
            yield aiter(httpx2.EventSource(answer, max_event_size=None))


def task_body(agent: str = "reviewer", task: str = "look", **fields: Any) -> dict[str, Any]:
    """Return the body of a new task."""
    return {"request": {"agent": agent, "task": task, **fields}}


@asynccontextmanager
async def short_folder() -> AsyncIterator[Path]:
    """Make a folder with a short path, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="ap-", dir="/tmp"))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


@asynccontextmanager
async def served(
    pool: PoolAPI, settings: Settings | None = None, **options: Any
) -> AsyncIterator[tuple[RestServer, DurablePool]]:
    """Serve a pool with a store, both in a temporary folder."""
    async with short_folder() as folder:
        server = RestServer(folder)
        settings = settings or Settings(project_dir=folder)
        async with DurablePool(pool, Store(folder / "tasks.db"), settings) as durable:
            await server.start(durable, **options)
            try:
                yield server, durable
            finally:
                await server.stop()
