"""Replies and failures as the bytes of the Messages API: JSON, and server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, Final

from agent_pool.loopback.cache import Usage, canonical, count_characters, tokens_of
from agent_pool.loopback.reply import Failure, Reply, StreamError, Text, ToolUse

ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_encode = json.JSONEncoder(separators=(",", ":")).encode
_numbers = count(1)

JsonObject = dict[str, Any]


def new_id(kind: str) -> str:
    """An id that this process has not given out before, shaped as the API's: `msg_01…`."""
    return f"{kind}_01loopback{next(_numbers):014d}"


def to_bytes(value: Any) -> bytes:
    """JSON in ASCII, so that no text, lone surrogates included, can break it."""
    return _encode(value).encode("ascii")


def blocks_of(reply: Reply) -> list[JsonObject]:
    """The reply's content as the API's blocks, with ids for tool calls."""
    return [_block(item) for item in reply.blocks]


def _block(item: Text | ToolUse) -> JsonObject:
    if isinstance(item, Text):
        return {"type": "text", "text": item.text}
    return {
        "type": "tool_use",
        "id": item.id or new_id("toolu"),
        "name": item.name,
        "input": dict(item.input),
    }


def output_tokens(blocks: list[JsonObject]) -> int:
    """Tokens of an answer: the characters of its blocks' JSON divided by four, rounded up."""
    return tokens_of(sum(count_characters(canonical(block)) for block in blocks))


def message(model: str, blocks: list[JsonObject], reply: Reply, usage: Usage) -> JsonObject:
    """The whole message, as a reply that is not streamed."""
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": blocks,
        "stop_reason": _stop_reason(blocks, reply),
        "stop_sequence": None,
        "usage": usage.as_json(),
    }


def _stop_reason(blocks: list[JsonObject], reply: Reply) -> str:
    calls = any(block["type"] == "tool_use" for block in blocks)
    return reply.stop_reason or ("tool_use" if calls else "end_turn")


def events(message: JsonObject, reply: Reply) -> Iterator[bytes]:
    """The message as a stream, event by event, up to the reply's end or its fault.

    The fault itself is not among them; the block before it is not closed.
    """
    start = {**message, "content": [], "stop_reason": None}
    start["usage"] = {**message["usage"], "output_tokens": 1}
    yield event("message_start", message=start)
    yield event("ping")
    blocks = message["content"]
    for index, block in enumerate(blocks):
        yield from _block_events(index, block, reply.chunk if reply.pace > 0 else 0)
        if not (reply.fault and index == len(blocks) - 1):
            yield event("content_block_stop", index=index)
    if reply.fault is None:
        delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
        yield event("message_delta", delta=delta, usage=message["usage"])
        yield event("message_stop")


def error_event(fault: StreamError) -> bytes:
    """The event that ends a stream early."""
    return event("error", error={"type": fault.type, "message": fault.message})


def _block_events(index: int, block: JsonObject, chunk: int) -> Iterator[bytes]:
    if block["type"] == "text":
        empty, kind, key, content = {**block, "text": ""}, "text_delta", "text", block["text"]
    else:
        empty, kind, key = {**block, "input": {}}, "input_json_delta", "partial_json"
        content = _encode(block["input"])
    yield event("content_block_start", index=index, content_block=empty)
    for part in _cut(content, chunk):
        yield event("content_block_delta", index=index, delta={"type": kind, key: part})


def _cut(text: str, chunk: int) -> Iterator[str]:
    step = chunk or len(text) or 1
    for start in range(0, len(text), step):
        yield text[start : start + step]


def event(kind: str, **fields: Any) -> bytes:
    """One server-sent event."""
    return b"event: " + kind.encode() + b"\ndata: " + to_bytes({"type": kind, **fields}) + b"\n\n"


def error_body(failure: Failure) -> JsonObject:
    """The API's error object."""
    kind = failure.type or ERROR_TYPES.get(failure.status) or _general(failure.status)
    return {
        "type": "error",
        "error": {"type": kind, "message": failure.message or kind},
        "request_id": new_id("req"),
    }


def _general(status: int) -> str:
    return "api_error" if status >= 500 else "invalid_request_error"


def status_of(error_type: str) -> int:
    """The status that goes with an error's type; 500 for what has none of its own."""
    return next((status for status, name in ERROR_TYPES.items() if name == error_type), 500)


def is_delta(event: bytes) -> bool:
    """Whether this is one of the events that a paced reply spreads out."""
    return event.startswith(b"event: content_block_delta\n")
