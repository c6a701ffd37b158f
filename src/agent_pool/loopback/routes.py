"""The HTTP paths of the API, and the requests that it refuses."""

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
from agent_pool.loopback import encoding
from agent_pool.loopback.cache import InvalidRequest, PromptPrefixes, measure_prefixes
from agent_pool.loopback.reply import ErrorResponse
from agent_pool.loopback.request import ModelRequest, check_body
from agent_pool.loopback.request_log import OtherRequest

METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
MODELS: Final = ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")

AnswerMessages = Callable[[HttpRequest, dict[str, Any], PromptPrefixes], ASGIApp]
RecordOther = Callable[[OtherRequest], None]


class ModelRequestTooLarge(AgentPoolError):  # noqa: N818 - named as the errors in agent_pool.errors
    """A body above the limit."""

    code = "request_too_large"


class Routes:
    """The API's paths.

    Args:
        answer: makes the response to a well-formed call of `/v1/messages`.
        record: called with every other request.
        max_body: bytes of the longest body that is accepted.
    """

    def __init__(self, answer: AnswerMessages, record: RecordOther, max_body: int) -> None:
        self._answer = answer
        self._record = record
        self._max_body = max_body

    def app(self) -> Starlette:
        """Return the application to serve."""
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
        except (InvalidRequest, ModelRequestTooLarge) as error:
            return self._refuse(http, error)
        return self._answer(http, body, prompt)

    async def _count_tokens(self, http: HttpRequest) -> Response:
        try:
            _, prompt = await self._parse(http)
        except (InvalidRequest, ModelRequestTooLarge) as error:
            return self._refuse(http, error)
        return self._respond(http, 200, {"input_tokens": prompt.total_tokens})

    async def _models(self, http: HttpRequest) -> Response:
        models = [{"type": "model", "id": name, "display_name": name} for name in MODELS]
        page = {"data": models, "has_more": False, "first_id": MODELS[0], "last_id": MODELS[-1]}
        return self._respond(http, 200, page)

    async def _root(self, http: HttpRequest) -> Response:
        return self._respond(http, 200, {"service": "agent-pool loopback"})

    async def _unknown(self, http: HttpRequest) -> Response:
        # Claude Code 2.1.330 also sends `HEAD /api/hello`, unless the variable
        # CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC is set. It works as well with a 404.
        error = ErrorResponse(404, message=f"{http.method} {http.url.path} is not served here")
        return self._respond(http, 404, encoding.build_error(error))

    def _refuse(self, http: HttpRequest, error: InvalidRequest | ModelRequestTooLarge) -> Response:
        status = 413 if isinstance(error, ModelRequestTooLarge) else 400
        body = encoding.build_error(ErrorResponse(status, message=str(error)))
        return self._respond(http, status, body)

    def _respond(self, http: HttpRequest, status: int, body: dict[str, Any]) -> Response:
        self._record(OtherRequest(http.method, get_full_path(http), status))
        return JSONResponse(body, status)

    async def _parse(self, http: HttpRequest) -> tuple[dict[str, Any], PromptPrefixes]:
        data = await self._read(http)
        try:
            body = check_body(_parse_json(data))
            return body, measure_prefixes(body)
        # The json module raises RecursionError for a body with thousands of nested brackets.
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"The request body is not valid JSON: {error}") from error

    async def _read(self, http: HttpRequest) -> bytes:
        parts, size = [], 0
        try:
            # Count while reading: a chunked request has no content-length to check in advance.
            async for part in http.stream():
                size += len(part)
                if size > self._max_body:
                    raise ModelRequestTooLarge(f"The request is longer than {self._max_body} bytes")
                parts.append(part)
        except ClientDisconnect:
            raise InvalidRequest("The client left before it had sent the whole request") from None
        return b"".join(parts)


def make_request(http: HttpRequest, body: dict[str, Any], index: int, now: float) -> ModelRequest:
    """Make the request that scripts get; `now` is in seconds of the server's clock."""
    return ModelRequest(
        body=body,
        headers=dict(http.headers),
        path=get_full_path(http),
        index=index,
        received_at=now,
    )


def get_full_path(http: HttpRequest) -> str:
    """Return the path with its query."""
    return f"{http.url.path}?{http.url.query}" if http.url.query else http.url.path


def _parse_json(data: bytes) -> Any:
    try:
        return from_json(data)
    except ValueError:
        # The faster parser also refuses lone surrogates ("\ud800"), which are valid JSON.
        return json.loads(data)
