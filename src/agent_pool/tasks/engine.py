"""The open tasks of a store: accepted, queued, given to the pool, ended, and written."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from agent_pool.api import OnEvent, OnPermission, PoolAPI
from agent_pool.errors import (
    AgentPoolError,
    BudgetReached,
    ConfigError,
    ContextLost,
    DeadlinePassed,
    InternalError,
    PoolClosed,
    StoreFailed,
    TaskCancelled,
    TaskError,
    TaskInterrupted,
    TooManyRequests,
    WorkerDied,
)
from agent_pool.events import (
    Ended,
    PermissionAnswered,
    PermissionAsked,
    Queued,
    Spent,
    Started,
    Submitted,
    TaskEvent,
)
from agent_pool.models import (
    Denied,
    PermissionRequest,
    TaskRecord,
    TaskRequest,
    TaskResult,
    TaskState,
    Usage,
)
from agent_pool.pool.event_bus import EventBus, call_listener
from agent_pool.settings import Settings
from agent_pool.tasks.budgets import DayBudgets, day_of
from agent_pool.tasks.dispatch import Dispatcher, QueuedTask
from agent_pool.tasks.live import LiveTask, WaitingQuestion
from agent_pool.tasks.rows import to_json
from agent_pool.tasks.store import Store, StoredTask, TaskEnd, event_text
from agent_pool.tasks.transcript import shorten_texts

log = logging.getLogger("agent_pool")

RESTART_GAP: Final = 1000
"""Numbers that are left free after a restart: events that were not written yet had some of them."""
STORE_TIMEOUT: Final = 60.0
"""A task that is not on the disk after these seconds is not accepted."""
STORE_PAUSE: Final = 1.0
"""Seconds until a task is tried again whose beginning could not be written."""
ANNOUNCE_SECONDS: Final = 2.0
"""The pause between two looks at the queue for tasks that somebody follows."""
REPEAT_SECONDS: Final = 10.0
"""A task that keeps its place in the queue says so again after this time."""
MAX_ATTEMPTS: Final = 5
"""A task that ran when the daemon ended is not queued again by itself after so many attempts: it
can be the cause."""
LONGEST_SLEEP: Final = 3600.0
"""Timers are set anew after this time: the clock can be changed."""
KEEPER_SECONDS: Final = 0.5
"""Seconds between two looks at what a former owner of the store does, or is asked to do."""
END_TIMEOUT: Final = 5.0
"""Seconds in which a cancelled task has its end; it takes some steps of the event loop."""


class TaskEngine:
    """Owns the open tasks; every change of them is one synchronous call.

    Args:
        pool: runs the tasks.
        store: keeps them; it must be open before `start`.
        settings: limits and budgets.
        bus: gets the events of all tasks.

    Attributes:
        is_draining: no task is given to the pool any more.
        is_handed_over: another pool owns the store; this one only finishes what runs.
    """

    def __init__(self, pool: PoolAPI, store: Store, settings: Settings, bus: EventBus) -> None:
        self.is_draining = True  # until `start`
        self.is_closing = False
        self._pool = pool
        self._store = store
        self._settings = settings
        self._bus = bus
        self._dispatcher = Dispatcher(settings.max_workers, settings.max_size)
        self._budgets = DayBudgets(settings)
        self._live: dict[str, LiveTask] = {}
        self._ending: dict[str, TaskRecord] = {}
        self._keys: dict[str, LiveTask] = {}
        self._children: dict[str, set[str]] = {}
        self._kept: dict[str, list[int]] = {}
        self.is_handed_over = False
        self._background: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._announcer: asyncio.TimerHandle | None = None

    # Life

    async def load(self) -> None:
        """Take over the open tasks of the store, and what was used today; run nothing yet.

        What ran when the last owner ended is interrupted, or queued again if it is idempotent.

        Raises:
            StoreFailed: the store cannot be read.
        """
        today = day_of(datetime.now())
        self._budgets.begin_day(today, await self._store.day_sums(today))
        stored = await self._store.open_tasks()
        kept = [one for one in stored if one.keeper and self._store.is_kept(one.keeper)]
        for one in kept:
            self._kept.setdefault(one.keeper, []).append(one.record.number)
        free = [one for one in stored if one not in kept]
        # The context of a conversation is in a worker of the owner that runs its task.
        broken = [*kept, *(one for one in free if _is_broken(one))]
        lost = {_conversation(one) for one in broken if one.request.conversation}
        for one in free:
            self._take_over(one, lost)

    def _take_over(self, stored: StoredTask, lost: set[object]) -> None:
        record = stored.record
        live = self._make(
            record.id,
            record.number,
            _in_its_project(stored),
            created=record.created,
            attempts=record.attempts,
            # Numbers of events that were sent but not written must not be used again.
            last_event=stored.last_event + RESTART_GAP if record.attempts else stored.last_event,
        )
        if _is_broken(stored):
            live.started, live.node = record.started, record.node
            live.worker, live.pid = record.worker, record.pid
            live.usage, live.cost_usd, live.line = record.usage, record.cost_usd, record.line
            self._finish(live, error=_interrupted(live.request))
        elif live.request.conversation and _conversation(stored) in lost:
            self._finish(live, error=_context_lost(live.request))
        else:
            if record.state != "queued":
                self._store.post_requeue(live.record(), self._transcript_limit)
            self._dispatcher.add(live.ticket(), time.time())

    def start(self) -> None:
        """Give tasks to the pool, which is open now."""
        self.is_draining = False
        if self._kept:
            self.spawn(self._watch_keepers(), "watch of former owners")
        self._pump()

    async def _watch_keepers(self) -> None:
        """Take over what a former owner has not ended when it ends itself."""
        while self._kept and not self.is_closing:
            await asyncio.sleep(KEEPER_SECONDS)
            for keeper in [one for one in self._kept if not self._store.is_kept(one)]:
                # Forgotten only when they are read: otherwise these tasks would run for ever.
                with suppress(StoreFailed):
                    self._take_over_all(keeper, await self._store.open_among(self._kept[keeper]))

    def _take_over_all(self, keeper: str, found: list[StoredTask]) -> None:
        del self._kept[keeper]
        for stored in found:
            self._take_over(stored, set())
        self._pump()

    async def hand_over(self) -> None:
        """Let another pool own the store; finish what runs, and leave what is queued to the other.

        Raises:
            StoreFailed: it could not be written; this pool goes on to own the store.
        """
        # First: a task that is stored after the other pool has read the store would be lost to it.
        self.is_draining = self.is_handed_over = True
        numbers = [live.number for live in self._live.values() if live.state != "queued"]
        try:
            await self._store.hand_over(numbers)
        except BaseException:
            self.is_handed_over = False
            raise
        for live in [one for one in self._live.values() if one.state == "queued"]:
            if self._dispatcher.remove(live.id, time.time()):
                self._leave_queued(live)
        self.spawn(self._obey_cancels(), "cancels for a former owner")

    async def _obey_cancels(self) -> None:
        """Cancel what clients of the new owner ask to cancel."""
        while self._live and not self.is_closing:
            await asyncio.sleep(KEEPER_SECONDS)
            with suppress(StoreFailed):
                for task_id in await self._store.cancels_asked():
                    self.cancel(task_id)

    async def drain(self) -> None:
        """Give no more tasks to the pool, and wait until those that it has have ended."""
        self.is_draining = True
        for live in [one for one in self._live.values() if one.state != "queued"]:
            await live.ended.wait()

    def refuse_more(self) -> None:
        """Give no more tasks to the pool, and end the wait of callers whose task is queued.

        These tasks stay in the store.
        """
        self.is_draining = self.is_closing = True
        for timer in (self._timer, self._announcer):
            if timer is not None:
                timer.cancel()
        for live in [one for one in self._live.values() if one.state == "queued"]:
            if self._dispatcher.remove(live.id, time.time()):
                self._leave_queued(live)

    async def close(self) -> None:
        """Wait for the ends of the tasks that the closed pool had, at most some seconds."""
        if self._background:
            await asyncio.wait(set(self._background), timeout=END_TIMEOUT)
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(set(self._background), timeout=END_TIMEOUT)
        for live in list(self._live.values()):
            if live.state == "queued":
                self._leave_queued(live)
            else:  # the pool did not end it, so nobody knows how far it was
                live.has_begun = True
                self._end_with_pool(live)

    # Look-ups

    @property
    def queued(self) -> int:
        """Return how many tasks wait in the store."""
        return self._dispatcher.queued

    def live(self, task_id: str) -> LiveTask | None:
        """Return a task that has not ended; None if it has, or is unknown."""
        return self._live.get(task_id)

    def record(self, task_id: str) -> TaskRecord | None:
        """Return a task whose newest state can be missing in the store; None for any other."""
        live = self._live.get(task_id)
        return live.record() if live is not None else self._ending.get(task_id)

    def by_key(self, key: str) -> LiveTask | None:
        """Return the task with an idempotency key that is open, or whose end is not written."""
        return self._keys.get(key)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a coroutine that the engine owns and waits for when it is closed."""
        task = asyncio.get_running_loop().create_task(work, name=f"agent-pool {name}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # New tasks

    async def accept(
        self,
        request: TaskRequest,
        on_event: OnEvent | None,
        on_permission: OnPermission | None,
        task_id: str | None,
    ) -> LiveTask:
        """Store a task; return when it is stored. If there is room, the pool gets it then.

        Raises:
            TooManyRequests: `max_queued` tasks wait.
            StoreFailed: it could not be written, so it is not accepted.
            ConfigError: the id is used.
        """
        live = self._enter(request, on_event, on_permission, task_id)
        assert live.accepted is not None
        try:
            # `wait` does not cancel the write, which others can wait for too.
            await asyncio.wait([live.accepted], timeout=STORE_TIMEOUT)
        except asyncio.CancelledError:
            self.cancel(live.id)
            raise
        if not live.accepted.done():
            self._store.post_remove(live.number)
            raise self._reject(live, _store_too_slow(self._store.path))
        if (error := live.accepted.exception()) is not None:
            raise self._reject(live, error)
        return live

    def _enter(
        self,
        request: TaskRequest,
        on_event: OnEvent | None,
        on_permission: OnPermission | None,
        task_id: str | None,
    ) -> LiveTask:
        task_id = task_id or new_id(request.agent)
        if task_id in self._live or task_id in self._ending:
            raise ConfigError(f"task_id: there is a task with the id {task_id!r} already")
        now = time.time()
        live = self._make(task_id, self._store.last_number + 1, request, created=now)
        begun = self._place(live, now)
        self._store.last_number += 1
        live.listeners += [on_event] if on_event else []
        live.on_permission = on_permission
        if live.id in {ticket.id for ticket in begun} and not self._used_up(live):
            # Stored as running from the beginning: if this program is killed now, the task is
            # either not accepted or known to have begun.
            live.begin()
        live.accepted = self._store.begin_add(live.record(), request)
        self.emit(live, Submitted(live.shown))
        self._start_all(begun)
        if live.state == "queued":
            self.emit(live, Queued(self._dispatcher.lane_length(live.lane) or 1))
            self._schedule()
        return live

    def _place(self, live: LiveTask, now: float) -> list[QueuedTask]:
        """Queue a new task; return the tasks that begin now, which can have it among them."""
        self._dispatcher.add(live.ticket(), now)
        begun = [] if self.is_draining else self._dispatcher.take(now)
        waits = live.id not in {ticket.id for ticket in begun}
        if waits and self._dispatcher.queued > self._settings.max_queued:
            self._dispatcher.remove(live.id, now)
            self._forget(live)
            self._forget_key(live)
            self._start_all(begun)
            raise TooManyRequests(
                f"agent {live.request.agent!r}: {self._dispatcher.queued:,} tasks wait already, "
                "and more are refused (setting max_queued); try again later, or cancel some"
            )
        return begun

    def _make(
        self,
        task_id: str,
        number: int,
        request: TaskRequest,
        *,
        created: float,
        attempts: int = 0,
        last_event: int = 0,
    ) -> LiveTask:
        live = LiveTask(
            task_id,
            number,
            request,
            project_name(request.project, self._settings),
            created=created,
            attempts=attempts,
            last_event=last_event,
            transcript_size=self._settings.transcript_size,
        )
        self._live[task_id] = live
        if request.parent is not None:
            self._children.setdefault(request.parent, set()).add(task_id)
        if request.idempotency_key is not None:
            self._keys[request.idempotency_key] = live
        return live

    def _reject(self, live: LiveTask, error: BaseException) -> AgentPoolError:
        """End a task that could not be stored; return the error for its caller."""
        if isinstance(error, AgentPoolError):
            live.rejected = error
        else:
            log.error("task %s could not be stored: %s", live.id, error)
            live.rejected = ConfigError(
                f"task_id or idempotency_key: there is such a task already ({error})"
            )
        if not self.cancel(live.id) and not live.has_ended:
            self._finish(live, error=live.rejected)
        return live.rejected

    async def retry(self, stored: StoredTask) -> LiveTask:
        """Queue a task again that has ended.

        Raises:
            StoreFailed: it could not be written.
        """
        record, request = stored.record, _in_its_project(stored)
        if request.deadline is not None and request.deadline <= time.time():
            request = replace(request, deadline=None)
        live = self._make(
            record.id,
            record.number,
            request,
            created=record.created,
            attempts=record.attempts,
            last_event=stored.last_event,
        )
        try:
            await self._store.requeue(live.record(), self._transcript_limit, request.env)
        except BaseException:
            self._forget(live)
            self._forget_key(live)
            raise
        self.emit(live, Submitted(live.shown))
        if live.cancel_error is not None:  # while it was written
            self._finish(live, error=live.cancel_error)
        elif self.is_handed_over:  # while it was written: the other pool has read it
            self._leave_queued(live)
        else:
            self._dispatcher.add(live.ticket(), time.time())
            self._pump()
        return live

    @property
    def _transcript_limit(self) -> int:
        # Of earlier attempts: the new one has the whole bound for itself.
        return self._settings.transcript_size // 4

    # Running

    def _pump(self) -> None:
        """Let every task begin that can, end those whose deadline has come, and set the timer."""
        now = time.time()
        for task_id in self._dispatcher.expired(now):
            if self._dispatcher.remove(task_id, now):
                live = self._live[task_id]
                self._finish(live, error=_deadline_passed(live))
        if not self.is_draining:
            self._start_all(self._dispatcher.take(now))
        self._schedule()

    def _start_all(self, tickets: list[QueuedTask]) -> None:
        for ticket in tickets:
            self.spawn(self._run(self._live[ticket.id]), ticket.id)

    def _schedule(self) -> None:
        if self.is_closing:
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (when := self._dispatcher.next_time()) is not None:
            seconds = min(max(when - time.time(), 0.0), LONGEST_SLEEP)
            self._timer = loop.call_later(seconds, self._pump)
        if self._announcer is None and self._dispatcher.queued:
            self._announcer = loop.call_later(ANNOUNCE_SECONDS, self._announce)

    def _announce(self) -> None:
        """Tell those who follow queued tasks their places."""
        self._announcer = None
        followed = [one for one in self._live.values() if one.state == "queued" and one.has_readers]
        places = self._dispatcher.positions() if followed else {}
        now = time.monotonic()
        for live in followed:
            place = places.get(live.id)
            last, before = live.announced
            if place is not None and (place != before or now - last >= REPEAT_SECONDS):
                live.announced = (now, place)
                self.emit(live, Queued(place, live.waited), is_kept=False)
        self._schedule()

    async def _run(self, live: LiveTask) -> None:
        """Give a task to the pool and wait for its end."""
        if self.is_draining and live.state == "queued":  # the drain began in this very moment
            self._put_back(live)
            return
        try:
            await self._wait_until_stored(live)
            if live.state == "queued" and not await self._mark_running(live):
                return
            result = await self._give(live)
        except AgentPoolError as error:
            self._end(live, error)
        except Exception as error:
            log.exception("task %s failed because of a bug", live.id)
            self._finish(live, error=_bug(live.request, error))
        else:
            self._finish(live, result=result)

    async def _wait_until_stored(self, live: LiveTask) -> None:
        """Wait until a new task is on the disk.

        Otherwise a task that is refused, because the disk hangs or this program is killed, could
        have begun, and its caller would submit it again.

        Raises:
            AgentPoolError: it could not be stored, so it must not begin.
        """
        if live.accepted is not None:
            await asyncio.wait([live.accepted])
            if (error := live.accepted.exception()) is not None:
                raise self._reject(live, error)

    async def _mark_running(self, live: LiveTask) -> bool:
        """Note on the disk that a task begins; return False if it could not be written."""
        self._refuse_if_used_up(live)
        live.begin()
        try:
            # First, or a task that ran when this program was killed would run again, unseen.
            await self._store.mark_running(live.number, live.attempts)
        except StoreFailed:
            live.put_back()
            asyncio.get_running_loop().call_later(STORE_PAUSE, self._put_back, live)
            return False
        return True

    def _put_back(self, live: LiveTask) -> None:
        self._dispatcher.ended(live.id, time.time())
        if live.cancel_error is not None:
            self._finish(live, error=live.cancel_error)
        elif self.is_closing or self.is_handed_over:
            self._leave_queued(live)
        else:
            self._dispatcher.add(live.ticket(), time.time())
            self._pump()

    async def _give(self, live: LiveTask) -> TaskResult:
        self._refuse_if_used_up(live)
        self._refuse_if_cancelled(live)
        asks = live.on_permission is not None or live.request.asks
        live.handle = await self._pool.submit(
            self._with_budget(live),
            on_event=lambda event: self._on_pool_event(live, event),
            on_permission=(lambda request: self._decide(live, request)) if asks else None,
            task_id=live.id,
        )
        if live.cancel_error is not None:  # while the pool took it
            await self._pool.cancel(live.id, error=live.cancel_error)
        return await live.handle.result()

    def _refuse_if_cancelled(self, live: LiveTask) -> None:
        if live.cancel_error is not None:
            raise live.cancel_error

    def _on_pool_event(self, live: LiveTask, event: TaskEvent) -> None:
        if isinstance(event, Submitted) or live.has_ended:
            return  # the store has published its own
        if isinstance(event, Ended):
            live.pool_end = event
            return
        if isinstance(event, Started):
            live.agent, live.project = event.agent or live.agent, event.project or live.project
            event = replace(event, waited=event.waited + live.waited)
        before = live.usage, live.cost_usd
        self.emit(live, event)
        if isinstance(event, Started):
            self._store.post_start(live.record())
        elif isinstance(event, Spent):
            self._spend(live, *before)

    # Ends

    def _end(self, live: LiveTask, error: AgentPoolError) -> None:
        """End a task by an error of the pool, or leave it to the next owner of the store."""
        is_free = live.cancel_error is None and live.rejected is None
        if self.is_closing and is_free and isinstance(error, PoolClosed | WorkerDied):
            self._end_with_pool(live)
            return
        if live.cancel_error is not None and isinstance(error, TaskCancelled):
            live.cancel_error.result = live.cancel_error.result or error.result
            error = live.cancel_error
        elif isinstance(error, BudgetReached) and (problem := self._used_up(live)):
            # The pool knows only what was left of the day as the budget of this task.
            error = _budget_reached(live.request, "was interrupted", problem, error.result)
        self._finish(live, error=error)

    def _end_with_pool(self, live: LiveTask) -> None:
        if live.has_begun and not live.request.idempotent:
            self._finish(live, error=_interrupted(live.request))
            return
        live.state, live.started, live.line = "queued", None, ""
        live.attempts -= 0 if live.has_begun else 1
        self._store.post_requeue(live.record(), self._transcript_limit)
        self._leave_queued(live)

    def _leave_queued(self, live: LiveTask) -> None:
        """End the wait for a task that stays queued in the store."""
        live.error = PoolClosed(
            f"the pool was closed; task {live.id} is stored, and begins when it is opened again"
        )
        live.ended_at = time.time()
        self.emit(live, Ended(error=live.error, waited=live.waited), is_kept=False)
        self._forget(live)
        live.ended.set()

    def _finish(
        self,
        live: LiveTask,
        *,
        result: TaskResult | None = None,
        error: AgentPoolError | None = None,
    ) -> None:
        """End a task: publish it, write it, and let the next ones begin."""
        now = time.time()
        if not live.has_begun and self.is_given(live) is False:
            self._end_conversation(live.request)
        live.error = live.rejected or error
        live.result = self._own_result(live, result)
        live.state, live.ended_at = _final_state(live), now
        live.questions.clear()
        self._spend_rest(live)
        record = live.record()
        self._forget(live)
        self._dispatcher.ended(live.id, now)
        self.emit(live, _ended(live), is_kept=live.rejected is None)
        if live.rejected is None:
            self._write_end(live, record)
        else:
            self._forget_key(live)
        live.ended.set()
        if live.state == "cancelled":
            self._cancel_children(live.id)
        self._children.pop(live.id, None)
        if not self.is_closing:
            self._pump()

    def is_given(self, live: LiveTask) -> bool:
        """Return whether the pool has, or had, the task."""
        return live.handle is not None

    def _own_result(self, live: LiveTask, result: TaskResult | None) -> TaskResult | None:
        if result is None:
            return None
        return replace(result, task_id=live.id, waited=result.waited + live.waited)

    def _write_end(self, live: LiveTask, record: TaskRecord) -> None:
        end = TaskEnd(
            state=record.state,
            ended=record.ended or time.time(),
            started=record.started,
            line=record.line,
            usage=record.usage,
            cost_usd=record.cost_usd,
            worker=record.worker,
            pid=record.pid,
            node=record.node,
            result=record.result,
            error=record.error,
        )
        self._ending[live.id] = record

        def written() -> None:
            self._forget_key(live)
            if self._ending.get(live.id) is record:
                del self._ending[live.id]

        self._store.post_end(live.number, end, written)

    def _forget(self, live: LiveTask) -> None:
        self._live.pop(live.id, None)
        parent = live.request.parent
        if parent is not None and (siblings := self._children.get(parent)):
            siblings.discard(live.id)
            if not siblings:
                del self._children[parent]

    def _forget_key(self, live: LiveTask) -> None:
        """Let the store alone find a task by its key: only when its end is written."""
        key = live.request.idempotency_key
        if key is not None and self._keys.get(key) is live:
            del self._keys[key]

    # Cancelling

    def cancel(self, task_id: str, error: TaskError | None = None) -> bool:
        """Cancel a task and its open children; return False if it has ended."""
        live = self._live.get(task_id)
        if live is None:
            return False
        live.cancel_error = error or live.cancel_error or _cancelled(live.request)
        if self._dispatcher.remove(task_id, time.time()):
            self._finish(live, error=live.cancel_error)
            return True
        if live.handle is not None:
            if error is None:
                live.handle.cancel()
            else:
                self.spawn(self._pool.cancel(task_id, error=error), f"cancel {task_id}")
        # A task that is being given to the pool is cancelled as soon as the pool has it.
        self._cancel_children(task_id)
        return True

    def _cancel_children(self, task_id: str) -> None:
        for child in sorted(self._children.get(task_id, ())):
            self.cancel(child)

    def _end_conversation(self, request: TaskRequest) -> None:
        """End the conversation of a request that was to be its last task but never began."""
        if request.conversation is not None and request.ends_conversation and not self.is_closing:
            self.spawn(self.end_conversation(request), "end of a conversation")

    async def end_conversation(self, request: TaskRequest) -> None:
        """End the conversation of a request; no effect if there is none."""
        name = request.conversation or ""
        with suppress(AgentPoolError):
            await self._pool.end_conversation(request.agent, name, project=request.project)

    # Events

    def emit(self, live: LiveTask, event: TaskEvent, *, is_kept: bool = True) -> None:
        """Publish an event of a task: to subscribers, to those who follow it, and to the store."""
        live.note(event)
        labelled = live.label(event)
        self._bus.publish(labelled)
        for listener in tuple(live.listeners):
            call_listener(listener, labelled)
        for follower in tuple(live.followers):
            follower.push(labelled)
        if is_kept:
            self._keep(live, labelled)

    def _keep(self, live: LiveTask, event: TaskEvent) -> None:
        longest = live.transcript.longest
        try:
            values = event_text(event)
            text = to_json(values)
            if len(text) > longest:
                text = to_json(shorten_texts(values, longest // 2))
        except (ValueError, RecursionError):  # the input of a tool with a thousand levels
            return
        if len(text) <= 2 * longest:
            removed = live.transcript.add(event.number, len(text))
            self._store.add_event(live.number, event.number, event.time, text, removed)

    # Permissions

    async def _decide(self, live: LiveTask, request: PermissionRequest) -> bool | Denied:
        """Return the first answer to a permission request, of its caller or of anybody."""
        question = live.ask(request)
        self._ask(live, PermissionAsked(question.shown.key, request))
        answer: bool | Denied = Denied("There was no answer in time.")
        try:
            answer = await self._first_answer(live, question)
            return answer
        finally:
            # Also when the pool's `permission_timeout` ends the wait, or the task ends.
            live.questions.pop(question.shown.key, None)
            reason = answer.reason if isinstance(answer, Denied) else ""
            if not live.has_ended:
                self._ask(live, PermissionAnswered(question.shown.key, bool(answer), reason))

    def _ask(self, live: LiveTask, event: PermissionAsked | PermissionAnswered) -> None:
        before = live.state
        self.emit(live, event)
        if live.state != before:
            self._store.post_state(live.number, live.state)

    async def _first_answer(self, live: LiveTask, question: WaitingQuestion) -> bool | Denied:
        if live.on_permission is None:
            return await question.answer
        work = _ask_caller(live.on_permission, question.shown.request)
        asked = self.spawn(work, f"permission of {live.id}")
        try:
            await asyncio.wait([asked, question.answer], return_when=asyncio.FIRST_COMPLETED)
            if question.answer.done():
                return question.answer.result()
            if asked.exception() is None or not live.request.asks:
                answer: bool | Denied = asked.result()
                return answer
            log.warning("task %s: the caller could not answer: %s", live.id, asked.exception())
            return await question.answer
        finally:
            asked.cancel()

    def answer(self, task_id: str, key: str, answer: bool | Denied) -> bool:
        """Answer a question of a task; return False if it is not open."""
        live = self._live.get(task_id)
        question = live.questions.get(key) if live is not None else None
        if question is None or question.answer.done():
            return False
        question.answer.set_result(answer)
        return True

    # Budgets of the day

    def note_subscription(self) -> None:
        """Note that the sign-in is a subscription: only those have limits."""
        self._budgets.has_subscription = True

    def _used_up(self, live: LiveTask) -> str:
        return self._budgets.problem(datetime.now(), live.project)

    def _refuse_if_used_up(self, live: LiveTask) -> None:
        if problem := self._used_up(live):
            raise _budget_reached(live.request, "was not started", problem)

    def _with_budget(self, live: LiveTask) -> TaskRequest:
        """Return the request with at most what is left of the day."""
        request = live.request
        usd, tokens = self._budgets.left(day_of(datetime.now()), live.project)
        return replace(
            pool_request(request),
            max_budget_usd=_smaller(request.max_budget_usd, usd),
            max_tokens=_smaller(request.max_tokens, tokens),
        )

    def _spend(self, live: LiveTask, usage: Usage, cost_usd: float) -> None:
        """Add to the day what a task has used since `usage` and `cost_usd`."""
        now = datetime.now()
        tokens = live.usage.budget_tokens - usage.budget_tokens
        cost = live.cost_usd - cost_usd
        if not tokens and not cost:
            return
        day = day_of(now)
        self._budgets.add(day, live.project, tokens, cost)
        self._store.post_spending(day, live.project, tokens, cost)
        self._store.post_usage(live.number, live.usage, live.cost_usd)
        if self._budgets.is_limited:
            self._stop_used_up(now)

    def _spend_rest(self, live: LiveTask) -> None:
        """Add what the result reports beyond the last `Spent`."""
        result = live.result
        partial: TaskResult | None = getattr(live.error, "result", None)
        # What an interrupted agent had said can come without all that it had used.
        if partial is not None and partial.cost_usd > live.cost_usd:
            result = partial
        if result is None or not (result.cost_usd or result.usage.prompt_tokens):
            return
        before = live.usage, live.cost_usd
        live.usage, live.cost_usd = result.usage, result.cost_usd
        self._spend(live, *before)

    def _stop_used_up(self, now: datetime) -> None:
        for task_id in self._dispatcher.running_ids():
            live = self._live.get(task_id)
            if live is None or live.has_ended or live.handle is None or live.cancel_error:
                continue
            if problem := self._budgets.problem(now, live.project):
                self.cancel(task_id, _budget_reached(live.request, "was interrupted", problem))


async def _ask_caller(ask: OnPermission, request: PermissionRequest) -> bool | Denied:
    return await ask(request)


def new_id(agent: str) -> str:
    """Return a new id, which begins with the agent's name as far as that is plain ASCII."""
    name = "".join(
        one if one.isascii() and (one.isalnum() or one in "-_.") else "-" for one in agent
    )
    return f"{name[:32].strip('-.') or 'task'}-{secrets.token_hex(8)}"


def project_name(folder: str | None, settings: Settings) -> str:
    """Return the folder of a project as the pool names it."""
    path = (settings.project_dir if folder is None else Path(folder)).expanduser().absolute()
    return str(path.resolve() if ".." in path.parts else path)


def _smaller(own: Any, left: Any) -> Any:
    return own if left is None else left if own is None else min(own, left)


def _is_broken(stored: StoredTask) -> bool:
    """Return whether a task ran when the last owner of the store ended, and cannot run again."""
    can_run_again = stored.request.idempotent and stored.record.attempts < MAX_ATTEMPTS
    return stored.record.state != "queued" and not can_run_again


def _in_its_project(stored: StoredTask) -> TaskRequest:
    """Return the request with its folder: the pool's own folder can be another one by now."""
    request = stored.request
    return replace(request, project=request.project or stored.record.project)


def _conversation(stored: StoredTask) -> object:
    record = stored.record
    return (record.project, stored.request.agent, stored.request.conversation)


def pool_request(request: TaskRequest) -> TaskRequest:
    """Return a request without the fields that only a store can fulfil."""
    return replace(request, not_before=None, deadline=None, idempotency_key=None, parent=None)


def _final_state(live: LiveTask) -> TaskState:
    if isinstance(live.error, TaskCancelled):
        return "cancelled"
    if isinstance(live.error, TaskInterrupted):
        return "interrupted"
    is_failed = live.error is not None or live.result is None or live.result.is_error
    return "failed" if is_failed else "succeeded"


def _ended(live: LiveTask) -> Ended:
    end = live.pool_end or Ended()
    waited = end.waited + live.waited if live.pool_end else live.waited
    return replace(end, result=live.result, error=live.error, waited=waited, worker=live.worker)


def _cancelled(request: TaskRequest) -> TaskCancelled:
    return TaskCancelled(f"the task of agent {request.agent!r} was cancelled")


def _interrupted(request: TaskRequest) -> TaskInterrupted:
    return TaskInterrupted(
        f"agent-pool ended while the task of agent {request.agent!r} ran, so its result is "
        f"unknown. {TaskInterrupted.advice}"
    )


def _context_lost(request: TaskRequest) -> ContextLost:
    return ContextLost(
        f"not started: agent-pool ended while an earlier task of the conversation "
        f"{request.conversation!r} ran, so the context is lost"
    )


def _deadline_passed(live: LiveTask) -> DeadlinePassed:
    return DeadlinePassed(
        f"the task of agent {live.request.agent!r} was not started: its deadline came after "
        f"{live.waited:.1f} s in the queue. {DeadlinePassed.advice}"
    )


def _budget_reached(
    request: TaskRequest, what: str, problem: str, result: TaskResult | None = None
) -> BudgetReached:
    return BudgetReached(f"the task of agent {request.agent!r} {what}: {problem}", result=result)


def _store_too_slow(path: Path) -> StoreFailed:
    return StoreFailed(
        f"{path}: the task was not written within {STORE_TIMEOUT:g} s, so it is not accepted; "
        "check the disk, then try again"
    )


def _bug(request: TaskRequest, error: Exception) -> InternalError:
    return InternalError(
        f"a bug in agent-pool stopped the task of agent {request.agent!r}: "
        f"{type(error).__name__}: {error}; the log has the traceback, please report it"
    )
