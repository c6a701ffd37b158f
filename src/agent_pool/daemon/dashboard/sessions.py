"""Who may see the dashboard: one-time links that become cookies.

A link holds a code that works once and for a minute. It becomes a cookie, so neither the code nor
the daemon's token stays in the browser's history as something that opens a door.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

LINK_SECONDS: Final = 60.0
"""Seconds for which a link works."""
SESSION_SECONDS: Final = 12 * 3600.0
"""Seconds after which a browser must be signed in again."""
MAX_LINKS: Final = 100
MAX_SESSIONS: Final = 1000
"""The most of each that are kept; the oldest is dropped for one more."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A browser that was signed in.

    Attributes:
        session: the secret in its cookie.
        name: for the log of actions: ``browser-1``.
        is_read_only: it may look, and change nothing.
        form_key: a secret in each form, so that another site cannot send one.
        until: when the session ends, on the monotonic clock.
    """

    session: str
    name: str
    is_read_only: bool
    form_key: str
    until: float


class Visitors:
    """The links that were made, and the browsers that are signed in; both end with the daemon.

    Args:
        clock: the monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._links: dict[str, tuple[float, bool]] = {}
        self._visitors: dict[str, Visitor] = {}
        self._made = 0

    def make_code(self, *, is_read_only: bool) -> str:
        """Return the code of a new link."""
        code = secrets.token_urlsafe(24)
        self._links[code] = (self._clock() + LINK_SECONDS, is_read_only)
        _drop_oldest(self._links, MAX_LINKS)
        return code

    def redeem(self, code: str) -> Visitor | None:
        """Sign a browser in; return None if the code was used, is too old or was never made."""
        until, is_read_only = self._links.pop(code, (0.0, True))
        now = self._clock()
        if until < now:
            return None
        self._made += 1
        session, form_key = secrets.token_urlsafe(32), secrets.token_urlsafe(24)
        name = f"browser-{self._made}"
        visitor = Visitor(session, name, is_read_only, form_key, now + SESSION_SECONDS)
        self._visitors[session] = visitor
        _drop_oldest(self._visitors, MAX_SESSIONS)
        return visitor

    def find(self, session: str) -> Visitor | None:
        """Return the browser with this cookie; None if it is not signed in."""
        visitor = self._visitors.get(session)
        if visitor is not None and visitor.until < self._clock():
            del self._visitors[session]
            return None
        return visitor


def _drop_oldest(kept: dict[str, Any], most: int) -> None:
    while len(kept) > most:
        del kept[next(iter(kept))]
