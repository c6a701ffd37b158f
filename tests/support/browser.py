"""A real Chromium, driven by Playwright, for the pages of the dashboard."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, Page, Request, async_playwright

FLAGS = (
    "--no-sandbox",  # tests can run as root, where Chromium's own sandbox cannot
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """Return the path of Debian's Chromium; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


needs_chromium = pytest.mark.skipif(
    find_chromium() is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)


_shared: list[Browser] = []


@asynccontextmanager
async def shared_chromium() -> AsyncIterator[None]:
    """Let all pages until the end of the block have one browser, each with a profile of its own."""
    async with chromium() as browser:
        _shared.append(browser)
        try:
            yield
        finally:
            _shared.clear()


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start a browser with an empty profile, and end it; or use the shared one."""
    if _shared:
        yield _shared[0]
        return
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def a_page(
    *, width: int = 1280, height: int = 900, scheme: str = "light"
) -> AsyncIterator[Page]:
    """Open a page in a browser; fail if it logged an error or asked another host."""
    errors: list[str] = []
    foreign: list[str] = []

    def note(request: Request) -> None:
        if "127.0.0.1" not in request.url:
            foreign.append(request.url)

    async with chromium() as browser:
        context = await browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page = await context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", note)
        try:
            yield page
        finally:
            await context.close()
    assert errors == []
    assert foreign == []
