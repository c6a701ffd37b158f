"""Who may see the dashboard: one-time links that become cookies.

A link holds a code that works once and for a minute. It becomes a cookie, so neither the code nor
the daemon's token stays in the browser's history as something that opens a door.

A cookie is signed and kept by the browser alone. The key for it outlives the daemon, so that an
open page goes on after a restart; a new key ends all cookies.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

LINK_SECONDS: Final = 60.0
"""Seconds for which a link works."""
SESSION_SECONDS: Final = 12 * 3600.0
"""Seconds after which a browser must be signed in again."""
MAX_LINKS: Final = 100
"""The most links that are kept; the oldest is dropped for one more."""
MAX_COOKIE: Final = 500
"""Characters of a cookie; a longer one is not one of ours."""
KEY_FILE: Final = "dashboard.key"
_KEY_BYTES: Final = 32

log = logging.getLogger("agent_pool")


@dataclass(frozen=True, slots=True)
class Visitor:
    """A browser that was signed in.

    Attributes:
        session: its cookie.
        name: for the log of actions: ``browser-3f9a2c``.
        is_read_only: it may look, and change nothing.
        form_key: a secret in each form, so that another site cannot send one.
        until: when the session ends, in seconds since 1970.
    """

    session: str
    name: str
    is_read_only: bool
    form_key: str
    until: float


class Visitors:
    """The links that were made, and the browsers that are signed in.

    Args:
        folder: the private folder for the key, in which cookies outlive the daemon; None where
            they end with it.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._file = None if folder is None else folder / KEY_FILE
        self._clock = clock
        self._key = self._load_key()
        self._links: dict[str, tuple[float, bool]] = {}

    def make_code(self, *, is_read_only: bool) -> str:
        """Return the code of a new link."""
        code = secrets.token_urlsafe(24)
        self._links[code] = (time.monotonic() + LINK_SECONDS, is_read_only)
        while len(self._links) > MAX_LINKS:
            del self._links[next(iter(self._links))]
        return code

    def redeem(self, code: str) -> Visitor | None:
        """Sign a browser in; return None if the code was used, is too old or was never made."""
        until, is_read_only = self._links.pop(code, (0.0, True))
        if until < time.monotonic():
            return None
        name = f"browser-{secrets.token_hex(3)}"
        body = _encode([name, is_read_only, round(self._clock() + SESSION_SECONDS)])
        return self.find(f"{body}.{self._sign('cookie', body)}")

    def find(self, session: str) -> Visitor | None:
        """Return the browser with this cookie; None if it is not signed in."""
        body, _, signature = session.partition(".")
        if len(session) > MAX_COOKIE or not session.isascii():
            return None
        if not hmac.compare_digest(signature, self._sign("cookie", body)):
            return None
        name, is_read_only, until = _decode(body)
        # The other bound: the clock can have been set back, and the cookie must not last longer.
        if not 0 <= until - self._clock() <= SESSION_SECONDS + 1:
            return None
        return Visitor(session, name, is_read_only, self._sign("form", session), until)

    def sign_out_all(self) -> None:
        """End all cookies and links, by a new key."""
        self._links.clear()
        self._key = secrets.token_bytes(_KEY_BYTES)
        if self._file is not None:
            _write_key(self._file, self._key)

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}\0{text}".encode(), hashlib.sha256).hexdigest()

    def _load_key(self) -> bytes:
        if self._file is not None and (known := _read_key(self._file)) is not None:
            return known
        key = secrets.token_bytes(_KEY_BYTES)
        if self._file is not None:
            _write_key(self._file, key)
        return key


def _read_key(path: Path) -> bytes | None:
    """Return the key of a file; None if it is not one that only this user can have read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            return None
        key = file.read(_KEY_BYTES + 1)
    return key if len(key) == _KEY_BYTES else None


def _write_key(path: Path, key: bytes) -> None:
    """Replace the key of a file; on a full disk the cookies end with this daemon."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # An old key must not come back if the new one cannot be written.
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(key)
        temporary.replace(path)
    except OSError as error:
        log.warning("browsers must be signed in again after a restart: %s: %s", path, error)
        with suppress(OSError):
            temporary.unlink()


def _encode(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _decode(text: str) -> tuple[str, bool, float]:
    """Return the name, the kind and the end of a cookie whose signature was checked."""
    name, is_read_only, until = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return str(name), is_read_only is not False, float(until)
