"""The dashboard in a real Chromium: what a person sees and does there."""

from __future__ import annotations

import asyncio
import re
import shlex
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.async_api import Page, expect

from agent_pool import TaskFilter, TaskRequest, TaskResult
from agent_pool.api import OnEvent
from agent_pool.daemon.dashboard import now
from agent_pool.daemon.dashboard.pages import FIRST_ROWS
from agent_pool.events import Spent, Started, Text, ToolOutput, ToolUse, WorkerRetired
from agent_pool.models import Usage
from support.browser import a_page, needs_chromium, shared_chromium
from support.dashboard_pages import HOSTILE, axe_problems, every_page, unfold
from support.dashboards import serve_dashboard
from support.fake_pool import FakePool, make_result, make_worker

pytestmark = [needs_chromium, pytest.mark.anyio, pytest.mark.long]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run all tests of this module in one event loop, so that they can share a browser."""
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def browser(anyio_backend: str) -> AsyncIterator[None]:
    """Start the browser that the tests share."""
    async with shared_chromium():
        yield


Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDTHS = (360, 1280, 2560)


@dataclass
class Findings:
    """What was measured on one page.

    Attributes:
        path: its path.
        low_contrast: elements whose text is hard to read, by the colour scheme.
        axe: what axe-core finds; only in the light, because it finds the same in the dark.
        widths: how wide the page is, by the width of the window.
        unseen: controls that do not show that they have the focus.
        unreached: the numbers of the controls that the keyboard does not reach.
    """

    path: str
    low_contrast: dict[Scheme, list[str]]
    axe: list[str]
    widths: dict[int, int]
    unseen: list[str]
    unreached: list[int]


@pytest.fixture(scope="module")
async def findings(tmp_path_factory: pytest.TempPathFactory, browser: None) -> list[Findings]:
    """Measure every page, each loaded once: loading takes most of the time."""
    folder = tmp_path_factory.mktemp("pages")
    async with every_page(folder) as (served, paths), a_page(is_own=True) as page:
        await sign_in(page, served.link())
        found = []
        for path in paths:
            await page.goto(served.address + path)
            await unfold(page)
            found.append(await measure(page, path))
        return found


async def measure(page: Page, path: str) -> Findings:
    axe = await axe_problems(page)
    low_contrast = {}
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        low_contrast[scheme] = await page.evaluate(LOW_CONTRAST)
    await page.emulate_media(color_scheme="light")
    widths = {width: await width_in_window(page, width) for width in WIDTHS}
    await page.set_viewport_size({"width": 1280, "height": 900})
    return Findings(path, low_contrast, axe, widths, *await press_tab(page))


async def width_in_window(page: Page, width: int) -> int:
    await page.set_viewport_size({"width": width, "height": 900})
    await page.wait_for_function("width => innerWidth === width", arg=width)
    return int(await page.evaluate("document.documentElement.scrollWidth"))


async def press_tab(page: Page) -> tuple[list[str], list[int]]:
    """Press Tab until each control had the focus; return those without a mark, and the others."""
    controls = await page.evaluate(MARK_CONTROLS)
    unseen: list[str] = []
    missing = set(range(controls))
    # Some controls have several stops, such as the parts of a date.
    for _ in range(4 * controls + 4):
        await page.keyboard.press("Tab")
        number, plain = await page.evaluate(FOCUSED)
        unseen += [plain] if plain is not None else []
        if number is not None:
            missing.discard(int(number))
        if not missing:
            break
    return unseen, sorted(missing)


class Steps:
    """A task that runs until it is told to end."""

    def __init__(self, *events: Any, answer: str = "the answer") -> None:
        self.events = events
        self.answer = answer
        self.end = asyncio.Event()
        self.was_cancelled = asyncio.Event()

    async def run(self, agent: str, task: str, emit: OnEvent) -> TaskResult:
        """Publish the events, then wait for the end."""
        emit(Started("worker-1", 4242, 0.0, agent=agent))
        for event in self.events:
            emit(event)
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        return make_result(self.answer, agent=agent)


async def sign_in(page: Page, link: str) -> None:
    await page.goto(link)
    await expect(page.get_by_role("heading", name="Now", exact=True)).to_be_visible()


async def test_a_running_task_appears_and_can_be_cancelled(tmp_path: Path) -> None:
    steps = Steps(ToolUse("1", "Bash", {"command": "npm test"}))
    async with serve_dashboard(FakePool(steps.run), tmp_path) as served, a_page() as page:
        await sign_in(page, served.link())
        await expect(page.get_by_text("No tasks yet.")).to_be_visible()
        handle = await served.pool.submit(TaskRequest("reviewer", "look at it"))
        row = page.get_by_role("row", name="reviewer")
        await expect(row).to_contain_text("Bash: npm test")
        await expect(row).to_contain_text("running")
        await row.get_by_role("link").click()
        await expect(page.get_by_text("worker-1 has it, process 4242")).to_be_visible()
        await page.get_by_role("button", name="Cancel the task").click()
        await expect(page.locator("#head")).to_contain_text("cancelled")
        await asyncio.wait_for(steps.was_cancelled.wait(), 10)
        assert (await served.pool.task(handle.id)).state == "cancelled"
        await page.get_by_role("link", name="Actions").click()
        await expect(page.get_by_role("row", name=handle.id)).to_contain_text("cancelled")


async def test_steps_of_a_task_come_while_the_page_is_open(tmp_path: Path) -> None:
    emitters: list[OnEvent] = []
    end = asyncio.Event()

    async def run(agent: str, task: str, emit: OnEvent) -> TaskResult:
        emit(Started("worker-1", 1, 0.0, agent=agent))
        emitters.append(emit)
        await end.wait()
        return make_result("all is well", agent=agent)

    async with serve_dashboard(FakePool(run), tmp_path) as served, a_page() as page:
        handle = await served.pool.submit(TaskRequest("reviewer", "look"))
        await sign_in(page, served.link())
        await page.goto(f"{served.address}/ui/tasks/{handle.id}")
        await expect(page.get_by_text("worker-1 has it")).to_be_visible()
        emitters[0](Text("I begin.", agent="reviewer"))
        await expect(page.get_by_text("I begin.")).to_be_visible()
        emitters[0](ToolUse("1", "Bash", {"command": "ls"}, agent="reviewer"))
        emitters[0](ToolOutput("1", "a.py\nb.py", False, agent="reviewer"))
        await page.get_by_text("output: a.py b.py").click()
        await expect(page.locator("details[open] pre")).to_have_text("a.py\nb.py")
        end.set()
        await expect(page.locator("#head")).to_contain_text("all is well")
        assert await page.locator("#steps li").count() == len(
            {await one.get_attribute("id") for one in await page.locator("#steps li").all()}
        )


@pytest.mark.parametrize(("button", "words"), [("Allow", "permitted ['Bash']"), ("Deny", "[]")])
async def test_a_permission_question_is_answered_in_the_browser(
    tmp_path: Path, button: str, words: str
) -> None:
    pool = FakePool()
    pool.asks = ("Bash",)
    async with serve_dashboard(pool, tmp_path) as served, a_page() as page:
        await sign_in(page, served.link())
        await served.pool.submit(TaskRequest("reviewer", "look", asks=True))
        row = page.get_by_role("row", name="reviewer")
        await expect(row).to_contain_text("asks permission")
        await row.get_by_role("link").click()
        await page.get_by_role("button", name=button).click()
        await expect(page.locator(".answer")).to_contain_text(words)


async def test_yesterdays_task_is_found_by_its_text_and_exported(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, a_page() as page:
        for number in range(60):
            handle = await served.pool.submit(TaskRequest("reviewer", f"look at part {number}."))
            await handle.result()
        await sign_in(page, served.link())
        await page.get_by_role("link", name="History").click()
        await expect(page.locator("#history tr")).to_have_count(50)
        await page.get_by_role("link", name="Older tasks").click()
        await expect(page.locator("#history tr")).to_have_count(10)
        await page.get_by_label("Text").fill("part 7.")
        await page.get_by_role("button", name="Filter").click()
        await expect(page.locator("#history tr")).to_have_count(1)
        async with page.expect_download() as download:
            await page.get_by_role("link", name="Export").click()
        saved = await (await download.value).path()
        assert len(saved.read_text().splitlines()) == 1


async def test_what_an_agent_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    steps = Steps(
        Text(HOSTILE), ToolUse("1", HOSTILE, {"command": HOSTILE}), ToolOutput("1", HOSTILE, False),
        answer=HOSTILE,
    )  # fmt: skip
    async with serve_dashboard(FakePool(steps.run), tmp_path) as served, a_page() as page:
        await sign_in(page, served.link())
        handle = await served.pool.submit(TaskRequest(HOSTILE[:60], HOSTILE))
        await expect(page.locator("#tasks tr")).to_have_count(1)
        await page.goto(f"{served.address}/ui/tasks/{handle.id}")
        await expect(page.locator("#steps li")).not_to_have_count(0)
        steps.end.set()
        await expect(page.locator(".answer")).to_contain_text("<script>")
        for path in ("/ui/", "/ui/history", f"/ui/tasks/{handle.id}"):
            await page.goto(served.address + path)
            assert await page.locator("img, main script").count() == 0
            assert await page.title() != "owned"
            # Neither does it change the order of what a person reads.
            assert "\u202e" not in await page.content()
            assert "\\u202egnp" in await page.content()


async def test_an_open_page_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with a_page() as page:
        async with serve_dashboard(FakePool(), tmp_path) as served:
            port = int(served.address.rpartition(":")[2])
            await sign_in(page, served.link())
            first = await served.pool.submit(TaskRequest("reviewer", "before"))
            await first.result()
            await expect(page.get_by_role("row", name="before")).to_be_visible()
        await expect(page.locator("#connection")).to_contain_text("not connected")
        async with serve_dashboard(FakePool(), tmp_path, port=port) as again:
            # The page was not touched: its cookie outlives the daemon.
            await (await again.pool.submit(TaskRequest("reviewer", "after"))).result()
            await expect(page.get_by_role("row", name="after")).to_be_visible()
            await expect(page.get_by_role("row", name="before")).to_be_visible()
            await expect(page.locator("#connection")).to_have_text("")
            # A form that was shown before the restart works too.
            await page.get_by_role("row", name="before").get_by_role("link").click()
            await expect(page.get_by_role("heading", name="Task")).to_be_visible()


async def test_a_page_that_was_signed_out_says_what_to_do(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, a_page() as page:
        await sign_in(page, served.link())
        served.dashboard.visitors.sign_out_all()
        await (await served.pool.submit(TaskRequest("reviewer", "unseen"))).result()
        await expect(page.locator("#connection")).to_contain_text("run agent-pool open")
        assert await page.locator("#tasks tr").count() == 0
        # Another tab of the browser is enough: the page goes on by itself.
        other = await page.context.new_page()
        await sign_in(other, served.link())
        await expect(page.get_by_role("row", name="unseen")).to_be_visible()


async def test_a_link_for_looking_shows_no_buttons(tmp_path: Path) -> None:
    steps = Steps()
    async with serve_dashboard(FakePool(steps.run), tmp_path) as served, a_page() as page:
        handle = await served.pool.submit(TaskRequest("reviewer", "look"))
        await sign_in(page, served.link(is_read_only=True))
        await page.goto(f"{served.address}/ui/tasks/{handle.id}")
        await expect(page.get_by_text("read only")).to_be_visible()
        assert await page.get_by_role("button").count() == 0


async def test_the_keyboard_alone_reaches_and_opens_a_task(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, a_page() as page:
        await (await served.pool.submit(TaskRequest("reviewer", "look"))).result()
        await sign_in(page, served.link())
        for _ in range(20):
            await page.keyboard.press("Tab")
            focused = await page.evaluate("document.activeElement.textContent")
            if focused == "reviewer":
                break
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Task")).to_be_visible()


def test_the_keyboard_alone_reaches_every_control_of_every_page(findings: list[Findings]) -> None:
    assert [(one.path, one.unseen, one.unreached) for one in findings] == [
        (one.path, [], []) for one in findings
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_window(findings: list[Findings], width: int) -> None:
    assert [one.path for one in findings if one.widths[width] > width] == []


async def test_a_narrow_window_shows_every_cell_of_a_row(tmp_path: Path) -> None:
    steps = Steps(ToolUse("1", "Bash", {"command": "npm test"}))
    async with serve_dashboard(FakePool(steps.run), tmp_path) as served, a_page(width=360) as page:
        await sign_in(page, served.link())
        await served.pool.submit(TaskRequest("reviewer", "look"))
        row = page.get_by_role("row", name="reviewer")
        await expect(row.get_by_role("cell")).to_have_count(8)
        for cell in await row.get_by_role("cell").all():
            box = await cell.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360


async def test_the_page_of_an_agent_shows_its_prompt_and_size(tmp_path: Path) -> None:
    pool = FakePool()
    async with serve_dashboard(pool, tmp_path) as served, a_page() as page:
        await sign_in(page, served.link())
        await page.goto(f"{served.address}/ui/agents/reviewer?project={tmp_path}")
        await expect(page.get_by_role("heading", name="System prompt")).to_be_visible()
        await page.get_by_role("button", name="Measure").click()
        await expect(page.get_by_text("Sent with each task")).to_be_visible()


async def test_every_empty_page_says_how_to_begin(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, a_page() as page:
        await sign_in(page, served.link())
        for path in ("", "history", "agents", "actions"):
            await page.goto(f"{served.address}/ui/{path}")
            await expect(page.locator(".empty").first).to_be_visible()


async def test_a_wrong_address_gets_a_page_that_says_so(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, a_page() as page:
        await sign_in(page, served.link())
        response = await page.goto(f"{served.address}/ui/nowhere")
        assert response is not None
        assert response.status == 404
        await page.get_by_role("link", name="Now").click()
        await expect(page.get_by_role("heading", name="Now", exact=True)).to_be_visible()


async def test_the_focus_stays_in_a_row_that_changes_and_moves(tmp_path: Path) -> None:
    steps = Steps()
    async with serve_dashboard(FakePool(steps.run), tmp_path) as served, a_page() as page:
        await served.pool.submit(TaskRequest("reviewer", "first"))
        await served.pool.submit(TaskRequest("reviewer", "second"))
        await sign_in(page, served.link())
        await page.get_by_role("row", name="first").get_by_role("link").focus()
        steps.end.set()
        await expect(page.get_by_role("row", name="first")).to_contain_text("done")
        await expect(page.get_by_role("row", name="second")).to_contain_text("done")
        held = "document.activeElement.closest('tr')?.textContent ?? ''"
        assert "first" in await page.evaluate(held)


async def test_many_waiting_tasks_hide_none_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(now, "SHOWN_OPEN", 3)
    steps = Steps(Text("I work."))
    async with serve_dashboard(FakePool(steps.run), tmp_path) as served, a_page() as page:
        await served.pool.submit(TaskRequest("reviewer", "at work"))
        later = time.time() + 3600
        for number in range(5):
            await served.pool.submit(TaskRequest("reviewer", f"later {number}", not_before=later))
        await sign_in(page, served.link())
        await expect(page.get_by_role("row", name="at work")).to_contain_text("running")
        await expect(page.locator("[data-figure=queued]")).to_have_text("5")
        await expect(page.locator("#tasks tr")).to_have_count(4)


async def test_the_clock_of_the_browser_changes_no_time(tmp_path: Path) -> None:
    steps = Steps()
    async with (
        serve_dashboard(FakePool(steps.run), tmp_path) as served,
        a_page(is_own=True) as page,
    ):
        await served.pool.submit(TaskRequest("reviewer", "look"))
        await page.clock.set_fixed_time(time.time() + 7200)
        await sign_in(page, served.link())
        seconds = page.get_by_role("row", name="reviewer").locator("[data-since]")
        await expect(seconds).to_have_text(re.compile(r"^\d+ s$"))


async def test_a_hidden_page_reads_no_events_until_it_is_seen(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, a_page() as page:
        await sign_in(page, served.link())
        async with page.expect_event("requestfailed", lambda one: "/ui/events" in one.url):
            await page.evaluate(HIDE, True)
        await (await served.pool.submit(TaskRequest("reviewer", "unseen"))).result()
        assert await page.locator("#tasks tr").count() == 0
        async with page.expect_request(lambda one: "/ui/events" in one.url):
            await page.evaluate(HIDE, False)
        await expect(page.get_by_role("row", name="unseen")).to_be_visible()


async def test_a_retired_worker_is_named_with_its_reason(tmp_path: Path) -> None:
    pool = FakePool()
    async with serve_dashboard(pool, tmp_path) as served, a_page() as page:
        await sign_in(page, served.link())
        pool.emit(WorkerRetired(worker="worker-7", reason="max_tasks", agent="reviewer"))
        await expect(page.get_by_text("worker-7 (reviewer), max_tasks")).to_be_visible()


async def test_the_command_of_a_task_is_copied(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, a_page() as page:
        request = TaskRequest("reviewer", "- look", isolation="worktree", asks=True, timeout=90.0)
        handle = await served.pool.submit(request)
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await sign_in(page, served.link())
        await page.goto(f"{served.address}/ui/tasks/{handle.id}")
        await page.get_by_text("Submit it again from a terminal").click()
        await page.get_by_role("button", name="Copy").click()
        await expect(page.locator("#connection")).to_contain_text("copied")
        copied = await page.evaluate("navigator.clipboard.readText()")
        words = ["--timeout", "90", "--worktree", "--ask", "reviewer", "--", "- look"]
        assert shlex.split(copied)[-7:] == words


async def test_the_first_visit_is_small(tmp_path: Path) -> None:
    pool = FakePool()
    pool.worker_infos = [make_worker(worker=f"worker-{number}") for number in range(32)]
    async with serve_dashboard(pool, tmp_path) as served, a_page(is_own=True) as page:
        later = time.time() + 3600
        for number in range(200):
            text = f"task {number} {'long ' * 50}"
            await served.pool.submit(TaskRequest("reviewer", text, not_before=later))
        session = await page.context.new_cdp_session(page)
        await session.send("Network.enable")
        received: list[float] = []
        session.on("Network.loadingFinished", lambda one: received.append(one["encodedDataLength"]))
        await sign_in(page, served.link())
        await page.wait_for_load_state("load")
        assert await page.locator("#tasks tr").count() == 200
    assert 1_000 < sum(received) <= 150_000


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_page_can_be_read_and_used_by_everyone(
    findings: list[Findings], scheme: Scheme
) -> None:
    for one in findings:
        assert one.low_contrast[scheme] == [], one.path
        assert one.axe == [], one.path


async def test_a_task_with_variables_shows_the_command_that_runs_it_again(tmp_path: Path) -> None:
    async with every_page(tmp_path) as (served, _), a_page() as page:
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await sign_in(page, served.link())
        (failed,) = await served.pool.tasks(TaskFilter(states=("failed",)))
        await page.goto(f"{served.address}/ui/tasks/{failed.id}")
        await expect(page.get_by_role("button", name="Run it again")).to_have_count(0)
        await expect(page.locator("#head")).to_contain_text("API_TOKEN")
        await page.locator("#head").get_by_role("button", name="Copy").click()
        await expect(page.locator("#connection")).to_contain_text("copied")
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied == f"agent-pool retry {failed.id}"
        assert "a-secret-value" not in await page.content()


async def test_a_task_shows_its_context_and_what_each_request_used(tmp_path: Path) -> None:
    figures = [Spent(Usage(100, 5, 0, 0), 0.1, 60_000, 200_000)]
    figures.append(Spent(Usage(150, 9, 0, 40), 0.3, 80_000, 200_000))
    steps = Steps(*figures)
    async with serve_dashboard(FakePool(steps.run), tmp_path) as served, a_page() as page:
        handle = await served.pool.submit(TaskRequest("reviewer", "look"))
        await sign_in(page, served.link())
        await expect(page.get_by_role("row", name="reviewer")).to_contain_text("40%")
        await page.goto(f"{served.address}/ui/tasks/{handle.id}")
        await expect(page.locator("#head")).to_contain_text("40% of 200,000 tokens")
        used = "used 90 tokens sent (40 from the cache), 4 received, $0.2000; so far 199, $0.3000"
        await expect(page.locator("#steps")).to_contain_text(used)
        steps.end.set()
        await expect(page.locator("#head")).to_contain_text("the answer")
        await expect(page.locator("#head")).not_to_contain_text("Context")


async def test_rows_below_the_window_come_after_the_first_paint(tmp_path: Path) -> None:
    async with serve_dashboard(FakePool(), tmp_path) as served, a_page() as page:
        later = time.time() + 3600
        for number in range(60):
            await served.pool.submit(TaskRequest("reviewer", f"task {number}", not_before=later))
        link = urlsplit(served.link())
        async with httpx2.AsyncClient(base_url=served.address) as client:
            await client.get(f"{link.path}?{link.query}")
            shown = (await client.get("/ui/")).text
        assert shown.partition("<template")[0].count('id="tasks-') == FIRST_ROWS + 1
        await sign_in(page, served.link())
        await expect(page.locator("#tasks tr")).to_have_count(60)
        texts = await page.locator("#tasks .text").all_inner_texts()
        assert texts == [f"task {number}" for number in range(60)]


async def test_the_memory_of_a_page_does_not_grow_with_its_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(now, "GAP_SECONDS", 0.03)  # as many updates as in ten minutes
    async with serve_dashboard(FakePool(), tmp_path) as served, a_page(is_own=True) as page:

        async def feed(tasks: int) -> None:
            for _ in range(tasks // 20):
                request = TaskRequest("reviewer", "words " * 20)
                made = [served.pool.submit(request) for _ in range(20)]
                await asyncio.gather(*(handle.result() for handle in await asyncio.gather(*made)))

        session = await page.context.new_cdp_session(page)
        await session.send("Performance.enable")

        async def measure() -> dict[str, float]:
            await session.send("HeapProfiler.collectGarbage")
            found = await session.send("Performance.getMetrics")
            return {one["name"]: one["value"] for one in found["metrics"]}

        await sign_in(page, served.link())
        await feed(300)
        await expect(page.locator("#tasks tr")).to_have_count(50)
        before = await measure()
        await feed(3000)
        await expect(page.locator("#tasks tr")).to_have_count(50)
        after = await measure()
        assert after["JSHeapUsedSize"] - before["JSHeapUsedSize"] <= 5_000_000
        assert after["Nodes"] <= 2 * before["Nodes"]


HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
"""Lets a page believe that its tab is hidden, or seen again."""

MARK_CONTROLS = """() => {
  const all = document.querySelectorAll(
    "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']");
  let number = 0;
  for (const one of all) if (one.checkVisibility()) one.dataset.number = number++;
  return number;
}"""
"""Gives each control a number; returns how many there are."""

FOCUSED = """() => {
  const one = document.activeElement;
  if (!one || one === document.body) return [null, null];
  const isSeen = getComputedStyle(one).outlineStyle !== "none";
  return [one.dataset.number ?? null, isSeen ? null : one.outerHTML];
}"""
"""Returns the number of the control with the focus, and its HTML if nobody sees that it has it."""

LOW_CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (parts) => {
    const [r, g, b] = parts.slice(0, 3).map((one) => {
      const share = one / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("main *, header *")) {
    const own = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || !element.getClientRects().length) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${element.tagName} ${element.textContent.trim()} ${ratio}`);
  }
  return low;
}"""
"""Returns the elements whose text has a contrast below 4.5 (WCAG 2.2 AA)."""
