"""The REST interface: `TaskAPI` over HTTP, below ``/v1``.

Who calls is checked before, by a middleware. Every answer is a JSON object, except streams of
events and the metrics; every error is ``{"error": {...}}``.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from agent_pool.api import TaskAPI, TaskHandle
from agent_pool.client.environment import changed_variables
from agent_pool.daemon.http_json import (
    MAX_WAIT,
    AnswerBody,
    ConversationBody,
    HasEnded,
    JsonAnswer,
    NoSuchRoute,
    Query,
    RetryBody,
    TaskBody,
    error_answer,
    read_body,
    read_whole,
    unexpected_error,
)
from agent_pool.daemon.openapi import OPERATIONS, Operation, openapi_document
from agent_pool.daemon.sse import SEND_TIMEOUT, EventStream, PoolEvents, task_stream
from agent_pool.errors import AgentPoolError, ConfigError
from agent_pool.models import OPEN_STATES, Denied, TaskFilter, TaskRecord, TaskRequest
from agent_pool.tasks.engine import new_id

log = logging.getLogger("agent_pool")

Handler = Callable[[Request, Query], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]

LEAVE_CHECK_SECONDS: Final = 1.0
"""How often a request that waits looks whether its client is still there."""
NoteAction = Callable[[Request, str, str], None]
"""Takes note of what a request did to a task: the request, the action in words, the task's id."""

COUNTED_TASKS: Final = 1000
"""The most open tasks that `health` counts."""


def rest_routes(
    pool: TaskAPI,
    *,
    environ: Mapping[str, str],
    env_block: tuple[str, ...] = (),
    sent: tuple[str, ...] | None = None,
    send_timeout: float = SEND_TIMEOUT,
    is_draining: Callable[[], bool] = lambda: False,
    note: NoteAction = lambda request, action, task_id: None,
) -> list[BaseRoute]:
    """Return the routes below ``/v1``.

    Args:
        pool: the pool that they serve; it is opened and closed by the caller.
        environ: the daemon's environment; a task gets the variables that its client has otherwise.
        env_block: patterns of variables that workers never get, the setting of this name.
        sent: patterns of the only variables of a client that its tasks get; None for all.
        send_timeout: seconds after which a client is dropped that does not read its events.
        is_draining: says whether the daemon finishes its tasks and takes no new ones.
        note: takes note of each cancel, retry and answer.
    """
    changed = partial(changed_variables, daemon_environ=environ, blocked=env_block, sent=sent)
    interface = _Interface(pool, changed, send_timeout, is_draining, note)
    by_path: dict[str, dict[str, Endpoint]] = {}
    for one in OPERATIONS:
        endpoint = _endpoint(one, getattr(interface, one.name))
        by_path.setdefault(one.path, {})[one.method] = endpoint
    # One route for each path, so that the answer to a wrong method names all that there are.
    routes = [
        Route(path, _by_method(endpoints), methods=list(endpoints))
        for path, endpoints in by_path.items()
    ]
    # An application of its own, so that a path that does not exist has an answer in JSON too.
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    mount = Mount("/v1", app=app)
    # Starlette's own pattern stops at a line feed, and the answer would be plain text.
    mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)
    return [mount]


def _by_method(endpoints: Mapping[str, Endpoint]) -> Endpoint:
    """Return a function that answers with the endpoint of the request's method."""

    async def answer(request: Request) -> Response:
        # Starlette adds HEAD to a route with GET.
        method = "GET" if request.method == "HEAD" else request.method
        return await endpoints[method](request)

    return answer


def _endpoint(operation: Operation, handler: Handler) -> Endpoint:
    """Return a function that answers a request, also one that fails."""

    async def answer(request: Request) -> Response:
        try:
            query = Query(request.query_params, operation.query, operation.lists)
            return await handler(request, query)
        except AgentPoolError as error:
            return error_answer(error)
        except ClientDisconnect:
            raise
        except Exception:
            log.exception("the request %s %s failed", operation.method, operation.path)
            return error_answer(unexpected_error())

    return answer


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer a request for a path or a method that does not exist."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}"
    missing = NoSuchRoute(
        f"there is no {what}; `/v1/openapi.json` has all routes", status=error.status_code
    )
    answer = error_answer(missing)
    answer.headers.update(error.headers or {})
    return answer


