"""A pool without processes and files, and values like those that a real pool returns."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Self

from agent_pool import (
    AgentInfo,
    AgentList,
    AgentPoolError,
    Denied,
    Ended,
    Event,
    InternalError,
    LaunchSpec,
    Outcome,
    PermissionRequest,
    PoolStats,
    PromptSize,
    ResetVerdict,
    Snapshot,
    Submitted,
    TaskCancelled,
    TaskError,
    TaskEvent,
    TaskRequest,
    TaskResult,
    Usage,
    WorkerInfo,
    WorkerRetired,
)
from agent_pool.api import BatchItem, OnEvent, OnPermission, RequestCalls
from agent_pool.pool.batch import Batch, read_requests

RunTask = Callable[[str, str, OnEvent], Awaitable[TaskResult]]
"""Runs a task instead of an agent: gets the agent, the task, and where its events go."""


def make_agent(name: str = "reviewer", description: str = "Reviews code.") -> AgentInfo:
    """Build an agent."""
    return AgentInfo(name, f"/x/{name}.md", description)


def make_broken(name: str) -> AgentInfo:
    """Build an agent whose definition has an error."""
    return AgentInfo(name, f"/x/{name}.md", error="bad YAML")


def make_agent_list(*agents: AgentInfo) -> AgentList:
    """Build the list of a project's agents."""
    return AgentList("/x", ("/x",), (), (), agents)


def make_result(text: str = "done", **fields: Any) -> TaskResult:
    """Build a result; `fields` replace its fields."""
    values: dict[str, Any] = {
        "text": text,
        "is_error": False,
        "subtype": "success",
        "agent": "reviewer",
        "duration": 1.5,
        "waited": 0.25,
        "turns": 2,
        "usage": Usage(1, 2, 3, 4),
        "cost_usd": 0.01,
        "session_id": "s-1",
        "worker": "reviewer-1",
        "pid": 4711,
    }
    return TaskResult(**values | fields)


def make_worker(**fields: Any) -> WorkerInfo:
    """Build the description of a worker; `fields` replace its fields."""
    values: dict[str, Any] = {
        "worker": "reviewer-1",
        "agent": "reviewer",
        "description": "Reviews code.",
        "state": "idle",
        "pid": 4711,
        "tasks": 3,
        "rss": 190_000_000,
        "uptime": 12.34,
        "usage": Usage(1, 2, 3, 4),
        "cost_usd": 0.5,
        "memory": "lean",
    }
    return WorkerInfo(**values | fields)


def make_stats(**fields: Any) -> PoolStats:
    """Build the figures of a pool; `fields` replace its fields."""
    values: dict[str, Any] = {
        "uptime": 60.0,
        "waiting": 0,
        "paused": 0.0,
        "workers": {"idle": 1},
        "spawned": 1,
        "resets": 2,
        "strays": 0,
        "retired": {},
        "agents": (),
    }
    return PoolStats(**values | fields)


class FakeDefinitions:
    """The agents of a `FakePool`.

    Attributes:
        found: the agents.
        error: raised instead of returning them, if it is set.
    """

    def __init__(self) -> None:
        self.found: list[AgentInfo] = [make_agent()]
        self.error: Exception | None = None
        self._version = 1
        self._checks = 0

    def read(self) -> AgentList:
        """Return the agents."""
        if self.error is not None:
            raise self.error
        return make_agent_list(*self.found)

    def check_version(self) -> str:
        """Return the version, and count the check."""
        self._checks += 1
        return str(self._version)

    async def wait_for_checks(self, times: int) -> None:
        """Wait until the version was checked `times` times more."""
        enough = self._checks + times
        while self._checks < enough:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)

    def change(self, *found: AgentInfo) -> None:
        """Replace the agents, and with them the version."""
        self.found = list(found)
        self._version += 1


class FakeHandle:
    """A task that was submitted to a `FakePool`."""

    def __init__(self, task_id: str, request: TaskRequest, running: asyncio.Task[TaskResult]):
        self.id = task_id
        self.request = request
        self._running = running

    async def result(self) -> TaskResult:
        await asyncio.wait([self._running])
        if self._running.cancelled():
            raise TaskCancelled(f"the task of agent {self.request.agent!r} was cancelled")
        return self._running.result()

    def cancel(self) -> bool:
        return self._running.cancel()

    async def result_or_cancel(self) -> TaskResult:
        try:
            return await self.result()
        except asyncio.CancelledError:
            await self.cancel_and_wait()
            raise

    async def cancel_and_wait(self) -> None:
        self.cancel()
        await asyncio.wait([self._running])


