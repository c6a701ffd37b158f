"""The pages of the dashboard, and the actions behind their buttons."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from agent_pool.api import TaskAPI
from agent_pool.daemon.dashboard.actions import ActionLog
from agent_pool.daemon.dashboard.history import (
    ReadTotals,
    failures_of,
    pictures_of,
    read_filter,
    read_query,
)
from agent_pool.daemon.dashboard.now import NowView
from agent_pool.daemon.dashboard.rendering import (
    render,
    render_step,
    render_task_cells,
    render_worker_cells,
)
from agent_pool.daemon.dashboard.security import (
    COOKIE,
    MAX_FORM,
    PageHeaders,
    is_own_form,
    message_page,
    refuse_visitor,
    visitor_of,
)
from agent_pool.daemon.dashboard.sessions import SESSION_SECONDS, Visitor, Visitors
from agent_pool.daemon.dashboard.worktree_diff import worktree_diff
from agent_pool.errors import AgentPoolError, TaskNotFound
from agent_pool.events import PermissionAnswered, PermissionAsked, Spent, Started
from agent_pool.models import Denied, TaskFilter, TaskRecord, TaskRequest, TaskState
from agent_pool.settings import Settings
from agent_pool.text import one_line
from agent_pool.views.rows import submit_command, task_row
from agent_pool.views.steps import TaskStep, step_of

STATIC: Final = Path(__file__).parent / "static"
HISTORY_PAGE: Final = 50
FIRST_ROWS: Final = 40
"""Rows of a table that a browser paints first; more would not be in its window."""
MAX_STEPS: Final = 2000
"""The most steps of a page; of a longer task the first ones are left out."""
SEND_TIMEOUT: Final = 30.0
"""Seconds after which a page that takes nothing is disconnected."""
KEEP_ALIVE: Final = 15
MIN_COMPRESSED: Final = 2000
"""Bytes of the smallest page that is compressed: 200 tasks are 180 kB, mostly the same tags."""

VARIABLES_WIDTH: Final = 400
"""Characters of the names of a task's variables."""
_CHANGES_HEAD: Final = (Started, Spent, PermissionAsked, PermissionAnswered)
"""The events that change the state, the figures or the questions of a task."""

Page = Callable[[Request, Visitor], Awaitable[Response]]

log = logging.getLogger(__name__)


