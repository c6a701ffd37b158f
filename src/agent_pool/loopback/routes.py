"""The HTTP side: which path gets what, and which bodies are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agent_pool.errors import AgentPoolError
from agent_pool.loopback import wire
from agent_pool.loopback.cache import InvalidRequest, Prompt, measure
from agent_pool.loopback.record import OtherRequest
from agent_pool.loopback.reply import Failure
from agent_pool.loopback.request import Request, check_body

METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
MODELS: Final = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")

Answering = Callable[[HttpRequest, dict[str, Any], Prompt], ASGIApp]
Noting = Callable[[OtherRequest], None]


class TooLarge(AgentPoolError):  # noqa: N818 - named as the errors in agent_pool.errors
    """A body over the limit."""

    code = "request_too_large"


class Routes:
    """The API's paths.

    Args:
        answer: makes the response to a well-formed call of `/v1/messages`.
        note: is told of everything else.
        max_body: bytes of the longest body that is read.
    """

    def __init__(self, answer: Answering, note: Noting, max_body: int) -> None:
        self._answer = answer
        self._note = note
        self._max_body = max_body

    def app(self) -> Starlette:
        """The application to serve."""
        return Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/", self._root, methods=["GET"]),
                Route("/{path:path}", self._unknown, methods=METHODS),
            ]
        )

    async def _messages(self, http: HttpRequest) -> ASGIApp:
        try:
            body, prompt = await self._parse(http)
        except (InvalidRequest, TooLarge) as error:
            return self._refuse(http, error)
        return self._answer(http, body, prompt)

    async def _count_tokens(self, http: HttpRequest) -> Response:
        try:
            _, prompt = await self._parse(http)
        except (InvalidRequest, TooLarge) as error:
            return self._refuse(http, error)
        return self._respond(http, 200, {"input_tokens": prompt.total})

    async def _models(self, http: HttpRequest) -> Response:
        models = [{"type": "model", "id": name, "display_name": name} for name in MODELS]
        page = {"data": models, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
        return self._respond(http, 200, page)

    async def _root(self, http: HttpRequest) -> Response:
        return self._respond(http, 200, {"service": "agent-pool loopback"})

    async def _unknown(self, http: HttpRequest) -> Response:
        failure = Failure(404, message=f"{http.method} {http.url.path} is not served here")
        return self._respond(http, 404, wire.error_body(failure))

    def _refuse(self, http: HttpRequest, error: InvalidRequest | TooLarge) -> Response:
        failure = Failure(413 if isinstance(error, TooLarge) else 400, message=str(error))
        return self._respond(http, failure.status, wire.error_body(failure))

    def _respond(self, http: HttpRequest, status: int, body: dict[str, Any]) -> Response:
        self._note(OtherRequest(http.method, full_path(http), status))
        return JSONResponse(body, status)

    async def _parse(self, http: HttpRequest) -> tuple[dict[str, Any], Prompt]:
        data = await self._read(http)
        try:
            body = check_body(_loads(data))
            return body, measure(body)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"The request body is not valid JSON: {error}") from error

    async def _read(self, http: HttpRequest) -> bytes:
        parts, size = [], 0
        try:
            async for part in http.stream():
                size += len(part)
                if size > self._max_body:
                    raise TooLarge(f"The request is longer than {self._max_body} bytes")
                parts.append(part)
        except ClientDisconnect:
            raise InvalidRequest("The client left before its request was whole") from None
        return b"".join(parts)


def new_request(http: HttpRequest, body: dict[str, Any], index: int, now: float) -> Request:
    """The parsed view of an HTTP request."""
    return Request(
        body=body,
        headers=dict(http.headers),
        path=full_path(http),
        index=index,
        received_at=now,
    )


def full_path(http: HttpRequest) -> str:
    """The path with its query."""
    return f"{http.url.path}?{http.url.query}" if http.url.query else http.url.path


def _loads(data: bytes) -> Any:
    try:
        return from_json(data)
    except ValueError:  # wrong, or right with lone surrogates
        return json.loads(data)
