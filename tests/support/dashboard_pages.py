"""A dashboard whose pages show everything that they can show, and checks of all of them."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Page

from agent_pool import AgentPoolError, TaskFailed, TaskRequest, TaskResult
from agent_pool.api import OnEvent, OnPermission
from agent_pool.events import Retry, Spent, Started, Text, ToolOutput, ToolUse, WorkerRetired
from agent_pool.models import Usage
from support.dashboards import RunningDashboard, serve_dashboard
from support.fake_pool import FakePool, make_agent, make_broken, make_result, make_worker

HOSTILE: Final = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>\u202egnp"
)
LONG: Final = "word" * 800


class EveryState(FakePool):
    """A pool whose tasks end as their first word says: ``ask``, ``run``, ``fail``, ``done``."""

    asks = ("Bash",)

    def __init__(self) -> None:
        super().__init__()
        self.definitions.found = [
            replace(make_agent(), warnings={"hooks": "has no effect here"}),
            make_broken("broken"),
        ]
        self.worker_infos = [
            make_worker(worker="worker-1", note="the API refuses: 429"),
            make_worker(worker="worker-2", agent="", state="starting"),
        ]

    async def _result(
        self, request: TaskRequest, emit: OnEvent, on_permission: OnPermission | None
    ) -> TaskResult:
        kind = request.task.partition(" ")[0]
        if kind == "ask":
            return await self._answer(request, on_permission)
        agent = request.agent
        emit(Started("worker-1", 4242, 0.0, agent=agent))
        for event in (
            Text(f"words {LONG} {HOSTILE}", agent=agent),
            ToolUse("1", "Bash", {"command": f"npm test {LONG}"}, agent=agent),
            ToolOutput("1", f"it fails {HOSTILE}", True, agent=agent),
            Retry(529, "overloaded", 1, 2.0, agent=agent),
            Spent(Usage(10, 20, 30, 4000), 0.25, 60_000, 200_000, agent=agent),
        ):
            emit(event)
        if kind == "run":
            await asyncio.Event().wait()
        if kind == "fail":
            raise TaskFailed(f"it failed: {LONG} {HOSTILE}")
        return make_result(f"the answer {LONG} {HOSTILE}", agent=agent)


@asynccontextmanager
async def every_page(folder: Path) -> AsyncIterator[tuple[RunningDashboard, list[str]]]:
    """Serve a dashboard with tasks in every state; yield it and the paths of all its pages."""
    pool = EveryState()
    async with serve_dashboard(pool, folder) as served:
        ids = [await _submit(served, kind, folder) for kind in ("ask", "run", "fail", "done")]
        later = TaskRequest("reviewer", "later", project=str(folder), not_before=4e9)
        ids.append((await served.pool.submit(later)).id)
        pool.emit(WorkerRetired(worker="worker-7", reason="max_tasks", agent="reviewer"))
        served.dashboard.actions.add("browser-1", "denied because", ids[0])
        names = ("", "history", "agents", f"agents?project={folder}", "actions", "nowhere")
        agent = f"agents/reviewer?project={folder}"
        paths = [*names, agent, f"{agent}&size=1", *(f"tasks/{one}" for one in ids), "tasks/x"]
        yield served, [f"/ui/{path}" for path in paths]


async def _submit(served: RunningDashboard, kind: str, folder: Path) -> str:
    env = {"API_TOKEN": "a-secret-value"} if kind == "fail" else None
    request = TaskRequest(
        "reviewer", f"{kind} {LONG}", project=str(folder), asks=kind == "ask", env=env
    )
    handle = await served.pool.submit(request)
    if kind in ("fail", "done"):
        with suppress(AgentPoolError):
            await handle.result()
    else:
        wanted = "input_required" if kind == "ask" else "running"
        async with asyncio.timeout(10):
            while (await served.pool.task(handle.id)).state != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    return handle.id


async def unfold(page: Page) -> None:
    """Open everything that is folded."""
    await page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")


async def axe_problems(page: Page) -> list[str]:
    """Return what axe-core finds against WCAG 2.2 AA and good practice, with the elements."""
    found = importlib.util.find_spec("axe_playwright_python")
    assert found is not None
    assert found.origin is not None
    await page.evaluate((Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    violations: list[dict[str, Any]] = await page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then((done) => done.violations)"
    )
    return [
        f"{one['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
        for one in violations
        for node in one["nodes"]
    ]
