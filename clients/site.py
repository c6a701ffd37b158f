"""What the clients connect to: a project, its agents with an offline model, and agent-pool."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

import agent_pool
from agent_pool.claude.binary import bundled_cli
from agent_pool.client.start import ensure_daemon
from agent_pool.loopback import LoopbackAPI, ModelReply, ModelRequest, ToolUseBlock
from agent_pool.loopback.server import HttpServer
from agent_pool.runtime import DaemonAddress, find_daemon

AGENT: Final = "reviewer"
PROMPT: Final = "You are the reviewer."
LONG: Final = 60_000
"""Characters of a long answer, in lines of 60."""
TOGETHER_TIMEOUT: Final = 4.0
"""Seconds that a task waits for another one to begin."""
SLOW_SECONDS: Final = 8.0
"""Seconds that a slow task takes: longer than the default limit of one client."""
HOLD_SECONDS: Final = 600.0
_RECORDER: Final = Path(__file__).with_name("record_lines.py")
_OF_ONE_HOP: Final = {"host", "connection", "content-length", "transfer-encoding"}


class AgentsModel:
    """The agents' model: the first word of a task decides what it does.

    Attributes:
        begun: every task that has begun: its text, and its latest request.
    """

    def __init__(self, folder: Path) -> None:
        self.begun: dict[str, ModelRequest] = {}
        self._folder = folder
        self._arrived: dict[str, int] = {}
        self._changed = asyncio.Condition()

    async def __call__(self, request: ModelRequest) -> Any:
        task = request.last_user_text.strip()
        if PROMPT not in request.system_text or request.is_side:
            return "a title"
        self.begun[task] = request
        verb, _, rest = task.partition(" ")
        match verb:
            case "together":
                return await self._meet(rest.split()[0])
            case "steps" if not request.tool_results:
                return [ToolUseBlock("Bash", {"command": "sleep 1"})]
            case "hold":
                await self._hold(rest)
            case "slow":
                return ModelReply(
                    "slow but done", delay=float(rest.split()[0] if rest else SLOW_SECONDS)
                )
            case "long":
                return "".join(f"{number:059}\n" for number in range(LONG // 60))
        return f"echo: {task}"

    async def _hold(self, key: str) -> None:
        """Wait until the agent's process ends the request; leave a file at both moments."""
        (self._folder / f"held-{key}").touch()
        try:
            await asyncio.sleep(HOLD_SECONDS)
        except asyncio.CancelledError:  # how a script learns that its client has left
            (self._folder / f"ended-{key}").touch()
            raise

    async def _meet(self, key: str) -> str:
        """Wait for the other task of the pair; tell whether both run at the same time."""
        async with self._changed:
            self._arrived[key] = self._arrived.get(key, 0) + 1
            self._changed.notify_all()
            try:
                async with asyncio.timeout(TOGETHER_TIMEOUT):
                    await self._changed.wait_for(lambda: self._arrived[key] >= 2)
            except TimeoutError:
                self._arrived[key] -= 1
                return "alone"
        return "together"


class Site:
    """A project with the agent `reviewer`, in folders that are removed at the end.

    Attributes:
        folder: a short temporary folder; a client's own files go below it.
        root: the project.
        home: the home folder of the daemon and its agents.
        model: the agents' model.
        wire: every message between clients and server: who sent it, and the message.
        headers: of the requests by HTTP.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "project"
        self.home = folder / "home"
        self.records = folder / "records"
        for each in (self.root / ".claude" / "agents", self.home / ".claude", self.records):
            each.mkdir(parents=True)
        self.model = AgentsModel(folder)
        self.http_wire: list[tuple[str, dict[str, Any]]] = []
        self.environ: dict[str, str] = {}
        self.agent(AGENT)
        self._configure()

    def agent(self, name: str, model: str = "inherit") -> None:
        """Define an agent."""
        fields = f"name: {name}\ndescription: Reviews code.\ntools: Bash\nmodel: {model}"
        path = self.root / ".claude" / "agents" / f"{name}.md"
        path.write_text(f"---\n{fields}\n---\n{PROMPT}\n")

    def _configure(self) -> None:
        settings = 'reset = "clear"\nmax_workers = 6\nmax_size = 4\nspares = 0\nclose_timeout = 5\n'
        (self.home / ".claude" / "agent-pool.toml").write_text(settings)

    def environment(self, url: str, **more: str) -> dict[str, str]:
        """Return the environment of a program with the model at `url`, built from nothing."""
        cli = bundled_cli()
        assert cli is not None, "pip install -e '.[claude]' brings the CLI"
        return {
            "HOME": str(self.home),
            "CLAUDE_CONFIG_DIR": str(self.home / ".claude"),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "dummy",
            "IS_SANDBOX": "1",
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CLI": str(cli),
            "CLAUDE_PROJECT_DIR": str(self.root),
            "AGENT_POOL_DAEMON": "on",
            "AGENT_POOL_RUNTIME_DIR": str(self.folder / "run"),
            "AGENT_POOL_STATE_DIR": str(self.folder / "state"),
            "PYTHONPATH": str(Path(agent_pool.__file__).parents[1]),
            **more,
        }

    @property
    def server_command(self) -> list[str]:
        """Return the command of the server on stdio, behind the recorder of its lines."""
        server = [sys.executable, "-m", "agent_pool", "serve"]
        return [sys.executable, str(_RECORDER), str(self.records), *server]

    def wire(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the messages so far: who sent each, and the message."""
        lines = [line for one in self.records.iterdir() for line in one.read_text().splitlines()]
        frames = [json.loads(line) for line in lines]
        return [(one["from"], json.loads(one["line"])) for one in frames] + self.http_wire

    def servers_started(self) -> int:
        """Return how many servers on stdio were started."""
        return len(list(self.records.iterdir()))

    def new_record(self) -> None:
        """Forget the messages so far, and the marks of the tasks."""
        marks = [*self.folder.glob("held-*"), *self.folder.glob("ended-*")]
        for one in [*self.records.iterdir(), *marks]:
            one.unlink()
        self.http_wire.clear()
        self.model.begun.clear()


