"""The node's side: one actor of Ray on each node, which runs the node's own pool.

The driver calls its methods. What happens on the node goes back as messages: the driver asks for
them all the time, and an answer comes as soon as there are some, or after `BEAT_SECONDS`. So this
one exchange is the heartbeat of both sides. The answer says when it was sent; the driver's next
question shows that it came. If no such proof comes for `FENCE_SECONDS`, the fence kills this
process, and the watchdog of its pool all workers. The driver waits longer than that, counted from
the same answer, before it takes the node's tasks for ended: so no task runs in two places, whatever
the clocks of the machines show.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from agent_pool.cluster.fence import Fence, now
from agent_pool.cluster.node_probe import NodeProbe, probe_node
from agent_pool.cluster.node_project import NodeLacksProject, NodeProjects, checkouts_folder
from agent_pool.cluster.project_source import ProjectSource
from agent_pool.errors import AgentPoolError, ConfigError, InternalError, TaskCancelled, TaskError
from agent_pool.events import Ended, Event, Snapshot
from agent_pool.models import Denied, PermissionRequest, TaskRequest, error_from_json
from agent_pool.pool.pool import AgentPool
from agent_pool.settings import Settings, load_settings

log = logging.getLogger("agent_pool")

VERSION: Final = version("claude-agent-pool")
BEAT_SECONDS: Final = 0.5
"""Seconds after which the driver gets an answer although nothing has happened."""
BATCH_SECONDS: Final = 0.02
"""For so long messages that nobody waits for are collected: an answer costs both sides about a
millisecond of processor time, and a task makes a dozen messages."""
FENCE_SECONDS: Final = 3.0
"""Seconds after which the node ends its tasks, counted from its last answer that has come."""
OWN_SETTINGS: Final = ("claude_cli", "max_rss_hard", "max_total_rss")
"""Settings that depend on the machine: here the node's own environment and file count."""
CLEAN_SECONDS: Final = 60.0
"""The pause between two looks for folders that nothing uses."""

Message = dict[str, Any]


