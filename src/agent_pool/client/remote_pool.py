"""`RemotePool`: the pool of the daemon, with the methods of `AgentPool`."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from agent_pool.api import BatchItem, OnEvent, OnPermission, RequestCalls, TaskHandle
from agent_pool.client.connection import (
    CONNECTION_ERRORS,
    RECONNECT_SECONDS,
    DaemonConnection,
    FindDaemon,
    Search,
)
from agent_pool.client.environment import client_environment
from agent_pool.client.remote_task import (
    CANCEL_SECONDS,
    RemoteTask,
    answer_question,
    call_listener,
    cancel_task,
    task_events,
)
from agent_pool.errors import (
    AgentNotFound,
    AgentPoolError,
    ConfigError,
    PoolClosed,
    PoolError,
    TaskError,
)
from agent_pool.events import Ended, Event, TaskEvent, event_from_json
from agent_pool.models import (
    AgentList,
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
from agent_pool.runtime import DaemonAddress
from agent_pool.settings import Environment, Settings, load_settings

log = logging.getLogger("agent_pool")

_REQUESTS: Final = TypeAdapter(TaskRequest)


class RemotePool(RequestCalls):
    """The pool of the daemon; see `TaskAPI` for every method. Made by `connect`.

    It is used as an `AgentPool` is. Some things differ:

    * The tasks belong to the daemon. `close` and `kill` drop the connection; the tasks go on.
    * A lost connection is opened again, and no event is lost or given twice.
    * The first event of `subscribe` comes when the daemon has answered, not at once. After a lost
      connection there can be another `Snapshot`, which replaces the figures so far.
    * `TaskHandle.cancel` returns before the daemon has cancelled the task.

    Args:
        address: where the daemon is: its address, or the URL of its TCP port; None to find it.
        token: the bearer token for a URL.
        project: the folder of calls that name none; by default that of the settings.
        settings: those that concern the client: `project_dir`, and the bounds of `map`.
        environ: the environment that tasks get, as far as they need it; by default that of this
            process.
        find: finds the daemon, and starts it if needed.
        patience: seconds for which a lost daemon is looked for.

    Attributes:
        settings: the settings in force.

    Raises:
        ConfigError: a setting is wrong.
    """

    def __init__(
        self,
        address: DaemonAddress | str | None = None,
        *,
        token: str = "",
        project: str | os.PathLike[str] | None = None,
        settings: Settings | None = None,
        environ: Mapping[str, str] | None = None,
        find: FindDaemon | None = None,
        patience: float = RECONNECT_SECONDS,
    ) -> None:
        self._environ = Environment(environ)
        self.settings = settings or load_settings(self._environ)
        self._project = _absolute(self.settings.project_dir if project is None else project)
        self._connect = partial(DaemonConnection, find, address, token, patience)
        self._connection: DaemonConnection | None = None
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: set[asyncio.Task[Any]] = set()

    # Life

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Find the daemon, and start it if needed.

        Raises:
            PoolClosed: it was closed before.
            DaemonUnavailable: there is no daemon, and it cannot be started.
        """
        if self._is_closed:
            raise PoolClosed("this pool was closed; make a new one")
        self._check_loop()
        if self._connection is None:
            self._loop = asyncio.get_running_loop()
            self._connection = self._connect()
        await self._connection.open()

    async def close(self) -> None:
        """Drop the connection. The daemon's tasks go on; a waiting caller gets `PoolClosed`."""
        self._check_loop()
        self._is_closed = True
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        if self._connection is not None:
            await self._connection.close()

    def kill(self) -> None:
        """Drop the connection, without an event loop. The daemon's tasks and processes go on."""
        self._is_closed = True
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._cancel_running)

    def _cancel_running(self) -> None:
        for task in self._running:
            task.cancel()

    def _check_loop(self) -> None:
        """Refuse a second event loop: its callers would wait for ever for what the first one does.

        Raises:
            PoolError: the pool was opened in another event loop.
        """
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            state = "has ended" if self._loop.is_closed() else "still runs"
            raise PoolError(
                f"this pool was opened in another event loop, which {state}; use it there, or make "
                "a new pool in this one"
            )

    def _open_connection(self) -> DaemonConnection:
        """Return the connection of an open pool.

        Raises:
            PoolClosed: it is not open.
            PoolError: it was opened in another event loop.
        """
        if self._connection is None or self._is_closed:
            raise PoolClosed("the pool is not open; use `async with connect() as pool`")
        self._check_loop()
        return self._connection

    async def _get(self, *path: str, **query: Any) -> Any:
        """Return the answer to a GET, on a connection of its own if the pool is not open."""
        return await self._ask("GET", *path, query=query)

    async def _ask(self, method: str, *path: str, **options: Any) -> Any:
        if self._connection is not None or self._is_closed:
            return await self._open_connection().request(method, *path, **options)
        connection = self._connect()
        try:
            return await connection.request(method, *path, **options)
        finally:
            await connection.close()

    def _start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something beside its caller; it ends when the pool is closed."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Read it once, or asyncio logs the error of a task whose caller has left as unseen.
            task.exception()

    # Tasks

    async def submit(
        self,
        request: TaskRequest,
        *,
        on_event: OnEvent | None = None,
        on_permission: OnPermission | None = None,
        task_id: str | None = None,
    ) -> RemoteTask:
        connection = self._open_connection()
        # With a key the request is sent again safely when its answer was lost.
        key = request.idempotency_key or f"client-{secrets.token_hex(12)}"
        asks = request.asks or on_permission is not None
        body = self._task_body(replace(request, idempotency_key=key, asks=asks))
        if task_id is not None:
            body["task_id"] = task_id
        # A task of its own: if the caller leaves now, the daemon can have accepted it.
        sending = self._start(connection.post("tasks", body=body), "agent-pool submit")
        try:
            found = await asyncio.shield(sending)
        except asyncio.CancelledError:
            if sending.cancelled():
                raise connection.closed_error() from None
            await self._cancel_when_sent(connection, sending)
            raise
        task = RemoteTask(connection, str(found["id"]), request, self._start)
        if on_event is not None or on_permission is not None:
            task.follow(on_event, on_permission)
        return task

    async def _cancel_when_sent(
        self, connection: DaemonConnection, sending: asyncio.Task[Any]
    ) -> None:
        """Cancel a task whose caller left before the daemon has answered."""

        async def cancel() -> None:
            found = await sending
            await cancel_task(connection, str(found["id"]))

        cancelling = self._start(cancel(), "agent-pool cancel")
        await asyncio.wait([cancelling], timeout=CANCEL_SECONDS)

    def _task_body(self, request: TaskRequest) -> dict[str, Any]:
        request = replace(request, project=self._folder(request.project))
        return {
            "request": _request_json(request),
            "environment": client_environment(self._environ),
        }

    def _folder(self, project: str | None) -> str:
        """Return the folder of a call; one that is relative is meant in this process's folder."""
        return self._project if project is None else _absolute(project)

    async def _stream(
        self, request: TaskRequest, on_permission: OnPermission | None
    ) -> AsyncGenerator[TaskEvent, None]:
        """Yield the events of a task; cancel it if the reader leaves early."""
        events: asyncio.Queue[TaskEvent | None] = asyncio.Queue()
        handle = await self.submit(request, on_event=events.put_nowait, on_permission=on_permission)
        # The end without an event too: the daemon was lost, or this pool is closed.
        end = asyncio.ensure_future(handle.result())
        end.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None and not isinstance(event, Ended):
                yield event
            await end  # a task that failed raises here, so its `Ended` is not yielded
            if event is not None:
                yield event
        finally:
            # Also reached when the reader leaves the loop early and the generator is closed.
            await handle.cancel_and_wait()
            end.cancel()
            await asyncio.wait([end])

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
        return (self._folder(request.project), str(request.agent))

    def _skip(self, request: TaskRequest) -> None:
        """End the conversation of a request that was to be its last task but never began."""
        if request.conversation is not None and request.ends_conversation:
            ending = self.end_conversation(
                request.agent, request.conversation, project=request.project
            )
            self._start(ending, "agent-pool end conversation")

    async def cancel(self, task_id: str, *, error: TaskError | None = None) -> bool:
        """Cancel a task; see `PoolAPI.cancel`.

        Raises:
            ConfigError: there is an `error`; only the daemon itself can end a task with one.
        """
        if error is not None:
            raise ConfigError("error: a task of the daemon is cancelled without one; leave it out")
        return await cancel_task(self._open_connection(), task_id)

    async def check(self, request: TaskRequest) -> None:
        await self._ask("POST", "check", body=self._task_body(request))

    async def end_conversation(
        self, agent: str, conversation: str, *, project: str | None = None
    ) -> bool:
        folder = self._folder(project)
        body = {"agent": agent, "conversation": conversation, "project": folder}
        found = await self._open_connection().post("conversations", "end", body=body)
        return bool(found["ended"])

    # Stored tasks

    async def task(self, task_id: str) -> TaskRecord:
        return TaskRecord.from_json(await self._get("tasks", task_id))

    async def tasks(self, wanted: TaskFilter | None = None) -> list[TaskRecord]:
        given = (wanted or TaskFilter()).as_json()
        query = {name: value for name, value in given.items() if value not in ("", [], None)}
        found = await self._get("tasks", **query)
        return [TaskRecord.from_json(one) for one in found["tasks"]]

    async def attach(self, task_id: str) -> TaskHandle:
        connection = self._open_connection()
        record = TaskRecord.from_json(await connection.get("tasks", task_id))
        return RemoteTask(connection, record.id, record.request, self._start)

    async def task_events(self, task_id: str, *, after: int = 0) -> AsyncGenerator[TaskEvent, None]:
        connection = self._open_connection()
        async with aclosing(task_events(connection, task_id, after)) as events:
            async for event in events:
                yield event

    async def retry(self, task_id: str, *, env: Mapping[str, str] | None = None) -> TaskHandle:
        connection = self._open_connection()
        # As for a new task: what this process has differently from the daemon.
        body = {"environment": {**client_environment(self._environ), **(env or {})}}
        found = await connection.request(
            "POST", "tasks", task_id, "retry", body=body, is_repeatable=False
        )
        record = TaskRecord.from_json(found)
        return RemoteTask(connection, record.id, record.request, self._start)

    async def answer(self, task_id: str, key: str, answer: bool | Denied) -> bool:
        return await answer_question(self._open_connection(), task_id, key, answer)

    async def dashboard_link(self, *, is_read_only: bool = False) -> str:
        """Return a link that opens the dashboard in a browser; it works once and for a minute.

        Args:
            is_read_only: the browser may look, and change nothing.
        """
        found = await self._ask(
            "POST", "dashboard", query={"read_only": "1" if is_read_only else "0"}
        )
        return str(found["url"])

    async def sign_out_browsers(self) -> None:
        """Sign every browser out of the dashboard, and end the links that were not used."""
        await self._ask("DELETE", "dashboard")

    # Agents

    async def agents(self, *, project: str | None = None) -> AgentList:
        return AgentList.from_json(await self._get("agents", project=self._folder(project)))

    async def agents_version(self, *, project: str | None = None) -> str:
        return str((await self._get("agents", "version", project=self._folder(project)))["version"])

    async def launch_spec(self, agent: str, *, project: str | None = None) -> LaunchSpec:
        return LaunchSpec.from_json(await self._get_agent(agent, "launch", project))

    async def prompt_size(self, agent: str, *, project: str | None = None) -> PromptSize:
        return PromptSize.from_json(await self._get_agent(agent, "prompt-size", project))

    async def reset_verdict(
        self, agent: str, *, project: str | None = None, refresh: bool = False
    ) -> ResetVerdict | None:
        flag = "1" if refresh else None
        found = (await self._get_agent(agent, "reset-verdict", project, refresh=flag))["verdict"]
        return None if found is None else ResetVerdict.from_json(found)

    async def _get_agent(self, agent: str, what: str, project: str | None, **query: Any) -> Any:
        _check_name(agent)
        return await self._get("agents", agent, what, project=self._folder(project), **query)

    # Workers and figures

    async def warmup(self, agent: str, *, project: str | None = None) -> WorkerInfo:
        return WorkerInfo.from_json(await self._post_agent(agent, "warmup", project))

    async def workers(self) -> list[WorkerInfo]:
        found = await self._open_connection().get("workers")
        return [WorkerInfo.from_json(one) for one in found["workers"]]

    async def stats(self) -> PoolStats:
        return PoolStats.from_json(await self._open_connection().get("stats"))

    async def reset(self, agent: str, *, project: str | None = None) -> int:
        return int((await self._post_agent(agent, "reset", project))["stopped"])

    async def _post_agent(self, agent: str, what: str, project: str | None) -> Any:
        _check_name(agent)
        connection, folder = self._open_connection(), self._folder(project)
        return await connection.post("agents", agent, what, project=folder)

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Pass every event of the daemon's pool to `listener`, in order and on the event loop.

        The first event is a `Snapshot`; it comes when the daemon has answered. If the connection is
        lost for long, another `Snapshot` replaces the figures so far. A subscription that cannot be
        continued is logged and ends.

        Returns:
            A function that ends the subscription.
        """
        connection = self._open_connection()
        task = self._start(_subscription(connection, listener), "agent-pool subscribe")

        def unsubscribe() -> None:
            task.cancel()

        return unsubscribe


async def _subscription(connection: DaemonConnection, listener: Callable[[Event], None]) -> None:
    last_id, search = "", Search(connection)
    while True:
        cause: Exception = ConnectionResetError("the stream of events ended")
        try:
            async with connection.stream("events", last_id=last_id) as events:
                async for last_id, data in events:  # noqa: B007 - read after a lost connection
                    search.succeeded()
                    _pass_on(listener, data)
        except CONNECTION_ERRORS as error:
            cause = error
        try:
            await search.failed(cause)
        except AgentPoolError as error:
            log.warning("a subscription to the daemon's events ended: %s", error)
            return


def _pass_on(listener: Callable[[Event], None], data: Any) -> None:
    try:
        event = event_from_json(data)
    except ConfigError as error:  # of a newer version
        log.warning("an event of the daemon was left out: %s", error)
        return
    call_listener(listener, event)


def _request_json(request: TaskRequest) -> dict[str, Any]:
    """Return a request as JSON values.

    Raises:
        AgentNotFound: the agent's name is not text.
        ConfigError: another field has a wrong type.
    """
    _check_name(request.agent)
    try:
        made: dict[str, Any] = _REQUESTS.dump_python(request, mode="json", warnings="error")
    except PydanticSerializationError as error:
        raise ConfigError(f"the request is wrong: {error}") from None
    except ValueError:  # a schema with more levels than pydantic takes
        return request.as_json()
    for name, value in made.items():
        if isinstance(value, float) and not math.isfinite(value):  # JSON has no such number
            raise ConfigError(f"{name}: expected a number, found {value}")
    return made


def _check_name(agent: str) -> None:
    if not isinstance(agent, str):
        raise AgentNotFound(f"agent: expected the name of an agent, found {agent!r}")


def _absolute(folder: str | os.PathLike[str]) -> str:
    """Return a folder as an absolute path: the daemon works in another one.

    Raises:
        ConfigError: it is no folder's name.
    """
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise ConfigError(f"project: expected a folder, found {folder!r}")
    return str(Path(folder).expanduser().absolute())
