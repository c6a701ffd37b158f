"""A plain HTTP client for the loopback API, one connection per request."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from agent_pool.loopback import LoopbackAPI

TIMEOUT = 10.0


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Parse the body as JSON."""
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Parse the server-sent events; the name of each must be its type."""
        parsed = []
        for block in self.body.decode().split("\n\n")[:-1]:
            name, data = block.split("\n")
            event = json.loads(data.removeprefix("data: "))
            assert name == f"event: {event['type']}"
            parsed.append(event)
        return parsed

    @property
    def text(self) -> str:
        """Return the text of a reply, streamed or not."""
        if self.headers["content-type"] == "application/json":
            return "".join(block.get("text", "") for block in self.json["content"])
        deltas = (event.get("delta", {}) for event in self.events)
        return "".join(delta.get("text", "") for delta in deltas)


def connect(url: str) -> http.client.HTTPConnection:
    """Open a connection to the API."""
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)


def request(
    api: LoopbackAPI,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Send one request on a connection of its own."""
    connection = connect(api.url)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, named, response.read())
    finally:
        connection.close()


def body_of(text: str = "hello", **fields: Any) -> dict[str, Any]:
    """Build the body of a request with one user message; `fields` replace or add."""
    messages = [{"role": "user", "content": text}]
    return {"model": "claude-test", "max_tokens": 100, "messages": messages, **fields}


def send(
    api: LoopbackAPI, body: Any, path: str = "/v1/messages", headers: dict[str, str] | None = None
) -> Response:
    """Send a body, as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return request(api, "POST", path, data, {"content-type": "application/json", **(headers or {})})


def ask(api: LoopbackAPI, text: str = "hello", **fields: Any) -> Response:
    """Send one user message."""
    return send(api, body_of(text, **fields))