class NodeActor:
    """The pool of one node; Ray runs it as an actor.

    Its arguments are kept and shown by Ray, so they are no secrets: `open` has the rest.

    Args:
        name: the node's name, which its log lines have.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._fence = Fence()
        self._outbox = Outbox()
        self._environ: dict[str, str] = {
            key: value for key, value in os.environ.items() if not key.startswith("RAY_")
        }
        self._pool: AgentPool | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._questions: dict[str, asyncio.Future[bool | Denied]] = {}
        self._held: dict[tuple[str, str, str], _HeldFolder] = {}
        self._folders: dict[str, str] = {}

    # Its life

    async def open(
        self,
        driver_version: str,
        settings: Mapping[str, Any],
        size: int,
        environ: Mapping[str, str],
        source: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        """Check the node, and open its pool if it can have tasks; return the JSON of `NodeProbe`.

        A second call checks it again.

        Args:
            driver_version: of agent-pool on the driver's machine.
            settings: of the driver.
            size: how many workers fit here.
            environ: variables that the driver sends.
            source: the JSON of the `ProjectSource` that the node must have; None to check none.
        """
        if driver_version != VERSION:
            return NodeProbe(
                problem=f"agent-pool {VERSION} is installed here, and {driver_version} on the "
                "machine of the driver; install the same version"
            ).as_json()
        self._environ.update(environ)
        try:
            self._settings = self._node_settings(settings, size)
        except AgentPoolError as error:
            return NodeProbe(problem=str(error)).as_json()
        # Ray starts the actor in its copy of the folder.
        working_dir = Path.cwd() if self._settings.project_source == "working_dir" else None
        cache = checkouts_folder(self._environ)
        self._projects = NodeProjects(cache, self._environ, working_dir)
        wanted = None if source is None else ProjectSource.from_json(source)
        probe = await probe_node(self._settings, self._environ, self._projects, wanted)
        if not probe.problem and self._pool is None:
            self._pool = AgentPool(self._settings, environ=self._environ)
            await self._pool.open()
            self._pool.subscribe(self._report)
            self._cleaning = asyncio.create_task(self._clean_forever())
        self._outbox.begin()
        return probe.as_json()

    def _node_settings(self, settings: Mapping[str, Any], size: int) -> Settings:
        own = load_settings(self._environ)
        return load_settings(
            {"AGENT_POOL_CONFIG": os.devnull},
            **{
                **settings,
                **{name: getattr(own, name) for name in OWN_SETTINGS},
                # Every task names its own folder; this one is for none.
                "project_dir": tempfile.gettempdir(),
                "max_workers": size,
                "max_size": min(size, settings["max_size"]),
                "prewarm": (),
                "ray": None,
            },
        )

    async def close(self) -> None:
        """End the pool, as `PoolAPI.close` does."""
        if self._pool is not None:
            self._cleaning.cancel()
            await self._pool.close()
        for key in list(self._held):
            await self._release(key)
        self._fence.close()

    # The exchange with the driver

    async def messages(self, answer: int, seen: int) -> tuple[int, list[tuple[int, Message]]]:
        """Return the number of this answer, and the messages that the driver does not have.

        Args:
            answer: the number of the last answer that the driver got; 0 for that of `open`.
            seen: the number of the last message that it got.
        """
        if (sent := self._outbox.came(answer, seen)) is not None:
            self._fence.live_until(sent + FENCE_SECONDS)
        return await self._outbox.next(seen, BEAT_SECONDS)

    def _report(self, event: Event) -> None:
        if not isinstance(event, Snapshot):
            project = self._folders.get(event.project, event.project)
            message = {"event": replace(event, project=project).as_json()}
            self._outbox.put(message, can_wait=not isinstance(event, Ended))

    # Tasks

    async def submit(
        self,
        task_id: str,
        request: Mapping[str, Any],
        source: Mapping[str, Any],
        environ: Mapping[str, str],
        asks: bool,
    ) -> None:
        """Begin a task; its events, its end, or a refusal come as messages.

        Args:
            task_id: the task's id.
            request: the JSON of its `TaskRequest`.
            source: the JSON of its `ProjectSource`.
            environ: variables that the driver sends.
            asks: whether the driver decides requests for permission.
        """
        # Read when a worker is started.
        self._environ.update(environ)
        running = asyncio.create_task(self._run(task_id, request, source, asks), name=task_id)
        self._tasks[task_id] = running
        running.add_done_callback(lambda _: self._tasks.pop(task_id, None))

    async def _run(
        self, task_id: str, request: Mapping[str, Any], source: Mapping[str, Any], asks: bool
    ) -> None:
        """Run a task; report its end if the pool does not, also that of one that cannot be read."""
        try:
            wanted, place = TaskRequest.from_json(request), ProjectSource.from_json(source)
            await self._run_in_folder(task_id, wanted, place, asks)
        except NodeLacksProject as error:
            self._outbox.put({"lacks": task_id, "reason": str(error)})
        except AgentPoolError as error:
            self._outbox.put({"failed": task_id, "error": error.as_json()})
        except asyncio.CancelledError:
            cancelled = TaskCancelled(f"the task of agent {request.get('agent')!r} was cancelled")
            self._outbox.put({"failed": task_id, "error": cancelled.as_json()})
        except Exception as error:
            log.exception("task %s failed because of a bug", task_id)
            bug = InternalError(f"a bug in agent-pool stopped the task: {error!r}")
            self._outbox.put({"failed": task_id, "error": bug.as_json()})

    async def _run_in_folder(
        self, task_id: str, request: TaskRequest, source: ProjectSource, asks: bool
    ) -> None:
        assert self._pool is not None
        key = (source.folder, request.agent, request.conversation or task_id)
        held = self._held.get(key) or await _HeldFolder.take(self._projects, source)
        self._held[key] = held
        self._folders[str(held.folder)] = source.folder
        is_intact = False
        try:
            handle = await self._pool.submit(
                replace(request, project=str(held.folder)),
                on_permission=self._decider(task_id) if asks else None,
                task_id=task_id,
            )
            # Its end is an event of the pool, so it is not reported here.
            with suppress(AgentPoolError):
                is_intact = not (await handle.result()).is_error
        finally:
            held.last_used = time.monotonic()
            is_kept = request.conversation is not None and not request.ends_conversation
            if not (is_intact and is_kept):
                await self._release(key)

    async def _release(self, key: tuple[str, str, str]) -> None:
        if (held := self._held.pop(key, None)) is not None:
            await held.stack.aclose()

    async def _clean_forever(self) -> None:
        """Release the folders of conversations that have ended by themselves."""
        while True:
            await asyncio.sleep(CLEAN_SECONDS)
            oldest = time.monotonic() - self._settings.conversation_idle - CLEAN_SECONDS
            for key, held in list(self._held.items()):
                if held.last_used < oldest:
                    await self._release(key)
            await self._projects.clean()

    async def cancel(self, task_id: str, error: Mapping[str, Any] | None) -> None:
        """Cancel a task; its end comes as a message."""
        assert self._pool is not None
        reason = None if error is None else error_from_json(error)
        wanted = reason if isinstance(reason, TaskError) else None
        if not await self._pool.cancel(task_id, error=wanted) and (
            running := self._tasks.get(task_id)
        ):
            running.cancel()

    # Permissions

    def _decider(self, task_id: str) -> Callable[[PermissionRequest], Awaitable[bool | Denied]]:
        async def decide(request: PermissionRequest) -> bool | Denied:
            key = os.urandom(8).hex()
            answer: asyncio.Future[bool | Denied] = asyncio.get_running_loop().create_future()
            self._questions[key] = answer
            self._outbox.put({"asks": task_id, "key": key, "request": request.as_json()})
            try:
                return await answer
            finally:
                # Also if it was answered: the driver then has nothing to withdraw.
                del self._questions[key]
                self._outbox.put({"withdraws": task_id, "key": key})

        return decide

    async def answer(self, key: str, allowed: bool, reason: str) -> None:
        """Answer a request for permission; no effect if it does not wait any more."""
        question = self._questions.get(key)
        if question is not None and not question.done():
            question.set_result(True if allowed else Denied(reason))

    # Everything else

    async def ask(
        self, method: str, source: Mapping[str, Any] | None, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Call a method of the pool; return its value as ``value``, or its error as ``error``.

        Args:
            method: one of `ASKED`.
            source: the JSON of the `ProjectSource` that it is about; None for none.
            arguments: its other arguments.
        """
        assert self._pool is not None
        assert method in ASKED
        try:
            if source is None:
                return {"value": self._named(_json(await getattr(self._pool, method)(**arguments)))}
            place = ProjectSource.from_json(source)
            async with self._projects.hold(place) as folder:
                self._folders[str(folder)] = place.folder
                call = getattr(self._pool, method)
                return {"value": self._named(_json(await call(**arguments, project=str(folder))))}
        except NodeLacksProject as error:
            return {"error": ConfigError(f"node {self._name}: {error}").as_json()}
        except AgentPoolError as error:
            return {"error": error.as_json()}

    def _named(self, value: Any) -> Any:
        """Name the project of a worker by its folder on the driver's machine."""
        if isinstance(value, list):
            return [self._named(one) for one in value]
        if isinstance(value, dict) and "project" in value:
            return {**value, "project": self._folders.get(value["project"], value["project"])}
        return value


