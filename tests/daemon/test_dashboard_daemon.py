"""The dashboard of a real daemon: `agent-pool open`, a task of the real CLI, and who gets in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from playwright.async_api import Page, expect

from agent_pool import TaskRequest, connect
from support.browser import a_page, needs_chromium
from support.shared_daemons import SharedDaemon

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedDaemon]:
    with SharedDaemon.opened(tmp_path_factory.mktemp("dashboard")) as project:
        yield project


@pytest.fixture
def project(shared: SharedDaemon) -> SharedDaemon:
    """Return the shared project with its plain model."""
    shared.reset()
    return shared


PICTURES = os.environ.get("AGENT_POOL_PICTURES")
"""A folder for pictures of the pages; those of docs/dashboard.md are made so."""


def print_link(project: SharedDaemon, *arguments: str) -> str:
    """Return what `agent-pool open --print` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "agent_pool", "open", "--print", *arguments],
        env=project.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


async def make_link(project: SharedDaemon) -> str:
    """Return such a link without a process for the command."""
    async with connect(environ=project.env) as pool:
        return await pool.dashboard_link()


def test_open_starts_the_daemon_and_prints_a_link_without_its_token(project: SharedDaemon) -> None:
    project.stop()
    link = print_link(project)
    address = project.address()
    assert address is not None
    assert link.startswith(f"{address.url}/ui/enter?code=")
    assert address.token not in link
    with httpx2.Client() as client:
        response = client.get(link)
        assert response.status_code == 303
        assert address.token not in str(response.headers)
        assert client.get(f"{address.url}/ui/").status_code == 200
        # The cookie opens the pages, and nothing else of the daemon.
        assert client.get(f"{address.url}/v1/tasks").status_code == 401
        assert httpx2.get(f"{address.url}/ui/").status_code == 401
    assert urlsplit(link).query.partition("=")[2] not in project.log()


def test_a_browser_stays_signed_in_after_a_restart_until_it_is_signed_out(
    project: SharedDaemon,
) -> None:
    first = project.start(project.api.url)
    with httpx2.Client() as client:
        client.get(project.run(make_link(project)))
        project.stop()
        again = project.start(project.api.url)
        # At the same port: an open page asks there again.
        assert (again.url, again.token != first.token) == (first.url, True)
        assert client.get(f"{again.url}/ui/").status_code == 200
        with httpx2.Client() as looking:
            looking.get(print_link(project, "--read-only"))
            assert looking.post(f"{again.url}/ui/run", data={}).status_code == 403
        assert "signed out" in print_link(project, "--sign-out")
        assert client.get(f"{again.url}/ui/").status_code == 401


def test_pages_are_refused_for_a_foreign_host_or_origin(project: SharedDaemon) -> None:
    link = project.run(make_link(project))
    parts = urlsplit(link)
    with httpx2.Client(base_url=f"http://{parts.netloc}") as client:
        assert client.get(f"{parts.path}?{parts.query}").status_code == 303
        assert client.get("/ui/", headers={"host": "evil.example"}).status_code == 403
        assert client.get("/ui/", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get("/ui/").status_code == 200


def test_the_log_of_actions_names_the_command_that_cancelled(project: SharedDaemon) -> None:
    async def cancel_one() -> tuple[str, str]:
        folder = Path(project.env["CLAUDE_PROJECT_DIR"])
        async with connect(project=folder, environ=project.env) as pool:
            later = TaskRequest("tester", "later", not_before=time.time() + 3600)
            handle = await pool.submit(later)
            assert await pool.cancel(handle.id)
            return handle.id, await pool.dashboard_link()

    task_id, link = project.run(cancel_one())
    with httpx2.Client(base_url=f"http://{urlsplit(link).netloc}") as client:
        client.get(link)
        shown = client.get("/ui/actions").text
    assert re.search(rf"process {os.getpid()}</td>.*cancelled.*{task_id}", shown)


@needs_chromium
def test_a_task_of_the_real_cli_is_followed_in_the_browser(project: SharedDaemon) -> None:
    async def main() -> None:
        folder = Path(project.env["CLAUDE_PROJECT_DIR"])
        async with a_page() as page, connect(project=folder, environ=project.env) as pool:
            before = {one.id for one in await pool.tasks()}
            await page.goto(await pool.dashboard_link())
            await page.get_by_role("navigation", name="Pages").get_by_text("Agents").click()
            await page.get_by_label("Project folder").fill(str(folder))
            await page.get_by_role("button", name="Show").click()
            await page.get_by_label("A task for tester").fill("say hello")
            await page.get_by_role("button", name="Run", exact=True).click()
            await expect(page.locator(".answer")).to_contain_text("say hello", timeout=60_000)
            await _picture(page, "task")
            await (await pool.submit(TaskRequest("tester", "and again"))).result()
            await page.get_by_role("link", name="Now").click()
            await expect(page.locator("#tasks tr")).to_have_count(len(before) + 2)
            await expect(page.locator("#workers tr")).not_to_have_count(0)
            await _picture(page, "now")
            await page.get_by_role("link", name="History").click()
            await expect(page.get_by_text("cost by day")).to_be_visible()
            await _picture(page, "history")

    project.run(main(), 100)


async def _picture(page: Page, name: str) -> None:
    if PICTURES is not None:
        # The folder of a test would tell a reader nothing.
        await page.evaluate(
            "for (const one of document.querySelectorAll('dd bdi'))"
            " one.textContent = '/home/ann/shop'"
        )
        await page.screenshot(path=Path(PICTURES) / f"{name}.png")
