"""An offline model on 127.0.0.1 for clients that are not Claude's.

It speaks OpenAI's Chat Completions and Responses and Gemini's generateContent, streamed and whole.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_pool.loopback.server import HttpServer
from clients.dialog import FINISHED, Conversation, ToolCall

MODEL: Final = "loopback"
_USAGE: Final = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
_CHAT_USAGE: Final = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
_GEMINI_USAGE: Final = {
    "promptTokenCount": 100,
    "candidatesTokenCount": 10,
    "totalTokenCount": 110,
}

Answer = list[ToolCall] | str
"""Calls of tools, or the last words."""


class OpenAIModel:
    """The model, from `start()` to `stop()`.

    Attributes:
        seen: the requests, oldest first.
        bodies: the same as they came, with the path.
    """

    def __init__(self) -> None:
        self.seen: list[Conversation] = []
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self._server = HttpServer(
            Starlette(
                routes=[
                    Route("/v1/chat/completions", self._chat, methods=["POST"]),
                    Route("/v1/responses", self._responses, methods=["POST"]),
                    Route("/v1/models", _models, methods=["GET"]),
                    Route("/v1beta/models/{call:path}", self._gemini, methods=["POST"]),
                ]
            )
        )

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """End the server and its connections."""
        await self._server.stop()

    @property
    def url(self) -> str:
        """Return the address, without a path."""
        return f"http://127.0.0.1:{self._server.port}"

    def _answer(self, path: str, body: dict[str, Any], conversation: Conversation) -> Answer:
        self.bodies.append((path, body))
        self.seen.append(conversation)
        try:
            return conversation.next_calls() or FINISHED
        except LookupError as error:
            return f"MISSING: {error}"

    async def _chat(self, http: Request) -> Response:
        body = await http.json()
        answer = self._answer("chat", body, _read_chat(body))
        message = _chat_message(answer)
        reason = "stop" if isinstance(answer, str) else "tool_calls"
        head = {"id": _new("chatcmpl"), "created": 0, "model": body["model"]}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": reason}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": _CHAT_USAGE}
            return JSONResponse(whole)
        calls = message.get("tool_calls", ())
        numbered = [{**call, "index": index} for index, call in enumerate(calls)]
        delta = {**message, **({"tool_calls": numbered} if numbered else {})}
        head["object"] = "chat.completion.chunk"
        chunks = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
            {**head, "choices": [], "usage": _CHAT_USAGE},
        ]
        return _stream([*map(json.dumps, chunks), "[DONE]"])

    async def _responses(self, http: Request) -> Response:
        body = await http.json()
        answer = self._answer("responses", body, _read_responses(body))
        output = list(_output_items(answer, _namespaces(body)))
        response = {
            "id": _new("resp"),
            "object": "response",
            "created_at": 0,
            "model": body["model"],
            "status": "completed",
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                **_USAGE,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
        }
        if not body.get("stream"):
            return JSONResponse(response)
        return _stream(map(json.dumps, _response_events(response, output)))

    async def _gemini(self, http: Request) -> Response:
        body = await http.json()
        answer = self._answer("gemini", body, _read_gemini(body))
        parts: list[dict[str, Any]] = (
            [{"text": answer}]
            if isinstance(answer, str)
            else [{"functionCall": {"name": c.tool, "args": c.arguments}} for c in answer]
        )
        content = {"role": "model", "parts": parts}
        whole = {
            "candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
            "usageMetadata": _GEMINI_USAGE,
            "modelVersion": MODEL,
        }
        if "countTokens" in http.url.path:
            return JSONResponse({"totalTokens": 100})
        if "stream" not in http.url.path:
            return JSONResponse(whole)
        return _stream([json.dumps(whole)])


async def _models(_: Request) -> Response:
    return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})


def _new(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex[:24]}"


def _stream(texts: Iterable[str]) -> Response:
    data = "".join(f"data: {text}\n\n" for text in texts)
    return Response(data, media_type="text/event-stream")


def text_of(content: Any) -> str:
    """Return the texts in a message's content, of whichever API."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return str(content.get("text") or content.get("output") or json.dumps(content))
    return "\n".join(map(text_of, content or ()))


