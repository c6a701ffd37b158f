"""The dashboard of a real daemon: `agent-pool open`, a task of the real CLI, and who gets in."""

from __future__ import annotations

import asyncio
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
from agent_pool.loopback import LoopbackAPI
from support.browser import a_page, needs_chromium
from support.daemons import DaemonProject
from support.model_scripts import echo_task

pytestmark = pytest.mark.anyio


@pytest.fixture
def stopped(daemon_project: DaemonProject) -> Iterator[DaemonProject]:
    """Return a project whose daemon is stopped after the test."""
    yield daemon_project
    assert daemon_project.command("stop").returncode == 0


PICTURES = os.environ.get("AGENT_POOL_PICTURES")
"""A folder for pictures of the pages; those of docs/dashboard.md are made so."""


def link_of(project: DaemonProject, *arguments: str, url: str = "") -> str:
    """Return what `agent-pool open --print` prints."""
    environ = project.daemon_environment(url) if url else project.daemon_environment()
    done = subprocess.run(
        [sys.executable, "-m", "agent_pool", "open", "--print", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_open_starts_the_daemon_and_prints_a_link_without_its_token(
    stopped: DaemonProject,
) -> None:
    link = link_of(stopped)
    address = stopped.address()
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
    assert urlsplit(link).query.partition("=")[2] not in stopped.log()


def test_a_browser_stays_signed_in_after_a_restart_until_it_is_signed_out(
    stopped: DaemonProject,
) -> None:
    with httpx2.Client() as client:
        client.get(link_of(stopped))
        first = stopped.address()
        assert first is not None
        for command in ("stop", "start"):
            assert stopped.command(command).returncode == 0
        again = stopped.address()
        assert again is not None
        # At the same port: an open page asks there again.
        assert (again.url, again.token != first.token) == (first.url, True)
        assert client.get(f"{again.url}/ui/").status_code == 200
        with httpx2.Client() as looking:
            looking.get(link_of(stopped, "--read-only"))
            assert looking.post(f"{again.url}/ui/run", data={}).status_code == 403
        assert "signed out" in link_of(stopped, "--sign-out")
        assert client.get(f"{again.url}/ui/").status_code == 401


def test_pages_are_refused_for_a_foreign_host_or_origin(stopped: DaemonProject) -> None:
    link = link_of(stopped)
    parts = urlsplit(link)
    with httpx2.Client(base_url=f"http://{parts.netloc}") as client:
        assert client.get(f"{parts.path}?{parts.query}").status_code == 303
        assert client.get("/ui/", headers={"host": "evil.example"}).status_code == 403
        assert client.get("/ui/", headers={"origin": "http://evil.example"}).status_code == 403
        assert client.get("/ui/").status_code == 200


async def test_the_log_of_actions_names_the_command_that_cancelled(
    stopped: DaemonProject,
) -> None:
    link = await asyncio.to_thread(link_of, stopped)
    environ = stopped.daemon_environment()
    folder = Path(environ["CLAUDE_PROJECT_DIR"])
    async with connect(project=folder, environ=environ) as pool:
        later = TaskRequest("tester", "later", not_before=time.time() + 3600)
        handle = await pool.submit(later)
        assert await pool.cancel(handle.id)
    with httpx2.Client(base_url=f"http://{urlsplit(link).netloc}") as client:
        client.get(link)
        shown = client.get("/ui/actions").text
    assert re.search(rf"process {os.getpid()}</td>.*cancelled.*{handle.id}", shown)


@needs_chromium
async def test_a_task_of_the_real_cli_is_followed_in_the_browser(
    stopped: DaemonProject,
) -> None:
    async with LoopbackAPI(echo_task) as api:
        environ = stopped.daemon_environment(api.url)
        link = await asyncio.to_thread(link_of, stopped, url=api.url)
        folder = Path(environ["CLAUDE_PROJECT_DIR"])
        async with a_page() as page, connect(project=folder, environ=environ) as pool:
            await page.goto(link)
            await page.get_by_role("navigation", name="Pages").get_by_text("Agents").click()
            await page.get_by_label("Project folder").fill(str(folder))
            await page.get_by_role("button", name="Show").click()
            await page.get_by_label("A task for tester").fill("say hello")
            await page.get_by_role("button", name="Run", exact=True).click()
            await expect(page.locator(".answer")).to_contain_text("say hello", timeout=60_000)
            await _picture(page, "task")
            await (await pool.submit(TaskRequest("tester", "and again"))).result()
            await page.get_by_role("link", name="Now").click()
            await expect(page.locator("#tasks tr")).to_have_count(2)
            await expect(page.locator("#workers tr")).not_to_have_count(0)
            await _picture(page, "now")
            await page.get_by_role("link", name="History").click()
            await expect(page.get_by_text("cost by day")).to_be_visible()
            await _picture(page, "history")


async def _picture(page: Page, name: str) -> None:
    if PICTURES is not None:
        # The folder of a test would tell a reader nothing.
        await page.evaluate(
            "for (const one of document.querySelectorAll('dd bdi'))"
            " one.textContent = '/home/ann/shop'"
        )
        await page.screenshot(path=Path(PICTURES) / f"{name}.png")
