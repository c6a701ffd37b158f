"""Responses to a client's first requests, before the SDK is loaded.

Loading takes about a second, and Claude Code gives a server three seconds to name its protocol. So
the plain forms of the two requests that open a connection are answered here, exactly as the server
would. Every other form is left to the server.

So is the first `tools/list` of Claude Code: `claude "prompt"` sends its first request to the model
without waiting for servers, and that request has only the tools that are known by then. 2.1.332
subscribes to changes of the list first, and waits for the confirmation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from agent_pool.mcp.agent_list import CLAUDE_CODE, AgentNames, description_limit
from agent_pool.mcp.tool_list import list_tools

NAME: Final = "agent-pool"
INSTRUCTIONS: Final = (
    "Runs this project's agents in warm Claude Code processes. invoke gives a task to an agent "
    "and returns its answer; its description lists the agents. invoke_many runs several tasks at "
    "the same time. list shows the processes, stats the figures so far. warmup starts a process "
    "in advance, reset stops an agent's processes."
)

MAX_GREETINGS: Final = 8
"""Greetings that are answered."""
MAX_GREETING: Final = 4 * 1024
"""Bytes of a greeting."""
MAX_ANSWERED: Final = 60 * 1024
"""Bytes of all responses: they fit into any pipe, even if they are not read."""
VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
NEWEST: Final = "2026-07-28"

_META: Final = "io.modelcontextprotocol/"
SUBSCRIPTION_ID: Final = f"{_META}subscriptionId"
_TOOLS: Final = {"listChanged": True}
_ENVELOPE: Final = {"resultType": "complete", "cacheScope": "private", "ttlMs": 0}
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
    """Answers the first requests of a connection, and no other message.

    Args:
        find_agents: returns the agents of the project; None if only the server can list them.

    Attributes:
        received: every byte so far.
        answered: the ids of the requests that were answered.
        acknowledged: the ids of the subscriptions that were confirmed.
        listed: the results of `tools/list`, by the ids of the requests.
        has_ended: no further request will be answered.
    """

    def __init__(self, find_agents: Callable[[], AgentNames | None] = lambda: None) -> None:
        self.received = bytearray()
        self.answered: list[RequestId] = []
        self.acknowledged: list[RequestId] = []
        self.listed: dict[RequestId, dict[str, Any]] = {}
        self.has_ended = False
        self._find_agents = find_agents
        self._next = 0  # where the first unread line begins
        self._written = 0
        self._client: Mapping[str, str] = {}
        self._protocol = ""

    def receive(self, data: bytes) -> bytes:
        """Return the responses to the requests that `data` completes."""
        self.received += data
        responses = b""
        while not self.has_ended and (end := self.received.find(b"\n", self._next)) >= 0:
            responses += self._answer(bytes(self.received[self._next : end]))
            self._next = end + 1
        if len(self.received) - self._next > MAX_GREETING:
            self.has_ended = True
        return responses

    def _answer(self, line: bytes) -> bytes:
        message = _parsed(line)
        if self._protocol in VERSIONS and _is_initialized(message):
            return b""  # it needs no answer
        response = self._respond(message)
        line = json.dumps(response, ensure_ascii=False).encode() + b"\n" if response else b""
        if not line or self._written + len(line) > MAX_ANSWERED:
            self.has_ended = True
            return b""
        self._written += len(line)
        self._note(message, response)
        return line

    def _respond(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the message that answers a request; an empty one for any other message."""
        number = request.get("id")
        if number is None or number in (*self.answered, *self.acknowledged):
            return {}
        if request["method"] == "subscriptions/listen" and self._protocol == NEWEST:
            return _acknowledgement(request)
        if request["method"] == "tools/list" and self._client.get("name") == CLAUDE_CODE:
            result = self._list_tools(request)
        elif self._protocol in VERSIONS:
            result = None
        else:
            result = _result(request, is_first=not self.answered)
        return {"jsonrpc": "2.0", "id": number, "result": result} if result else {}

    def _list_tools(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        params = request.get("params", {})
        is_plain = _is_modern(params, {"_meta"}) if self._protocol == NEWEST else params == {}
        agents = self._find_agents() if is_plain else None
        if agents is None:
            return None
        client = _client_in(params) or self._client
        limit = description_limit(client["name"], client["version"])
        tools = {"tools": list_tools(agents, limit)}
        return {**_ENVELOPE, **tools, **_server_info()} if self._protocol == NEWEST else tools

    def _note(self, request: Mapping[str, Any], response: Mapping[str, Any]) -> None:
        """Note what was answered."""
        number, params = request["id"], request.get("params", {})
        if request["method"] == "subscriptions/listen":
            self.acknowledged.append(number)
            return
        self.answered.append(number)
        if request["method"] == "tools/list":
            self.listed[number] = response["result"]
            self.has_ended = True
            return
        is_initialize = request["method"] == "initialize"
        self._protocol = params["protocolVersion"] if is_initialize else NEWEST
        self._client = params["clientInfo"] if is_initialize else _client_in(params)
        is_claude = self._client["name"] == CLAUDE_CODE
        self.has_ended = (is_initialize and not is_claude) or len(self.answered) == MAX_GREETINGS


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
        and {"jsonrpc", "method"} <= request.keys() <= {"jsonrpc", "id", "method", "params"}
        and request["jsonrpc"] == "2.0"
        and type(request.get("id", 0)) in (int, str)
        and isinstance(request["method"], str)
        and isinstance(request.get("params", {}), dict)
    )
    return request if is_plain else {}


