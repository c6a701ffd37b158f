"""The pool: it feeds stimuli to its core and performs the actions that come back.

Every process and every background task has an owner here. A caller owns only a lease, and giving
it back is a plain call, so that cancelling a caller can neither lose a worker nor hand a used one
to the next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from agent_pool.agents import Agent, Catalog
from agent_pool.claude import tree
from agent_pool.claude.launch import Launch
from agent_pool.claude.worker import Worker
from agent_pool.errors import (
    AgentPoolError,
    PoolClosed,
    PoolTimeout,
    SpawnError,
    TaskTimeout,
)
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
from agent_pool.pool.core import PoolCore
from agent_pool.pool.launches import Launches
from agent_pool.pool.policy import Limits
from agent_pool.pool.result import Queued, Started, TaskEvent, TaskResult, WorkerInfo
from agent_pool.pool.tasks import check_task, make_result, to_public
from agent_pool.settings import Settings, load_settings

log = logging.getLogger("agent_pool")

TICK = 1.0
"""Seconds between two looks at idle times, lifetimes and memory."""


class AgentPool:
    """Warm Claude Code agents, given one task after another.

    Args:
        settings: all settings; by default those of the environment and the settings file.
        environ: the environment that settings, credentials and workers come from.
        **overrides: single settings, before the environment and the file.

    Use it as ``async with AgentPool() as pool``; it is not open before.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        **overrides: Any,
    ) -> None:
        base = settings or load_settings(environ, **overrides)
        self.settings = base.with_overrides(overrides) if settings else base
        self.catalog = Catalog(self.settings, environ)
        self._launches = Launches(self.settings, environ)
        self._core = PoolCore(_limits(self.settings), random.random)
        self._workers: dict[str, Worker] = {}
        self._agents: dict[AgentRef, tuple[Agent, Launch]] = {}
        self._callers: dict[Ticket, asyncio.Future[str]] = {}
        self._start_errors: dict[str, AgentPoolError] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cookie = secrets.token_hex(8)
        self._run_dir: Path | None = None
        self._emptied = asyncio.Event()
        self._is_open = False

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Let tasks in. No process is started before the first is wanted."""
        if self._core.is_closed:
            raise PoolClosed("this pool was closed; make a new one")
        if not self._is_open:
            self._is_open = True
            self._run_dir = Path(tempfile.mkdtemp(prefix="agent-pool-"))
            self._own(self._watch_time(), "ticker")

    async def close(self) -> None:
        """End the pool: waiting callers are refused, running tasks get `close_timeout`.

        Returns when every process is gone. A second call waits for the same end.
        """
        if not self._core.is_closed:
            self._perform(self._core.close(_now()))
        try:
            await self._wait_until_empty(self.settings.close_timeout)
        finally:
            self._stop_all(f"the pool was closed, after {self.settings.close_timeout:g} s")
            await self._wait_until_empty(self._stop_bound)
            self.kill()
            await self._end_tasks()

    def kill(self) -> None:
        """SIGKILL everything that the pool started, at once and without an event loop.

        For signal handlers and last resorts; takes some milliseconds.
        """
        doomed = [p for w in self._workers.values() if w.pid for p in tree.descendants(w.pid)]
        for worker in self._workers.values():
            worker.kill()
        tree.kill(doomed)
        if self._workers:
            tree.kill(tree.bearers(self._cookie))
        if self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)

    # What callers want

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        timeout: float | None = None,
        on_event: Callable[[TaskEvent], None] | None = None,
    ) -> TaskResult:
        """Give an agent a task and wait for its answer.

        Args:
            agent: the name of a definition.
            task: what to do, as text; it is data and never a command of the CLI.
            timeout: seconds that the task may run; `task_timeout` by default. Time in the queue
                is bounded by `acquire_timeout` and does not count.
            on_event: called with each event as it comes, the result excepted.

        A caller that is cancelled leaves at once; the pool ends the turn and cleans up.

        Raises:
            AgentNotFound, ConfigError: no such agent, or it or the task is wrong.
            PoolTimeout, TooManyRequests, PoolClosed: no worker could be had.
            SpawnError, WorkerDied: a process could not be started, or ended during the task.
            TaskTimeout: the task took too long and was stopped.
        """
        check_task(task)
        tell = on_event or _nothing
        ref = await self._find(agent)
        asked = _now()
        worker = await self._acquire(ref, tell)
        try:
            waited = _now() - asked
            tell(Started(agent, worker.name, worker.pid or 0, waited))
            return await self._run(worker, agent, task, timeout, tell, waited)
        finally:
            self._perform(self._core.release(worker.name, _now()))

    async def map(
        self,
        calls: Iterable[tuple[str, str]],
        *,
        timeout: float | None = None,
        on_event: Callable[[int, TaskEvent], None] | None = None,
    ) -> list[TaskResult | AgentPoolError]:
        """Run many ``(agent, task)`` side by side within the pool's limits.

        Args:
            calls: what to run.
            timeout: as for `invoke`, for each.
            on_event: called with the call's place in the list and the event.

        Returns:
            One entry a call, in their order: its result, or the error that `invoke` would raise.
        """

        async def one(place: int, agent: str, task: str) -> TaskResult | AgentPoolError:
            tell = (lambda event: on_event(place, event)) if on_event else None
            try:
                return await self.invoke(agent, task, timeout=timeout, on_event=tell)
            except AgentPoolError as error:
                return error

        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(one(place, agent, task))
                for place, (agent, task) in enumerate(calls)
            ]
        return [task.result() for task in running]

    async def stream(
        self, agent: str, task: str, *, timeout: float | None = None
    ) -> AsyncIterator[TaskEvent]:
        """As `invoke`, but yields what happens as it happens; the result comes last.

        Leaving the iteration early ends the task.
        """
        events: asyncio.Queue[TaskEvent | None] = asyncio.Queue()
        running = asyncio.create_task(
            self.invoke(agent, task, timeout=timeout, on_event=events.put_nowait)
        )
        running.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield await running
        finally:
            running.cancel()
            await asyncio.wait([running])

    async def warmup(self, agent: str) -> WorkerInfo:
        """Make sure that a worker of the agent has been started, and wait until it is ready.

        Raises:
            As `invoke`.
        """
        ref = await self._find(agent)
        name = next((r.name for r in self._core.workers.values() if r.ref == ref), "")
        if not name or self._workers[name].pid is None or not self._workers[name].is_clean:
            name = (await self._acquire_unused(ref)).name
        return (await self._describe([name]))[0]

    async def list(self) -> list[WorkerInfo]:
        """The workers as they are now, their memory measured now."""
        return await self._describe(list(self._core.workers))

    async def reset(self, agent: str) -> int:
        """Stop the agent's workers and wait until they are gone; the next task gets a new one.

        A task that runs on one of them fails with `WorkerDied`.

        Returns:
            How many were stopped.

        Raises:
            AgentNotFound: there is neither a worker nor a definition of that name.
        """
        doomed = [r.name for r in self._core.workers.values() if r.agent == agent]
        if not doomed:
            self.catalog.find(agent)
        self._start_errors.pop(agent, None)
        self._perform(self._core.retire(agent, _now()))
        deadline = _now() + self._stop_bound
        while any(name in self._core.workers for name in doomed) and _now() < deadline:
            await asyncio.sleep(0.01)
        return len(doomed)

    async def launch(self, agent: str) -> Launch:
        """How a worker of this agent is started: command, environment, folder, prompt."""
        return await self._launches.get(self.catalog.find(agent))

    # Acquiring

    async def _find(self, agent: str) -> AgentRef:
        if not self._is_open:
            raise PoolClosed("the pool is not open; use `async with AgentPool() as pool`")
        definition = self.catalog.find(agent)
        launch = await self._launches.get(definition)
        ref = AgentRef(
            definition.name, f"{definition.fingerprint} {launch.fingerprint}", launch.fingerprint
        )
        self._agents[ref] = definition, launch
        return ref

    async def _acquire(self, ref: AgentRef, tell: Callable[[TaskEvent], None]) -> Worker:
        ticket, actions = self._core.request(ref, _now())
        granted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._callers[ticket] = granted
        self._perform(actions)
        try:
            if not granted.done():
                tell(Queued(ref.name, self._core.position(ticket)))
            async with asyncio.timeout(self.settings.acquire_timeout):
                return self._workers[await granted]
        except BaseException as error:
            self._perform(self._core.abandon(ticket, _now()))
            if isinstance(error, TimeoutError) and not isinstance(error, AgentPoolError):
                raise self._no_worker(ref) from None
            raise
        finally:
            del self._callers[ticket]

    async def _acquire_unused(self, ref: AgentRef) -> Worker:
        ticket, actions = self._core.request(ref, _now())
        granted: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._callers[ticket] = granted
        self._perform(actions)
        try:
            async with asyncio.timeout(self.settings.acquire_timeout):
                return self._workers[await granted]
        except TimeoutError:
            raise self._no_worker(ref) from None
        finally:
            self._perform(self._core.abandon(ticket, _now()))
            del self._callers[ticket]

    def _no_worker(self, ref: AgentRef) -> PoolTimeout:
        busy = sum(r.agent == ref.name for r in self._core.workers.values())
        return PoolTimeout(
            f"no worker of agent {ref.name!r} within {self.settings.acquire_timeout:g} s (setting "
            f"acquire_timeout): it has {busy} of at most {self.settings.max_size}, the pool "
            f"{len(self._core.workers)} of at most {self.settings.max_workers}, "
            f"{self._core.waiting} callers wait; try later or raise the limits"
        )

    # Running

    async def _run(
        self,
        worker: Worker,
        agent: str,
        task: str,
        timeout: float | None,
        tell: Callable[[TaskEvent], None],
        waited: float,
    ) -> TaskResult:
        bound = self.settings.task_timeout if timeout is None else timeout
        began = _now()
        try:
            async with asyncio.timeout(bound):
                frame = await worker.turn(task, lambda event: tell(to_public(event)))
        except TimeoutError:
            raise TaskTimeout(
                f"the task of agent {agent!r} on worker {worker.name} was stopped after "
                f"{bound:g} s (setting task_timeout); give it more time or a smaller task"
            ) from None
        return make_result(frame, worker, agent, duration=_now() - began, waited=waited)

    # Performing what the core says

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Spawn(name, ref, flags):
                    self._spawn(name, ref, flags)
                case Adopt(name, ref):
                    self._own(self._adopt(name, ref), f"adopt {name}")
                case Reset(name):
                    self._own(self._reset(name), f"reset {name}")
                case Stop(name, reason):
                    log.info("worker %s is stopped: %s", name, reason)
                    self._own(self._stop(name), f"stop {name}")
                case Grant(ticket, name):
                    self._answer(ticket, lambda caller, name=name: caller.set_result(name))
                case Refuse(ticket, reason):
                    error = self._refusal(ticket, reason)
                    self._answer(ticket, lambda caller, error=error: caller.set_exception(error))

    def _answer(self, ticket: Ticket, answer: Callable[[asyncio.Future[str]], object]) -> None:
        caller = self._callers.get(ticket)
        if caller is not None and not caller.done():
            answer(caller)

    def _refusal(self, ticket: Ticket, reason: Reason) -> AgentPoolError:
        if reason is Reason.START_FAILED and (error := self._start_errors.get(ticket.ref.name)):
            return error
        return PoolClosed(f"the pool was closed while the task of {ticket.ref.name!r} waited")

    def _spawn(self, name: str, ref: AgentRef | None, flags: str) -> None:
        launch = self._agents[ref][1] if ref else self._launches.blank(flags)
        assert self._run_dir is not None
        self._workers[name] = Worker(
            name,
            launch,
            self.settings,
            cookie=f"{self._cookie}/{name}",
            run_dir=self._run_dir,
            on_gone=lambda: self._perform(self._core.unfit(name, _now())),
            on_taint=lambda: self._perform(self._core.unfit(name, _now())),
        )
        self._own(self._start(name, is_agent=ref is not None), f"start {name}")

    async def _start(self, name: str, *, is_agent: bool) -> None:
        worker = self._workers[name]
        try:
            await (worker.start() if is_agent else worker.spawn())
        except AgentPoolError as error:
            self._start_failed(name, error)
        else:
            self._perform(self._core.started(name, _now()))

    async def _adopt(self, name: str, ref: AgentRef) -> None:
        try:
            await self._workers[name].initialize(self._agents[ref][1].prompt)
        except AgentPoolError as error:
            self._start_failed(name, error)
        else:
            self._perform(self._core.started(name, _now()))

    def _start_failed(self, name: str, error: AgentPoolError) -> None:
        log.warning("worker %s could not be started: %s", name, error)
        self._start_errors[self._core.workers[name].agent] = error
        fatal = isinstance(error, SpawnError) and error.is_fatal
        self._perform(self._core.start_failed(name, fatal, _now()))

    async def _reset(self, name: str) -> None:
        worker = self._workers[name]
        await worker.settle()
        await worker.reset()
        if not worker.is_clean:
            log.warning("worker %s is replaced: %s", name, "; ".join(worker.taints) or "it ended")
        self._perform(self._core.was_reset(name, worker.is_clean, _now()))

    async def _stop(self, name: str) -> None:
        worker = self._workers[name]
        worker.condemn("the pool no longer wants it")
        try:
            await worker.stop()
        finally:
            self._workers.pop(name, None)
            self._perform(self._core.gone(name, _now()))
            if not self._core.workers:
                self._emptied.set()

    # Owning

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=f"agent-pool {name}")
        self._tasks.add(task)
        task.add_done_callback(self._disown)

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed, which is a bug", task.get_name(), exc_info=error)

    async def _watch_time(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._perform(self._core.tick(_now()))

    async def _wait_until_empty(self, timeout: float) -> None:
        self._emptied.clear()
        if self._core.workers:
            try:
                async with asyncio.timeout(timeout):
                    await self._emptied.wait()
            except TimeoutError:
                pass

    def _stop_all(self, why: str) -> None:
        for name in list(self._core.workers):
            self._workers[name].condemn(why)
            self._perform(self._core.stop(name, Reason.CLOSED, _now()))

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._stop_bound)

    @property
    def _stop_bound(self) -> float:
        """Seconds after which a stop ladder has ended for certain."""
        return self.settings.stop_grace + 3 * self.settings.kill_grace + 5.0

    # Telling

    async def _describe(self, names: Iterable[str]) -> list[WorkerInfo]:
        shown = [self._workers[name] for name in names if name in self._workers]
        sizes = await asyncio.to_thread(lambda: [tree.rss(w.processes()) for w in shown])
        return [
            info
            for worker, size in zip(shown, sizes, strict=True)
            if (info := self._info(worker, size)) is not None
        ]

    def _info(self, worker: Worker, size: int) -> WorkerInfo | None:
        record = self._core.workers.get(worker.name)
        if record is None:
            return None
        agent = self._agents[record.ref][0] if record.ref else None
        return WorkerInfo(
            worker=worker.name,
            agent=record.agent,
            description=agent.description if agent else "",
            state=str(record.state),
            pid=worker.pid,
            tasks=record.tasks,
            rss=size,
            uptime=_now() - worker.started_at,
            usage=worker.account.usage,
            cost_usd=worker.account.cost_usd,
        )


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_size=settings.max_size,
        max_workers=settings.max_workers,
        max_waiting=settings.max_waiting,
    )


def _now() -> float:
    return time.monotonic()


def _nothing(event: TaskEvent) -> None:
    pass
