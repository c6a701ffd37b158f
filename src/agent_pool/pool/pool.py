"""`AgentPool`: the pool whose workers are processes of this program."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from agent_pool.agents import Agent, Projects
from agent_pool.api import BatchItem, OnEvent, OnPermission, RequestCalls
from agent_pool.claude.launch import LaunchConfig, refuse_nesting
from agent_pool.claude.mcp_config import McpConfig
from agent_pool.claude.prompt_size import measure_prompt
from agent_pool.claude.reset_probe import ResetProbe
from agent_pool.claude.watchdog import Watchdog
from agent_pool.errors import (
    AgentPoolError,
    ConfigError,
    PoolClosed,
    PoolError,
    TaskCancelled,
    TaskError,
)
from agent_pool.events import Event, Snapshot, TaskEvent
from agent_pool.models import (
    AgentList,
    Denied,
    LaunchSpec,
    Outcome,
    PermissionRequest,
    PoolStats,
    PoolStatus,
    PromptSize,
    ResetVerdict,
    TaskRequest,
    TaskResult,
    WorkerInfo,
)
from agent_pool.pool.agent_listing import list_agents
from agent_pool.pool.agent_registry import AgentRegistry
from agent_pool.pool.batch import Batch, read_requests
from agent_pool.pool.call_options import read_options
from agent_pool.pool.conversations import ConversationKey, Conversations
from agent_pool.pool.event_bus import EventBus, call_listener
from agent_pool.pool.isolated_tasks import refuse_conversation
from agent_pool.pool.launch_cache import LaunchCache
from agent_pool.pool.request_checks import check_agent_name, check_request
from agent_pool.pool.stats import StatsCounter
from agent_pool.pool.status_server import StatusServer, pool_status
from agent_pool.pool.supervisor import Supervisor
from agent_pool.pool.task_runner import RunningTask, TaskRunner
from agent_pool.settings import Environment, Settings, load_settings

log = logging.getLogger("agent_pool")

ENDED_TIMEOUT: Final = 5.0
"""Seconds in which `close` waits for the ends of tasks; they take some steps of the event loop."""


class AgentPool(RequestCalls):
    """Warm Claude Code agents in processes of this program; see `PoolAPI` for every method.

    Args:
        settings: all settings; by default those of the environment and the settings file.
        environ: the environment that settings, credentials and workers come from; by default that
            of this process.
        **overrides: single settings, which win over the environment and the file.

    Attributes:
        settings: the settings in force.

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
        environ = Environment(environ)
        base = settings or load_settings(environ, **overrides)
        self.settings = base.with_overrides(overrides) if settings else base
        self._environ = environ
        self._projects = Projects(self.settings, environ)
        self._launches = LaunchCache()
        self._bus = EventBus()
        self._stats = StatsCounter()
        self._bus.subscribe(self._stats.record)
        watchdog = Watchdog(secrets.token_hex(8))
        self._probe = ResetProbe(self.settings, environ, watchdog)
        # Twice: tasks can wait for a worker, and others for their conversation.
        callers = 2 * self.settings.max_waiting
        self._registry = AgentRegistry(self._projects, self._launches, self._specs_in_use, callers)
        self._supervisor = Supervisor(
            self.settings, self._probe, self._registry, self._bus, watchdog
        )
        self._conversations = Conversations(self._supervisor, self.settings)
        self._supervisor.on_tick = self._conversations.tick
        self._runner = TaskRunner(
            self._registry, self._supervisor, self._conversations, self.settings
        )
        self._status_server = StatusServer(self._status)
        self._handles: dict[str, _Handle] = {}
        self._opening: asyncio.Task[None] | None = None
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened_at = time.monotonic()

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        if self._supervisor.scheduler.is_closed:
            raise PoolClosed("this pool was closed; make a new one")
        self._check_loop()
        if not self._is_open:
            refuse_nesting(self._environ, self.settings)
            folder = self._supervisor.open()
            self._is_open = True
            self._loop = asyncio.get_running_loop()
            self._opened_at = time.monotonic()
            self._opening = asyncio.create_task(self._finish_opening(folder))

    async def _finish_opening(self, folder: Path) -> None:
        # In the background: no caller has to wait for it.
        await self._status_server.open(folder)
        for agent in self.settings.prewarm:
            try:
                spec = await self._registry.resolve(agent)
                self._supervisor.keep_warm(spec, self.settings.min_size)
            except AgentPoolError as error:
                # Only a task of this agent fails by it; the others must be served.
                log.warning("agent %r cannot be kept warm (setting prewarm): %s", agent, error)

    def _check_loop(self) -> None:
        """Refuse a second event loop: its callers would wait for ever for what the first one does.

        Raises:
            PoolError: the pool was opened in another event loop.
        """
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            state = "has ended" if self._loop.is_closed() else "still runs"
            raise PoolError(
                f"this pool was opened in another event loop, which {state}; use it there, or make "
                "a new pool in this one. `kill()` ends its processes from everywhere"
            )

    async def close(self) -> None:
        self._check_loop()
        if self._opening is not None:
            self._opening.cancel()
        # First: an idle conversation holds a worker, for which `Supervisor.close` would wait. There
        # is no await between the two, so no conversation begins again.
        self._conversations.end_all()
        try:
            await self._supervisor.close()
        finally:  # a cancelled close too: probes and version queries have processes
            self._status_server.close()
            await self._probe.close()
            await self._launches.close()
            await self._wait_for_tasks()
            await self._runner.close()

    async def _wait_for_tasks(self) -> None:
        # Every task has its result or its error now; its `Ended` is some steps of the loop away.
        if running := [handle.running for handle in self._handles.values()]:
            await asyncio.wait(running, timeout=ENDED_TIMEOUT)

    def kill(self) -> None:
        self._supervisor.kill()

    # Tasks

    async def submit(
        self,
        request: TaskRequest,
        *,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
        task_id: str | None = None,
    ) -> _Handle:
        if not self._is_open:
            raise PoolClosed("the pool is not open; use `async with AgentPool() as pool`")
        self._check_loop()
        if task_id in self._handles:
            raise ConfigError(f"task_id: a task with the id {task_id!r} is running")
        task = RunningTask(request, self._bus, on_event, on_permission, task_id)
        # A task of its own: its end and its events do not depend on the caller.
        running = asyncio.get_running_loop().create_task(
            self._runner.run(task), name=f"agent-pool {task.id}"
        )
        handle = self._handles[task.id] = _Handle(task, running)
        running.add_done_callback(lambda _: self._forget(handle, task, running))
        return handle

    def _forget(
        self, handle: _Handle, task: RunningTask, running: asyncio.Task[TaskResult]
    ) -> None:
        self._handles.pop(task.id, None)
        if not task.has_started:
            self._end_conversation(task.request)
        if running.cancelled():
            # Here and not in the task's own code: one that is cancelled at once never runs.
            error = handle.cancel_error
            if error.result is None and task.unfinished is not None:
                error.result = replace(task.unfinished, text=error.message, code=error.code)
            task.end(error=error)
        else:
            # Read it once, or asyncio logs the error of a task whose caller has left as unseen.
            running.exception()

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

        batch = Batch(items, run_one, on_end, self._meant_agent, self._end_conversation)
        # All tasks that run can have to wait at once, and none of them must be refused.
        at_once = min(self.settings.max_workers, max(1, self.settings.max_waiting))
        return await batch.run(at_once=at_once, per_agent=self.settings.max_size)

    def _meant_agent(self, request: TaskRequest) -> object:
        """Return the key of the agent that a request means; its name if it is not defined."""
        try:
            project = self._projects.get(request.project)
            return project.key(project.catalog.find(request.agent).name)
        except AgentPoolError:  # the task itself will fail with it
            return str(request.agent)

    async def cancel(self, task_id: str, *, error: TaskError | None = None) -> bool:
        self._check_loop()
        handle = self._handles.get(task_id)
        return handle is not None and handle.cancel(error)

    async def check(self, request: TaskRequest) -> None:
        check_request(request)
        place = self._projects.get(request.project)
        options, agent = read_options(request), place.catalog.find(request.agent)
        options.apply(agent, place.settings)
        if options.isolates(agent):
            refuse_conversation(request)

    async def end_conversation(
        self, agent: str, conversation: str, *, project: str | None = None
    ) -> bool:
        return self._end_conversation_of(agent, conversation, project)

    def _end_conversation(self, request: TaskRequest) -> None:
        """End the conversation of a request that was to be its last task but never began."""
        if request.conversation is not None and request.ends_conversation:
            # Without such an agent there is no conversation; the task's own error says so.
            with suppress(AgentPoolError):
                self._end_conversation_of(request.agent, request.conversation, request.project)

    def _end_conversation_of(self, agent: str, conversation: str, project: str | None) -> bool:
        check_agent_name(agent)
        place = self._projects.get(project)
        # Before the definition is read: it can be removed or broken by now.
        if self._conversations.end(ConversationKey(place.name, agent, conversation)):
            return True
        name = place.catalog.find(agent).name  # the caller can use the name of its file
        return self._conversations.end(ConversationKey(place.name, name, conversation))

    # Agents

    async def agents(self, *, project: str | None = None) -> AgentList:
        # On the event loop, like all other look-ups: a catalog is made for one thread.
        return list_agents(self._projects.get(project))

    async def agents_version(self, *, project: str | None = None) -> str:
        found = self._projects.get(project)
        # In a thread: folders can be slow, and a stamp changes no state. An agent can become usable
        # by a server that is added later.
        stamps = await asyncio.to_thread(lambda: (found.catalog.stamp(), McpConfig(found).stamp()))
        return hashlib.sha256(repr(stamps).encode("utf-8", "surrogateescape")).hexdigest()[:16]

    async def launch_spec(self, agent: str, *, project: str | None = None) -> LaunchSpec:
        found = self._find(agent, project)
        return replace((await self._launch(agent, project)).spec(), path=str(found.path))

    async def prompt_size(self, agent: str, *, project: str | None = None) -> PromptSize:
        return await measure_prompt(await self._launch(agent, project), self.settings)

    async def reset_verdict(
        self, agent: str, *, project: str | None = None, refresh: bool = False
    ) -> ResetVerdict | None:
        launch = await self._launch(agent, project)
        return await self._probe.refresh(launch) if refresh else self._probe.kept(launch)

    async def _launch(self, agent: str, project: str | None) -> LaunchConfig:
        found = self._find(agent, project)
        return await self._launches.get(found, self._projects.get(project))

    def _find(self, agent: str, project: str | None) -> Agent:
        check_agent_name(agent)
        return self._projects.get(project).catalog.find(agent)

    # Workers and figures

    async def warmup(self, agent: str, *, project: str | None = None) -> WorkerInfo:
        check_agent_name(agent)
        if not self._is_open:
            raise PoolClosed("the pool is not open; use `async with AgentPool() as pool`")
        self._check_loop()
        spec = await self._registry.resolve(agent, project)
        # A worker can end at any await below, so nothing is kept from one round to the next.
        while True:
            ready = self._supervisor.ready_workers(spec)
            if not ready:
                worker = await self._supervisor.acquire(spec, lambda _: None)
                self._supervisor.return_unused(worker)
                ready = [worker.name]
            # It can have ended while its memory was measured: then take another one.
            if found := await self._supervisor.describe(ready[:1]):
                return found[0]

    async def workers(self) -> list[WorkerInfo]:
        return await self._supervisor.describe(list(self._supervisor.workers))

    async def stats(self) -> PoolStats:
        return self._current_stats()

    def _current_stats(self) -> PoolStats:
        now = time.monotonic()
        scheduler = self._supervisor.scheduler
        return self._stats.snapshot(
            uptime=now - self._opened_at,
            waiting=scheduler.waiting + self._conversations.waiting,
            paused=(paused := max(0.0, scheduler.paused_until - now)),
            pause_reason=self._supervisor.pause_reason if paused else "",
            rate_limits=self._supervisor.rate_limits,
            workers=self._supervisor.worker_states(),
        )

    async def reset(self, agent: str, *, project: str | None = None) -> int:
        check_agent_name(agent)
        self._check_loop()
        place = self._projects.get(project)
        # Before the definition is read: it can be removed or broken by now.
        stopped = await self._supervisor.retire(place.name, agent, "its agent was reset")
        if stopped:
            return stopped
        name = place.catalog.find(agent).name  # the caller can use the name of its file
        return await self._supervisor.retire(place.name, name, "its agent was reset")

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        first = Snapshot(stats=self._current_stats(), time=time.time())
        # No await until it is subscribed: each event is in the snapshot or comes later, never both.
        call_listener(listener, first)
        return self._bus.subscribe(listener)

    async def _status(self) -> PoolStatus:
        project = self._projects.default.name
        return pool_status(await self.workers(), self._current_stats(), project)

    def _specs_in_use(self) -> set[Any]:
        return {record.spec for record in self._supervisor.scheduler.workers.values()}


