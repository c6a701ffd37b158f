"""`RayPool`: the pool whose workers are on the nodes of a Ray cluster."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from agent_pool.api import BatchItem, OnEvent, OnPermission, RequestCalls
from agent_pool.cluster.cluster_task import ClusterHandle, ClusterTask, cancelled_error
from agent_pool.cluster.members import Members
from agent_pool.cluster.node import FENCE_SECONDS, Message
from agent_pool.cluster.node_link import NodeLink
from agent_pool.cluster.placement import Lane, Placed, Placement
from agent_pool.cluster.project_source import ProjectSource, find_source
from agent_pool.cluster.ray_api import RayCluster
from agent_pool.errors import (
    AgentNotFound,
    AgentPoolError,
    ConfigError,
    InternalError,
    PoolClosed,
    PoolTimeout,
    TaskError,
    TaskInterrupted,
    TooManyRequests,
    WorkerDied,
)
from agent_pool.events import (
    BaseTaskEvent,
    BaseWorkerEvent,
    Event,
    Queued,
    RateLimitsChanged,
    Snapshot,
    TaskEvent,
    WorkerStateChanged,
    event_from_json,
)
from agent_pool.models import (
    AgentList,
    Denied,
    LaunchSpec,
    Outcome,
    PermissionRequest,
    PoolStats,
    PromptSize,
    RateLimits,
    ResetVerdict,
    TaskRequest,
    TaskResult,
    WorkerInfo,
    error_from_json,
)
from agent_pool.pool.batch import Batch, read_requests
from agent_pool.pool.event_bus import EventBus, call_listener
from agent_pool.pool.pool import AgentPool
from agent_pool.pool.request_checks import check_agent_name, check_request
from agent_pool.pool.stats import StatsCounter
from agent_pool.settings import Environment, Settings, load_settings

log = logging.getLogger("agent_pool")

ANNOUNCE_SECONDS: Final = 2.0
"""The pause between two looks at tasks that wait, which tell their callers their places."""
SOURCE_SECONDS: Final = 1.0
"""For so long the description of a project is used again: git takes some milliseconds for it."""
LACK_SECONDS: Final = 60.0
"""For so long other nodes are preferred to one that did not have a project."""
CLOSE_MARGIN: Final = 10.0
"""Seconds beyond `close_timeout` in which nodes must have closed their pools."""


class RayPool(RequestCalls):
    """Warm Claude Code agents on the nodes of a Ray cluster; see `PoolAPI` for every method.

    Args:
        settings: all settings; by default those of the environment and the settings file. The
            numbers of workers are those of the whole cluster, see `docs/cluster.md`.
        address: the cluster, instead of the setting `ray`.
        environ: the environment that settings and the variables of `ray_env` come from; by default
            that of this process. Workers have the environment of their node.
        **overrides: single settings, which win over the environment and the file.

    Attributes:
        settings: the settings in force.

    Raises:
        ConfigError: a setting is wrong, or no cluster is named.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        address: str | None = None,
        environ: Mapping[str, str] | None = None,
        **overrides: Any,
    ) -> None:
        environ = Environment(environ)
        base = settings or load_settings(environ, **overrides)
        self.settings = base.with_overrides(overrides) if settings else base
        if address is not None:
            self.settings = self.settings.with_overrides({"ray": address})
        address = self.settings.ray
        if not address:
            raise ConfigError("ray: no cluster is named; set it to HOST:PORT of its head, or auto")
        self._environ = environ
        # Never opened: it reads definitions, which are on this machine too.
        self._local = AgentPool(self.settings, environ=environ)
        self._bus = EventBus()
        self._stats = StatsCounter()
        self._bus.subscribe(self._stats.record)
        self._placement = Placement(self.settings.max_workers, self.settings.max_size)
        wants_copy = self.settings.project_source == "working_dir"
        cluster = RayCluster(address, self.settings.project_dir if wants_copy else None)
        self._members = Members(cluster, self._placement, self.settings, self._sent_environ(), self)
        self._tasks: dict[str, ClusterTask] = {}
        self._workers: dict[tuple[str, str], tuple[str, Lane]] = {}
        self._talked: dict[Hashable, float] = {}
        self._rate_limits: RateLimits | None = None
        self._sources: dict[str, tuple[float, asyncio.Future[ProjectSource]]] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._opening: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._opened_at = time.monotonic()
        self._can_begin = False

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        if self._closing is not None:
            raise PoolClosed("this pool was closed; make a new one")
        if self._opening is None:
            self._opened_at = time.monotonic()
            self._opening = asyncio.ensure_future(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        await self._members.connect()
        self._spawn(self._members.run(), "nodes")
        self._spawn(self._begin_later(), "begin")
        self._spawn(self._announce_forever(), "queue")

    async def _begin_later(self) -> None:
        """Let tasks begin when the nodes of a killed driver have ended the same tasks."""
        await asyncio.sleep(self._opened_at + FENCE_SECONDS - time.monotonic())
        self._can_begin = True
        self._pump()

    def _spawn(self, work: Awaitable[Any], name: str) -> None:
        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run(), name=f"agent-pool {name}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        # One end for all callers: a second call waits for the first one's.
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="agent-pool close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._opening is None:
            return
        self._members.stop()
        for task in [one for one in self._tasks.values() if not one.node]:
            self._end(task, _closed())
        seconds = self.settings.close_timeout + CLOSE_MARGIN
        await asyncio.gather(*(link.close(seconds) for link in self._members.links()))
        await self._members.closed()
        for task in tuple(self._tasks.values()):
            self._end(task, _closed())
        for work in self._background:
            work.cancel()
        await self._members.disconnect()

    def kill(self) -> None:
        self._members.stop()
        for link in self._members.links():
            link.kill()

    def _check_open(self) -> None:
        if self._opening is None or not self._opening.done() or self._closing is not None:
            raise PoolClosed("the pool is not open; use `async with RayPool() as pool`")

    # Tasks

    async def submit(
        self,
        request: TaskRequest,
        *,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
        task_id: str | None = None,
    ) -> ClusterHandle:
        self._check_open()
        if task_id in self._tasks:
            raise ConfigError(f"task_id: a task with the id {task_id!r} is running")
        project = self._project_name(request.project)
        task = ClusterTask(request, project, self._bus, on_event, on_permission, task_id)
        self._tasks[task.id] = task
        self._spawn(self._prepare(task), task.id)
        return ClusterHandle(task, self._cancel)

    async def _prepare(self, task: ClusterTask) -> None:
        """Check a task, find its project, and queue it."""
        try:
            check_request(task.request)
            await self._local.check(task.request)
            task.source = await self._find_source(task.lane.project)
            self._refuse_if_crowded(task)
        except AgentPoolError as error:
            self._end(task, task.cancel_error or error)
            return
        except Exception as error:
            log.exception("a task of agent %r failed because of a bug", task.request.agent)
            self._end(task, InternalError(f"a bug in agent-pool stopped the task: {error!r}"))
            return
        if task.cancel_error is not None:
            self._end(task, task.cancel_error)
            return
        if task.has_ended:  # the pool was closed
            return
        self._placement.add(task.ticket())
        self._pump()
        if not task.node:
            task.emit(Queued(self._placement.position(task.id) or 1, reason=self._reason()))
            loop = asyncio.get_running_loop()
            loop.call_later(self.settings.acquire_timeout, self._give_up, task)

    def _refuse_if_crowded(self, task: ClusterTask) -> None:
        if self._placement.queued >= self.settings.max_waiting:
            raise TooManyRequests(
                f"agent {task.request.agent!r}: {self._placement.queued:,} tasks wait already, and "
                "more are refused (setting max_waiting); try again later"
            )

    def _give_up(self, task: ClusterTask) -> None:
        if self._placement.withdraw(task.id):
            seconds = self.settings.acquire_timeout
            why = self._reason() or "all nodes are busy"
            self._end(
                task,
                PoolTimeout(
                    f"agent {task.request.agent!r}: no node had room within {seconds:g} s (setting "
                    f"acquire_timeout): {why}"
                ),
            )

    def _reason(self) -> str:
        """Return why no node can have tasks; empty if one can."""
        nodes = self._placement.infos()
        if any(one.state == "ready" for one in nodes):
            return ""
        problem = self._members.cluster_problem
        if not nodes:
            return problem or "the Ray cluster has no node yet"
        found = [f"node {one.node}: {one.reason or one.state}" for one in nodes]
        return "; ".join([problem, *found] if problem else found)

    def _project_name(self, folder: str | None) -> str:
        path = self.settings.project_dir if folder is None else Path(folder)
        path = path.expanduser().absolute()
        return str(path.resolve() if ".." in path.parts else path)

    async def _find_source(self, project: str) -> ProjectSource:
        now = time.monotonic()
        since, found = self._sources.get(project, (0.0, None))
        if found is None or now - since > SOURCE_SECONDS:
            work = find_source(
                Path(project),
                self.settings.project_source,
                self._environ,
                self.settings.project_dir,
            )
            found = asyncio.ensure_future(work)
            self._sources[project] = (now, found)
        return await asyncio.shield(found)

    def _sent_environ(self) -> dict[str, str]:
        patterns = self.settings.ray_env
        return {
            name: value
            for name, value in self._environ.items()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        }

    def _pump(self) -> None:
        """Give every task to a node that can have one."""
        if not self._can_begin or self._closing is not None:
            return
        for placed in self._placement.take():
            self._give(placed)

    def _give(self, placed: Placed) -> None:
        task, link = self._tasks[placed.ticket.id], self._members.link(placed.node)
        task.placed(link.node.name)
        assert task.source is not None
        request = replace(task.request, project=None)
        is_sent = link.call(
            "submit",
            *(task.id, request.as_json(), task.source.as_json(), self._sent_environ()),
            task.on_permission is not None,
            on_refused=partial(self._refused, task, placed.node),
        )
        if not is_sent:
            self._refused(task, placed.node)

    def _refused(self, task: ClusterTask, node: str) -> None:
        """End a task that a node does not have, although it was placed there."""
        if self._placement.node_of(task.id) == node:
            self._end(
                task,
                WorkerDied(
                    f"agent {task.request.agent!r}: Ray did not pass the task on to node "
                    f"{task.node}; the log says why. Give the task again."
                ),
            )

    def _end(self, task: ClusterTask, error: AgentPoolError) -> None:
        """End a task that its node has not ended."""
        task.fail(error)
        self._forget(task)

    def _forget(self, task: ClusterTask) -> None:
        self._tasks.pop(task.id, None)
        self._placement.withdraw(task.id)
        self._placement.ended(task.id)
        conversation = task.conversation
        if conversation is not None:
            self._talked[conversation] = time.monotonic()
            failed = task.outcome.exception() is not None or task.outcome.result().is_error
            if failed or task.request.ends_conversation:
                self._placement.end_conversation(conversation)
        self._members.look_at_drained()
        self._pump()

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
        try:
            return Lane(self._project_name(request.project), str(request.agent))
        except (TypeError, ValueError):  # a wrong folder, which the task's check refuses
            return str(request.agent)

    def _skip(self, request: TaskRequest) -> None:
        if request.conversation is not None and request.ends_conversation:
            lane = Lane(self._project_name(request.project), request.agent)
            self._spawn(self._end_conversation(lane, request.conversation), "conversation")

    async def cancel(self, task_id: str, *, error: TaskError | None = None) -> bool:
        task = self._tasks.get(task_id)
        return task is not None and self._cancel(task, error)

    def _cancel(self, task: ClusterTask, error: TaskError | None) -> bool:
        if task.has_ended:
            return False
        task.cancel_error = error or task.cancel_error or cancelled_error(task.request)
        if self._placement.withdraw(task.id):
            self._end(task, task.cancel_error)
        elif node := self._placement.node_of(task.id):
            wanted = None if error is None else error.as_json()
            self._members.link(node).call("cancel", task.id, wanted)
        return True

    async def check(self, request: TaskRequest) -> None:
        await self._local.check(request)

    async def end_conversation(
        self, agent: str, conversation: str, *, project: str | None = None
    ) -> bool:
        check_agent_name(agent)
        lane = Lane(self._project_name(project), agent)
        if await self._end_conversation(lane, conversation):
            return True
        return await self._local.end_conversation(agent, conversation, project=project)

    async def _end_conversation(self, lane: Lane, conversation: str) -> bool:
        home = self._placement.home_of((lane, conversation))
        if not home:
            return False
        self._placement.end_conversation((lane, conversation))
        arguments = {"agent": lane.agent, "conversation": conversation}
        source = await self._find_source(lane.project)
        ended: bool = await self._members.link(home).ask("end_conversation", source, **arguments)
        return ended

    # What nodes report

    def heard(self, node: str, message: Message) -> None:
        if not self._members.has(node):  # one that was drained ends its workers
            return
        if "event" in message:
            self._heard_event(node, event_from_json(message["event"]))
            return
        kind = next(iter(message))
        task = self._tasks.get(message[kind])
        if task is None or self._placement.node_of(task.id) != node:
            return
        if kind == "lacks":
            self._retry_elsewhere(task, node, message["reason"])
        elif kind == "failed":
            self._end(task, task.cancel_error or error_from_json(message["error"]))
        elif kind == "asks":
            answer = partial(self._members.link(node).call, "answer")
            request = PermissionRequest.from_json(message["request"])
            task.asked(message["key"], request, answer)
        else:
            task.withdrawn(message["key"])

    def _heard_event(self, node: str, event: Event) -> None:
        if isinstance(event, BaseTaskEvent):
            task = self._tasks.get(event.task_id)
            if task is None or self._placement.node_of(task.id) != node:
                return
            task.heard(event)
            if task.has_ended:
                self._forget(task)
            return
        if isinstance(event, WorkerStateChanged):
            self._note_worker(node, event)
        if isinstance(event, BaseWorkerEvent):
            event = replace(event, node=self._placement.info(node).node)
        elif isinstance(event, RateLimitsChanged):
            self._rate_limits = event.limits
        self._bus.publish(event)

    def _note_worker(self, node: str, event: WorkerStateChanged) -> None:
        if event.state == "gone":
            self._workers.pop((node, event.worker), None)
        else:
            lane = Lane(event.project, event.agent)
            self._workers[node, event.worker] = (event.state, lane)
        lanes = [
            lane
            for (place, _), (state, lane) in self._workers.items()
            if place == node and state != "stopping"
        ]
        self._placement.set_warm(node, lanes)

    def _retry_elsewhere(self, task: ClusterTask, node: str, reason: str) -> None:
        name = self._placement.info(node).node
        log.warning("node %s cannot have a task of %s: %s", name, task.lane.project, reason)
        if task.cancel_error is not None:
            self._end(task, task.cancel_error)
            return
        task.lacking[name] = reason
        self._placement.give_back(task.id)
        self._placement.set_lack(node, task.lane.project, lacks=True)
        loop = asyncio.get_running_loop()
        loop.call_later(LACK_SECONDS, self._forget_lack, node, task.lane.project)
        task.placed("")
        if self._placement.is_hopeless(task.id):
            self._end(task, _lacking_everywhere(task))
            return
        self._pump()
        if not task.node:
            task.emit(Queued(1, task.waited, reason=f"node {name}: {reason}"))

    def _forget_lack(self, node: str, project: str) -> None:
        self._placement.set_lack(node, project, lacks=False)
        self._pump()

    def doubted(self, node: str, reason: str) -> None:
        if self._members.has(node):
            self._members.doubt(node, reason)

    def lost(self, node: str, reason: str) -> None:
        if not self._members.has(node):
            return
        name = self._placement.info(node).node
        running = self._members.lose(node, reason)
        log.warning("node %s is lost: %s; %d tasks are interrupted", name, reason, len(running))
        self.left(node)
        for task_id in running:
            task = self._tasks[task_id]
            self._end(task, task.cancel_error or _interrupted(task, name))
        self._pump()

    def left(self, node: str) -> None:
        name = self._placement.info(node).node
        for key in [one for one in self._workers if one[0] == node]:
            state, lane = self._workers.pop(key)
            gone = WorkerStateChanged(
                worker=key[1], node=name, state="gone", previous=state, agent=lane.agent
            )
            self._bus.publish(replace(gone, project=lane.project))

    def drain_node(self, node: str) -> bool:
        """Give a node no more tasks, and end its workers when it has done those that it has.

        Args:
            node: its name.

        Returns:
            Whether there is such a node that gets tasks.
        """
        return self._members.drain(node)

    def ready(self, node: str) -> None:
        self._pump()
        if self.settings.prewarm:
            self._spawn(self._prewarm(node), "prewarm")

    async def _prewarm(self, node: str) -> None:
        """Start the first worker of each agent in the setting `prewarm` on a node."""
        for agent in self.settings.prewarm:
            try:
                source = await self._find_source(self._project_name(None))
                if self._members.has(node):
                    await self._members.link(node).ask("warmup", source, agent=agent)
            except AgentPoolError as error:
                # Only a task of this agent fails by it; the others must be served.
                log.warning("agent %r cannot be kept warm (setting prewarm): %s", agent, error)

    async def _announce_forever(self) -> None:
        while True:
            await asyncio.sleep(ANNOUNCE_SECONDS)
            self._forget_idle_conversations()
            for task in tuple(self._tasks.values()):
                if place := self._placement.position(task.id):
                    task.emit(Queued(place, task.waited, reason=self._reason()))

    def _forget_idle_conversations(self) -> None:
        """Forget the nodes of conversations that have ended there by their age."""
        oldest = time.monotonic() - self.settings.conversation_idle
        for conversation, since in list(self._talked.items()):
            if since < oldest and not self._placement.is_busy(conversation):
                self._placement.end_conversation(conversation)
                del self._talked[conversation]
        self._members.look_at_drained()

    # Agents

    async def agents(self, *, project: str | None = None) -> AgentList:
        return await self._local.agents(project=project)

    async def agents_version(self, *, project: str | None = None) -> str:
        local = await self._local.agents_version(project=project)
        nodes = [(one.node, one.state) for one in self._placement.infos()]
        return hashlib.sha256(f"{local} {nodes}".encode()).hexdigest()[:16]

    async def launch_spec(self, agent: str, *, project: str | None = None) -> LaunchSpec:
        return LaunchSpec.from_json(await self._ask_one("launch_spec", agent, project))

    async def prompt_size(self, agent: str, *, project: str | None = None) -> PromptSize:
        return PromptSize.from_json(await self._ask_one("prompt_size", agent, project))

    async def reset_verdict(
        self, agent: str, *, project: str | None = None, refresh: bool = False
    ) -> ResetVerdict | None:
        found = await self._ask_one("reset_verdict", agent, project, refresh=refresh)
        return None if found is None else ResetVerdict.from_json(found)

    async def _ask_one(
        self, method: str, agent: str, project: str | None, **arguments: object
    ) -> Any:
        """Ask a node that is ready, once there is one."""
        await self._local.check(TaskRequest(agent, "x", project))
        self._check_open()
        source = await self._find_source(self._project_name(project))
        link = await self._members.any_ready(self.settings.acquire_timeout)
        return await link.ask(method, source, agent=agent, **arguments)

    # Workers and figures

    async def warmup(self, agent: str, *, project: str | None = None) -> WorkerInfo:
        found = await self._ask_one("warmup", agent, project)
        return WorkerInfo.from_json(found)

    async def workers(self) -> list[WorkerInfo]:
        lists = await asyncio.gather(*map(self._workers_of, self._members.asked()))
        return [worker for found in lists for worker in found]

    async def _workers_of(self, link: NodeLink) -> list[WorkerInfo]:
        try:
            found = await link.ask("workers")
        except AgentPoolError as error:
            log.warning("%s", error)
            return []
        return [replace(WorkerInfo.from_json(one), node=link.node.name) for one in found]

    async def stats(self) -> PoolStats:
        return self._current_stats()

    def _current_stats(self) -> PoolStats:
        made = self._stats.snapshot(
            uptime=time.monotonic() - self._opened_at,
            waiting=self._placement.queued,
            paused=0.0,
            workers=dict(Counter(state for state, _ in self._workers.values())),
            rate_limits=self._rate_limits,
        )
        return replace(
            made,
            nodes=tuple(self._placement.infos()),
            cluster_problem=self._members.cluster_problem,
        )

    async def reset(self, agent: str, *, project: str | None = None) -> int:
        check_agent_name(agent)
        source = await self._find_source(self._project_name(project))
        stopped = 0
        unknown: AgentNotFound | None = None
        for link in self._members.asked():
            try:
                stopped += await link.ask("reset", source, agent=agent)
            except AgentNotFound as error:
                unknown = error
        if unknown is not None and not stopped:
            raise unknown
        return stopped

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        first = Snapshot(stats=self._current_stats(), time=time.time())
        # No await until it is subscribed: each event is in the snapshot or comes later, never both.
        call_listener(listener, first)
        return self._bus.subscribe(listener)


def _lacking_everywhere(task: ClusterTask) -> ConfigError:
    reasons = "; ".join(f"{node}: {reason}" for node, reason in sorted(task.lacking.items()))
    return ConfigError(
        f"agent {task.request.agent!r}: no node has the project {task.lane.project} ({reasons}). "
        "Make it available there, or choose another project_source"
    )


def _closed() -> PoolClosed:
    return PoolClosed("the pool was closed before the task had ended")


def _interrupted(task: ClusterTask, node: str) -> TaskInterrupted:
    return TaskInterrupted(
        f"node {node} was lost while it ran the task of agent {task.request.agent!r}, so its "
        f"result is unknown. {TaskInterrupted.advice}"
    )