# Chat Completions


def _read_chat(body: dict[str, Any]) -> Conversation:
    messages = body["messages"]
    return Conversation(
        prompt="\n".join(text_of(m["content"]) for m in messages if m["role"] == "user"),
        tools=tuple(tool["function"]["name"] for tool in body.get("tools") or ()),
        results=tuple(text_of(m["content"]) for m in messages if m["role"] == "tool"),
    )


def _chat_message(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, str):
        return {"role": "assistant", "content": answer}
    calls = [
        {
            "id": _new("call"),
            "type": "function",
            "function": {"name": call.tool, "arguments": json.dumps(call.arguments)},
        }
        for call in answer
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


# Responses


def _namespaces(body: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the tools that stand in a namespace: full name to namespace and short name."""
    return {
        f"{space['name']}__{tool['name']}": (space["name"], tool["name"])
        for space in body.get("tools") or ()
        if space["type"] == "namespace"
        for tool in space["tools"]
    }


def _read_responses(body: dict[str, Any]) -> Conversation:
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    named = [tool["name"] for tool in body.get("tools") or () if tool["type"] == "function"]
    outputs = [item for item in items if item.get("type", "").endswith("_call_output")]
    return Conversation(
        prompt="\n".join(text_of(i["content"]) for i in items if i.get("role") == "user"),
        tools=(*_namespaces(body), *named),
        results=tuple(text_of(item["output"]) for item in outputs),
    )


def _output_items(
    answer: Answer, namespaces: dict[str, tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    if isinstance(answer, str):
        part = {"type": "output_text", "text": answer, "annotations": []}
        yield {
            "id": _new("msg"),
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        return
    for call in answer:
        space, name = namespaces.get(call.tool, ("", call.tool))
        yield {
            "id": _new("fc"),
            "type": "function_call",
            "call_id": _new("call"),
            "name": name,
            "arguments": json.dumps(call.arguments),
            "status": "completed",
            **({"namespace": space} if space else {}),
        }


def _response_events(
    response: dict[str, Any], output: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for index, item in enumerate(output):
        place = {"output_index": index, "item_id": item["id"]}
        events.append({"type": "response.output_item.added", **place, "item": _emptied(item)})
        events += [{**place, **event} for event in _deltas(item)]
        events.append({"type": "response.output_item.done", **place, "item": item})
    events.append({"type": "response.completed", "response": response})
    for number, event in enumerate(events):
        yield {**event, "sequence_number": number}


def _emptied(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as it is before its first piece."""
    part: dict[str, Any] = {"content": []} if item["type"] == "message" else {"arguments": ""}
    return {**item, **part, "status": "in_progress"}


def _deltas(item: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events that bring an item's text or arguments, in one piece."""
    if item["type"] == "function_call":
        kind, arguments = "response.function_call_arguments", item["arguments"]
        return [
            {"type": f"{kind}.delta", "delta": arguments},
            {"type": f"{kind}.done", "arguments": arguments},
        ]
    (part,) = item["content"]
    place = {"content_index": 0}
    return [
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **place, "delta": part["text"]},
        {"type": "response.output_text.done", **place, "text": part["text"]},
        {"type": "response.content_part.done", **place, "part": part},
    ]


# Gemini


def _read_gemini(body: dict[str, Any]) -> Conversation:
    contents = body["contents"]
    parts = [(c.get("role"), part) for c in contents for part in c.get("parts") or ()]
    declared = [
        one["name"]
        for tool in body.get("tools") or ()
        for one in tool.get("functionDeclarations") or ()
    ]
    replies = [
        part["functionResponse"]["response"] for _, part in parts if "functionResponse" in part
    ]
    return Conversation(
        prompt="\n".join(part["text"] for role, part in parts if role == "user" and "text" in part),
        tools=tuple(declared),
        results=tuple(map(text_of, replies)),
    )
