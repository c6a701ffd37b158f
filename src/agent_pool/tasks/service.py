"""`DurablePool`: a pool that keeps every task in a store, so that it outlives its caller."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Final, Self

from agent_pool.api import BatchItem, OnEvent, OnPermission, PoolAPI, RequestCalls
from agent_pool.errors import (
    ConfigError,
    PoolClosed,
    StoreFailed,
    TaskCancelled,
    TaskError,
    TaskNotEnded,
    TaskNotFound,
)
from agent_pool.events import BaseTaskEvent, Ended, Event, RateLimitsChanged, Snapshot, TaskEvent
from agent_pool.models import (
    AgentList,
    DayTotal,
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
from agent_pool.pool.batch import Batch, read_requests
from agent_pool.pool.event_bus import EventBus, call_listener
from agent_pool.pool.request_checks import check_request
from agent_pool.settings import Environment, Settings
from agent_pool.tasks.checks import check_filter, check_store_fields
from agent_pool.tasks.engine import (
    END_TIMEOUT,
    KEEPER_SECONDS,
    TaskEngine,
    pool_request,
    project_name,
)
from agent_pool.tasks.live import Follower, LiveTask
from agent_pool.tasks.store import Store

log = logging.getLogger("agent_pool")

PRUNE_SECONDS: Final = 60.0
"""The pause between two looks at the age and the size of the history."""
PRUNE_PAUSE: Final = 0.05
"""The pause between two removals, in which other writes come first."""
CHECK_SECONDS: Final = 0.1
"""For so long the agent of a request that was checked is not looked up again."""
MAX_CHECKED: Final = 1000


class DurablePool(RequestCalls):
    """A pool whose tasks are stored; see `TaskAPI` for every method.

    Args:
        pool: runs the tasks; this pool opens and closes it.
        store: keeps the tasks.
        settings: of the pool.
        environ: the variables that tasks have unless their `env` says otherwise. A task that is
            open when the store gets another owner keeps those that it had. None if every owner of
            the store has the same.
    """

    def __init__(
        self,
        pool: PoolAPI,
        store: Store,
        settings: Settings,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self._pool = pool
        self._store = store
        self._environ = None if environ is None else Environment(environ)
        self._bus = EventBus()
        self._engine = TaskEngine(pool, store, settings, self._bus)
        self._is_open = False
        self._is_closed = False
        self._unsubscribe: Callable[[], None] = lambda: None
        self._pruning: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._checked: dict[TaskRequest, float] = {}

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        if self._is_closed:
            raise PoolClosed("this pool was closed; make a new one")
        if self._is_open:
            return
        await self._store.open()
        try:
            if self._environ is not None:
                await self._store.take_environment(self._environ)
            await self._engine.load()
            await self._pool.open()
        except BaseException:
            await self._store.close()
            raise
        self._unsubscribe = self._pool.subscribe(self._on_pool_event)
        self._is_open = True
        self._pruning = asyncio.create_task(self._prune_forever(), name="agent-pool history")
        self._engine.start()

    async def close(self) -> None:
        # One end for all callers: a second call waits for the first one's.
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="agent-pool close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._is_closed = True
        if self._pruning is not None:
            self._pruning.cancel()
        self._engine.refuse_more()
        try:
            await self._pool.close()
        finally:
            self._unsubscribe()
            await self._engine.close()
            with suppress(StoreFailed):
                await self._store.forget_environment()
            await self._store.close()

    def kill(self) -> None:
        # First: what ends by it is interrupted, and has not failed by itself.
        self._engine.is_draining = self._engine.is_closing = True
        self._pool.kill()

    async def hand_over(self) -> None:
        """Let another pool own the store; this one finishes what runs, see `drain`.

        Queued tasks belong to the next owner, and new ones are refused with `PoolClosed`.

        Raises:
            StoreFailed: it could not be written; this pool is the owner still.
        """
        if self._pruning is not None:
            self._pruning.cancel()
        await self._engine.hand_over()

    async def drain(self) -> None:
        """Give no more tasks to the pool; return when those that run have ended.

        Unless the store was handed over, new tasks are still accepted, and stay in it.
        """
        await self._engine.drain()

    async def totals(self, wanted: TaskFilter) -> list[DayTotal]:
        """Return the sums of the ended tasks that a filter means, by day, project and agent.

        Raises:
            StoreFailed: the store cannot be read.
        """
        return await self._store.totals(wanted)

    def _check_open(self) -> None:
        if self._is_closed or not self._is_open:
            raise PoolClosed("the pool is not open; use `async with` or `open`")
        if self._engine.is_handed_over:
            raise PoolClosed("another pool owns the store of tasks now; ask that one")

    async def _prune_forever(self) -> None:
        while True:
            try:
                await self._prune()
            except StoreFailed as error:
                log.warning("the history of tasks was not pruned: %s", error)
            await asyncio.sleep(PRUNE_SECONDS)

    async def _prune(self) -> None:
        wanted = self.settings
        has_removed = False
        while await self._store.prune(wanted.history_age, wanted.history_size):
            has_removed = True
            await asyncio.sleep(PRUNE_PAUSE)
        while has_removed:
            has_removed = await self._store.vacuum() > 0
            await asyncio.sleep(PRUNE_PAUSE)

    # Tasks

    async def submit(
        self,
        request: TaskRequest,
        *,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
        task_id: str | None = None,
    ) -> DurableHandle:
        self._check_open()
        await self._check(request)
        check_store_fields(request, task_id)
        await self._refuse_orphan(request)
        if request.idempotency_key is None:
            live = await self._engine.accept(request, on_event, on_permission, task_id)
            return DurableHandle(self._engine, live)
        return await self._submit_once(
            request, request.idempotency_key, on_event, on_permission, task_id
        )

    async def _check(self, request: TaskRequest) -> None:
        """Check a request as the pool does.

        The pool looks up the agent's file each time, which takes half of a submission. Requests
        that differ only in their text share one look-up within `CHECK_SECONDS`; the pool checks
        each task again when it begins.
        """
        key = _check_key(request)
        now = time.monotonic()
        if key is not None and now - self._checked.get(key, 0.0) < CHECK_SECONDS:
            check_request(request)
            return
        await self._pool.check(pool_request(request))
        if key is not None:
            if len(self._checked) >= MAX_CHECKED:
                self._checked.clear()
            self._checked[key] = now

    async def _submit_once(
        self,
        request: TaskRequest,
        key: str,
        on_event: OnEvent | None,
        on_permission: OnPermission | None,
        task_id: str | None,
    ) -> DurableHandle:
        """Accept a task, or return the one that has its key already.

        Raises:
            ConfigError: the other one is of another agent or project, or another task.
        """
        if (live := self._engine.by_key(key)) is None:
            if (record := await self._store.load_key(key)) is not None:
                self._check_same(record.request, request)
                return self._ended_handle(record, on_event)
            # Looked up again: another caller can have come while the store was read.
            live = self._engine.by_key(key)
        if live is None:
            live = await self._engine.accept(request, on_event, on_permission, task_id)
            return DurableHandle(self._engine, live)
        self._check_same(live.request, request)
        if live.has_ended:
            return self._ended_handle(live.record(), on_event)
        live.listeners += [on_event] if on_event else []
        if live.accepted is not None:
            await asyncio.wait([live.accepted])
            if live.rejected is not None:
                raise live.rejected
        return DurableHandle(self._engine, live)

    def _check_same(self, first: TaskRequest, second: TaskRequest) -> None:
        # Two projects can have an agent of one name: the answer would be about the other's files.
        folders = [project_name(one.project, self.settings) for one in (first, second)]
        if (first.agent, first.task) != (second.agent, second.task) or folders[0] != folders[1]:
            raise ConfigError(
                f"idempotency_key: {second.idempotency_key!r} belongs to another task, of agent "
                f"{first.agent!r} in {folders[0]}; use a new key"
            )

    async def _refuse_orphan(self, request: TaskRequest) -> None:
        """Refuse a child of a task that was cancelled.

        Raises:
            TaskCancelled: its parent was.
        """
        if request.parent is None or self._engine.live(request.parent) is not None:
            return
        parent = self._engine.record(request.parent) or await self._store.load(request.parent)
        if parent is not None and parent.state == "cancelled":
            raise TaskCancelled(
                f"the task of agent {request.agent!r} was not accepted: its parent "
                f"{request.parent} was cancelled"
            )

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

        batch = Batch(items, run_one, on_end, self._meant_agent, self._skip)
        at_once = min(self.settings.max_workers, max(1, self.settings.max_waiting))
        return await batch.run(at_once=at_once, per_agent=self.settings.max_size)

    def _meant_agent(self, request: TaskRequest) -> object:
        with suppress(TypeError, ValueError):  # a wrong folder, which the task's check refuses
            return project_name(request.project, self.settings), str(request.agent)
        return str(request.agent)

    def _skip(self, request: TaskRequest) -> None:
        if request.conversation is not None and request.ends_conversation:
            self._engine.spawn(self._engine.end_conversation(request), "end of a conversation")

    async def cancel(self, task_id: str, *, error: TaskError | None = None) -> bool:
        if self._engine.cancel(task_id, error):
            return True
        stored = await self._store.load_stored(task_id)
        if stored is None or not self._is_kept(stored.record):
            return False
        await self._store.ask_cancel(stored.record.number)
        return True

    def _is_kept(self, record: TaskRecord) -> bool:
        """Return whether a former owner of the store still runs a task."""
        return not record.has_ended and self._engine.record(record.id) is None

    async def check(self, request: TaskRequest) -> None:
        await self._pool.check(pool_request(request))
        check_store_fields(request, None)

    async def end_conversation(
        self, agent: str, conversation: str, *, project: str | None = None
    ) -> bool:
        return await self._pool.end_conversation(agent, conversation, project=project)

    # Stored tasks

    async def task(self, task_id: str) -> TaskRecord:
        if (record := self._engine.record(task_id)) is not None:
            return record
        if (record := await self._store.load(task_id)) is not None:
            return record
        raise TaskNotFound(
            f"there is no task {task_id!r:.200}: no task had this id, or its record was removed "
            "(settings history_age and history_size)"
        )

    async def tasks(self, wanted: TaskFilter | None = None) -> list[TaskRecord]:
        wanted = wanted or TaskFilter()
        check_filter(wanted)
        await self._flush()
        found = await self._store.find(wanted)
        newest = [self._engine.record(one.id) or one for one in found]
        # A state can have changed since it was read.
        return [one for one in newest if not wanted.states or one.state in wanted.states]

    async def _flush(self) -> None:
        """Let the store have every change; if its disk is full, reads go on without the last."""
        with suppress(StoreFailed):
            await self._store.flush()

    async def attach(self, task_id: str) -> DurableHandle:
        if (live := self._engine.live(task_id)) is not None:
            return DurableHandle(self._engine, live)
        return self._ended_handle(await self.task(task_id), None)

    def _ended_handle(self, record: TaskRecord, on_event: OnEvent | None) -> DurableHandle:
        """Return the handle of a task that is not live; its listener gets the end."""
        if (live := self._engine.live(record.id)) is not None:
            live.listeners += [on_event] if on_event else []
            return DurableHandle(self._engine, live)
        if self._is_kept(record):
            return KeptHandle(self, record)
        if on_event is not None:
            call_listener(on_event, _closing_event(record, 0))
        return DurableHandle(self._engine, record)

    async def task_events(self, task_id: str, *, after: int = 0) -> AsyncGenerator[TaskEvent, None]:
        record = await self.task(task_id)
        live = self._engine.live(task_id)
        if live is not None:
            found = self._follow(live, after)
        elif self._is_kept(record):
            found = self._kept_tasks_events(task_id, after)
        else:
            found = self._ended_events(record, after)
        async with aclosing(found) as events:
            async for event in events:
                yield event

    async def _follow(self, live: LiveTask, after: int) -> AsyncGenerator[TaskEvent, None]:
        """Yield the kept events of a task that has not ended, then live ones until its end."""
        follower = Follower()
        # Before the store is read, so that no event is between the two.
        live.followers.append(follower)
        try:
            while True:
                async with aclosing(self._kept_events(live.number, after)) as kept:
                    async for event in kept:
                        after = event.number
                        yield event
                # Until the reader was so slow that it must read the store again.
                while (found := await follower.next()) is not None:
                    if found.number > after:
                        after = found.number
                        yield found
                    if isinstance(found, Ended):
                        return
        finally:
            live.followers.remove(follower)

    async def _ended_events(
        self, record: TaskRecord, after: int
    ) -> AsyncGenerator[TaskEvent, None]:
        """Yield the kept events of a task that has ended, and its end also if it was not kept."""
        has_end = False
        async with aclosing(self._kept_events(record.number, after)) as kept:
            async for event in kept:
                has_end = isinstance(event, Ended)
                after = event.number
                yield event
        last, is_end = await self._store.last_event(record.number)
        if not has_end and not (is_end and after >= last):
            yield _closing_event(record, max(last, after) + 1)

    async def _kept_tasks_events(self, task_id: str, after: int) -> AsyncGenerator[TaskEvent, None]:
        """Yield the events of a task that a former owner runs, as it writes them, to its end."""
        while self._is_kept(record := await self.task(task_id)):
            async with aclosing(self._kept_events(record.number, after)) as kept:
                async for event in kept:
                    after = event.number
                    yield event
            await asyncio.sleep(KEEPER_SECONDS)
        # It has ended, or it is this pool's by now.
        async with aclosing(self.task_events(task_id, after=after)) as rest:
            async for event in rest:
                yield event

    async def _kept_events(self, number: int, after: int) -> AsyncGenerator[TaskEvent, None]:
        await self._flush()
        while events := await self._store.events(number, after):
            for event in events:
                yield event
            after = events[-1].number

    async def retry(self, task_id: str, *, env: Mapping[str, str] | None = None) -> DurableHandle:
        self._check_open()
        await self._flush()
        stored = await self._store.load_stored(task_id)
        if stored is None:
            await self.task(task_id)  # raises
            raise StoreFailed(f"task {task_id} could not be written yet; try again later")
        record = self._engine.record(task_id) or stored.record
        if not record.has_ended:
            raise TaskNotEnded(f"task {task_id} has not ended: it is {record.state}")
        if record.state == "succeeded":
            raise ConfigError(f"task {task_id} has succeeded; submit a new one")
        if record.request.env and env is None:
            raise ConfigError(
                f"task {task_id} had variables of its own ({', '.join(record.request.env)}), whose "
                "values are removed when a task ends; submit it again with them"
            )
        request = replace(stored.request, env=dict(env) if env else None)
        return DurableHandle(
            self._engine, await self._engine.retry(replace(stored, request=request))
        )

    async def answer(self, task_id: str, key: str, answer: bool | Denied) -> bool:
        if self._engine.live(task_id) is None:
            await self.task(task_id)
        return self._engine.answer(task_id, key, answer)

    # Agents

    async def agents(self, *, project: str | None = None) -> AgentList:
        return await self._pool.agents(project=project)

    async def agents_version(self, *, project: str | None = None) -> str:
        return await self._pool.agents_version(project=project)

    async def launch_spec(self, agent: str, *, project: str | None = None) -> LaunchSpec:
        return await self._pool.launch_spec(agent, project=project)

    async def prompt_size(self, agent: str, *, project: str | None = None) -> PromptSize:
        return await self._pool.prompt_size(agent, project=project)

    async def reset_verdict(
        self, agent: str, *, project: str | None = None, refresh: bool = False
    ) -> ResetVerdict | None:
        return await self._pool.reset_verdict(agent, project=project, refresh=refresh)

    # Workers and figures

    async def warmup(self, agent: str, *, project: str | None = None) -> WorkerInfo:
        return await self._pool.warmup(agent, project=project)

    async def workers(self) -> list[WorkerInfo]:
        return await self._pool.workers()

    async def stats(self) -> PoolStats:
        return self._with_queue(await self._pool.stats())

    def _with_queue(self, stats: PoolStats) -> PoolStats:
        return replace(stats, waiting=stats.waiting + self._engine.queued)

    async def reset(self, agent: str, *, project: str | None = None) -> int:
        return await self._pool.reset(agent, project=project)

    def drain_node(self, node: str) -> bool:
        """Let a machine finish its tasks and get no more.

        Args:
            node: its name.

        Returns:
            Whether the pool has several machines, and one of this name that gets tasks.
        """
        drain: Callable[[str], bool] | None = getattr(self._pool, "drain_node", None)
        return drain is not None and drain(node)

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        first: list[Event] = []
        # The pool passes its figures before `subscribe` returns.
        self._pool.subscribe(first.append)()
        for event in first:
            if isinstance(event, Snapshot):
                call_listener(listener, replace(event, stats=self._with_queue(event.stats)))
        return self._bus.subscribe(listener)

    def _on_pool_event(self, event: Event) -> None:
        """Pass an event of the pool on; those of tasks come from the engine, with all tasks."""
        if isinstance(event, RateLimitsChanged):
            self._engine.note_subscription()
        if isinstance(event, Snapshot):
            if event.stats.rate_limits is not None:
                self._engine.note_subscription()
        elif not isinstance(event, BaseTaskEvent):
            self._bus.publish(event)


class DurableHandle:
    """A task of a `DurablePool`; see `TaskHandle`."""

    def __init__(self, engine: TaskEngine, task: LiveTask | TaskRecord) -> None:
        self._engine = engine
        self._task = task

    @property
    def id(self) -> str:
        return self._task.id

    @property
    def request(self) -> TaskRequest:
        return self._task.request

    async def result(self) -> TaskResult:
        if isinstance(self._task, LiveTask):
            await self._task.ended.wait()
        if self._task.error is not None:
            raise self._task.error
        assert self._task.result is not None, "a task ends with a result or an error"
        return self._task.result

    async def result_or_cancel(self) -> TaskResult:
        """Return the result as `result` does; cancel the task if this caller is cancelled."""
        try:
            return await self.result()
        except asyncio.CancelledError:
            await self.cancel_and_wait()
            raise

    def cancel(self) -> bool:
        return isinstance(self._task, LiveTask) and self._engine.cancel(self._task.id)

    async def cancel_and_wait(self) -> None:
        """Cancel the task unless it has ended, and wait for its end: some steps of the loop."""
        if self.cancel() and isinstance(self._task, LiveTask):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._task.ended.wait(), END_TIMEOUT)


class KeptHandle(DurableHandle):
    """A task that a former owner of the store still runs; see `TaskHandle`."""

    def __init__(self, pool: DurablePool, record: TaskRecord) -> None:
        super().__init__(pool._engine, record)
        self._pool = pool

    async def result(self) -> TaskResult:
        while self._pool._is_kept(await self._pool.task(self.id)):  # noqa: ASYNC110
            await asyncio.sleep(KEEPER_SECONDS)
        # It has ended, or it is this pool's by now.
        return await (await self._pool.attach(self.id)).result()

    def cancel(self) -> bool:
        self._engine.spawn(self._pool.cancel(self.id), f"cancel {self.id}")
        return True

    async def cancel_and_wait(self) -> None:
        await self._pool.cancel(self.id)


def _check_key(request: TaskRequest) -> TaskRequest | None:
    """Return what two requests have in common whose check differs only in their text."""
    if request.schema is not None or request.env is not None:
        return None  # a mapping is no key, and its check is more than a look-up
    key = replace(pool_request(request), task="")
    try:
        hash(key)
    except TypeError:  # a wrong field, which the check refuses
        return None
    return key


def _closing_event(record: TaskRecord, number: int) -> Ended:
    return Ended(
        result=record.result,
        error=None if record.result is not None else record.error,
        worker=record.worker,
        number=number,
        time=record.ended or 0.0,
        agent=record.agent,
        project=record.project,
        task_id=record.id,
    )