class RecordingProxy:
    """The daemon's `/mcp` on another port, with a record of all messages."""

    def __init__(self, daemon: DaemonAddress, wire: list[tuple[str, dict[str, Any]]]) -> None:
        self._daemon = daemon
        self._wire = wire
        self._client = httpx2.AsyncClient(timeout=None)
        routes = [Route("/mcp", self._pass_on, methods=["GET", "POST", "DELETE"])]
        self._server = HttpServer(Starlette(routes=routes))

    @property
    def url(self) -> str:
        """Return the address for clients."""
        return f"http://127.0.0.1:{self._server.port}/mcp"

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """End the server and its connections."""
        await self._server.stop()
        await self._client.aclose()

    async def _pass_on(self, http: Request) -> Response:
        body = await http.body()
        if body:
            message = json.loads(body)
            message["_version"] = http.headers.get("mcp-protocol-version", "")
            self._wire.append(("client", message))
        headers = {k: v for k, v in http.headers.items() if k not in _OF_ONE_HOP}
        request = self._client.build_request(
            http.method, f"{self._daemon.url}/mcp", headers=headers, content=body
        )
        answer = await self._send(http, request)
        if answer is None:
            return Response(status_code=499)
        kept = {k: v for k, v in answer.headers.items() if k not in _OF_ONE_HOP}

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in answer.aiter_raw():
                    self._note(chunk)
                    yield chunk
            finally:
                await answer.aclose()

        return StreamingResponse(chunks(), answer.status_code, kept)

    async def _send(self, http: Request, request: httpx2.Request) -> httpx2.Response | None:
        """Send a request; give it up, and return None, if the client leaves before the answer."""
        sending = asyncio.ensure_future(self._client.send(request, stream=True))
        leaving = asyncio.ensure_future(http.receive())  # after the body: `http.disconnect`
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            leaving.cancel()
            return await sending
        sending.cancel()
        return None

    def _note(self, chunk: bytes) -> None:
        """Note the messages of the server that come whole in one chunk."""
        for line in chunk.splitlines():
            text = line.removeprefix(b"data: ")
            if text.startswith(b"{"):
                try:
                    self._wire.append(("server", json.loads(text)))
                except ValueError:
                    return


@asynccontextmanager
async def open_site() -> AsyncIterator[tuple[Site, RecordingProxy]]:
    """Start the daemon and the models; end all processes and remove all folders at the end."""
    # A short path: that of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ap-", dir="/tmp"))
    site = Site(folder)
    try:
        async with LoopbackAPI(site.model) as api:
            site.environ = site.environment(api.url)
            daemon = await asyncio.to_thread(ensure_daemon, site.environ)
            proxy = RecordingProxy(daemon, site.http_wire)
            await proxy.start()
            try:
                yield site, proxy
            finally:
                await proxy.stop()
                await _stop_daemon(site)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mcp_headers(site: Site) -> dict[str, str]:
    """Return the headers that the daemon wants.

    Raises:
        LookupError: no daemon runs.
    """
    daemon = find_daemon(site.environ)
    if daemon is None:
        raise LookupError("the daemon has ended")
    return {
        "Authorization": f"Bearer {daemon.token}",
        "X-Agent-Pool-Project": quote(str(site.root)),
    }


async def _stop_daemon(site: Site) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent_pool", "daemon", "stop", "--now"),
        env=site.environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await process.wait()