def _is_initialized(message: Mapping[str, Any]) -> bool:
    return "id" not in message and message.get("method") == "notifications/initialized"


def _result(request: Mapping[str, Any], *, is_first: bool) -> dict[str, Any] | None:
    """Return the server's result for a greeting; None for any other request."""
    params = request.get("params", {})
    match request["method"]:
        case "initialize" if is_first and _is_initialize(params):
            return _initialized(params["protocolVersion"])
        case "server/discover" if _is_modern(params, {"_meta"}):
            return _discovered()
    return None


def _is_initialize(params: Mapping[str, Any]) -> bool:
    return (
        params.keys() == {"protocolVersion", "capabilities", "clientInfo"}
        and params["protocolVersion"] in VERSIONS
        and _are_capabilities(params["capabilities"])
        and _is_client(params["clientInfo"])
    )


def _is_modern(params: Mapping[str, Any], members: Set[str]) -> bool:
    """Check whether parameters have these members, and describe the client in the plain form."""
    meta = params.get("_meta")
    keys = {f"{_META}{key}" for key in ("protocolVersion", "clientInfo", "clientCapabilities")}
    return (
        params.keys() == members
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
        **_ENVELOPE,
        "supportedVersions": [NEWEST],
        "capabilities": {"tools": _TOOLS, "extensions": {f"{_META}tasks": {}}},
        "instructions": INSTRUCTIONS,
        **_server_info(),
    }


def _server_info() -> dict[str, Any]:
    return {"_meta": {f"{_META}serverInfo": {"name": NAME, "version": package_version()}}}


def _client_in(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the client that a request of the newest protocol describes; empty if it does not."""
    client: dict[str, str] = params.get("_meta", {}).get(f"{_META}clientInfo", {})
    return client


def _acknowledgement(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the confirmation of a subscription; an empty message if it is not the plain one."""
    wanted = {"toolsListChanged": True}
    params = request.get("params", {})
    is_plain = _is_modern(params, {"_meta", "notifications"})
    if not is_plain or params["notifications"] != wanted:
        return {}
    meta = {SUBSCRIPTION_ID: request["id"]}
    return {
        "jsonrpc": "2.0",
        "method": "notifications/subscriptions/acknowledged",
        "params": {"_meta": meta, "notifications": wanted},
    }
