"""The blocking face: the same pools for scripts and notebooks, without ``async``.

    from agent_pool.sync import AgentPool

    with AgentPool() as pool:
        result = pool.invoke("code-reviewer", "Review src/app.py")

A pool has an event loop in a thread of its own. `on_event`, `on_end` and the listener of
`subscribe` are called in that thread: they must not block, and must not call the pool.
`on_permission` is called in another thread, so it can ask a person. A pool can be used from several
threads, and where an event loop runs already, as in a notebook.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future, wait
from contextlib import ExitStack, aclosing, contextmanager, suppress
from functools import partial
from typing import Any, Final, Generic, Self, TypeVar

from anyio import to_thread
from anyio.from_thread import start_blocking_portal

from agent_pool.api import BatchItem, OnEvent, OnPermission, PoolAPI, TaskHandle
from agent_pool.client.connect import connect as connect_async
from agent_pool.client.remote_pool import RemotePool
from agent_pool.errors import PoolClosed, PoolError
from agent_pool.events import Event, TaskEvent
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
from agent_pool.pool.pool import AgentPool as AsyncAgentPool
from agent_pool.settings import Settings

CANCEL_SECONDS: Final = 10.0
"""How long an interrupted call waits until its task is cancelled."""

T = TypeVar("T")
P = TypeVar("P", bound=PoolAPI)

Decide = Callable[[PermissionRequest], bool | Denied]
"""Decides a permission request: True, False, or `Denied` with a reason that the agent reads."""


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        portal = self._stack.enter_context(start_blocking_portal(name="agent-pool"))
        self._loop: asyncio.AbstractEventLoop = portal.call(asyncio.get_running_loop)
        self._thread: int = portal.call(threading.get_ident)

    @property
    def is_here(self) -> bool:
        """Return whether the caller runs in this thread."""
        return threading.get_ident() == self._thread

    def stop(self) -> None:
        """End the loop and the thread."""
        self._stack.close()

    def call(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine, and return its result.

        A caller that is interrupted, by Ctrl-C for one, cancels it and waits for its end.

        Raises:
            TimeoutError: it took longer than `timeout` seconds, and was cancelled.
        """
        if self.is_here:
            work.close()
            raise PoolError(
                "a callback has called its own pool, which would wait for ever; call it from "
                "another thread"
            )
        future: Future[T] = Future()
        tasks: list[asyncio.Task[None]] = []
        self._loop.call_soon_threadsafe(
            lambda: tasks.append(self._loop.create_task(_finish(work, future)))
        )
        try:
            return future.result(timeout)
        except BaseException:
            if not future.done():
                # Not the future of anyio's portal: its cancellation strikes again at each await,
                # also those by which a pool cleans up.
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
                wait([future], timeout=CANCEL_SECONDS)
            raise

    def soon(self, function: Callable[[], object]) -> None:
        """Call a function in the loop's thread, and do not wait for it."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function)


async def _finish(work: Coroutine[Any, Any, T], future: Future[T]) -> None:
    try:
        result = await work
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


class BlockingHandle:
    """A task that was submitted."""

    def __init__(self, loop: _LoopThread, handle: TaskHandle) -> None:
        self._loop = loop
        self._handle = handle

    @property
    def id(self) -> str:
        """Return the pool's id of the task."""
        return self._handle.id

    @property
    def request(self) -> TaskRequest:
        """Return what was submitted."""
        return self._handle.request

    def result(self, timeout: float | None = None) -> TaskResult:
        """Wait for the result; a caller that is interrupted here leaves the task running.

        Raises:
            TimeoutError: there is none after `timeout` seconds; the task goes on.
            AgentPoolError: as `PoolAPI.invoke`.
        """
        return self._loop.call(self._handle.result(), timeout)

    def cancel(self) -> bool:
        """Cancel the task; return False if it had ended."""

        async def cancel() -> bool:
            return self._handle.cancel()

        return self._loop.call(cancel())


