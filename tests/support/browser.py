"""A real Chromium, driven by Playwright, for the pages of the dashboard."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from playwright.async_api import Browser, Error, Page, Request, async_playwright

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


_shared: list[Page] = []


@asynccontextmanager
async def shared_chromium() -> AsyncIterator[None]:
    """Let all pages until the end of the block have one browser; see `a_page`."""
    async with chromium() as browser, _profile(browser) as page:
        _shared.append(page)
        try:
            yield
        finally:
            _shared.clear()


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start a browser, and end it; or use the shared one."""
    if _shared:
        browser = _shared[0].context.browser
        assert browser is not None
        yield browser
        return
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def _profile(browser: Browser, width: int = 1280) -> AsyncIterator[Page]:
    """Open a page in an empty profile."""
    context = await browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="light"
    )
    try:
        yield await context.new_page()
    finally:
        await context.close()


@asynccontextmanager
async def _shared_page(page: Page) -> AsyncIterator[Page]:
    """Use the shared page, and leave it as it was: without cookies, permissions and other pages.

    The servers of two tests have two ports, so neither gets what the other's pages have stored.
    """
    try:
        yield page
    finally:
        await page.goto("about:blank")
        for one in page.context.pages:
            if one is not page:
                await one.close()
        await page.context.clear_cookies()
        await page.context.clear_permissions()


@asynccontextmanager
async def a_page(*, width: int = 1280, is_own: bool = False) -> AsyncIterator[Page]:
    """Open a page in a browser; fail if it logged an error or asked another host.

    Args:
        width: of the window.
        is_own: use an empty profile, and not the shared page; a process for a page takes half a
            second. For tests that change what `_shared_page` does not restore.
    """
    errors: list[str] = []
    foreign: list[str] = []

    def note_error(error: Error) -> None:
        errors.append(str(error))

    def note_request(request: Request) -> None:
        if "127.0.0.1" not in request.url:
            foreign.append(request.url)

    is_shared = _shared and width == 1280 and not is_own
    async with AsyncExitStack() as stack:
        if is_shared:
            page = await stack.enter_async_context(_shared_page(_shared[0]))
        else:
            browser = await stack.enter_async_context(chromium())
            page = await stack.enter_async_context(_profile(browser, width))
        page.on("pageerror", note_error)
        page.on("request", note_request)
        try:
            yield page
        finally:
            page.remove_listener("pageerror", note_error)
            page.remove_listener("request", note_request)
    assert errors == []
    assert foreign == []
