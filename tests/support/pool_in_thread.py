"""A pool with a store in a thread of its own, for commands that each have an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Self

from agent_pool import AgentPoolError, TaskAPI, TaskEvent, TaskResult
from agent_pool.api import TaskHandle

HANDLES = frozenset({"submit", "attach", "retry"})
"""The methods that return a handle."""


class PoolInThread:
    """A pool that outlives its clients, as that of a daemon does; a context manager.

    Args:
        make: makes the pool, in its thread.

    Attributes:
        loop: the event loop of the pool.
        pool: the pool, which is open.
        clients: how many clients were opened.
    """

    pool: TaskAPI

    def __init__(self, make: Callable[[], TaskAPI]) -> None:
        self.loop = asyncio.new_event_loop()
        self.clients = 0
        self._make = make
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.pool = self.call(self._open())
        return self

    def __exit__(self, *exc: object) -> None:
        self.call(self.pool.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _open(self) -> TaskAPI:
        pool = self._make()
        await pool.open()
        return pool

    def call(self, work: Any) -> Any:
        """Run a coroutine in the thread of the pool, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def connect(self, **_: object) -> Any:
        """Return a new client, as `agent_pool.connect` does."""
        self.clients += 1
        return PoolClient(self)


class PoolClient:
    """One client's side of a `PoolInThread`: the same methods, in the client's event loop."""

    def __init__(self, owner: PoolInThread) -> None:
        self._owner = owner

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    def kill(self) -> None: ...

    async def _there(self, work: Any) -> Any:
        running = asyncio.run_coroutine_threadsafe(work, self._owner.loop)
        return await asyncio.wrap_future(running)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._owner.pool, name)

        async def call(*args: Any, **options: Any) -> Any:
            made = await self._there(method(*args, **self._with_callbacks(options)))
            return ClientHandle(self, made) if name in HANDLES else made

        return call

    def _with_callbacks(self, options: dict[str, Any]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        on_event = options.get("on_event")
        if on_event is None:
            return options
        later = loop.call_soon_threadsafe
        return {**options, "on_event": lambda *event: later(on_event, *event)}

    async def task_events(self, task_id: str, *, after: int = 0) -> AsyncGenerator[TaskEvent, None]:
        """Yield the events of a task in the client's event loop."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[TaskEvent | AgentPoolError | None] = asyncio.Queue()

        def put(event: TaskEvent | AgentPoolError | None) -> None:
            with suppress(RuntimeError):  # the client's loop is closed
                loop.call_soon_threadsafe(events.put_nowait, event)

        async def pump() -> None:
            try:
                async for event in self._owner.pool.task_events(task_id, after=after):
                    put(event)
                put(None)
            except AgentPoolError as error:
                put(error)

        running = asyncio.run_coroutine_threadsafe(pump(), self._owner.loop)
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, AgentPoolError):
                    raise event
                yield event
        finally:
            running.cancel()


class ClientHandle:
    """A handle whose result is awaited in the client's event loop."""

    def __init__(self, client: PoolClient, handle: TaskHandle) -> None:
        self._client = client
        self._handle = handle
        self.id = handle.id
        self.request = handle.request

    async def result(self) -> TaskResult:
        """Wait for the result."""
        result: TaskResult = await self._client._there(self._handle.result())
        return result