ASKED: Final = (
    *("workers", "warmup", "reset", "end_conversation"),
    *("launch_spec", "prompt_size", "reset_verdict"),
)
"""The methods of `PoolAPI` that the driver passes on."""


@dataclass(slots=True)
class _HeldFolder:
    """The folder of a project, which stays there until `stack` is closed.

    Attributes:
        last_used: when a task of it ended; never, while it runs.
    """

    folder: Path
    stack: AsyncExitStack
    last_used: float = float("inf")

    @classmethod
    async def take(cls, projects: NodeProjects, source: ProjectSource) -> _HeldFolder:
        """Take a project's folder.

        Raises:
            NodeLacksProject: this node does not have it.
        """
        stack = AsyncExitStack()
        return cls(await stack.enter_async_context(projects.hold(source)), stack)


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(one) for one in value]
    return value.as_json() if hasattr(value, "as_json") else value


@dataclass(frozen=True, slots=True)
class _Answer:
    number: int
    sent: float


class Outbox:
    """Messages for the driver, kept until it has them."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, Message]] = []
        self._number = 0
        self._urgent = 0
        self._answers: list[_Answer] = []
        self._answered = 0
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()

    def begin(self) -> None:
        """Note that the answer of `NodeActor.open` is being sent: the one with the number 0."""
        if not self._answered:
            self._answers = [_Answer(0, now())]

    def put(self, message: Message, *, can_wait: bool = False) -> None:
        """Add a message; one that can wait is sent with others, after `BATCH_SECONDS` at most."""
        self._number += 1
        self._messages.append((self._number, message))
        self._wake.set()
        if not can_wait:
            self._urgent = self._number
            self._hurry.set()

    def came(self, answer: int, seen: int) -> float | None:
        """Note what the driver has; return when that answer was sent, None if it is outdated."""
        self._messages = [one for one in self._messages if one[0] > seen]
        sent = next((one.sent for one in self._answers if one.number == answer), None)
        self._answers = [one for one in self._answers if one.number >= answer]
        return sent

    async def next(self, seen: int, seconds: float) -> tuple[int, list[tuple[int, Message]]]:
        """Return the number of this answer, and the messages after `seen`, if need be later."""
        self._wake.clear()
        self._hurry.clear()
        if not self._after(seen):
            await _wait(self._wake, seconds)  # without a message the answer is the heartbeat
        if self._after(seen) and self._urgent <= seen:
            await _wait(self._hurry, BATCH_SECONDS)
        self._answered += 1
        self._answers.append(_Answer(self._answered, now()))
        return self._answered, self._after(seen)

    def _after(self, seen: int) -> list[tuple[int, Message]]:
        return [one for one in self._messages if one[0] > seen]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, so many seconds at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
