"""The pool as one caller of the daemon has it: with its project, variables and parent task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from agent_pool.api import BatchItem, OnEvent, OnPermission, TaskAPI, TaskHandle
from agent_pool.errors import TaskError
from agent_pool.events import Ended, Event, TaskEvent
from agent_pool.models import (
    AgentList,
    Denied,
    LaunchSpec,
    Outcome,
    PermissionRequest,
    PoolStats,
    PromptSize,
    ResetVerdict,
    TaskFilter,
    TaskRecord,
    TaskRequest,
    TaskResult,
    WorkerInfo,
)
from agent_pool.pool.batch import read_requests


@dataclass(frozen=True, slots=True)
class CallerDefaults:
    """What the requests of one caller get that do not say it themselves.

    Attributes:
        project: the folder of its project; None for the daemon's own.
        env: the variables that it has differently from the daemon.
        parent: the task whose worker it is; None for a caller outside.
    """

    project: str | None = None
    env: Mapping[str, str] | None = field(default=None, repr=False)
    parent: str | None = None

    def fill(self, request: TaskRequest) -> TaskRequest:
        """Return the request with these values where it has none."""
        env = {**(self.env or {}), **(request.env or {})} or None
        return replace(
            request,
            project=request.project or self.project,
            env=env,
            parent=request.parent or self.parent,
        )


class CallerPool:
    """A `TaskAPI` for one caller; opening and closing it has no effect on the daemon's pool."""

    def __init__(self, pool: TaskAPI, defaults: CallerDefaults) -> None:
        self._pool = pool
        self._defaults = defaults

    def _folder(self, project: str | None) -> str | None:
        return project or self._defaults.project

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def kill(self) -> None: ...

    # Tasks

    async def submit(
        self,
        request: TaskRequest,
        *,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
        task_id: str | None = None,
    ) -> TaskHandle:
        return await self._pool.submit(
            self._defaults.fill(request),
            on_event=on_event,
            on_permission=on_permission,
            task_id=task_id,
        )

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
        **fields: Any,
    ) -> TaskResult:
        # `PoolAPI.invoke` has no argument for the parent.
        request = TaskRequest(agent, task, **fields)
        handle = await self.submit(request, on_event=on_event, on_permission=on_permission)
        try:
            return await handle.result()
        except asyncio.CancelledError:
            handle.cancel()
            raise

    async def stream(
        self, agent: str, task: str, *, on_permission: OnPermission | None = None, **fields: Any
    ) -> AsyncGenerator[TaskEvent, None]:
        handle = await self.submit(TaskRequest(agent, task, **fields), on_permission=on_permission)
        try:
            async for event in self._pool.task_events(handle.id):
                if isinstance(event, Ended) and event.error is not None:
                    raise event.error
                yield event
        finally:
            handle.cancel()  # no effect on a task that has ended

    async def map(
        self,
        requests: Iterable[BatchItem],
        *,
        timeout: float | None = None,
        on_event: Callable[[int, TaskEvent], None] | None = None,
        on_permission: Callable[[int, PermissionRequest], Awaitable[bool | Denied]] | None = None,
        on_end: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        return await self._pool.map(
            [self._defaults.fill(request) for request in read_requests(requests, timeout)],
            on_event=on_event,
            on_permission=on_permission,
            on_end=on_end,
        )

    async def cancel(self, task_id: str, *, error: TaskError | None = None) -> bool:
        return await self._pool.cancel(task_id, error=error)

    async def check(self, request: TaskRequest) -> None:
        await self._pool.check(self._defaults.fill(request))

    async def end_conversation(
        self, agent: str, conversation: str, *, project: str | None = None
    ) -> bool:
        return await self._pool.end_conversation(agent, conversation, project=self._folder(project))

    # Tasks of the store

    async def task(self, task_id: str) -> TaskRecord:
        return await self._pool.task(task_id)

    async def tasks(self, wanted: TaskFilter | None = None) -> list[TaskRecord]:
        return await self._pool.tasks(wanted)

    async def attach(self, task_id: str) -> TaskHandle:
        return await self._pool.attach(task_id)

    def task_events(self, task_id: str, *, after: int = 0) -> AsyncGenerator[TaskEvent, None]:
        return self._pool.task_events(task_id, after=after)

    async def retry(self, task_id: str, *, env: Mapping[str, str] | None = None) -> TaskHandle:
        return await self._pool.retry(task_id, env=env)

    async def answer(self, task_id: str, key: str, answer: bool | Denied) -> bool:
        return await self._pool.answer(task_id, key, answer)

    # Agents

    async def agents(self, *, project: str | None = None) -> AgentList:
        return await self._pool.agents(project=self._folder(project))

    async def agents_version(self, *, project: str | None = None) -> str:
        return await self._pool.agents_version(project=self._folder(project))

    async def launch_spec(self, agent: str, *, project: str | None = None) -> LaunchSpec:
        return await self._pool.launch_spec(agent, project=self._folder(project))

    async def prompt_size(self, agent: str, *, project: str | None = None) -> PromptSize:
        return await self._pool.prompt_size(agent, project=self._folder(project))

    async def reset_verdict(
        self, agent: str, *, project: str | None = None, refresh: bool = False
    ) -> ResetVerdict | None:
        return await self._pool.reset_verdict(agent, project=self._folder(project), refresh=refresh)

    # Workers and figures

    async def warmup(self, agent: str, *, project: str | None = None) -> WorkerInfo:
        return await self._pool.warmup(agent, project=self._folder(project))

    async def workers(self) -> list[WorkerInfo]:
        return await self._pool.workers()

    async def stats(self) -> PoolStats:
        return await self._pool.stats()

    async def reset(self, agent: str, *, project: str | None = None) -> int:
        return await self._pool.reset(agent, project=self._folder(project))

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        return self._pool.subscribe(listener)
