"""Checks that stand before each page: who it is, and that no other site sent the request."""

from __future__ import annotations

import hmac
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent_pool.daemon.dashboard.rendering import render
from agent_pool.daemon.dashboard.sessions import Visitor, Visitors

COOKIE: Final = "agent_pool_session"
MAX_FORM: Final = 1 << 20
"""Bytes of a form; a task that is larger is submitted by the command line."""

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class PageHeaders:
    """Adds the headers of a page to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                added = [
                    (name.encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.encode() not in known
                ]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self._app(scope, receive, send_with_headers)


def visitor_of(request: Request, visitors: Visitors) -> Visitor | None:
    """Return the signed-in browser that sent a request; None if it is none."""
    return visitors.find(request.cookies.get(COOKIE, ""))


def refuse_visitor() -> Response:
    """Return the page for a browser that is not signed in."""
    return message_page(
        "Not signed in", "Run `agent-pool open` in a terminal of this machine.", 401
    )


def message_page(title: str, text: str, status: int) -> Response:
    """Return a page with one message."""
    return HTMLResponse(render("message.html", title=title, text=text), status)


def is_own_form(visitor: Visitor, form_key: object) -> bool:
    """Check that a form came from a page of this browser and not from another site."""
    return isinstance(form_key, str) and hmac.compare_digest(
        form_key.encode("utf-8", "replace"), visitor.form_key.encode()
    )