class BlockingPool(Generic[P]):
    """A pool whose methods block; see `PoolAPI` for each of them.

    Args:
        pool: the pool that does the work; it is not open yet.
    """

    def __init__(self, pool: P) -> None:
        self._pool = pool
        self._thread: _LoopThread | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    # Life

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Accept tasks; see `PoolAPI.open`."""
        self._call(self._pool.open)

    def close(self) -> None:
        """Close the pool, and end its thread. Later calls raise `PoolClosed`."""
        with self._lock:
            thread, self._thread, self._is_closed = self._thread, None, True
        if thread is not None:
            try:
                thread.call(self._pool.close())
            finally:
                thread.stop()

    def kill(self) -> None:
        """Kill every process that the pool started, at once; see `PoolAPI.kill`."""
        self._pool.kill()

    @property
    def _loop(self) -> _LoopThread:
        with self._lock:
            if self._is_closed:
                raise PoolClosed("this pool was closed; make a new one")
            if self._thread is None:
                self._thread = _LoopThread()
            return self._thread

    def _call(self, method: Callable[..., Coroutine[Any, Any, T]], *args: Any, **named: Any) -> T:
        loop = self._loop
        return loop.call(method(*args, **named))

    # Tasks

    def submit(
        self,
        request: TaskRequest,
        *,
        on_event: OnEvent | None = None,
        on_permission: Decide | None = None,
        task_id: str | None = None,
    ) -> BlockingHandle:
        """Start a task and return at once; see `PoolAPI.submit`."""
        handle: TaskHandle = self._call(
            self._pool.submit,
            request,
            on_event=on_event,
            on_permission=_in_thread(on_permission),
            task_id=task_id,
        )
        return BlockingHandle(self._loop, handle)

    def invoke(
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
        on_permission: Decide | None = None,
    ) -> TaskResult:
        """Give an agent a task and wait for its answer; see `PoolAPI.invoke`.

        An interrupted call (Ctrl-C) cancels its task.
        """
        return self._call(
            self._pool.invoke,
            agent,
            task,
            project=project,
            timeout=timeout,
            conversation=conversation,
            schema=schema,
            model=model,
            effort=effort,
            permission_mode=permission_mode,
            env=env,
            isolation=isolation,
            attachments=attachments,
            max_budget_usd=max_budget_usd,
            max_tokens=max_tokens,
            on_event=on_event,
            on_permission=_in_thread(on_permission),
        )

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
        on_permission: Decide | None = None,
    ) -> Generator[TaskEvent, None, None]:
        """Yield the events of a task as they come; see `PoolAPI.stream`.

        Leaving the loop early cancels the task.
        """
        events = self._pool.stream(
            agent,
            task,
            project=project,
            timeout=timeout,
            conversation=conversation,
            schema=schema,
            model=model,
            effort=effort,
            permission_mode=permission_mode,
            env=env,
            isolation=isolation,
            attachments=attachments,
            max_budget_usd=max_budget_usd,
            max_tokens=max_tokens,
            on_permission=_in_thread(on_permission),
        )
        return _iterate(self._loop, events)

    def map(
        self,
        requests: Iterable[BatchItem],
        *,
        timeout: float | None = None,
        on_event: Callable[[int, TaskEvent], None] | None = None,
        on_permission: Callable[[int, PermissionRequest], bool | Denied] | None = None,
        on_end: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """Run many tasks side by side; see `PoolAPI.map`."""

        async def decide(index: int, request: PermissionRequest) -> bool | Denied:
            assert on_permission is not None
            return await _run_in_thread(partial(on_permission, index), request)

        return self._call(
            self._pool.map,
            requests,
            timeout=timeout,
            on_event=on_event,
            on_permission=decide if on_permission is not None else None,
            on_end=on_end,
        )

    def cancel(self, task_id: str) -> bool:
        """Cancel a task; return False if there is no such task or it has ended."""
        return self._call(self._pool.cancel, task_id)

    def check(self, request: TaskRequest) -> None:
        """Check a request without running it; see `PoolAPI.check`."""
        self._call(self._pool.check, request)

    def end_conversation(
        self, agent: str, conversation: str, *, project: str | None = None
    ) -> bool:
        """Forget a conversation; return whether there was one."""
        return self._call(self._pool.end_conversation, agent, conversation, project=project)

    # Agents

    def agents(self, *, project: str | None = None) -> AgentList:
        """Return the agents that are defined, and the definitions that cannot be used."""
        return self._call(self._pool.agents, project=project)

    def agents_version(self, *, project: str | None = None) -> str:
        """Return a text that changes when the agents change."""
        return self._call(self._pool.agents_version, project=project)

    def launch_spec(self, agent: str, *, project: str | None = None) -> LaunchSpec:
        """Return how the workers of an agent are started."""
        return self._call(self._pool.launch_spec, agent, project=project)

    def prompt_size(self, agent: str, *, project: str | None = None) -> PromptSize:
        """Measure the prompt that every task of an agent sends."""
        return self._call(self._pool.prompt_size, agent, project=project)

    def reset_verdict(
        self, agent: str, *, project: str | None = None, refresh: bool = False
    ) -> ResetVerdict | None:
        """Return whether the CLI is known to forget between tasks; see `PoolAPI`."""
        return self._call(self._pool.reset_verdict, agent, project=project, refresh=refresh)

    # Workers and figures

    def warmup(self, agent: str, *, project: str | None = None) -> WorkerInfo:
        """Make sure that a worker of the agent is started, and wait until it is ready."""
        return self._call(self._pool.warmup, agent, project=project)

    def workers(self) -> list[WorkerInfo]:
        """Return the workers as they are now."""
        return self._call(self._pool.workers)

    def stats(self) -> PoolStats:
        """Return the figures since the pool was opened."""
        return self._call(self._pool.stats)

    def reset(self, agent: str, *, project: str | None = None) -> int:
        """Stop an agent's workers, and return how many it were."""
        return self._call(self._pool.reset, agent, project=project)

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Pass every event of the pool to `listener`, in the pool's thread.

        Returns:
            A function that ends the subscription.
        """
        loop = self._loop

        async def subscribe() -> Callable[[], None]:
            return self._pool.subscribe(listener)

        unsubscribe = loop.call(subscribe())
        return lambda: loop.soon(unsubscribe)


class AgentPool(BlockingPool[AsyncAgentPool]):
    """Warm Claude Code agents in processes of this program.

    The arguments are those of `agent_pool.AgentPool`.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__(AsyncAgentPool(settings, environ=environ, **overrides))

    @property
    def settings(self) -> Settings:
        """Return the settings in force."""
        return self._pool.settings


