"""A pool on real Ray nodes, in an event loop that lives as long as the tests of a module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import psutil

from agent_pool import Started, TaskEvent, TaskHandle, TaskRequest
from agent_pool.api import PoolAPI
from agent_pool.cluster.ray_pool import RayPool
from agent_pool.loopback import LoopbackAPI, ModelRequest
from agent_pool.models import NodeInfo
from support.environment import UNREACHABLE_URL, cli_environment
from support.model_scripts import echo_task, resolve
from support.pools import HASTY, PoolProject
from support.process_checks import is_alive
from support.ray_nodes import HOST, RayNodes
from support.waiting import bounded, wait_until

T = TypeVar("T")


class Script:
    """A model whose answers a test changes.

    Attributes:
        step: what it answers next; a function of the request can be async.
    """

    def __init__(self) -> None:
        self.step: Any = echo_task

    async def __call__(self, request: ModelRequest) -> Any:
        return await resolve(self.step, request)


class RayGrid:
    """A cluster, an offline model, a project, and one pool of two workers a node.

    Args:
        folder: for the project and the home of all nodes.
        names: the nodes; the first one is the head, where the pool is.
        host: the address of these nodes.
    """

    def __init__(self, folder: Path, *names: str, host: str = HOST) -> None:
        self.project = PoolProject(folder)
        self.script = Script()
        self.environ = cli_environment(self.project.home, UNREACHABLE_URL)
        self.nodes = RayNodes(self.environ, host)
        self._runner = asyncio.Runner()
        try:
            self.nodes.start(*names)
            self.run(self._open())
            self.run(self.until_ready(*names))
        except BaseException:
            self.close()
            raise

    async def _open(self) -> None:
        self.api = LoopbackAPI(self.script)
        await self.api.__aenter__()
        self.pool = self.make_pool()
        await self.pool.open()

    def settings(self) -> dict[str, Any]:
        return {
            **HASTY,
            "ray": self.nodes.address,
            "ray_workers": 2,
            "max_size": 8,
            "ray_env": ("ANTHROPIC_BASE_URL",),
            "project_dir": self.project.root,
            "acquire_timeout": 20,
        }

    def make_pool(self, **more: Any) -> RayPool:
        """Build a pool on the cluster; it is not open yet."""
        environ = {**self.environ, "ANTHROPIC_BASE_URL": self.api.url}
        return RayPool(environ=environ, **{**self.settings(), **more})

    def run(self, main: Coroutine[Any, Any, T], bound: float = 60.0) -> T:
        """Run a coroutine in the loop of the pool."""
        return self._runner.run(bounded(main, bound))

    def close(self) -> None:
        """Close the pool and end the cluster."""
        try:
            with suppress(AttributeError):
                self.run(self.pool.close())
                self.run(self.api.__aexit__(None, None, None))
        finally:
            self._runner.close()
            self.nodes.stop()

    # Looks at it

    async def node(self, name: str) -> NodeInfo | None:
        """Return what the pool knows of a node; None if it does not know it."""
        return next((one for one in (await self.pool.stats()).nodes if one.node == name), None)

    def shared_pool(self) -> PoolAPI:
        """Return the pool for another one that must not open and close it."""
        return cast(PoolAPI, _SharedPool(self.pool))

    def values(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {**self.settings(), "project_dir": str(self.project.root)}

    async def until_state(self, name: str, state: str) -> NodeInfo:
        """Wait until a node has a state; return what the pool knows of it then."""
        while (found := await self.node(name)) is None or found.state != state:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return found

    async def until_ready(self, *names: str) -> None:
        """Wait until these nodes can have tasks."""
        for name in names:
            await self.until_state(name, "ready")

    @asynccontextmanager
    async def running_on(
        self, name: str, pool: PoolAPI | None = None, task: str = "hang", **more: Any
    ) -> AsyncIterator[TaskHandle]:
        """Run a task on this node, whichever node the pool prefers."""
        pool = pool or self.pool
        others: list[TaskHandle] = []
        try:
            while True:
                begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()

                def note(event: TaskEvent, begun: asyncio.Future[str] = begun) -> None:
                    if isinstance(event, Started) and not begun.done():
                        begun.set_result(event.node)

                request = TaskRequest("tester", task, **more)
                handle = await pool.submit(request, on_event=note)
                if await begun == name:
                    break
                others.append(handle)
            for other in others:
                other.cancel()
            yield handle
        finally:
            for other in [*others, handle]:
                other.cancel()
                with suppress(Exception):
                    await other.result()


class _SharedPool:
    def __init__(self, pool: RayPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    async def open(self) -> None:
        """Do nothing: the pool is open."""

    async def close(self) -> None:
        """Do nothing: others use the pool."""


async def until_none(processes: list[psutil.Process]) -> None:
    """Wait until these processes have ended."""
    await wait_until(lambda: not any(is_alive(one.pid) for one in processes))
