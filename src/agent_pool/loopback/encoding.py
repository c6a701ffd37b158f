"""Replies and errors as the bytes of the Messages API: JSON and server-sent events (SSE)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any, Final

from agent_pool.loopback.cache import count_characters, estimate_tokens, to_compact_json
from agent_pool.loopback.reply import (
    ErrorResponse,
    ModelReply,
    StreamError,
    TextBlock,
    ToolUseBlock,
)
from agent_pool.loopback.usage import ApiUsage

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
_encode_json = json.JSONEncoder(separators=(",", ":")).encode
_numbers = count(1)

JsonObject = dict[str, Any]


def new_id(kind: str) -> str:
    """Return an id that is new in this process, in the API's form, e.g. `msg_01…`."""
    return f"{kind}_01loopback{next(_numbers):014d}"


def to_ascii_json(value: Any) -> bytes:
    """Return JSON in ASCII. Raises TypeError for a value that is not JSON."""
    # Escapes keep lone surrogates ("\ud800") intact, which UTF-8 cannot encode.
    return _encode_json(value).encode("ascii")


def build_blocks(reply: ModelReply) -> list[JsonObject]:
    """Build the reply's content blocks; a tool call without an id gets a new one."""
    return [_build_block(item) for item in reply.blocks]


def _build_block(item: TextBlock | ToolUseBlock) -> JsonObject:
    if isinstance(item, TextBlock):
        return {"type": "text", "text": item.text}
    return {
        "type": "tool_use",
        "id": item.id or new_id("toolu"),
        "name": item.name,
        "input": dict(item.input),
    }


def count_output_tokens(blocks: list[JsonObject]) -> int:
    """Count the tokens of a reply: the characters of its JSON divided by four, rounded up."""
    return estimate_tokens(sum(count_characters(to_compact_json(block)) for block in blocks))


def build_message(
    model: str, blocks: list[JsonObject], reply: ModelReply, usage: ApiUsage
) -> JsonObject:
    """Build the whole message, as a client gets it that does not stream."""
    return {
        "id": new_id("msg"),
        "type": "message",
        "role": "assistant",
        "model": reply.model or model,
        "content": blocks,
        **_stop_fields(blocks, reply),
        "usage": usage.as_json(),
    }


def _stop_fields(blocks: list[JsonObject], reply: ModelReply) -> JsonObject:
    fields = {"stop_reason": _find_stop_reason(blocks, reply), "stop_sequence": None}
    # The API sends details with some reasons only, such as `refusal`.
    details = {} if reply.stop_details is None else {"stop_details": dict(reply.stop_details)}
    return {**fields, **details}


def _find_stop_reason(blocks: list[JsonObject], reply: ModelReply) -> str:
    has_calls = any(block["type"] == "tool_use" for block in blocks)
    return reply.stop_reason or ("tool_use" if has_calls else "end_turn")


def iter_events(message: JsonObject, reply: ModelReply) -> Iterator[bytes]:
    """Yield the events of a stream, up to the reply's end or its fault.

    The fault itself is not included, and the block before it is not closed.
    """
    start = {**message, "content": [], "stop_reason": None}
    start.pop("stop_details", None)
    # The API sends the prompt's tokens at the start, and the output's only in `message_delta`.
    start["usage"] = {**message["usage"], "output_tokens": 1}
    yield encode_event("message_start", message=start)
    yield encode_event("ping")
    blocks = message["content"]
    for index, block in enumerate(blocks):
        yield from _iter_block_events(index, block, _get_delta_size(reply))
        if not (reply.fault and index == len(blocks) - 1):
            yield encode_event("content_block_stop", index=index)
    if reply.fault is None:
        delta = {name: message[name] for name in message if name.startswith("stop_")}
        yield encode_event("message_delta", delta=delta, usage=message["usage"])
        yield encode_event("message_stop")


def _get_delta_size(reply: ModelReply) -> int:
    """Return the characters per delta; 0 means one delta for each block."""
    return reply.delta_size if reply.delta_interval > 0 else 0


def encode_error_event(fault: StreamError) -> bytes:
    """Encode the event that ends a stream early."""
    return encode_event("error", error={"type": fault.type, "message": fault.message})


def _iter_block_events(index: int, block: JsonObject, delta_size: int) -> Iterator[bytes]:
    """Yield the events of one block, without the one that closes it."""
    if block["type"] == "text":
        empty, kind, key, content = {**block, "text": ""}, "text_delta", "text", block["text"]
    else:
        # The API sends a tool's input as JSON text, in pieces that the client joins and parses.
        empty, kind, key = {**block, "input": {}}, "input_json_delta", "partial_json"
        content = _encode_json(block["input"])
    yield encode_event("content_block_start", index=index, content_block=empty)
    for part in _split_text(content, delta_size):
        yield encode_event("content_block_delta", index=index, delta={"type": kind, key: part})


def _split_text(text: str, size: int) -> Iterator[str]:
    step = size or len(text) or 1
    for start in range(0, len(text), step):
        yield text[start : start + step]


def encode_event(kind: str, **fields: Any) -> bytes:
    """Encode one server-sent event; the API repeats the event's name as `type` in its data."""
    data = to_ascii_json({"type": kind, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def build_error(error: ErrorResponse) -> JsonObject:
    """Build the API's error object."""
    kind = error.type or ERROR_TYPES.get(error.status) or _find_default_type(error.status)
    return {
        "type": "error",
        "error": {"type": kind, "message": error.message or kind},
        "request_id": new_id("req"),
    }


def _find_default_type(status: int) -> str:
    return "api_error" if status >= 500 else "invalid_request_error"


def find_status(error_type: str) -> int:
    """Find the HTTP status of an error type; 500 for a type that is not in `ERROR_TYPES`."""
    return next((status for status, name in ERROR_TYPES.items() if name == error_type), 500)


def is_delta(event: bytes) -> bool:
    """Check whether this event carries a part of a block; `delta_interval` is for these."""
    return event.startswith(b"event: content_block_delta\n")
