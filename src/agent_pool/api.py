"""`PoolAPI`: what every pool offers, wherever its workers are. All interfaces use only this."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol, Self

from agent_pool.errors import TaskError
from agent_pool.events import Ended, Event, TaskEvent
from agent_pool.models import (
    AgentList,
    Attachment,
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

OnEvent = Callable[[TaskEvent], None]
"""Called with each event of a task, in order; `Ended` is the last. An exception is logged."""

OnPermission = Callable[[PermissionRequest], Awaitable[bool | Denied]]
"""Decides a permission request: True, False, or `Denied` with a reason that the agent reads."""

BatchItem = TaskRequest | tuple[str, str] | Mapping[str, Any]
"""A request, an ``(agent, task)`` pair, or a mapping with the fields of `TaskRequest`."""


class TaskHandle(Protocol):
    """A task that was submitted."""

    @property
    def id(self) -> str:
        """Return the pool's id of the task."""
        ...

    @property
    def request(self) -> TaskRequest:
        """Return what was submitted."""
        ...

    async def result(self) -> TaskResult:
        """Wait for the result; a caller that is cancelled here leaves the task running.

        Raises:
            AgentPoolError: as `PoolAPI.invoke`; `TaskCancelled` if the task was cancelled.
        """
        ...

    def cancel(self) -> bool:
        """Cancel the task; return False if it had ended."""
        ...