class FakePool(RequestCalls):
    """A `PoolAPI` that answers with the given agent and task.

    Args:
        run_task: runs every task instead. As in a real pool, the caller gets an `InternalError`
            for an exception that is not an `AgentPoolError`.

    Attributes:
        asks: the tools for which each task asks permission; the answer names the permitted ones.
        definitions: the agents.
        worker_infos: the workers.
        calls: the name and the arguments of each call; a task of `map` or `submit` is an `invoke`.
        requests: the tasks.
        error: raised by every call that reaches the pool, if it is set.
    """

    asks: tuple[str, ...] = ()

    def __init__(self, run_task: RunTask | None = None) -> None:
        self.definitions = FakeDefinitions()
        self.worker_infos: list[WorkerInfo] = []
        self.calls: list[tuple[str, ...]] = []
        self.requests: list[TaskRequest] = []
        self.error: Exception | None = None
        self._run_task = run_task
        self._task_numbers = itertools.count(1)
        self._handles: dict[str, FakeHandle] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._retired: Counter[str] = Counter()

    def emit(self, event: Event) -> None:
        """Pass an event of the pool to everyone who subscribed."""
        if isinstance(event, WorkerRetired):
            self._retired[event.reason] += 1
        for listener in self._listeners:
            listener(event)

    def _called(self, *call: str) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def kill(self) -> None:
        self.calls.append(("kill",))

    # Tasks

    async def submit(
        self,
        request: TaskRequest,
        *,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
        task_id: str | None = None,
    ) -> FakeHandle:
        task_id = task_id or f"task-{next(self._task_numbers)}"
        running = asyncio.create_task(self._run(request, on_event, on_permission))
        handle = self._handles[task_id] = FakeHandle(task_id, request, running)
        return handle

    async def map(
        self,
        requests: Iterable[BatchItem],
        *,
        timeout: float | None = None,
        on_event: Callable[[int, TaskEvent], None] | None = None,
        on_permission: Callable[[int, PermissionRequest], Awaitable[bool | Denied]] | None = None,
        on_end: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        items = read_requests(requests, timeout)

        def run_one(index: int) -> Awaitable[TaskResult]:
            listener = partial(on_event, index) if on_event else None
            decider = partial(on_permission, index) if on_permission else None
            return self._run(items[index], listener, decider)

        batch = Batch(items, run_one, on_end, lambda request: request.agent)
        return await batch.run(at_once=len(items), per_agent=len(items))

    async def cancel(self, task_id: str, *, error: TaskError | None = None) -> bool:
        return task_id in self._handles and self._handles[task_id].cancel()

    async def check(self, request: TaskRequest) -> None:
        self._called("check", request.agent, request.task)

    async def end_conversation(
        self, agent: str, conversation: str, *, project: str | None = None
    ) -> bool:
        self._called("end_conversation", agent, conversation)
        return conversation == "open"

    async def _run(
        self, request: TaskRequest, on_event: OnEvent | None, on_permission: OnPermission | None
    ) -> TaskResult:
        """Run one task; the first event is `Submitted`, the last one `Ended`."""
        self.requests.append(request)
        words = (request.agent, request.task, request.conversation)
        self._called("invoke", *(word for word in words if word is not None))
        emit: OnEvent = on_event or (lambda _: None)
        emit(Submitted(request, agent=request.agent))
        try:
            result = await self._result(request, emit, on_permission)
        except AgentPoolError as error:
            emit(Ended(error=error, agent=request.agent))
            raise
        emit(Ended(result=result, agent=request.agent))
        return result

    async def _result(
        self, request: TaskRequest, emit: OnEvent, on_permission: OnPermission | None
    ) -> TaskResult:
        if self._run_task is None:
            return await self._answer(request, on_permission)
        try:
            return await self._run_task(request.agent, request.task, emit)
        except AgentPoolError:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            raise InternalError(f"a bug in agent-pool stopped the task: {cause}") from error

    async def _answer(self, request: TaskRequest, on_permission: OnPermission | None) -> TaskResult:
        wanted = [
            PermissionRequest(request.agent, tool, {"for": request.task}) for tool in self.asks
        ]
        allowed = [one.tool for one in wanted if on_permission and await on_permission(one)]
        text = f"{request.agent} did {request.task}" + (f", permitted {allowed}" if wanted else "")
        return make_result(
            text,
            agent=request.agent,
            conversation=request.conversation,
            place=self.calls.count(self.calls[-1]),
        )

    # Agents

    async def agents(self, *, project: str | None = None) -> AgentList:
        return self.definitions.read()

    async def agents_version(self, *, project: str | None = None) -> str:
        return self.definitions.check_version()

    async def launch_spec(self, agent: str, *, project: str | None = None) -> LaunchSpec:
        self._called("launch_spec", agent)
        return LaunchSpec(("claude",), {}, "/x", "", "2.1.330")

    async def prompt_size(self, agent: str, *, project: str | None = None) -> PromptSize:
        self._called("prompt_size", agent)
        return PromptSize({}, 0, 0)

    async def reset_verdict(
        self, agent: str, *, project: str | None = None, refresh: bool = False
    ) -> ResetVerdict | None:
        self._called("reset_verdict", agent)
        return None

    # Workers and figures

    async def warmup(self, agent: str, *, project: str | None = None) -> WorkerInfo:
        self._called("warmup", agent)
        return make_worker(agent=agent, worker=f"{agent}-1")

    async def workers(self) -> list[WorkerInfo]:
        self._called("workers")
        return self.worker_infos

    async def stats(self) -> PoolStats:
        self._called("stats")
        return make_stats(retired=dict(self._retired))

    async def reset(self, agent: str, *, project: str | None = None) -> int:
        self._called("reset", agent)
        return len(self.worker_infos)

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        listener(Snapshot(stats=make_stats()))
        return lambda: self._listeners.remove(listener)
