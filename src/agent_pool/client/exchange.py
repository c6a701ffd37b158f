"""The messages between an MCP client and the daemon that must be remembered; no IO.

A client keeps its server for its whole session, and a daemon can end before that. The next daemon
then gets again what the protocol needs, and the client never sees an answer twice.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

INTERNAL_ERROR: Final = -32603
LISTEN: Final = "subscriptions/listen"
REPEATABLE: Final = frozenset(
    (*("initialize", "ping", "server/discover", LISTEN, "tasks/get", "tools/list"),)
)
"""Requests that change nothing, so the next daemon gets them again instead of an error."""
ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
SUBSCRIPTION_ID: Final = "io.modelcontextprotocol/subscriptionId"

_RESPONSE: Final = re.compile(
    rb'\{"jsonrpc":"2\.0","id":(-?\d+|"[^"\\\x80-\xff]*"),"(?:result|error)":'
)
"""The beginning of a response as the daemon writes it: a long answer need not be parsed."""


class OpenMessages:
    """The messages that can be needed again: open requests, the handshake, subscriptions."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, bytes]] = {}  # the method and the line, by id
        self._initialize: tuple[str, bytes] | None = None
        self._initialized = b""
        self._acknowledged: set[str] = set()
        self._asked: dict[str, str] = {}
        self._hidden: set[str] = set()
        self._generation = 0

    @property
    def is_waiting(self) -> bool:
        """Return whether the client waits for an answer; a subscription is none."""
        return any(method != LISTEN for method, _ in self._open.values())

    def from_client(self, line: bytes) -> bytes:
        """Note a line of the client; return the line for the daemon, empty for no line."""
        message = _parsed(line)
        method, key = message.get("method"), _key_of(message)
        if not isinstance(method, str):
            return self._reply(message, line) if key else line
        if key:
            self._note_request(key, method, line)
        elif method == "notifications/initialized":
            self._initialized = line
        elif method == "notifications/cancelled":
            self._forget(_dumped(_params(message).get("requestId")))
        return line

    def _note_request(self, key: str, method: str, line: bytes) -> None:
        self._open[key] = method, line if method in REPEATABLE else b""
        if method == "initialize":
            self._initialize = (key, line)

    def _reply(self, message: dict[str, Any], line: bytes) -> bytes:
        """Return the client's reply with the id that the daemon gave its request.

        A reply to a request of an earlier daemon is dropped: another request can have its id now.
        """
        own = self._asked.pop(_dumped(message["id"]), None)
        if own is None:
            return line if self._generation == 0 else b""
        return _line({**message, "id": json.loads(own)}) if self._generation else line

    def from_daemon(self, line: bytes) -> bytes:
        """Note a line of the daemon; return the line for the client, empty for no line."""
        found = _RESPONSE.match(line)
        if found:
            return self._answered(found[1].decode(), line)
        message = _parsed(line)
        method, key = message.get("method"), _key_of(message)
        if key and not isinstance(method, str):
            return self._answered(key, line)
        if key:
            return self._ask(message, key, line)
        if method == ACKNOWLEDGED:
            return self._acknowledge(message, line)
        return line

    def _answered(self, key: str, line: bytes) -> bytes:
        if key in self._hidden:
            self._hidden.discard(key)
            return b""
        self._forget(key)
        return line

    def _ask(self, message: dict[str, Any], key: str, line: bytes) -> bytes:
        """Return a request of the daemon with an id that no earlier daemon has used."""
        shown = key if self._generation == 0 else _dumped(f"{self._generation}:{key}")
        self._asked[shown] = key
        return line if shown == key else _line({**message, "id": json.loads(shown)})

    def _acknowledge(self, message: dict[str, Any], line: bytes) -> bytes:
        meta = _params(message).get("_meta")
        key = _dumped(meta.get(SUBSCRIPTION_ID) if isinstance(meta, dict) else None)
        if key in self._acknowledged:
            return b""
        self._acknowledged.add(key)
        return line

    def _forget(self, key: str) -> None:
        self._open.pop(key, None)
        self._acknowledged.discard(key)

    def lose_daemon(self, words: str, *, is_final: bool = False) -> bytes:
        """Note that the daemon has ended; return the lines for the client.

        Each call that was not answered gets an error with these words. A question of the daemon to
        the person is withdrawn.

        Args:
            words: what has happened, and what to do.
            is_final: no daemon will answer the other open requests soon either. A subscription
                stays: the client would not ask for it again.
        """
        lines = b""
        for key, (method, _) in list(self._open.items()):
            if method not in REPEATABLE or (is_final and method != LISTEN):
                lines += _error(key, words)
                self._forget(key)
        for shown in self._asked:
            params = {"requestId": json.loads(shown), "reason": words}
            lines += _line(
                {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            )
        self._asked.clear()
        self._hidden.clear()
        self._generation += 1
        return lines

    def replay(self) -> bytes:
        """Return the lines by which a new daemon learns what the client has said."""
        lines = [line for _, line in self._open.values()]
        if self._initialize is not None:
            key, line = self._initialize
            if key not in self._open:
                self._hidden.add(key)
                lines.insert(0, line)
                lines.insert(1, self._initialized)
        return b"".join(lines)


def _parsed(line: bytes) -> dict[str, Any]:
    """Parse a message; return an empty one for a line that the daemon will refuse."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _key_of(message: dict[str, Any]) -> str:
    """Return the id of a message as JSON; empty without a valid one."""
    number = message.get("id")
    return _dumped(number) if type(number) in (int, str) else ""


def _dumped(value: object) -> str:
    return json.dumps(value)


def _params(message: dict[str, Any]) -> dict[str, Any]:
    params = message.get("params")
    return params if isinstance(params, dict) else {}


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _error(key: str, words: str) -> bytes:
    error = {"code": INTERNAL_ERROR, "message": words}
    return _line({"jsonrpc": "2.0", "id": json.loads(key), "error": error})
