"""The pool as callers see it: a task goes in, an answer comes out.

A caller owns nothing but a lease, and giving it back is a plain call, so that cancelling a caller
can neither lose a worker nor hand a used one to the next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from agent_pool.agents import Catalog
from agent_pool.claude.launch import Launch, refuse_nesting
from agent_pool.claude.verdicts import Verdict, Verdicts
from agent_pool.claude.worker import Worker
from agent_pool.errors import AgentPoolError, ConfigError, PoolClosed
from agent_pool.pool.actions import AgentRef, WorkerState
from agent_pool.pool.asking import Permit
from agent_pool.pool.books import PoolStats
from agent_pool.pool.conversations import Conversations
from agent_pool.pool.launches import Launches
from agent_pool.pool.many import Call as ManyCall
from agent_pool.pool.many import Many, Outcome, check_calls
from agent_pool.pool.result import Started, TaskEvent, TaskResult, WorkerInfo
from agent_pool.pool.running import Call, run, schema_text
from agent_pool.pool.status import PoolStatus, describe, pool_stats, pool_status
from agent_pool.pool.supervisor import Supervisor
from agent_pool.pool.tasks import check_arguments, check_name, listener, streamed
from agent_pool.pool.window import Window
from agent_pool.settings import Settings, load_settings

log = logging.getLogger("agent_pool")

Workers = list[WorkerInfo]
Results = list[Outcome]

_READY: Final = (WorkerState.IDLE, WorkerState.LEASED, WorkerState.RESETTING)


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
        self._environ = environ
        self._launches = Launches(self.settings, environ)
        cookie = secrets.token_hex(8)
        self._verdicts = Verdicts(self.settings, environ, cookie)
        self._supervisor = Supervisor(self.settings, self._verdicts, cookie)
        self._conversations = Conversations(self._supervisor, self.settings)
        self._supervisor.on_tick = self._conversations.tick
        self._window = Window(self._status)
        self._beginning: asyncio.Task[None] | None = None
        self._is_open = False
        self._opened = _now()

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Let tasks in. No process is started before the first is wanted.

        Raises:
            PoolClosed: it was closed before.
            ConfigError: this process belongs to a worker of another pool, see `allow_nested`; or
                there is no place for temporary files.
        """
        if self._supervisor.core.is_closed:
            raise PoolClosed("this pool was closed; make a new one")
        if not self._is_open:
            refuse_nesting(self._environ, self.settings)
            folder = self._supervisor.open()
            self._is_open = True
            self._opened = _now()
            self._beginning = asyncio.create_task(self._begin(folder))

    async def close(self) -> None:
        """End the pool: waiting callers are refused, running tasks get `close_timeout`.

        Returns when every process is gone. A second call waits for the same end.
        """
        if self._beginning is not None:
            self._beginning.cancel()
        self._conversations.end_all()
        try:
            await self._supervisor.close()
        finally:
            self._window.close()
            await self._verdicts.close()
            await self._launches.close()

    def kill(self) -> None:
        """SIGKILL everything that the pool started, at once and without an event loop.

        For signal handlers and last resorts; takes some milliseconds.
        """
        self._supervisor.kill()

    # What callers want

    async def invoke(
        self,
        agent: str,
        task: str,
        *,
        timeout: float | None = None,
        on_event: Callable[[TaskEvent], None] | None = None,
        on_permission: Permit | None = None,
        conversation: str | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> TaskResult:
        """Give an agent a task and wait for its answer.

        Args:
            agent: the name of a definition.
            task: what to do, as text; it is data and never a command of the CLI.
            timeout: seconds that it may run, `task_timeout` by default. Time in the queue does
                not count and is bounded by `acquire_timeout`; nor does time in which
                `on_permission` decides, bounded by `permission_timeout`.
            on_event: called with each event as it comes, the result excepted.
            on_permission: decides what the agent asks permission for, by True, False or `Denied`
                with a reason that the agent reads; without it all is denied.
            conversation: a name that keeps the context for the next call with the same agent and
                name, until it is ended, expires, or one of its tasks does not end well.
            schema: a JSON schema; the answer is then also a Python object, `structured`.

        A caller that is cancelled leaves at once; the pool ends the turn and cleans up.

        Raises:
            AgentNotFound, ConfigError: no such agent, or an argument or a definition is wrong.
            PoolTimeout, TooManyRequests, PoolClosed: no worker could be had.
            SpawnError, WorkerDied: a process could not be started, or ended during the task.
            TaskTimeout: the task took too long, or said nothing for too long, and was stopped.
            TaskFailed: the API refuses the sign-in, or the answer does not fit the schema.
        """
        check_arguments(agent, task, timeout, conversation)
        bound = float(timeout or self.settings.task_timeout)
        patience = self.settings.permission_timeout
        call = Call(agent, task, bound, listener(on_event), on_permission, patience, schema)
        ref = await self._find(agent, schema_text(schema))
        if conversation is not None:
            return await self._converse(call, ref, conversation)
        asked = _now()
        worker = await self._supervisor.acquire(ref, call.tell)
        try:
            return await self._run(call, worker, asked)
        finally:
            self._supervisor.give_back(worker)

    def check(
        self,
        agent: str,
        task: str,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        """Refuse what `invoke` would refuse without asking for a worker; runs nothing.

        Works on a pool that is not open.

        Raises:
            AgentNotFound, ConfigError: as `invoke`.
        """
        check_arguments(agent, task, timeout, conversation)
        schema_text(schema)
        self.catalog.find(agent)

    def end_conversation(self, agent: str, conversation: str) -> bool:
        """Forget a conversation, after the task that it runs, if any; whether there was one.

        Raises:
            AgentNotFound: there is neither such a conversation nor a definition of that name.
        """
        check_name(agent)
        if self._conversations.end(agent, conversation):
            return True
        name = self.catalog.find(agent).name  # it may go by the name of its file
        return self._conversations.end(name, conversation)

    async def map(
        self,
        calls: Iterable[ManyCall],
        *,
        timeout: float | None = None,
        on_event: Callable[[int, TaskEvent], None] | None = None,
        on_permission: Permit | None = None,
        on_end: Callable[[int, Outcome], None] | None = None,
    ) -> Results:
        """Run many tasks side by side within the pool's limits.

        Args:
            calls: what to run: ``(agent, task)`` pairs, or mappings with `agent`, `task` and, as
                for `invoke`, `timeout`, `conversation` and `schema`. Those of one agent and
                conversation run in their order. No more than `max_workers` are under way at once,
                and `max_size` of one agent, so a long list does not fill the queue.
            timeout: for each call that has none of its own.
            on_event: called with the call's place in the list and the event.
            on_permission: as for `invoke`, for all of them.
            on_end: called with the call's place and its result or error, as each ends. What it
                raises ends all others and is raised.

        Returns:
            One entry a call, in their order: its result, or the error that `invoke` would raise;
            `ContextLost` if an earlier task of its conversation did not end well.

        Raises:
            ConfigError: the calls are no list of such pairs and mappings.
        """
        given = check_calls(calls)

        def run_one(place: int) -> Awaitable[TaskResult]:
            tell = partial(on_event, place) if on_event else None
            call: dict[str, Any] = {"timeout": timeout, **given[place]}
            return self.invoke(**call, on_event=tell, on_permission=on_permission)

        # All that are under way may have to wait at once, and none is to be refused.
        at_once = min(self.settings.max_workers, max(1, self.settings.max_waiting))
        many = Many(given, run_one, on_end, self.catalog)
        return await many.run(at_once=at_once, per_agent=self.settings.max_size)

    def stream(
        self,
        agent: str,
        task: str,
        *,
        timeout: float | None = None,
        on_permission: Permit | None = None,
        conversation: str | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[TaskEvent, None]:
        """As `invoke`, but yields what happens as it happens; the result comes last.

        Leaving the iteration early ends the task.
        """
        options: dict[str, Any] = {"conversation": conversation, "schema": schema}
        options |= {"timeout": timeout, "on_permission": on_permission}
        return streamed(partial(self.invoke, agent, task, **options))

    async def warmup(self, agent: str) -> WorkerInfo:
        """Make sure that a worker of the agent has been started, and wait until it is ready.

        Raises:
            As `invoke`.
        """
        check_name(agent)
        ref = await self._find(agent)
        while True:
            records = self._supervisor.core.workers.values()
            ready = [r.name for r in records if r.ref == ref and r.state in _READY]
            if not ready:
                worker = await self._supervisor.acquire(ref, listener(None))
                self._supervisor.give_back_unused(worker)
                ready = [worker.name]
            if found := await describe(self._supervisor, ready[:1]):  # it may have gone meanwhile
                return found[0]

    async def list(self) -> Workers:
        """The workers as they are now, their memory measured now."""
        return await describe(self._supervisor, list(self._supervisor.workers))

    def stats(self) -> PoolStats:
        """What happened since the pool was opened: tasks, tokens, cost, workers and why they went.

        Costs nothing; memory is in `list`.
        """
        return pool_stats(self._supervisor, self._conversations.waiting, self._opened)

    async def reset(self, agent: str) -> int:
        """Stop the agent's workers and wait until they are gone; the next task gets a new one.

        A task that runs on one of them fails with `WorkerDied`.

        Returns:
            How many were stopped.

        Raises:
            AgentNotFound: there is neither a worker nor a definition of that name.
        """
        check_name(agent)
        stopped = await self._supervisor.retire(agent, "its agent was reset")
        if stopped:
            return stopped
        name = self.catalog.find(agent).name  # it may go by the name of its file
        return await self._supervisor.retire(name, "its agent was reset")

    async def launch(self, agent: str) -> Launch:
        """How a worker of this agent is started: command, environment, folder, prompt."""
        return await self._launches.get(self.catalog.find(agent))

    async def verdict(self, agent: str, *, refresh: bool = False) -> Verdict | None:
        """Whether the CLI, with this agent's options, is known to forget between tasks.

        Works on a pool that is not open. With `refresh` it is found out anew, in a process of its
        own against the offline model, which takes about a second; otherwise None means that it
        will be found out at the agent's first task.

        Raises:
            AgentNotFound, ConfigError, SpawnError: as `invoke`.
        """
        launch = await self.launch(agent)
        return await self._verdicts.refresh(launch) if refresh else self._verdicts.kept(launch)

    # Inside

    async def _find(self, agent: str, schema: str = "") -> AgentRef:
        if not self._is_open:
            raise PoolClosed("the pool is not open; use `async with AgentPool() as pool`")
        definition = self.catalog.find(agent)
        launch = await self._launches.get(definition)
        if schema and not launch.prompt_by_initialize:
            raise ConfigError(f"Claude Code {launch.version} cannot answer by a schema; update it")
        return self._supervisor.define(definition, replace(launch, schema=schema))

    async def _run(self, call: Call, worker: Worker, asked: float) -> TaskResult:
        began = _now()
        waited = began - asked
        agent = self._supervisor.agent_of(worker.name)  # a call may use the name of its file
        reused = worker.turns > 0
        call.tell(Started(call.agent, worker.name, worker.pid or 0, waited))
        failure = "cancelled"
        try:
            result = await run(call, worker, self._supervisor, waited)
            failure = "task_error" if result.is_error else ""
            return result
        except AgentPoolError as error:
            failure = error.code
            raise
        finally:
            running = _now() - began
            self._supervisor.books.task_ended(
                agent, waited=waited, running=running, reused=reused, failure=failure
            )

    async def _converse(self, call: Call, ref: AgentRef, name: str) -> TaskResult:
        asked = _now()
        conversation = await self._conversations.take(ref, name, call.tell)
        assert conversation.worker is not None, "take() brings a worker"
        intact = False
        try:
            result = await self._run(call, conversation.worker, asked)
            intact = not result.is_error
        finally:
            self._conversations.give_back(conversation, intact=intact)
        return replace(result, conversation=name, place=conversation.tasks)

    async def _status(self) -> PoolStatus:
        return pool_status(await self.list(), self.stats(), self.settings)

    async def _begin(self, folder: Path) -> None:
        """What follows on opening and keeps nobody waiting."""
        await self._window.open(folder)
        for agent in self.settings.prewarm:
            try:
                self._supervisor.keep_warm(await self._find(agent), self.settings.min_size)
            except AgentPoolError as error:
                log.warning("agent %r cannot be kept warm (setting prewarm): %s", agent, error)


def _now() -> float:
    return time.monotonic()
