"""Tasks with `isolation: worktree`: each has a git worktree and a worker of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent_pool.agents import Project
from agent_pool.claude.worker import Worker
from agent_pool.errors import (
    AgentPoolError,
    ConfigError,
    PoolClosed,
    PoolTimeout,
    TooManyRequests,
)
from agent_pool.events import Queued
from agent_pool.models import TaskRequest, TaskResult
from agent_pool.pool.agent_registry import AgentRegistry, IsolatedFolder
from agent_pool.pool.call_options import CallOptions
from agent_pool.pool.git import GIT_TIMEOUT
from agent_pool.pool.scheduler import AgentSpec
from agent_pool.pool.supervisor import Supervisor
from agent_pool.pool.worktrees import Worktree, finish_worktree, make_worktree
from agent_pool.settings import Settings

if TYPE_CHECKING:
    from agent_pool.pool.task_runner import RunningTask

log = logging.getLogger("agent_pool")

RunOn = Callable[["RunningTask", Worker], Awaitable[TaskResult]]
"""Runs a task on a worker."""


class IsolatedTasks:
    """Runs each task in a new worktree, on a worker that is stopped afterwards.

    At most `max_workers` worktrees exist at once: a worktree is made when its task can soon have a
    worker, because a checkout can be large.
    """

    def __init__(
        self, registry: AgentRegistry, supervisor: Supervisor, settings: Settings, run_on: RunOn
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._settings = settings
        self._run_on = run_on
        self._room = asyncio.Semaphore(settings.max_workers)
        self._waiting = 0
        self._slots: set[int] = set()
        self._endings: set[asyncio.Task[bool]] = set()

    async def run(
        self, task: RunningTask, project: Project, schema: str, options: CallOptions
    ) -> TaskResult:
        """Run a task in a worktree; the result names the worktree if the task changed it.

        Raises:
            AgentPoolError: see `PoolAPI.invoke`; the message names the worktree if it is kept.
        """
        refuse_conversation(task.request)
        slot = await self._take_slot(task)
        making = asyncio.create_task(make_worktree(project.root, project.environ))
        try:
            # A git that is killed half way leaves a worktree that git itself cannot remove.
            worktree = await asyncio.shield(making)
        except BaseException:
            self._own(self._discard(making, project, slot))
            raise
        folder = IsolatedFolder(worktree.folder, slot)
        run = _IsolatedRun(project, worktree, folder)
        try:
            result = await self._run_in(task, run, schema, options)
        except AgentPoolError as error:
            if await asyncio.shield(self._begin_end(run)):
                kept = f"its changes are kept in {worktree.path} (branch {worktree.branch})"
                error.args = (f"{error.message}; {kept}", *error.args[1:])
            raise
        except BaseException:
            # A cancelled caller leaves at once; the log has the place of what is kept.
            self._begin_end(run)
            raise
        if await asyncio.shield(self._begin_end(run)):
            result = replace(result, worktree=str(worktree.path), branch=worktree.branch)
        return result

    async def _run_in(
        self, task: RunningTask, run: _IsolatedRun, schema: str, options: CallOptions
    ) -> TaskResult:
        request = task.request
        spec = run.spec = await self._registry.resolve(
            request.agent, request.project, schema, options, run.folder
        )
        task.resolved(spec, self._registry.agent(spec))
        worker = await self._supervisor.acquire(spec, task.emit)
        return await self._run_on(task, worker)

    async def close(self) -> None:
        """Wait until all worktrees of ended tasks are removed or kept."""
        if self._endings:
            await asyncio.wait(self._endings, timeout=GIT_TIMEOUT)

    # The end of a task

    def _begin_end(self, run: _IsolatedRun) -> asyncio.Task[bool]:
        """Start the end of a worktree; it does not depend on the caller, who can leave."""
        return self._own(self._end(run))

    def _own(self, work: Coroutine[Any, Any, bool]) -> asyncio.Task[bool]:
        # asyncio itself keeps only weak references to tasks; `close` waits for these.
        ending = asyncio.get_running_loop().create_task(work)
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)
        return ending

    async def _discard(self, making: asyncio.Task[Worktree], project: Project, slot: int) -> bool:
        """Remove a worktree whose caller left while it was made."""
        try:
            return await finish_worktree(await making, project.environ)
        except AgentPoolError:  # it could not be made, and its caller has the error
            return False
        finally:
            self._free_slot(slot)

    async def _end(self, run: _IsolatedRun) -> bool:
        worktree = run.worktree
        try:
            if run.spec is not None:
                # First: a process that lives could write into the worktree after the check.
                name, folder = run.spec.key.name, str(run.folder.path)
                await self._supervisor.retire(folder, name, "its worktree has served its task")
                self._registry.forget(run.spec)
            kept = await finish_worktree(worktree, run.project.environ)
        finally:
            self._free_slot(run.folder.slot)
        if kept:
            log.warning("changes are kept in %s (branch %s)", worktree.path, worktree.branch)
        return kept

    # Slots

    async def _take_slot(self, task: RunningTask) -> int:
        """Wait until another worktree can be made; return its number.

        Raises:
            TooManyRequests, PoolTimeout, PoolClosed: see `PoolAPI.invoke`.
        """
        self._refuse_if_closed()
        if self._room.locked():
            if self._waiting >= self._settings.max_waiting:
                raise TooManyRequests(
                    f"{self._waiting} tasks wait for a worktree (setting max_waiting), so this one "
                    f"of agent {task.request.agent!r} was not queued; try again later"
                )
            task.emit(Queued(self._waiting + 1))
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.acquire_timeout):
                await self._room.acquire()
        except TimeoutError:
            raise PoolTimeout(
                f"agent {task.request.agent!r}: no worktree became free within "
                f"{self._settings.acquire_timeout:g} s (setting acquire_timeout). "
                f"{len(self._slots)} of at most {self._settings.max_workers} are in use (setting "
                "max_workers). Try again later or raise the limits"
            ) from None
        finally:
            self._waiting -= 1
        slot = next(n for n in range(1, len(self._slots) + 2) if n not in self._slots)
        self._slots.add(slot)
        if self._supervisor.scheduler.is_closed:
            self._free_slot(slot)
            self._refuse_if_closed()
        return slot

    def _refuse_if_closed(self) -> None:
        if self._supervisor.scheduler.is_closed:
            raise PoolClosed("the pool is closed; open a new one")

    def _free_slot(self, slot: int) -> None:
        self._slots.discard(slot)
        self._room.release()


def refuse_conversation(request: TaskRequest) -> None:
    """Refuse a conversation for a task in a worktree.

    Raises:
        ConfigError: the request has one.
    """
    if request.conversation is not None:
        raise ConfigError(
            f"agent {request.agent!r}: a task in a worktree (isolation: worktree) cannot have a "
            "conversation, because its worktree and its worker end with it"
        )


class _IsolatedRun:
    """What the end of an isolated task needs; `spec` is None until the agent is resolved."""

    def __init__(self, project: Project, worktree: Worktree, folder: IsolatedFolder) -> None:
        self.project = project
        self.worktree = worktree
        self.folder = folder
        self.spec: AgentSpec | None = None
