"""The owner of every process and background task: it performs what the core decides.

Stimuli go to the core in plain synchronous calls and the actions that come back are performed at
once; an action that takes time runs as a task that this class owns and whose end is the next
stimulus. So nothing here can be half done when a caller is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from agent_pool.agents import Agent
from agent_pool.claude import cleanup, tree
from agent_pool.claude.events import Retrying
from agent_pool.claude.launch import Launch
from agent_pool.claude.verdicts import Verdicts
from agent_pool.claude.worker import Worker
from agent_pool.errors import AgentPoolError, SpawnError
from agent_pool.pool import health
from agent_pool.pool.actions import (
    Action,
    Adopt,
    AgentRef,
    Grant,
    Reason,
    Refuse,
    Reset,
    Spawn,
    Stop,
    Ticket,
)
from agent_pool.pool.books import Books
from agent_pool.pool.callers import Callers, describe, no_worker, refusal
from agent_pool.pool.core import PoolCore
from agent_pool.pool.definitions import Definitions
from agent_pool.pool.policy import Limits
from agent_pool.pool.result import Queued
from agent_pool.pool.watch import Watcher, make_folder
from agent_pool.settings import Settings

log = logging.getLogger("agent_pool")

TICK: Final = 1.0
"""Seconds between two looks at idle times, lifetimes and memory."""


class Supervisor:
    """Feeds the core and performs its actions.

    Attributes:
        core: who gets which worker; to be asked, not told.
        workers: the processes, by the core's names.
        definitions: what each `AgentRef` stands for.
        books: what everything took.
        on_tick: called once a second.
    """

    def __init__(self, settings: Settings, verdicts: Verdicts, cookie: str) -> None:
        self.core = PoolCore(_limits(settings), random.random)
        self.workers: dict[str, Worker] = {}
        self.definitions = Definitions()
        self.books = Books()
        self.on_tick: Callable[[], None] = lambda: None
        self._settings = settings
        self._verdicts = verdicts
        self._callers = Callers()
        self._start_errors: dict[str, AgentPoolError] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._cookie = cookie
        self._watcher = Watcher(self._cookie)
        self._run_dir: Path | None = None
        self._emptied = asyncio.Event()

    # Life

    def open(self) -> Path:
        """Begin to watch the time; returns the pool's private folder, removed when it ends.

        Raises:
            ConfigError: there is no place for temporary files.
        """
        self._run_dir = make_folder(self._cookie)
        self._own(self._watch_time(), "ticker")
        return self._run_dir

    async def close(self) -> None:
        """Refuse who waits, give running tasks `close_timeout`, then end everything.

        However often it is cancelled, nothing is left when it ends.
        """
        self._perform(self.core.close(_now()))
        try:
            await self._wait_until_empty(self._settings.close_timeout)
            self._stop_all()
            await self._wait_until_empty(self.stop_bound)
        finally:
            self.kill()
            for task in (tasks := list(self._tasks)):
                task.cancel()
            self._watcher.dismiss(self._settings.kill_grace)
        if tasks:
            await asyncio.wait(tasks, timeout=self.stop_bound)

    def _stop_all(self) -> None:
        bound = self._settings.close_timeout
        for name in list(self.core.workers):
            why = f"the pool was closed and close_timeout ({bound:g} s) passed"
            self.workers[name].condemn(why)
            self._perform(self.core.stop(name, Reason.CLOSED, _now()))

    def kill(self) -> None:
        """SIGKILL all processes at once, without an event loop, and start none again."""
        self.core.halt()
        if self.workers or self._watcher.pid is not None:
            pids = [worker.pid for worker in self.workers.values() if worker.pid]
            cleanup.kill(pids, self._cookie)
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)

    @property
    def stop_bound(self) -> float:
        """Seconds after which a stop ladder has ended for certain."""
        return self._settings.stop_grace + 3 * self._settings.kill_grace + 5.0

    # For callers

    def define(self, agent: Agent, launch: Launch) -> AgentRef:
        """What the core calls this agent; its definition is kept for its workers."""
        in_use = {record.ref for record in self.core.workers.values()}
        ref = self.definitions.add(agent, launch, in_use)
        if self._settings.reset == "respawn":
            self._perform(self.core.no_reset(ref.flags, _now()))
        return ref

    async def acquire(self, ref: AgentRef, on_queued: Callable[[Queued], None]) -> Worker:
        """A clean worker, leased; `on_queued` is told again and again while there is none.

        Raises:
            PoolTimeout, TooManyRequests, PoolClosed, SpawnError: see `AgentPool.invoke`.
        """
        try:
            async with asyncio.timeout(self._settings.acquire_timeout) as bound:
                while True:
                    worker = await self._granted(ref, on_queued)
                    if worker.is_clean:
                        return worker
                    self.give_back(worker)  # it ended between the grant and now
        except TimeoutError:
            if bound.expired():
                seconds = self._settings.acquire_timeout
                raise no_worker(ref, self.core, seconds, _now(), self._start_errors) from None
            raise

    async def _granted(self, ref: AgentRef, on_queued: Callable[[Queued], None]) -> Worker:
        ticket, actions = self.core.request(ref, _now())
        granted = self._callers.add(ticket, on_queued)
        try:
            self._perform(actions)
            if not granted.done():
                on_queued(self._queued(ticket))
            return self.workers[await granted]
        except BaseException:
            self._perform(self.core.abandon(ticket, _now()))
            raise
        finally:
            self._callers.remove(ticket)

    def give_back(self, worker: Worker, tasks: int = 1) -> None:
        """End a lease under which it had so many tasks; the worker is reset or replaced."""
        self._perform(self.core.release(worker.name, _now(), tasks))

    def keep_warm(self, ref: AgentRef, count: int) -> None:
        """Keep at least this many workers of an agent."""
        self._perform(self.core.warm(ref, count, _now()))

    def give_back_unused(self, worker: Worker) -> None:
        """End a lease under which nothing was said."""
        self._perform(self.core.unused(worker.name, _now()))

    def refused(self, worker: Worker, event: Retrying) -> None:
        """The API refused a request of this worker: what that means for it and for the others.

        New work waits while the API is overloaded or the account over its rate; a sign-in that was
        refused twice will not get better, so its task fails now.
        """
        worker.note = health.in_vain(event)
        if event.status in health.OVERLOADED:
            self.pause(event.delay + health.RETRY_GRACE)
        elif event.status in health.SIGNED_OUT and event.attempt >= 2:
            worker.fail_turn(health.signed_out(worker, event))

    def pause(self, seconds: float) -> None:
        """Give out no worker for a while."""
        self._perform(self.core.pause(_now() + seconds, _now()))

    async def retire(self, agent: str, why: str) -> int:
        """Stop all workers of an agent and wait until they are gone; returns how many."""
        refs = self.definitions.refs_of(agent)
        doomed = [r.name for r in self.core.workers.values() if r.ref in refs]
        removals = [self.workers[name].removed.wait() for name in doomed]
        for name in doomed:
            self.workers[name].condemn(why)
        for name in {ref.name for ref in refs}:
            self._start_errors.pop(name, None)
            self._perform(self.core.retire(name, _now()))
        if removals:
            waits = [asyncio.ensure_future(removal) for removal in removals]
            await asyncio.wait(waits, timeout=self.stop_bound)
            for wait in waits:
                wait.cancel()
        return len(doomed)

    # Performing what the core says

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Spawn(name, ref, flags):
                    self._create(name, ref, flags)
                    self._occupy(name, self._start(name, ref), "start")
                case Adopt(name, ref):
                    self._occupy(name, self._adopt(name, ref), "adopt")
                case Reset(name):
                    self._occupy(name, self._reset(name), "reset")
                case Stop(name, reason):
                    health.tell_stop(self.workers[name], reason)
                    why = health.why_stopped(self.core.workers[name], reason, self.core.limits)
                    self.workers[name].condemn(why)
                    self._own(self._stop(name), f"stop {name}")
                case Grant(ticket, name):
                    self._callers.grant(ticket, name)
                case Refuse(ticket, reason):
                    error = refusal(ticket, reason, self.core, self._start_errors)
                    self._callers.refuse(ticket, error)

    def _create(self, name: str, ref: AgentRef | None, flags: str) -> None:
        assert self._run_dir is not None, "open() comes before the first request"
        self._watcher.start()
        self.books.spawned += 1
        self.workers[name] = Worker(
            name,
            self.definitions.launch(ref, flags),
            self._settings,
            agent=ref.name if ref else "",
            cookie=f"{self._cookie}/{name}",
            run_dir=self._run_dir,
            on_gone=lambda: self._perform(self.core.unfit(name, Reason.DIED, _now())),
            on_taint=lambda: self._perform(self.core.unfit(name, Reason.TAINTED, _now())),
            on_account=lambda account: self.books.turn_ended(self.agent_of(name), account),
        )

    def agent_of(self, name: str) -> str:
        """The agent that a worker is; empty for a spare and where there is no such worker."""
        record = self.core.workers.get(name)
        agent = self.definitions.agent(record.ref) if record else None
        return agent.name if agent else ""

    async def _start(self, name: str, ref: AgentRef | None) -> None:
        worker = self.workers[name]
        await self._until_started(name, self._timed_start(worker) if ref else worker.spawn())

    async def _timed_start(self, worker: Worker) -> None:
        await worker.start()
        self.books.process_started(_now() - worker.started_at)

    async def _adopt(self, name: str, ref: AgentRef) -> None:
        worker = self.workers[name]
        worker.agent = ref.name
        await self._until_started(name, worker.initialize(self.definitions.launch(ref, ref.flags)))

    async def _until_started(self, name: str, starting: Coroutine[Any, Any, None]) -> None:
        try:
            await starting
        except Exception as error:
            self._start_failed(name, error)
        else:
            self._start_errors.pop(self.core.workers[name].agent, None)
            self._perform(self.core.started(name, _now()))
            self._verdicts.begin(self.workers[name].launch)

    def _start_failed(self, name: str, error: Exception) -> None:
        if not isinstance(error, AgentPoolError):
            log.error("worker %s could not be started, by a bug", name, exc_info=error)
            error = SpawnError(f"worker {name} could not be started: {error!r}", worker=name)
        log.warning("%s", error)
        self._start_errors[self.core.workers[name].agent] = error
        fatal = isinstance(error, SpawnError) and error.is_fatal
        self._perform(self.core.start_failed(name, fatal, _now()))

    async def _reset(self, name: str) -> None:
        worker = self.workers[name]
        try:
            await self._try_to_reset(worker)
        finally:
            self._perform(self.core.was_reset(name, worker.is_clean, _now()))

    async def _try_to_reset(self, worker: Worker) -> None:
        if not await worker.settle() or worker.taints:
            return
        verdict = await self._verdicts.get(worker.launch)
        if not verdict.forgets:
            self._perform(self.core.no_reset(worker.launch.fingerprint, _now()))
            return
        await worker.reset(expects_frame=verdict.announces)
        self.books.resets += worker.is_clean

    async def _stop(self, name: str) -> None:
        worker = self.workers[name]
        busy = self._busy.pop(name, None)
        try:
            if busy is not None:
                busy.cancel()
                await asyncio.wait([busy], timeout=self._settings.kill_grace)
            await worker.stop()
        finally:
            worker.kill()
            self.books.strays += worker.session.strays
            worker.removed.set()
            del self.workers[name]
            self._perform(self.core.gone(name, _now()))
            if not self.core.workers:
                self._emptied.set()

    # Owning

    def _occupy(self, name: str, work: Coroutine[Any, Any, None], what: str) -> None:
        task = self._own(work, f"{what} {name}")
        self._busy[name] = task
        task.add_done_callback(lambda done: self._no_longer_busy(name, done))

    def _no_longer_busy(self, name: str, task: asyncio.Task[None]) -> None:
        if self._busy.get(name) is task:
            del self._busy[name]

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"agent-pool {name}")
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed, which is a bug", task.get_name(), exc_info=error)

    async def _watch_time(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                await self._look()
            except Exception:  # e.g. no thread to be had; without this the limits would end too
                log.exception("the workers could not be looked at; it is tried again")

    async def _look(self) -> None:
        if self.workers:
            trees = await asyncio.to_thread(self.census)
            sizes = {name: tree.rss(processes) for name, processes in trees.items()}
            self._perform(self.core.sampled(sizes, _now()))
            health.end_stalled_turns(self.workers.values(), trees, self._settings.stall_timeout)
        self._perform(self.core.tick(_now()))
        self._callers.tell(self._queued)
        self.on_tick()

    def census(self) -> dict[str, list[Any]]:
        """The living processes of each worker; some milliseconds, so call it off the loop."""
        roots = {name: worker.pid for name, worker in list(self.workers.items()) if worker.pid}
        return tree.census(self._cookie, roots)

    def _queued(self, ticket: Ticket) -> Queued:
        agent = self.definitions.agent(ticket.ref)
        return describe(ticket, agent.name if agent else ticket.ref.name, self.core, _now())

    async def _wait_until_empty(self, timeout: float) -> None:
        self._emptied.clear()
        if self.core.workers:
            try:
                async with asyncio.timeout(timeout):
                    await self._emptied.wait()
            except TimeoutError:
                pass


def _limits(settings: Settings) -> Limits:
    return Limits(**{field.name: getattr(settings, field.name) for field in fields(Limits)})


def _now() -> float:
    return time.monotonic()
