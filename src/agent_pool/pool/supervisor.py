"""The owner of every process and background task: it performs the actions of the scheduler.

Stimuli go to the scheduler in plain synchronous calls, and the actions that come back are performed
at once. An action that takes time runs as an asyncio task that this class owns, and its end is the
next stimulus. So a cancelled caller can leave nothing half done here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from agent_pool.claude import failures, process_tree, termination
from agent_pool.claude.process_tree import ProcessSearch, ProcessTree, TreeRoot
from agent_pool.claude.protocol.results import Spend
from agent_pool.claude.reset_probe import ResetProbe
from agent_pool.claude.watchdog import Watchdog, make_run_folder
from agent_pool.claude.watchdog_script import remove_outputs
from agent_pool.claude.worker import OUT_OF_MEMORY_ADVICE, ClaimError, Worker, WorkerCallbacks
from agent_pool.errors import AgentPoolError, SignInRefused, SpawnError, TaskTimeout
from agent_pool.events import (
    Paused,
    PoolEvent,
    Queued,
    RateLimitsChanged,
    Retry,
    StrayResult,
    TurnEnded,
    WorkerAssigned,
    WorkerReady,
    WorkerReset,
    WorkerRetired,
    WorkerStateChanged,
)
from agent_pool.models import AgentKey, RateLimits, WorkerInfo
from agent_pool.pool import waiters
from agent_pool.pool.agent_registry import AgentRegistry
from agent_pool.pool.event_bus import EventBus
from agent_pool.pool.rate_limits import describe_limits, ends_hold, held_seconds
from agent_pool.pool.scheduler import (
    Action,
    AgentSpec,
    Assign,
    Grant,
    Limits,
    Refuse,
    Reset,
    RetireReason,
    Scheduler,
    Spawn,
    StateChange,
    Stop,
    Ticket,
    WorkerRecord,
    WorkerState,
)
from agent_pool.pool.waiters import QueueListener, QueuePlace, Waiters
from agent_pool.settings import Settings
from agent_pool.text import mebibytes

log = logging.getLogger("agent_pool")

TICK_SECONDS: Final = 1.0
"""Seconds between two checks of idle times, lifetimes, memory and stalls."""

ANSWER_STEPS: Final = 5
"""Steps of the event loop between the end of a task and the return of `AgentPool.invoke`."""

OVERLOADED: Final = (429, 529)
"""HTTP statuses by which the API asks for less work: rate limit, overload."""
_SIGNED_OUT: Final = (401, 403)
_REFUSES_WORK: Final = "the API refuses work"
_RETRY_GRACE: Final = 1.0
"""Seconds after a retry in which its outcome becomes known; no new work starts in this time."""

REST_TICKS: Final = 5
"""Checks from one to the next that looks at idle workers too."""
_RESTING: Final = (WorkerState.IDLE, WorkerState.STOPPING)
_READY: Final = (WorkerState.IDLE, WorkerState.LEASED, WorkerState.RESETTING)


class Supervisor:
    """Feeds the scheduler and performs its actions.

    Args:
        settings: limits and bounds.
        probe: whether a CLI forgets.
        registry: the agents behind the scheduler's specs.
        bus: where events are published.
        watchdog: starts the processes, and ends what they leave behind.

    Attributes:
        scheduler: to be read, not to be called, by others.
        workers: the processes, by the scheduler's names.
        on_tick: called once in `TICK_SECONDS`.
        rate_limits: the limits of the account as last reported; None if they never were.
        pause_reason: why the last pause began.
    """

    def __init__(
        self,
        settings: Settings,
        probe: ResetProbe,
        registry: AgentRegistry,
        bus: EventBus,
        watchdog: Watchdog,
    ) -> None:
        self.scheduler = Scheduler(_limits(settings), random.random)
        self.workers: dict[str, Worker] = {}
        self.on_tick: Callable[[], None] = lambda: None
        self.rate_limits: RateLimits | None = None
        self.pause_reason = ""
        self._acquiring: set[asyncio.Timeout] = set()
        self._hold: RateLimits | None = None  # the report by which the last hold began
        self._hold_began = self._hold_ends = self._hold_pauses_until = float("-inf")
        self._settings = settings
        self._probe = probe
        self._registry = registry
        self._bus = bus
        self._watchdog = watchdog
        self._waiters = Waiters()
        self._start_errors: dict[AgentKey, AgentPoolError] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: dict[str, asyncio.Task[None]] = {}  # a worker's start, assignment or reset
        self._run_dir: Path | None = None
        self._emptied = asyncio.Event()
        self._ticks = 0
        self._were_busy: set[str] = set()
        self._left: dict[str, set[tuple[int, int]]] = {}

    # Life

    def open(self) -> Path:
        """Start the clock; return the pool's private folder, which is removed at the end.

        Raises:
            ConfigError: there is no place for temporary files.
        """
        self._run_dir = make_run_folder(self._watchdog.cookie)
        self._own(self._tick_forever(), "ticker")
        return self._run_dir

    async def close(self) -> None:
        """Refuse waiting callers, give running tasks `close_timeout`, then stop every process.

        However often it is cancelled, no process is left when it returns.
        """
        self._perform(self.scheduler.close(_now()))
        try:
            await self._wait_until_empty(self._settings.close_timeout)
            self._stop_all()
            await self._wait_until_empty(self.stop_bound)
        finally:
            # A cancelled close too: `kill` needs no event loop, so no process is left.
            self.kill()
            for task in (tasks := list(self._tasks)):
                task.cancel()
            # Last: until here it has to clean up if this process is killed.
            self._watchdog.dismiss(self._settings.kill_grace)
        if tasks:
            await asyncio.wait(tasks, timeout=self.stop_bound)

    def _stop_all(self) -> None:
        bound = self._settings.close_timeout
        for name in list(self.scheduler.workers):
            reason = f"the pool was closed and close_timeout ({bound:g} s) passed"
            self.workers[name].fail_on_stop(reason)
            self._perform(self.scheduler.stop(name, RetireReason.CLOSED, _now()))

    def kill(self) -> None:
        """Send SIGKILL to all processes at once, without an event loop; start no process again."""
        # First: an event that comes during the kill must not start another process.
        self.scheduler.halt()
        if self._watchdog.has_run or self.workers:
            workers = self.workers.values()
            started = [(one.process, one.root) for one in workers if one.process is not None]
            termination.kill(started, self._watchdog)
        if self._run_dir is not None:
            with contextlib.suppress(OSError):  # it is removed already
                remove_outputs(str(self._run_dir))
            shutil.rmtree(self._run_dir, ignore_errors=True)

    @property
    def stop_bound(self) -> float:
        """Return the seconds after which every stop ladder has ended."""
        # kill_grace four times: for a start or reset under way, for an interrupted turn, after
        # SIGTERM, after SIGKILL. The rest is for the scans of all processes.
        return self._settings.stop_grace + 4 * self._settings.kill_grace + 5.0

    @property
    def is_closed(self) -> bool:
        """Return whether no worker is started or granted any more."""
        return self.scheduler.is_closed

    # For callers

    async def acquire(
        self, spec: AgentSpec, on_queued: QueueListener, place: QueuePlace | None = None
    ) -> Worker:
        """Return a clean worker, leased; report again and again while the caller waits.

        Args:
            spec: the agent.
            on_queued: called with each report.
            place: the place of a caller that can ask again for the same task; it keeps its place
                and waits `acquire_timeout` in all.

        Raises:
            PoolTimeout, TooManyRequests, PoolClosed, SpawnError: see `PoolAPI.invoke`.
        """
        self._apply_reset_setting(spec)
        place = place or self.new_place()
        try:
            async with self._bounded(place) as bound:
                while True:
                    worker = await self._granted(spec, on_queued, place)
                    if await self._prepare(worker):
                        return worker
                    # It is replaced, and the caller waits for another one.
                    self.release(worker, tasks=0)
        except TimeoutError:
            # An error of the pool can be a TimeoutError too.
            if not bound.expired():
                raise
            seconds = self._settings.acquire_timeout
            raise waiters.wait_timed_out(
                spec.key, self.scheduler, seconds, _now(), self._start_errors, self.pause_reason
            ) from None

    def new_place(self) -> QueuePlace:
        """Return the place of a caller that has not asked for a worker yet."""
        return QueuePlace(self._settings.acquire_timeout)

    @contextlib.asynccontextmanager
    async def _bounded(self, place: QueuePlace) -> AsyncIterator[asyncio.Timeout]:
        """Bound a wait by `acquire_timeout`, to which the wait for a reset does not count."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(place.seconds + self._held_seconds) as bound:
            self._acquiring.add(bound)
            try:
                yield bound
            finally:
                self._acquiring.discard(bound)
                left = (bound.when() or 0.0) - loop.time()
                place.seconds = min(place.seconds, max(left, 0.0))

    async def _prepare(self, worker: Worker) -> bool:
        """Check that a granted worker can serve, with its files read as they are now."""
        if not worker.is_clean:  # its process ended between the grant and now
            return False
        try:
            is_usable = await worker.refresh()
        except BaseException:
            # Cancelled while it reads its files again: a reset decides whether it can stay.
            self.release(worker, tasks=0)
            raise
        if not is_usable:
            edited = self.scheduler.mark_unfit(worker.name, RetireReason.EDITED, _now())
            self._perform(edited)
        return is_usable

    async def _granted(
        self, spec: AgentSpec, on_queued: QueueListener, place: QueuePlace
    ) -> Worker:
        ticket, actions = self.scheduler.request(spec, _now(), place.ticket)
        place.ticket = ticket
        granted = self._waiters.add(ticket, on_queued)
        try:
            self._perform(actions)
            # The first report at once: the next tick can be a second away.
            if not granted.done():
                on_queued(self._queue_event(ticket))
            return self.workers[await granted]
        except BaseException:
            # Cancelled, timed out or refused. The ticket can have been granted in the same loop
            # step as the cancellation: `abandon` then takes the worker back.
            self._perform(self.scheduler.abandon(ticket, _now()))
            raise
        finally:
            self._waiters.remove(ticket)

    def _queue_event(self, ticket: Ticket) -> Queued:
        return waiters.queue_event(ticket, self.scheduler, _now(), self.pause_reason)

    def release(self, worker: Worker, tasks: int = 1) -> None:
        """End a lease of a worker that has done so many tasks; it is reset or replaced."""
        self._perform(self.scheduler.release(worker.name, _now(), tasks))

    def return_unused(self, worker: Worker) -> None:
        """End a lease of a worker that was given no prompt."""
        self._perform(self.scheduler.return_unused(worker.name, _now()))

    def keep_warm(self, spec: AgentSpec, count: int) -> None:
        """Keep at least `count` workers of an agent."""
        self._apply_reset_setting(spec)
        self._perform(self.scheduler.keep_warm(spec, count, _now()))

    def _apply_reset_setting(self, spec: AgentSpec) -> None:
        if self._settings.reset == "respawn":
            self._perform(self.scheduler.forbid_reset(spec.profile, _now()))

    def report_retry(self, worker: Worker, event: Retry) -> None:
        """React to a request that the API refused.

        New work waits while the API is overloaded or the account is over its rate. A sign-in that
        was refused twice will be refused again, so its task fails now: the CLI alone would try a
        401 ten times (2.1.330).
        """
        answer = f"answers {event.status}" if event.status else "cannot be reached"
        next_try = f"try {event.attempt + 1} in {event.delay:.0f} s"
        worker.note = f"the API {answer} ({event.error}); {next_try}"
        if event.status in OVERLOADED:
            self.pause(event.delay + _RETRY_GRACE)
        elif event.status in _SIGNED_OUT and event.attempt >= 2:
            worker.fail_turn(_sign_in_refused(worker, event))

    def report_rate_limits(self, limits: RateLimits) -> None:
        """Note how much of the account's limits is used; hold all work at a limit.

        The CLI itself does not try again at such a limit (2.1.332), so without the hold every
        waiting task would be sent, and fail.
        """
        self.rate_limits = limits
        self._bus.publish(RateLimitsChanged(limits=limits))
        now = _now()
        if (seconds := held_seconds(limits)) > 0:
            self._begin_hold(limits, now, seconds)
        elif self.hold is not None and ends_hold(self.hold, limits, now - self._hold_began):
            self._end_hold(now)

    @property
    def hold(self) -> RateLimits | None:
        """Return the limit for whose reset all work waits now; None if it does not wait."""
        return self._hold if self._held_seconds else None

    @property
    def _held_seconds(self) -> float:
        return max(0.0, self._hold_ends - _now())

    def _begin_hold(self, limits: RateLimits, now: float, seconds: float) -> None:
        self.pause(seconds + _RETRY_GRACE, describe_limits(limits))
        # The wait for the reset is no wait for a worker. Each worker reports the same limit, so
        # only what a report adds to the hold is added to the waits.
        added = max(0.0, now + seconds - max(self._hold_ends, now))
        for bound in self._acquiring:
            _postpone(bound, added)
        self._hold, self._hold_began, self._hold_ends = limits, now, now + seconds
        self._hold_pauses_until = self.scheduler.paused_until

    def _end_hold(self, now: float) -> None:
        """Let work go on before the reset; a pause for another reason stays."""
        self._hold_ends = now
        if self.scheduler.paused_until <= self._hold_pauses_until:
            self._perform(self.scheduler.resume(now))
            self._bus.publish(Paused(seconds=0.0))

    def pause(self, seconds: float, reason: str = _REFUSES_WORK) -> None:
        """Grant no worker for so many seconds."""
        until = _now() + seconds
        if until >= self.scheduler.paused_until:
            self.pause_reason = reason
        self._perform(self.scheduler.pause(until, _now()))
        self._bus.publish(Paused(seconds=seconds, reason=reason))

    async def retire(self, project: str, agent: str, reason: str) -> int:
        """Stop all workers of an agent, wait until they have ended, and return how many it were.

        Args:
            project: the folder of the agent's project.
            agent: the agent's own name.
            reason: part of the error that a running task gets.
        """
        specs = self._registry.specs_of(project, agent)
        victims = [r.name for r in self.scheduler.workers.values() if r.spec in specs]
        # Taken before the stop: a removed worker is no longer in `workers`.
        removals = [self.workers[name].removed.wait() for name in victims]
        for name in victims:
            # Before the stop, which would set a reason of its own.
            self.workers[name].fail_on_stop(reason)
        for key in {spec.key for spec in specs}:
            self._start_errors.pop(key, None)
            self._perform(self.scheduler.retire(key, _now()))
        if removals:
            waits = [asyncio.ensure_future(removal) for removal in removals]
            # Bounded: a process that the kernel does not let go never ends.
            await asyncio.wait(waits, timeout=self.stop_bound)
            for wait in waits:
                wait.cancel()
        return len(victims)

    # Looking

    def key_of(self, worker: str) -> AgentKey | None:
        """Return the agent's key of a worker; `None` for a spare or an unknown worker."""
        record = self.scheduler.workers.get(worker)
        return record.key if record else None

    def ready_workers(self, spec: AgentSpec) -> list[str]:
        """Return the names of the started workers of a spec."""
        records = self.scheduler.workers.values()
        return [one.name for one in records if one.spec == spec and one.state in _READY]

    def worker_states(self) -> dict[str, int]:
        """Return how many workers there are, by state."""
        return dict(Counter(str(record.state) for record in self.scheduler.workers.values()))

    async def find_processes(self, names: Iterable[str]) -> dict[str, ProcessTree]:
        """Return the processes of these workers; an empty tree for one that has not started."""
        roots: dict[ProcessSearch, dict[str, TreeRoot]] = {}
        found = {name: ProcessTree() for name in names if name in self.workers}
        for name in found:
            worker = self.workers[name]
            if worker.process is not None:
                roots.setdefault(worker.process.search, {})[name] = worker.root
        # A caller that asks again and again must not stop the event loop.
        await asyncio.sleep(0)
        for search, searched in roots.items():
            slow = search.is_slow
            found |= (
                await asyncio.to_thread(search.trees, searched) if slow else search.trees(searched)
            )
        return found

    async def describe(self, names: Iterable[str]) -> list[WorkerInfo]:
        """Return these workers with their memory measured now; leave out those that have ended."""
        shown = [self.workers[name] for name in names if name in self.workers]
        trees = await self.find_processes([worker.name for worker in shown])
        sizes = {name: tree.rss for name, tree in trees.items()}
        records = self.scheduler.workers
        return [
            self._info(worker, records[worker.name], sizes[worker.name])
            for worker in shown
            # It can have ended while the memory was measured.
            if worker.name in records
        ]

    def _info(self, worker: Worker, record: WorkerRecord, size: int) -> WorkerInfo:
        agent = self._registry.agent(record.spec)
        return WorkerInfo(
            worker=worker.name,
            agent=agent.name if agent else "",
            description=agent.description if agent else "",
            state=str(record.state),
            pid=worker.pid,
            tasks=worker.turns - worker.is_in_turn,
            rss=size,
            uptime=time.monotonic() - worker.started_at,
            usage=worker.spend.usage,
            cost_usd=worker.spend.cost_usd,
            note=self._note(worker),
            hook_seconds=worker.hooks.seconds,
            project=record.key.project if record.key else "",
            memory=worker.launch.memory,
            profile=record.profile,
        )

    def _note(self, worker: Worker) -> str:
        limits = describe_limits(self.rate_limits) if self.rate_limits else ""
        return worker.note or worker.hooks.note or limits

    # Performing what the scheduler says

    def _perform(self, actions: Iterable[Action]) -> None:
        self._publish_changes()
        for action in actions:
            match action:
                case Spawn(name, spec, profile):
                    self._create(name, spec, profile)
                    self._occupy(name, self._start(name, spec), "start")
                case Assign(name, spec, previous):
                    earlier = previous.name if previous else ""
                    self._publish(name, WorkerAssigned(worker=name, previous=earlier))
                    self._occupy(name, self._assign(name, spec), "assign")
                case Reset(name):
                    self._occupy(name, self._reset(name), "reset")
                case Stop(name, reason):
                    self._begin_stop(name, reason)
                case Grant(ticket, name):
                    self._waiters.grant(ticket, name)
                case Refuse(ticket, reason):
                    error = waiters.refusal(ticket, reason, self.scheduler, self._start_errors)
                    self._waiters.refuse(ticket, error)

    def _publish_changes(self) -> None:
        changes, self.scheduler.changes = self.scheduler.changes, []
        for change in changes:
            self._publish_for(change.key, _change_event(change))

    def _publish(self, worker: str, event: PoolEvent) -> None:
        self._publish_for(self.key_of(worker), event)

    def _publish_for(self, key: AgentKey | None, event: PoolEvent) -> None:
        agent, project = (key.name, key.project) if key else ("", "")
        self._bus.publish(event, agent=agent, project=project)

    def _create(self, name: str, spec: AgentSpec | None, profile: str) -> None:
        assert self._run_dir is not None, "open() comes before the first request"

        def unfit(reason: RetireReason) -> None:
            self._perform(self.scheduler.mark_unfit(name, reason, _now()))

        def spent(spend: Spend) -> None:
            cost = spend.cost_usd
            self._publish(name, TurnEnded(worker=name, usage=spend.usage, cost_usd=cost))

        launch = self._registry.launch(spec, profile)
        self.workers[name] = Worker(
            name,
            launch,
            self._settings,
            agent=str(spec.key) if spec else "",
            cookie=f"{self._watchdog.cookie}/{name}",
            watchdog=self._watchdog,
            run_dir=self._run_dir,
            verdict=self._probe.known(launch),
            callbacks=WorkerCallbacks(
                exit=lambda: unfit(RetireReason.DIED),
                taint=lambda: unfit(RetireReason.TAINTED),
                spend=spent,
                stray=lambda: self._publish(name, StrayResult(worker=name)),
                rate_limits=self.report_rate_limits,
            ),
        )

    async def _start(self, name: str, spec: AgentSpec | None) -> None:
        worker = self.workers[name]
        # A spare that takes no roles is not initialised yet: that makes it an agent, once.
        is_blank = spec is None and not worker.launch.takes_roles
        starting = worker.spawn() if is_blank else worker.start()
        await self._until_started(name, starting, timed=spec is not None)

    async def _assign(self, name: str, spec: AgentSpec) -> None:
        worker = self.workers[name]
        worker.agent = str(spec.key)
        launch = self._registry.launch(spec, spec.profile)
        await self._until_started(name, worker.become(launch), timed=False)

    async def _until_started(
        self, name: str, starting: Coroutine[Any, Any, None], *, timed: bool
    ) -> None:
        worker = self.workers[name]
        try:
            await starting
        except ClaimError as error:
            log.info("%s stays a spare: %s", worker.label, error)
            worker.agent = ""
            self._perform(self.scheduler.claim_refused(name, _now()))
        except Exception as error:
            # Not CancelledError: `_stop` and `close` cancel a start and end its process themselves.
            if worker.is_other_version:
                self._registry.forget_versions()
            self._start_failed(name, error)
        else:
            seconds = _now() - worker.started_at if timed else None
            if (key := self.key_of(name)) is not None:
                self._start_errors.pop(key, None)
            # Published before `started`, by which a caller can get the worker at once.
            ready = WorkerReady(worker=name, pid=worker.pid or 0, seconds=seconds)
            self._publish(name, ready)
            self._perform(self.scheduler.started(name, _now()))
            # Last: the first task must not wait for the probe, which takes about a second.
            self._probe.begin(worker.launch)

    def _start_failed(self, name: str, error: Exception) -> None:
        if not isinstance(error, AgentPoolError):
            log.error("worker %s could not be started because of a bug", name, exc_info=error)
            error = SpawnError(f"worker {name} could not be started: {error!r}", worker=name)
        # Once the pool is closed, it has killed this process itself, and no task waits for it.
        log.log(logging.DEBUG if self.scheduler.is_closed else logging.WARNING, "%s", error)
        if (key := self.key_of(name)) is not None:
            self._start_errors[key] = error
        fatal = isinstance(error, SpawnError) and error.is_fatal
        self._perform(self.scheduler.start_failed(name, fatal, _now()))

    async def _reset(self, name: str) -> None:
        worker = self.workers[name]
        try:
            await self._try_to_reset(worker)
        finally:
            # In every case: a worker that stays RESETTING serves no caller and is never stopped.
            self._perform(self.scheduler.reset_finished(name, worker.is_clean, _now()))

    async def _try_to_reset(self, worker: Worker) -> None:
        if not await worker.settle() or worker.taints:
            return
        # Asked after the turn, so that the probe can run while the task runs.
        verdict = await self._probe.get(worker.launch)
        if not verdict.forgets:
            self._perform(self.scheduler.forbid_reset(worker.launch.profile, _now()))
            return
        base = worker.launch.base_profile
        if base and not verdict.claims:
            self._perform(self.scheduler.forbid_claims(base, _now()))
        if verdict.switches:
            self._perform(self.scheduler.allow_switching(worker.launch.profile, _now()))
        # The caller first: its answer needs some steps of the event loop, and the search for the
        # processes of its task is a thread, which competes for the interpreter.
        for _ in range(ANSWER_STEPS):
            await asyncio.sleep(0)
        way = await worker.reset(verdict)
        if way is not None:
            self._publish(worker.name, WorkerReset(worker=worker.name, way=way))
        await self._load_roles(worker)

    async def _load_roles(self, worker: Worker) -> None:
        """Load the roles of the project's other agents into a worker, once."""
        spec = self.scheduler.workers[worker.name].spec
        if worker.is_clean and spec is not None and not worker.has_all_roles:
            worker.has_all_roles = True
            await worker.load_roles(await self._registry.roles_beside(spec))

    def _begin_stop(self, name: str, reason: RetireReason) -> None:
        worker, record = self.workers[name], self.scheduler.workers[name]
        log.info("%s is stopped: %s", worker.label, reason)
        if worker.taints:
            log.warning("%s is replaced: %s", worker.label, "; ".join(worker.taints))
        worker.fail_on_stop(_stop_text(record, reason, self.scheduler.limits))
        taints = tuple(worker.taints)
        self._publish(name, WorkerRetired(worker=name, reason=str(reason), taints=taints))
        self._own(self._stop(name), f"stop {name}")

    async def _stop(self, name: str) -> None:
        worker = self.workers[name]
        busy = self._busy.pop(name, None)
        try:
            if busy is not None:
                # A start or a reset must not go on to use the process while it is stopped.
                busy.cancel()
                await asyncio.wait([busy], timeout=self._settings.kill_grace)
            await worker.stop()
        finally:
            # A cancelled stop too: a removed worker must have no process left.
            worker.kill()
            worker.removed.set()
            del self.workers[name]
            self._perform(self.scheduler.removed(name, _now()))
            if not self.scheduler.workers:
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
        # asyncio itself keeps only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._disown)
        return task

    def _disown(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed because of a bug", task.get_name(), exc_info=error)

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            try:
                await self._check_workers()
            except Exception:  # e.g. no thread can be started; the next tick tries again
                log.exception("the workers could not be checked; the next tick tries again")

    async def _check_workers(self) -> None:
        self._ticks += 1
        busy = {name for name, one in self.scheduler.workers.items() if one.state not in _RESTING}
        at_rest = self._ticks % REST_TICKS == 0
        # Once more after the end of a task: its memory counts until then.
        watched = {name for name in busy | self._were_busy if self._must_be_watched(name)}
        if names := set(self.workers) if at_rest else watched:
            trees = await self.find_processes(names)
            sizes = {name: tree.rss for name, tree in trees.items()}
            self._perform(self.scheduler.memory_measured(sizes, _now()))
            zombies = {name: tree.zombies for name, tree in trees.items()}
            self._perform(self.scheduler.zombies_counted(zombies, _now()))
            self._end_stalled_turns(trees)
        self._were_busy = busy
        if at_rest:
            await self._end_leftovers_at_rest()
        self._perform(self.scheduler.tick(_now()))
        self._waiters.report(self._queue_event)
        self.on_tick()

    def _must_be_watched(self, name: str) -> bool:
        worker = self.workers.get(name)
        if worker is None or worker.process is None:
            return False
        # A search through the environment of all processes costs too much for a task without any.
        return worker.process.search.finds_all or worker.can_have_started_programs

    async def _end_leftovers_at_rest(self) -> None:
        """End what was started on an idle worker after its reset, for example by a hook."""
        found = {}
        for name, worker in list(self.workers.items()):
            process, turns = worker.process, worker.turns
            # A process without a task can be the CLI's own, and has an end.
            if process is None or not turns or not process.search.finds_all:
                continue
            left = await worker.find_leftovers()
            record = self.scheduler.workers.get(name)
            if worker.turns == turns and record and record.state is WorkerState.IDLE:
                # Only what was there at the last look too: the CLI calls programs of its own.
                known = self._left.get(name, set())
                process_tree.kill(one for one in left if one.key in known)
                found[name] = {one.key for one in left}
        self._left = found

    def _end_stalled_turns(self, trees: Mapping[str, ProcessTree]) -> None:
        """Fail the turns of workers that have written nothing for `stall_timeout` seconds."""
        bound = self._settings.stall_timeout
        for worker in list(self.workers.values()):
            # A silent tool whose process lives is at work, and a person can take time to decide.
            # The CLI itself is one of these processes; a command is another one.
            tree = trees.get(worker.name, ProcessTree())
            in_tool = worker.open_tools and len(tree.processes) > 1
            waits = in_tool or worker.awaits_permission
            if bound and worker.is_in_turn and not waits and worker.silence > bound:
                worker.fail_turn(
                    TaskTimeout(
                        f"{worker.label} wrote nothing for {bound:g} s (setting stall_timeout), so "
                        "its task was stopped; try again"
                    )
                )

    async def _wait_until_empty(self, timeout: float) -> None:
        self._emptied.clear()
        if self.scheduler.workers:
            try:
                async with asyncio.timeout(timeout):
                    await self._emptied.wait()
            except TimeoutError:  # the caller goes on with the next, harder step
                pass


def _postpone(bound: asyncio.Timeout, seconds: float) -> None:
    when = bound.when()
    if when is not None and not bound.expired():
        bound.reschedule(when + seconds)


def _change_event(change: StateChange) -> WorkerStateChanged:
    return WorkerStateChanged(
        worker=change.worker,
        previous=str(change.previous or ""),
        state=str(change.state or "gone"),
    )


def _sign_in_refused(worker: Worker, event: Retry) -> SignInRefused:
    problem = failures.sign_in_text(f"{event.status} {event.error}")
    return SignInRefused(f"{worker.label}: {problem}\n{SignInRefused.advice}")


def _stop_text(record: WorkerRecord, reason: RetireReason, limits: Limits) -> str:
    """Return why a worker is stopped, for the error of its running task."""
    if reason is not RetireReason.MAX_RSS:
        return f"the pool retired it ({reason})"
    return (
        f"its processes used {mebibytes(record.rss)}, more than max_rss_hard "
        f"({mebibytes(limits.max_rss_hard or 0)}); {OUT_OF_MEMORY_ADVICE}"
    )


def _limits(settings: Settings) -> Limits:
    return Limits(**{field.name: getattr(settings, field.name) for field in fields(Limits)})


def _now() -> float:
    return time.monotonic()
