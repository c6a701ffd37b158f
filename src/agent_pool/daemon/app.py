"""The daemon's application: the routes of all parts, behind the guard."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import psutil
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from agent_pool.api import PoolAPI, TaskAPI
from agent_pool.client.environment import client_environment
from agent_pool.daemon.callers import Peer
from agent_pool.daemon.dashboard.actions import ActionLog
from agent_pool.daemon.dashboard.pages import Dashboard, link_route
from agent_pool.daemon.guard import Guard
from agent_pool.daemon.mcp_faces import McpFaces
from agent_pool.daemon.rest import rest_routes
from agent_pool.models import DayTotal, TaskFilter
from agent_pool.pool.pool import AgentPool
from agent_pool.settings import Settings
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store

STORE: Final = "tasks.db"


class DrainablePool(TaskAPI, Protocol):
    """A pool that can finish what runs and leave the rest in its store."""

    async def hand_over(self) -> None:
        """Let another pool own the store, and keep only the tasks that run."""
        ...

    async def drain(self) -> None:
        """Begin no task any more, and wait until those that run have ended."""
        ...

    def drain_node(self, node: str) -> bool:
        """Let a machine finish its tasks and get no more; return False if there is none."""
        ...

    async def totals(self, wanted: TaskFilter) -> list[DayTotal]:
        """Return the sums of the ended tasks that a filter means."""
        ...


class DaemonControl(Protocol):
    """What the routes of the daemon itself need of it."""

    @property
    def is_draining(self) -> bool:
        """Return whether it finishes its tasks and takes no new ones."""
        ...

    def begin_drain(self) -> None:
        """Give the address up, finish the running tasks, then end."""
        ...

    def drain_node(self, node: str) -> bool:
        """Let a machine finish its tasks and get no more; return False if there is none."""
        ...

    async def status(self) -> dict[str, Any]:
        """Return its figures as JSON values, without the token."""
        ...


def make_pool(settings: Settings, environ: Mapping[str, str], state: Path) -> DrainablePool:
    """Return the pool of the daemon, not open yet."""
    variables = client_environment(environ)
    kept = {name: value for name, value in variables.items() if _is_kept(name, settings)}
    return DurablePool(_make_runner(settings, environ), Store(state / STORE), settings, kept)


def _make_runner(settings: Settings, environ: Mapping[str, str]) -> PoolAPI:
    """Return the pool that runs the tasks: here, or on the nodes of a cluster."""
    if settings.ray is None:
        return AgentPool(settings, environ=environ)
    from agent_pool.cluster.ray_pool import RayPool  # only those who ask for it pay for it

    return RayPool(settings, environ=environ)


def _is_kept(name: str, settings: Settings) -> bool:
    """Check whether tasks get this variable of the daemon from the store."""
    sent = settings.sent_variables
    if any(fnmatchcase(name, pattern) for pattern in settings.env_block):
        return False
    return sent is None or any(fnmatchcase(name, pattern) for pattern in sent)


def make_app(
    control: DaemonControl,
    pool: TaskAPI,
    settings: Settings,
    mcp: McpFaces,
    dashboard: Dashboard,
    *,
    environ: Mapping[str, str],
    token: str,
    port: int,
) -> ASGIApp:
    """Return the whole application."""
    rest = rest_routes(
        pool,
        environ=environ,
        env_block=settings.env_block,
        sent=settings.sent_variables,
        is_draining=lambda: control.is_draining,
        note=partial(_note, dashboard.actions),
    )
    pages = [*dashboard.routes(), link_route(dashboard, port)]
    # Those of the daemon first: the others are all that is left below `/v1`.
    routes: list[BaseRoute] = [*_daemon_routes(control), *pages, *mcp.routes(), *rest]
    return Guard(
        Starlette(routes=routes),
        pool=pool,
        settings=settings,
        token=token,
        port=port,
    )


def _note(actions: ActionLog, request: Request, action: str, task_id: str) -> None:
    """Write what a program or a command did to a task into the log of actions."""
    actions.add(_caller_name(request.state.peer), action, task_id)


def _caller_name(peer: Peer) -> str:
    if peer.worker:
        return f"agent on {peer.worker}"
    if not peer.pid:  # TCP does not say who it is
        return "program"
    with suppress(psutil.Error):
        return f"{psutil.Process(peer.pid).name()}, process {peer.pid}"
    return f"process {peer.pid}"


def _daemon_routes(control: DaemonControl) -> list[BaseRoute]:
    async def status(request: Request) -> JSONResponse:
        return JSONResponse(await control.status())

    async def drain(request: Request) -> JSONResponse:
        # Before the answer: its reader starts the next daemon.
        control.begin_drain()
        # Without figures: the pool can be closed by now.
        return JSONResponse({"draining": True}, status_code=202)

    async def drain_node(request: Request) -> JSONResponse:
        node = request.path_params["node"]
        is_known = control.drain_node(node)
        return JSONResponse({"node": node, "draining": is_known}, 202 if is_known else 404)

    return [
        Route("/v1/daemon", status),
        # A path: nothing forbids a slash in the name of a node.
        Route("/v1/daemon/nodes/{node:path}/drain", drain_node, methods=["POST"]),
        Route("/v1/daemon/drain", drain, methods=["POST"]),
    ]