class PoolAPI(Protocol):
    """Warm Claude Code agents, given one task after another.

    Use a pool as ``async with pool:``; it is not open before.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def open(self) -> None:
        """Accept tasks. No process is started before the first is needed.

        Raises:
            PoolClosed: it was closed before.
            ConfigError: this process belongs to a worker of another pool, see `allow_nested`; or
                there is no place for temporary files.
        """
        ...

    async def close(self) -> None:
        """End the pool: refuse waiting callers, give running tasks `close_timeout`.

        Returns when every process has ended. A second call waits for the same end.
        """
        ...

    def kill(self) -> None:
        """Kill every process that the pool started, at once and without an event loop.

        For signal handlers; it takes some milliseconds.
        """
        ...

    # Tasks

    async def submit(
        self,
        request: TaskRequest,
        *,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
        task_id: str | None = None,
    ) -> TaskHandle:
        """Start a task and return at once; `TaskHandle.result` waits for its end.

        Args:
            request: the task.
            task_id: the id to use, which no other task of the pool may have; None for a new one.
            on_event: called with each event of the task.
            on_permission: decides what the agent asks permission for; without it every request is
                denied. The time that it takes is not the task's; it is bounded by
                `permission_timeout`.
        """
        ...

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        project: str | None = None,
        timeout: float | None = None,
        conversation: str | None = None,
        schema: Mapping[str, Any] | None = None,
        model: str | None = None,
        effort: str | None = None,
        permission_mode: str | None = None,
        env: Mapping[str, str] | None = None,
        isolation: str | None = None,
        attachments: Sequence[Attachment] = (),
        max_budget_usd: float | None = None,
        max_tokens: int | None = None,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
    ) -> TaskResult:
        """Give an agent a task and wait for its answer.

        The arguments are those of `TaskRequest` and `submit`. A caller that is cancelled leaves at
        once; the pool then ends the turn and cleans up.

        Raises:
            AgentNotFound, ConfigError: no such agent, or an argument or a definition is wrong.
            PoolTimeout, TooManyRequests, PoolClosed: no worker could be had.
            SpawnError, WorkerDied: a process could not be started, or ended during the task.
            TaskTimeout: the task took too long, or its process wrote nothing for too long.
            SignInRefused: the API refuses the sign-in.
            StructureMissing, SchemaMismatch: the answer has no structure, or not the schema's.
            TaskCancelled: `cancel` was called for it.
            InternalError: an unexpected exception, a bug of this package.
        """
        ...

    def stream(
        self,
        agent: str,
        task: str,
        *,
        project: str | None = None,
        timeout: float | None = None,
        conversation: str | None = None,
        schema: Mapping[str, Any] | None = None,
        model: str | None = None,
        effort: str | None = None,
        permission_mode: str | None = None,
        env: Mapping[str, str] | None = None,
        isolation: str | None = None,
        attachments: Sequence[Attachment] = (),
        max_budget_usd: float | None = None,
        max_tokens: int | None = None,
        on_permission: OnPermission | None = None,
    ) -> AsyncGenerator[TaskEvent, None]:
        """Yield the events of a task as they come; the last one is `Ended` with the result.

        Leaving the iteration early cancels the task.

        Raises:
            AgentPoolError: as `invoke`, instead of the last event.
        """
        ...

    async def map(
        self,
        requests: Iterable[BatchItem],
        *,
        timeout: float | None = None,
        on_event: Callable[[int, TaskEvent], None] | None = None,
        on_permission: Callable[[int, PermissionRequest], Awaitable[bool | Denied]] | None = None,
        on_end: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """Run many tasks side by side, within the pool's limits.

        Tasks of one agent and conversation run in their order. At most `max_workers` tasks run at
        once, and `max_size` of one agent, so a long list does not fill the queue.

        Args:
            requests: the tasks.
            timeout: for each task that has none of its own.
            on_event: called with the task's index and the event.
            on_permission: as for `submit`, called with the task's index too.
            on_end: called with the task's index and its outcome, as each ends. An exception that it
                raises cancels all other tasks and is raised.

        Returns:
            One entry for each task, in their order: its result, or the error that `invoke` would
            raise; `ContextLost` if an earlier task of its conversation did not succeed.

        Raises:
            ConfigError: an entry is not a request.
        """
        ...

    async def cancel(self, task_id: str, *, error: TaskError | None = None) -> bool:
        """Cancel a task; return False if there is no such task or it has ended.

        Args:
            task_id: the pool's id of the task.
            error: what the task ends with, with the words of the agent so far as its result; None
                for `TaskCancelled`.
        """
        ...

    async def check(self, request: TaskRequest) -> None:
        """Check a request as `invoke` does before it asks for a worker; run nothing.

        Works on a pool that is not open.

        Raises:
            AgentNotFound, ConfigError: as `invoke`.
        """
        ...

    async def end_conversation(
        self, agent: str, conversation: str, *, project: str | None = None
    ) -> bool:
        """Forget a conversation, after the task that it runs; return whether there was one.

        Raises:
            AgentNotFound: there is neither such a conversation nor an agent of that name.
        """
        ...

    # Agents

    async def agents(self, *, project: str | None = None) -> AgentList:
        """Return the agents that are defined, and the definitions that cannot be used.

        Works on a pool that is not open.
        """
        ...

    async def agents_version(self, *, project: str | None = None) -> str:
        """Return a text that changes when the agents change, or whether they can be used.

        That is when a file of an agent, a skill, an expertise or a command changes, the settings of
        Claude Code, its MCP servers, or its trust in the folder. Works on a pool that is not open.
        Only files that changed are read for it.
        """
        ...

    async def launch_spec(self, agent: str, *, project: str | None = None) -> LaunchSpec:
        """Return how the workers of an agent are started. Works on a pool that is not open.

        Raises:
            AgentNotFound, ConfigError, SpawnError: as `invoke`.
        """
        ...

    async def prompt_size(self, agent: str, *, project: str | None = None) -> PromptSize:
        """Measure the prompt that every task of an agent sends, on a worker of its own, offline.

        It takes about a second, no tokens and no network. Works on a pool that is not open.

        Raises:
            AgentNotFound, ConfigError, SpawnError, WorkerDied: as `invoke`.
        """
        ...

    async def reset_verdict(
        self, agent: str, *, project: str | None = None, refresh: bool = False
    ) -> ResetVerdict | None:
        """Return whether the CLI, with this agent's options, is known to forget between tasks.

        Works on a pool that is not open.

        Args:
            agent: the agent's name.
            project: its project's folder; None for the pool's own.
            refresh: find it out anew, in a process against the offline model, in about a second.

        Returns:
            The verdict; None if it is unknown and will be found out at the agent's first task.

        Raises:
            AgentNotFound, ConfigError, SpawnError: as `invoke`.
        """
        ...

    # Workers and figures

    async def warmup(self, agent: str, *, project: str | None = None) -> WorkerInfo:
        """Make sure that a worker of the agent is started, and wait until it is ready.

        Raises:
            AgentPoolError: as `invoke`.
        """
        ...

    async def workers(self) -> list[WorkerInfo]:
        """Return the workers as they are now, their memory measured now."""
        ...

    async def stats(self) -> PoolStats:
        """Return the figures since the pool was opened: tasks, tokens, cost, workers."""
        ...

    async def reset(self, agent: str, *, project: str | None = None) -> int:
        """Stop an agent's workers, wait until they have ended, and return how many it were.

        A task that runs on one of them fails with `WorkerDied`. The next task gets a new worker.

        Raises:
            AgentNotFound: there is neither a worker nor a definition of that name.
        """
        ...

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Pass every event of the pool to `listener`, in order and on the event loop.

        The first event is a `Snapshot` of the figures so far, and comes before this returns. An
        exception of the listener is logged.

        Returns:
            A function that ends the subscription.
        """
        ...


