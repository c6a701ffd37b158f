"""Responses to a client's first requests, before the SDK is loaded.

Loading takes about a second, and Claude Code gives a server three seconds to name its protocol. So
the plain forms of the two requests that open a connection are answered here, exactly as the server
would. Every other form is left to the server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

NAME: Final = "agent-pool"
INSTRUCTIONS: Final = (
    "Runs this project's agents in warm Claude Code processes. invoke gives a task to an agent "
    "and returns its answer; its description lists the agents. invoke_many runs several tasks at "
    "the same time. list shows the processes, stats the figures so far. warmup starts a process "
    "in advance, reset stops an agent's processes."
)

MAX_GREETINGS: Final = 8
"""Greetings that are answered: their responses fit into any pipe, even if they are not read."""
MAX_GREETING: Final = 4 * 1024
"""Bytes of a greeting."""
VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
NEWEST: Final = "2026-07-28"

_META: Final = "io.modelcontextprotocol/"
_TOOLS: Final = {"listChanged": True}
_CAPABILITIES: Final = {"roots", "elicitation", "sampling", "extensions"}
_CLIENT: Final = {"name", "version", "title", "description", "websiteUrl"}
_ODD: Final = (b"\\u", b"\r")  # text that this module and the SDK could read differently

RequestId = int | str


def package_version() -> str:
    """Return the installed version; ``"unknown"`` if the package is not installed."""
    try:
        return version("claude-agent-pool")
    except PackageNotFoundError:
        return "unknown"


class Greeter:
    """Answers the greetings at the beginning of a connection, and no other request.

    Attributes:
        received: every byte so far.
        answered: the ids of the requests that were answered.
        has_ended: no further request will be answered.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.answered: list[RequestId] = []
        self.has_ended = False
        self._next = 0  # where the first unread line begins

    def receive(self, data: bytes) -> bytes:
        """Return the responses to the greetings that `data` completes."""
        self.received += data
        responses = b""
        while not self.has_ended and (end := self.received.find(b"\n", self._next)) >= 0:
            responses += self._answer(bytes(self.received[self._next : end]))
            self._next = end + 1
        if len(self.received) - self._next > MAX_GREETING:
            self.has_ended = True
        return responses

    def _answer(self, line: bytes) -> bytes:
        request = _parsed(line)
        result = _result(request, is_first=not self.answered)
        if result is None or request["id"] in self.answered:
            self.has_ended = True
            return b""
        self.answered.append(request["id"])
        self.has_ended = request["method"] == "initialize" or len(self.answered) == MAX_GREETINGS
        answer = {"jsonrpc": "2.0", "id": request["id"], "result": result}
        return json.dumps(answer, ensure_ascii=False).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    """Parse a request of the plain form; return an empty one for any other line."""
    if len(line) > MAX_GREETING or any(odd in line for odd in _ODD):
        return {}
    try:
        request = json.loads(line.decode())
    except (ValueError, RecursionError):
        return {}
    is_plain = (
        isinstance(request, dict)
        and request.keys() == {"jsonrpc", "id", "method", "params"}
        and request["jsonrpc"] == "2.0"
        and type(request["id"]) in (int, str)
        and isinstance(request["params"], dict)
    )
    return request if is_plain else {}


def _result(request: Mapping[str, Any], *, is_first: bool) -> dict[str, Any] | None:
    """Return the server's result for a greeting; None for any other request."""
    match request.get("method"):
        case "initialize" if is_first and _is_initialize(request["params"]):
            return _initialized(request["params"]["protocolVersion"])
        case "server/discover" if _is_discover(request["params"]):
            return _discovered()
    return None


def _is_initialize(params: Mapping[str, Any]) -> bool:
    return (
        params.keys() == {"protocolVersion", "capabilities", "clientInfo"}
        and params["protocolVersion"] in VERSIONS
        and _are_capabilities(params["capabilities"])
        and _is_client(params["clientInfo"])
    )


def _is_discover(params: Mapping[str, Any]) -> bool:
    meta = params.get("_meta")
    keys = {f"{_META}{key}" for key in ("protocolVersion", "clientInfo", "clientCapabilities")}
    return (
        params.keys() == {"_meta"}
        and isinstance(meta, dict)
        and meta.keys() == keys
        and meta[f"{_META}protocolVersion"] == NEWEST
        and _are_capabilities(meta[f"{_META}clientCapabilities"])
        and _is_client(meta[f"{_META}clientInfo"])
    )


def _are_capabilities(found: object) -> bool:
    """Check the form that clients send: flags under `roots`, empty objects under the others."""
    return isinstance(found, dict) and all(
        name in _CAPABILITIES
        and isinstance(parts, dict)
        and all(map(_is_flag if name == "roots" else _is_empty, parts.values()))
        for name, parts in found.items()
    )


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_empty(value: object) -> bool:
    return value == {}


def _is_client(found: object) -> bool:
    return (
        isinstance(found, dict)
        and {"name", "version"} <= found.keys() <= _CLIENT
        and all(isinstance(value, str) for value in found.values())
    )


def _initialized(protocol: str) -> dict[str, Any]:
    return {
        "protocolVersion": protocol,
        "capabilities": {"tools": _TOOLS},
        "serverInfo": {"name": NAME, "version": package_version()},
        "instructions": INSTRUCTIONS,
    }


def _discovered() -> dict[str, Any]:
    return {
        "resultType": "complete",
        "supportedVersions": [NEWEST],
        "capabilities": {"tools": _TOOLS, "extensions": {f"{_META}tasks": {}}},
        "instructions": INSTRUCTIONS,
        "cacheScope": "private",
        "ttlMs": 0,
        "_meta": {f"{_META}serverInfo": {"name": NAME, "version": package_version()}},
    }