class _Handle:
    """A task of an `AgentPool`; see `TaskHandle`."""

    def __init__(self, task: RunningTask, running: asyncio.Task[TaskResult]) -> None:
        self._task = task
        self.running = running
        self.cancel_error: TaskError = _cancelled(task.request)

    @property
    def id(self) -> str:
        return self._task.id

    @property
    def request(self) -> TaskRequest:
        return self._task.request

    async def result(self) -> TaskResult:
        # `wait` does not cancel the task if this caller is cancelled.
        await asyncio.wait([self.running])
        if self.running.cancelled():
            raise self.cancel_error
        return self.running.result()

    async def result_or_cancel(self) -> TaskResult:
        """Return the result as `result` does; cancel the task if this caller is cancelled."""
        try:
            return await self.result()
        except asyncio.CancelledError:
            await self.cancel_and_wait()
            raise

    def cancel(self, error: TaskError | None = None) -> bool:
        if self._task.has_ended or not self.running.cancel():
            return False
        self.cancel_error = error or self.cancel_error
        return True

    async def cancel_and_wait(self) -> None:
        """Cancel the task unless it has ended, and wait for its end: a few steps of the loop."""
        # The worker is given back by a plain call, so this does not wait for the turn's end.
        self.cancel()
        await asyncio.wait([self.running])


def _cancelled(request: TaskRequest) -> TaskCancelled:
    return TaskCancelled(f"the task of agent {request.agent!r} was cancelled")
