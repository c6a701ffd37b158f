"""A dashboard on a real HTTP server of 127.0.0.1, around a pool with a store."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from agent_pool import OPEN_STATES, TaskAPI, TaskFilter
from agent_pool.api import PoolAPI
from agent_pool.daemon.dashboard.pages import Dashboard
from agent_pool.settings import Settings
from agent_pool.tasks.service import DurablePool
from agent_pool.tasks.store import Store


@dataclass
class RunningDashboard:
    """A dashboard that is served.

    Attributes:
        pool: its pool.
        dashboard: its pages.
        address: ``http://127.0.0.1:PORT``.
    """

    pool: TaskAPI
    dashboard: Dashboard
    address: str

    def link(self, *, is_read_only: bool = False) -> str:
        """Return a new link that signs a browser in."""
        code = self.dashboard.visitors.make_code(is_read_only=is_read_only)
        return f"{self.address}/ui/enter?code={code}"


@asynccontextmanager
async def serve_dashboard(
    inner: PoolAPI, folder: Path, *, port: int = 0, **changes: object
) -> AsyncIterator[RunningDashboard]:
    """Serve the dashboard of a pool until the block ends."""
    settings = Settings.model_validate({"project_dir": folder, **changes})
    store = Store(folder / "tasks.db")
    async with DurablePool(inner, store, settings) as pool:
        dashboard = Dashboard(pool, settings, folder, store.totals, folder)
        app = Starlette(routes=dashboard.routes())
        listener = socket.create_server(("127.0.0.1", port))
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield RunningDashboard(pool, dashboard, address)
        finally:
            for one in await pool.tasks(TaskFilter(states=OPEN_STATES, limit=1000)):
                await pool.cancel(one.id)  # one that waits for its test would hold up the end
            dashboard.close()
            server.should_exit = True
            await asyncio.wait_for(serving, 10)