class BlockingRemotePool(BlockingPool[RemotePool]):
    """The pool of the daemon; made by `connect`. See `TaskAPI` for each method."""

    @property
    def settings(self) -> Settings:
        """Return the settings in force."""
        return self._pool.settings

    def task(self, task_id: str) -> TaskRecord:
        """Return a task as it is now."""
        return self._call(self._pool.task, task_id)

    def tasks(self, wanted: TaskFilter | None = None) -> list[TaskRecord]:
        """Return tasks, the newest first; without a filter the newest 50."""
        return self._call(self._pool.tasks, wanted)

    def attach(self, task_id: str) -> BlockingHandle:
        """Return the handle of a task that was submitted before."""
        handle: TaskHandle = self._call(self._pool.attach, task_id)
        return BlockingHandle(self._loop, handle)

    def task_events(self, task_id: str, *, after: int = 0) -> Generator[TaskEvent, None, None]:
        """Yield the events of a task until it ends; see `TaskAPI.task_events`."""
        return _iterate(self._loop, self._pool.task_events(task_id, after=after))

    def retry(self, task_id: str) -> BlockingHandle:
        """Queue a task again that failed, was cancelled or was interrupted."""
        handle: TaskHandle = self._call(self._pool.retry, task_id)
        return BlockingHandle(self._loop, handle)

    def answer(self, task_id: str, key: str, answer: bool | Denied) -> bool:
        """Answer a request for permission; return False if it does not wait any more."""
        return self._call(self._pool.answer, task_id, key, answer)


def connect(
    project: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    url: str | None = None,
    token: str | None = None,
    start: bool = True,
) -> BlockingRemotePool:
    """Return the pool of this user's daemon: ``with connect() as pool``.

    The arguments and the errors are those of `agent_pool.connect`.
    """
    pool = connect_async(project, environ=environ, url=url, token=token, start=start)
    return BlockingRemotePool(pool)


# Callbacks and events


def _in_thread(decide: Decide | None) -> OnPermission | None:
    """Return a decider for the event loop that asks a blocking one in a thread."""
    return None if decide is None else partial(_run_in_thread, decide)


async def _run_in_thread(decide: Decide, request: PermissionRequest) -> bool | Denied:
    # Abandoned: a person who has not answered yet must not hold up the end of the task.
    return await to_thread.run_sync(decide, request, abandon_on_cancel=True)


@contextmanager
def _pumped(
    loop: _LoopThread, events: AsyncGenerator[TaskEvent, None]
) -> Iterator[Callable[[], Awaitable[TaskEvent | None]]]:
    """Read a stream of events in a task of its own, which ends with the block."""
    queue: asyncio.Queue[TaskEvent | None] = asyncio.Queue()

    async def pump() -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    queue.put_nowait(event)
        finally:
            queue.put_nowait(None)

    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(pump(), name="agent-pool stream")

    task = loop.call(begin())

    async def read() -> TaskEvent | None:
        if (event := await queue.get()) is None:
            await task  # raises its error
        return event

    async def end() -> None:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # read, or asyncio logs it as unseen

    try:
        yield read
    finally:
        if loop.is_here:  # the garbage collector closes a forgotten stream in any thread
            task.cancel()
        else:
            loop.call(end())


def _iterate(
    loop: _LoopThread, events: AsyncGenerator[TaskEvent, None]
) -> Generator[TaskEvent, None, None]:
    with _pumped(loop, events) as read:
        while (event := loop.call(_await(read()))) is not None:
            yield event


async def _await(value: Awaitable[T]) -> T:
    return await value