class TaskAPI(PoolAPI, Protocol):
    """A pool with a store: its tasks outlive their callers, and a restart of the daemon.

    `submit` returns when the task is stored. Every method of `PoolAPI` that runs tasks stores them.
    """

    async def task(self, task_id: str) -> TaskRecord:
        """Return a task as it is now.

        Raises:
            TaskNotFound: no task has this id, or its record was removed.
            StoreFailed: the store cannot be read; so for every method here.
        """
        ...

    async def tasks(self, wanted: TaskFilter | None = None) -> list[TaskRecord]:
        """Return tasks, the newest first; without a filter the newest 50."""
        ...

    async def attach(self, task_id: str) -> TaskHandle:
        """Return the handle of a task that was submitted before, also of one that has ended.

        Raises:
            TaskNotFound: as `task`.
        """
        ...

    def task_events(self, task_id: str, *, after: int = 0) -> AsyncGenerator[TaskEvent, None]:
        """Yield the events of a task: first those that are kept, then live ones until `Ended`.

        The number of each event is its place within the task, from 1 on, also after a restart. Of a
        long task the middle is not kept; a retry goes on with the numbers.

        Args:
            task_id: the task.
            after: the number of the last event that the caller has.

        Raises:
            TaskNotFound: as `task`.
        """
        ...

    async def retry(self, task_id: str, *, env: Mapping[str, str] | None = None) -> TaskHandle:
        """Queue a task again that failed, was cancelled or was interrupted; its id stays.

        Args:
            task_id: the task.
            env: the variables that it gets; the values of its request's `env` are not kept.

        Raises:
            TaskNotFound: as `task`.
            TaskNotEnded: it has not ended.
            ConfigError: it has succeeded, or its request had an `env` and there is none here.
        """
        ...

    async def answer(self, task_id: str, key: str, answer: bool | Denied) -> bool:
        """Answer a request for permission; return False if it does not wait any more.

        Raises:
            TaskNotFound: as `task`.
        """
        ...


class OwnedTask(TaskHandle, Protocol):
    """The handle of a task that ends with its caller."""

    async def result_or_cancel(self) -> TaskResult:
        """Return the result as `result` does; cancel the task if this caller is cancelled."""
        ...

    async def cancel_and_wait(self) -> None:
        """Cancel the task unless it has ended, and wait for its end, for some seconds at most."""
        ...


class RequestCalls(ABC):
    """The methods of `PoolAPI` that make a request of their arguments, the same in every pool."""

    @abstractmethod
    async def submit(
        self,
        request: TaskRequest,
        *,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
        task_id: str | None = None,
    ) -> OwnedTask:
        """Start a task; see `PoolAPI.submit`."""

    async def _run(
        self, request: TaskRequest, on_event: OnEvent | None, on_permission: OnPermission | None
    ) -> TaskResult:
        handle = await self.submit(request, on_event=on_event, on_permission=on_permission)
        return await handle.result_or_cancel()

    async def _stream(
        self, request: TaskRequest, on_permission: OnPermission | None
    ) -> AsyncGenerator[TaskEvent, None]:
        """Yield the events of a task; cancel it if the generator is closed before its end."""
        # Without a bound: a listener cannot wait, and a slow reader must not hold up the worker.
        events: asyncio.Queue[TaskEvent] = asyncio.Queue()
        handle = await self.submit(request, on_event=events.put_nowait, on_permission=on_permission)
        try:
            while not isinstance(event := await events.get(), Ended):
                yield event
            # A task that failed raises here, so its `Ended` is not yielded.
            await handle.result()
            yield event
        finally:
            # Also reached when the reader leaves the loop early and the generator is closed.
            await handle.cancel_and_wait()

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        project: str | None = None,
        timeout: float | None = None,
        conversation: str | None = None,
        schema: Mapping[str, Any] | None = None,
        model: str | None = None,
        effort: str | None = None,
        permission_mode: str | None = None,
        env: Mapping[str, str] | None = None,
        isolation: str | None = None,
        attachments: Sequence[Attachment] = (),
        max_budget_usd: float | None = None,
        max_tokens: int | None = None,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
    ) -> TaskResult:
        request = TaskRequest(
            agent,
            task,
            project,
            timeout=timeout,
            conversation=conversation,
            schema=schema,
            model=model,
            effort=effort,
            permission_mode=permission_mode,
            env=env,
            isolation=isolation,
            attachments=tuple(attachments),
            max_budget_usd=max_budget_usd,
            max_tokens=max_tokens,
        )
        handle = await self.submit(request, on_event=on_event, on_permission=on_permission)
        return await handle.result_or_cancel()

    async def stream(
        self,
        agent: str,
        task: str,
        *,
        project: str | None = None,
        timeout: float | None = None,
        conversation: str | None = None,
        schema: Mapping[str, Any] | None = None,
        model: str | None = None,
        effort: str | None = None,
        permission_mode: str | None = None,
        env: Mapping[str, str] | None = None,
        isolation: str | None = None,
        attachments: Sequence[Attachment] = (),
        max_budget_usd: float | None = None,
        max_tokens: int | None = None,
        on_permission: OnPermission | None = None,
    ) -> AsyncGenerator[TaskEvent, None]:
        request = TaskRequest(
            agent,
            task,
            project,
            timeout=timeout,
            conversation=conversation,
            schema=schema,
            model=model,
            effort=effort,
            permission_mode=permission_mode,
            env=env,
            isolation=isolation,
            attachments=tuple(attachments),
            max_budget_usd=max_budget_usd,
            max_tokens=max_tokens,
        )
        # Closed here: a reader that leaves early closes only this generator.
        async with aclosing(self._stream(request, on_permission)) as events:
            async for event in events:
                yield event