class _Interface:
    """The handlers; each is named as its `Operation`."""

    def __init__(
        self,
        pool: TaskAPI,
        changed: Callable[[Mapping[str, str]], Mapping[str, str] | None],
        send_timeout: float,
        is_draining: Callable[[], bool],
        note: NoteAction,
    ) -> None:
        self._pool = pool
        self._is_draining = is_draining
        self._note = note
        self._changed = changed
        self._send_timeout = send_timeout
        self._events = PoolEvents(pool)
        self._started = time.monotonic()
        self._version = version("claude-agent-pool")

    # Tasks

    async def submit(self, request: Request, query: Query) -> Response:
        wait = query.number("wait", MAX_WAIT)
        body = await read_body(request, TaskBody)
        # With an id of its own it is seen whether the task is new, or that of an earlier request.
        new = body.task_id or new_id(body.request.agent)
        handle = await self._pool.submit(self._with_caller(body, request), task_id=new)
        record = await self._record(request, handle.id, wait)
        return JsonAnswer(record.as_json(), 201 if handle.id == new else 200)

    def _with_caller(self, body: TaskBody, request: Request) -> TaskRequest:
        """Return the request with its client's variables, and the task that the client is in."""
        task = body.request
        if body.environment is not None:
            changed = self._changed(body.environment) or {}
            # The variables of the request itself win.
            task = replace(task, env={**changed, **(task.env or {})} or None)
        peer = request.scope.get("state", {}).get("peer")
        if task.parent is None and (parent := getattr(peer, "task_id", None)):
            # A process of a worker submits it: it ends with that worker's task.
            task = replace(task, parent=parent)
        return task

    async def tasks(self, request: Request, query: Query) -> Response:
        wanted = TaskFilter.from_json(
            {
                "states": query.texts("states"),
                "agent": query.text("agent") or "",
                "project": query.text("project") or "",
                "since": query.number("since"),
                "until": query.number("until"),
                "text": query.text("text") or "",
                "parent": query.text("parent") or "",
                "before": query.whole("before"),
                "limit": query.whole("limit", 1, 1000) or 50,
            }
        )
        found = await self._pool.tasks(wanted)
        more = found[-1].number if len(found) == wanted.limit else None
        return JsonAnswer({"tasks": [one.as_json() for one in found], "before": more})

    async def task(self, request: Request, query: Query) -> Response:
        wait = query.number("wait", MAX_WAIT)
        record = await self._record(request, request.path_params["id"], wait)
        return JsonAnswer(record.as_json())

    async def _record(self, request: Request, task_id: str, wait: float | None) -> TaskRecord:
        """Return a task, at the latest after `wait` seconds even if it has not ended."""
        record = await self._pool.task(task_id)
        if not wait or record.has_ended:
            return record
        handle = await self._pool.attach(task_id)
        async with _owned(handle.result()) as ended:
            until = time.monotonic() + wait
            while (left := until - time.monotonic()) > 0:
                await asyncio.wait([ended], timeout=min(left, LEAVE_CHECK_SECONDS))
                if ended.done() or await request.is_disconnected():
                    break
        return await self._pool.task(task_id)

    async def task_events(self, request: Request, query: Query) -> Response:
        task_id, after = request.path_params["id"], query.whole("after") or 0
        if last := request.headers.get("Last-Event-ID"):
            after = read_whole("Last-Event-ID", last)
        await self._pool.task(task_id)  # an unknown task is an answer, not a broken stream
        events = self._pool.task_events(task_id, after=after)
        return EventStream(task_stream(events), self._send_timeout)

    async def cancel(self, request: Request, query: Query) -> Response:
        task_id = request.path_params["id"]
        record = await self._pool.task(task_id)
        if record.has_ended or not await self._pool.cancel(task_id):
            state = (await self._pool.task(task_id)).state
            raise HasEnded(f"task {task_id!r} has ended ({state}), so it cannot be cancelled")
        self._note(request, "cancelled", task_id)
        return JsonAnswer((await self._pool.task(task_id)).as_json())

    async def retry(self, request: Request, query: Query) -> Response:
        handle = await self._retry(request.path_params["id"], request)
        self._note(request, "ran it again", handle.id)
        return JsonAnswer((await self._pool.task(handle.id)).as_json())

    async def _retry(self, task_id: str, request: Request) -> TaskHandle:
        if request.headers.get("content-length", "0") == "0":
            return await self._pool.retry(task_id)
        given = (await read_body(request, RetryBody)).environment
        # Variables of a request that its client never had, such as a token for this task alone.
        wanted = (await self._pool.task(task_id)).request.env or {}
        changed = self._changed(given) or {}
        if missing := sorted(wanted.keys() - given.keys() - changed.keys()):
            raise ConfigError(
                f"task {task_id} had variables of its own ({', '.join(missing)}), whose values are "
                "removed when a task ends; set them for this command, or submit the task again"
            )
        return await self._pool.retry(task_id, env=changed)

    async def answer(self, request: Request, query: Query) -> Response:
        body = await read_body(request, AnswerBody)
        answer = True if body.allow else Denied(body.reason)
        task_id = request.path_params["id"]
        if accepted := await self._pool.answer(task_id, body.key, answer):
            self._note(request, "allowed" if body.allow else f"denied {body.reason}", task_id)
        return JsonAnswer({"accepted": accepted})

    async def check(self, request: Request, query: Query) -> Response:
        await self._pool.check(self._with_caller(await read_body(request, TaskBody), request))
        return JsonAnswer({"ok": True})

    async def end_conversation(self, request: Request, query: Query) -> Response:
        body = await read_body(request, ConversationBody)
        ended = await self._pool.end_conversation(
            body.agent, body.conversation, project=body.project
        )
        return JsonAnswer({"ended": ended})

    # Agents

    async def agents(self, request: Request, query: Query) -> Response:
        return JsonAnswer((await self._pool.agents(project=query.text("project"))).as_json())

    async def agents_version(self, request: Request, query: Query) -> Response:
        found = await self._pool.agents_version(project=query.text("project"))
        return JsonAnswer({"version": found})

    async def launch(self, request: Request, query: Query) -> Response:
        spec = await self._pool.launch_spec(
            request.path_params["name"], project=query.text("project")
        )
        return JsonAnswer(spec.as_json())

    async def prompt_size(self, request: Request, query: Query) -> Response:
        size = await self._pool.prompt_size(
            request.path_params["name"], project=query.text("project")
        )
        return JsonAnswer(size.as_json())

    async def reset_verdict(self, request: Request, query: Query) -> Response:
        verdict = await self._pool.reset_verdict(
            request.path_params["name"],
            project=query.text("project"),
            refresh=query.flag("refresh"),
        )
        return JsonAnswer({"verdict": verdict and verdict.as_json()})

    async def warmup(self, request: Request, query: Query) -> Response:
        worker = await self._pool.warmup(request.path_params["name"], project=query.text("project"))
        return JsonAnswer(worker.as_json())

    async def reset(self, request: Request, query: Query) -> Response:
        stopped = await self._pool.reset(request.path_params["name"], project=query.text("project"))
        return JsonAnswer({"stopped": stopped})

    # The pool

    async def workers(self, request: Request, query: Query) -> Response:
        return JsonAnswer({"workers": [one.as_json() for one in await self._pool.workers()]})

    async def stats(self, request: Request, query: Query) -> Response:
        return JsonAnswer((await self._pool.stats()).as_json())

    async def events(self, request: Request, query: Query) -> Response:
        last_id = request.headers.get("Last-Event-ID", "")
        return EventStream(self._events.stream(last_id), self._send_timeout)

    async def health(self, request: Request, query: Query) -> Response:
        found = await self._pool.tasks(TaskFilter(states=OPEN_STATES, limit=COUNTED_TASKS))
        uptime = time.monotonic() - self._started
        figures = {"version": self._version, "uptime": uptime, "open_tasks": len(found)}
        status = "draining" if self._is_draining() else "ok"
        return JsonAnswer({"status": status, **figures})

    async def metrics(self, request: Request, query: Query) -> Response:
        # Late: most daemons are never asked for them.
        from agent_pool.daemon.metrics import CONTENT_TYPE, metrics_text

        return Response(await metrics_text(self._pool), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request, query: Query) -> Response:
        return JsonAnswer(openapi_document(self._version))


@asynccontextmanager
async def _owned(waiting: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a coroutine beside the block; cancel it at the end of the block, and read its error."""
    task = asyncio.ensure_future(waiting)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