class Dashboard:
    """The routes of the dashboard around a pool.

    Args:
        pool: the pool.
        settings: its settings.
        state: the private folder of the log of actions.
        totals: returns the sums of tasks, for the pictures of the history.
        keys: the private folder of the key for cookies; None where they end with the daemon.

    Attributes:
        visitors: the links and the browsers that are signed in.
        actions: the log of actions.
    """

    def __init__(
        self,
        pool: TaskAPI,
        settings: Settings,
        state: Path,
        totals: ReadTotals,
        keys: Path | None = None,
    ) -> None:
        self.visitors = Visitors(keys)
        self._pool = pool
        self._totals = totals
        self.actions = ActionLog(state / "actions.jsonl")
        self._now = NowView(pool, settings, render_task_cells, render_worker_cells)

    def close(self) -> None:
        """End what runs for open pages."""
        self._now.close()

    def routes(self) -> list[BaseRoute]:
        """Return the routes; all of them but the entrance need the cookie."""
        get, post = self._page, self._action
        routes: list[BaseRoute] = [
            Route("/enter", self._enter),
            Route("/session", get(self._confirm)),
            Route("/", get(self._show_now)),
            Route("/events", get(self._stream_now)),
            Route("/tasks/{id}", get(self._show_task)),
            Route("/tasks/{id}/events", get(self._stream_task)),
            Route("/tasks/{id}/cancel", post(self._cancel), methods=["POST"]),
            Route("/tasks/{id}/retry", post(self._retry), methods=["POST"]),
            Route("/tasks/{id}/answer", post(self._answer), methods=["POST"]),
            Route("/history", get(self._show_history)),
            Route("/history.jsonl", get(self._export)),
            Route("/agents", get(self._show_agents)),
            Route("/agents/{name}", get(self._show_agent)),
            Route("/run", post(self._run), methods=["POST"]),
            Route("/actions", get(self._show_actions)),
            Mount("/static", StaticFiles(directory=STATIC)),
            Route("/{path:path}", get(self._show_no_page)),
        ]
        # It leaves streams of events as they are, so that each event is sent at once.
        compressed = Middleware(GZipMiddleware, minimum_size=MIN_COMPRESSED)
        return [Mount("/ui", routes=routes, middleware=[Middleware(PageHeaders), compressed])]

    # Entrance

    async def _enter(self, request: Request) -> Response:
        visitor = self.visitors.redeem(request.query_params.get("code", ""))
        if visitor is None:
            words = "The link was used or is older than a minute. Run `agent-pool open` again."
            return message_page("This link does not work any more", words, 403)
        # The redirection replaces the link in the history of the browser.
        response = RedirectResponse("/ui/", 303)
        response.set_cookie(
            COOKIE,
            visitor.session,
            max_age=int(SESSION_SECONDS),
            path="/ui",
            httponly=True,
            samesite="strict",
        )
        return response

    async def _confirm(self, request: Request, visitor: Visitor) -> Response:
        # A page whose stream broke asks whether it is still signed in.
        return Response(status_code=204)

    def _page(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            visitor = visitor_of(request, self.visitors)
            if visitor is None:
                return refuse_visitor()
            return await self._answered(page, request, visitor)

        return handle

    def _action(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            visitor = visitor_of(request, self.visitors)
            if visitor is None:
                return refuse_visitor()
            async with request.form(max_part_size=MAX_FORM) as form:
                if not is_own_form(visitor, form.get("form_key")):
                    return message_page("Refused", "The form did not come from this page.", 403)
            if visitor.is_read_only:
                return message_page("Refused", "This link is for looking only.", 403)
            return await self._answered(page, request, visitor)

        return handle

    async def _answered(self, page: Page, request: Request, visitor: Visitor) -> Response:
        try:
            return await page(request, visitor)
        except TaskNotFound as error:
            return message_page("No such task", str(error), 404)
        except AgentPoolError as error:
            return message_page("This did not work", str(error), 400)

    def _html(self, template: str, section: str, visitor: Visitor, /, **values: Any) -> Response:
        page = template.removesuffix(".html")
        return HTMLResponse(render(template, page=page, section=section, visitor=visitor, **values))

    # Now

    async def _show_now(self, request: Request, visitor: Visitor) -> Response:
        shown = await self._now.snapshot()
        return self._html("now.html", "Now", visitor, first=FIRST_ROWS, **shown)

    async def _stream_now(self, request: Request, visitor: Visitor) -> Response:
        async def events() -> AsyncIterator[ServerSentEvent]:
            async for update in self._now.updates(_last_id(request)):
                if self.visitors.find(visitor.session) is None:
                    break  # it has ended, or everyone was signed out
                yield _sse("update", update, update["id"])

        return _stream(events())

    # One task

    async def _show_task(self, request: Request, visitor: Visitor) -> Response:
        record = await self._pool.task(request.path_params["id"])
        steps = await self._steps(record)
        if steps and not record.has_ended:  # it can have ended while its steps were read
            record = await self._pool.task(record.id)
        launch, problem = await self._launch(record)
        result = record.result
        return self._html(
            "task.html",
            "",
            visitor,
            record=record,
            head=_head(record, visitor),
            steps=steps,
            after=steps[-1].number if steps else 0,
            command=submit_command(record.request),
            launch=launch,
            launch_error=problem,
            diff=await worktree_diff(result.worktree) if result and result.worktree else "",
        )

    async def _steps(self, record: TaskRecord) -> list[TaskStep]:
        """Return the steps so far; of a task that runs, those that are kept now."""
        found: list[TaskStep] = []
        figures: Spent | None = None
        events = self._pool.task_events(record.id)
        try:
            while True:
                # A live stream waits for the next event: what is not there at once comes by SSE.
                async with asyncio.timeout(None if record.has_ended else 0.2):
                    event = await anext(events, None)
                if event is None:
                    break
                if (step := step_of(event, figures)) is not None:
                    found.append(step)
                figures = event if isinstance(event, Spent) else figures
        except TimeoutError:
            pass
        finally:
            await events.aclose()
        return found[-MAX_STEPS:]

    async def _launch(self, record: TaskRecord) -> tuple[Any, str]:
        try:
            project = record.project or None
            return await self._pool.launch_spec(record.agent, project=project), ""
        except AgentPoolError as error:
            return None, str(error)

    async def _stream_task(self, request: Request, visitor: Visitor) -> Response:
        task_id = request.path_params["id"]
        await self._pool.task(task_id)
        last = _last_id(request)
        after = int(last) if last.isdecimal() else 0

        async def events() -> AsyncIterator[ServerSentEvent]:
            number, figures = after, None
            # From the beginning: a step shows what was used since the figures before it.
            async for event in self._pool.task_events(task_id):
                if self.visitors.find(visitor.session) is None:
                    return
                before = figures
                figures = event if isinstance(event, Spent) else figures
                if event.number <= after:
                    continue
                number = event.number
                if (step := step_of(event, before)) is not None:
                    data = {"number": number, "html": render_step(step)}
                    yield _sse("step", data, str(number))
                if isinstance(event, _CHANGES_HEAD):
                    yield _sse("head", await self._head_data(task_id, visitor), str(number))
            # The last event comes before the record that has the answer.
            with suppress(AgentPoolError):
                await (await self._pool.attach(task_id)).result()
            yield _sse("head", await self._head_data(task_id, visitor), str(number))

        return _stream(events())

    async def _head_data(self, task_id: str, visitor: Visitor) -> dict[str, Any]:
        record = await self._pool.task(task_id)
        return {"html": _head(record, visitor), "ended": record.has_ended}

    async def _cancel(self, request: Request, visitor: Visitor) -> Response:
        task_id = request.path_params["id"]
        was_open = await self._pool.cancel(task_id)
        self.actions.add(visitor.name, "cancelled" if was_open else "cancelled too late", task_id)
        return _to_task(task_id)

    async def _retry(self, request: Request, visitor: Visitor) -> Response:
        task_id = request.path_params["id"]
        await self._pool.retry(task_id)
        self.actions.add(visitor.name, "ran it again", task_id)
        return _to_task(task_id)

    async def _answer(self, request: Request, visitor: Visitor) -> Response:
        task_id = request.path_params["id"]
        async with request.form(max_part_size=MAX_FORM) as form:
            key, reason = _text(form, "key"), _text(form, "reason")
            allowed = form.get("allow") == "yes"
        await self._pool.answer(task_id, key, True if allowed else Denied(reason))
        self.actions.add(visitor.name, "allowed" if allowed else f"denied {reason}", task_id)
        return _to_task(task_id)

    # History

    async def _show_history(self, request: Request, visitor: Visitor) -> Response:
        wanted = replace(read_filter(request.query_params), limit=HISTORY_PAGE)
        records = await self._pool.tasks(wanted)
        query = read_query(request.query_params)
        # Only on the first page: they are about all tasks of the filter.
        totals = await self._totals(wanted) if wanted.before is None else []
        is_last = len(records) < HISTORY_PAGE
        return self._html(
            "history.html",
            "History",
            visitor,
            wanted=wanted,
            states=list(TaskState.__args__),  # type: ignore[attr-defined]
            since=request.query_params.get("since", ""),
            until=request.query_params.get("until", ""),
            query=urlencode(query),
            rows=[task_row(one) for one in records],
            pictures=pictures_of(totals),
            failures=failures_of(totals),
            newer=urlencode(query) if wanted.before is not None else "",
            older="" if is_last else urlencode({**query, "before": records[-1].number}),
        )

    async def _export(self, request: Request, visitor: Visitor) -> Response:
        wanted = replace(read_filter(request.query_params), limit=1000)

        async def lines() -> AsyncIterator[str]:
            before = wanted.before
            while records := await self._pool.tasks(replace(wanted, before=before)):
                for record in records:
                    yield json.dumps(record.as_json()) + "\n"
                before = records[-1].number

        headers = {"content-disposition": 'attachment; filename="tasks.jsonl"'}
        return StreamingResponse(lines(), media_type="application/jsonl", headers=headers)

    # Agents

    async def _show_agents(self, request: Request, visitor: Visitor) -> Response:
        recent = await self._pool.tasks(TaskFilter(limit=1000))
        projects = sorted({one.project for one in recent if one.project})
        project = request.query_params.get("project") or next(iter(projects), "")
        found, problem = None, ""
        try:
            found = await self._pool.agents(project=project) if project else None
        except AgentPoolError as error:
            problem = str(error)
        values = {"projects": projects, "project": project, "found": found, "problem": problem}
        return self._html("agents.html", "Agents", visitor, **values)

    async def _show_agent(self, request: Request, visitor: Visitor) -> Response:
        name, project = request.path_params["name"], request.query_params.get("project") or None
        launch, size, problem = None, None, ""
        try:
            launch = await self._pool.launch_spec(name, project=project)
            if "size" in request.query_params:
                size = await self._pool.prompt_size(name, project=project)
        except AgentPoolError as error:
            problem = str(error)
        values = {"name": name, "project": project or "", "launch": launch, "size": size}
        return self._html("agent.html", "Agents", visitor, problem=problem, **values)

    async def _run(self, request: Request, visitor: Visitor) -> Response:
        async with request.form(max_part_size=MAX_FORM) as form:
            agent, task, project = (_text(form, key) for key in ("agent", "task", "project"))
        # A person looks at the page, so the agent may ask.
        made = TaskRequest(agent, task, project=project or None, asks=True)
        handle = await self._pool.submit(made)
        self.actions.add(visitor.name, f"gave {agent} a task", handle.id)
        return _to_task(handle.id)

    async def _show_no_page(self, request: Request, visitor: Visitor) -> Response:
        return message_page("No such page", "The address is wrong, or the page has moved.", 404)

    async def _show_actions(self, request: Request, visitor: Visitor) -> Response:
        return self._html("actions.html", "Actions", visitor, actions=self.actions.newest())


def link_route(dashboard: Dashboard, port: int) -> Route:
    """Return ``/v1/dashboard``, which stands behind the daemon's own checks.

    ``POST`` makes a link, ``DELETE`` signs all browsers out.

    Args:
        dashboard: the dashboard.
        port: the TCP port of the daemon.
    """

    async def answer(request: Request) -> Response:
        if request.method == "DELETE":
            dashboard.visitors.sign_out_all()
            return JSONResponse({"signed_out": True})
        is_read_only = request.query_params.get("read_only") == "1"
        code = dashboard.visitors.make_code(is_read_only=is_read_only)
        return JSONResponse({"url": f"http://127.0.0.1:{port}/ui/enter?code={quote(code)}"}, 201)

    return Route("/v1/dashboard", answer, methods=["POST", "DELETE"])


def _head(record: TaskRecord, visitor: Visitor) -> str:
    return render(
        "head.html",
        record=record,
        row=task_row(record),
        visitor=visitor,
        variables=one_line(", ".join(record.request.env or ()), VARIABLES_WIDTH),
        retry=shlex.join(["agent-pool", "retry", record.id]),
    )


def _to_task(task_id: str) -> Response:
    return RedirectResponse(f"/ui/tasks/{quote(task_id, safe='')}", 303)


def _text(form: Mapping[str, Any], key: str) -> str:
    value = form.get(key)
    return value if isinstance(value, str) else ""


def _last_id(request: Request) -> str:
    return request.headers.get("last-event-id") or request.query_params.get("after", "")


def _sse(name: str, data: object, number: str) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data), event=name, id=number)


def _stream(events: AsyncIterator[ServerSentEvent]) -> Response:
    return EventSourceResponse(events, ping=KEEP_ALIVE, send_timeout=SEND_TIMEOUT)
