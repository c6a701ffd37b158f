"""One request to `/v1/messages`, as scripts and tests look at it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agent_pool.loopback.cache import InvalidRequest, Usage

# What Claude Code puts before the task into a user message.
_INJECTED = re.compile(
    r"\A(?:\s*<(?P<tag>system-reminder|local-command-[a-z]+|command-[a-z]+)>.*?</(?P=tag)>)+\s*",
    re.DOTALL,
)
_ROLES = ("user", "assistant", "system")


@dataclass(eq=False)
class Request:
    """A parsed request.

    Attributes:
        body: the JSON body; not to be changed.
        headers: by lower-case name.
        path: the URL's path and query.
        index: 0 for the first request of this server.
        received_at: seconds of the server's clock (`time.monotonic` by default).
        usage: the tokens billed, None until the reply has begun.
        completed: the script's answer, a cut included, was sent to its end.
        disconnected: the client went away before that.
    """

    body: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    path: str
    index: int
    received_at: float
    usage: Usage | None = field(default=None, init=False)
    completed: bool = field(default=False, init=False)
    disconnected: bool = field(default=False, init=False)

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages as sent."""
        return list(self.body["messages"])

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """The names of the tools that the model may call."""
        return tuple(str(tool.get("name", "")) for tool in self.body.get("tools") or ())

    @cached_property
    def system_text(self) -> str:
        """The system prompt, its blocks joined by newlines."""
        return "\n".join(_texts(self.body.get("system") or ""))

    @cached_property
    def last_user_text(self) -> str:
        """The task: what the user said last, without what Claude Code adds around it.

        While tools are at work it stays the text of the user message before them. It is empty in
        a turn that nobody asked for, such as the notice that a background shell has ended.
        """
        for message in reversed(self.body["messages"]):
            if message["role"] == "user":
                kept = (_INJECTED.sub("", text) for text in _texts(message["content"]))
                said = "\n".join(text for text in kept if text.strip())
                if said or not _results(message):
                    return said
        return ""

    @cached_property
    def tool_results(self) -> tuple[dict[str, Any], ...]:
        """The last message's `tool_result` blocks; empty when it holds none."""
        return _results(self.body["messages"][-1])

    @property
    def session_id(self) -> str:
        """Claude Code's session, from its header; empty for other clients."""
        return self.headers.get("x-claude-code-session-id", "")

    @property
    def subagent_id(self) -> str:
        """The subagent that asks, from Claude Code's header; empty for the main conversation."""
        return self.headers.get("x-claude-code-agent-id", "")

    @property
    def is_side(self) -> bool:
        """Whether Claude Code asks on its own account: for a title, for a prompt hook's verdict.

        Such a request offers no tools and does not mention `thinking`; a step of a conversation
        always has at least the latter, even in a session without tools. Requests of other clients
        are never side requests.
        """
        return (
            self.headers.get("user-agent", "").startswith("claude-cli/")
            and not self.tools
            and "thinking" not in self.body
        )


def _results(message: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    content = message["content"]
    blocks = () if isinstance(content, str) else content
    return tuple(block for block in blocks if block["type"] == "tool_result")


def text_of(result: Mapping[str, Any]) -> str:
    """The text of a `tool_result` block."""
    return "\n".join(_texts(result.get("content") or ""))


def check_body(body: Any) -> dict[str, Any]:
    """The body of a request, if it has the types that the API asks for.

    Raises InvalidRequest otherwise, naming the field.
    """
    if not isinstance(body, dict):
        raise InvalidRequest(f"body: expected an object, got {_kind(body)}")
    _expect(body, "model", str, required=True)
    _expect(body, "stream", bool)
    _expect(body, "max_tokens", int)
    _check_blocks("system", body.get("system") or "")
    for index, tool in enumerate(_expect(body, "tools", list) or ()):
        if not isinstance(tool, dict):
            raise InvalidRequest(f"tools.{index}: expected an object, got {_kind(tool)}")
    messages = _expect(body, "messages", list, required=True)
    if not messages:
        raise InvalidRequest("messages: at least one message is required")
    for index, message in enumerate(messages):
        _check_message(f"messages.{index}", message)
    return body


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise InvalidRequest(f"{where}: expected an object, got {_kind(message)}")
    if message.get("role") not in _ROLES:
        raise InvalidRequest(f"{where}.role: expected one of {', '.join(_ROLES)}")
    if "content" not in message:
        raise InvalidRequest(f"{where}.content: Field required")
    _check_blocks(f"{where}.content", message["content"])


def _check_blocks(where: str, content: Any) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequest(f"{where}: expected a string or a list, got {_kind(content)}")
    for index, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise InvalidRequest(f"{where}.{index}: expected an object with a 'type'")
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            raise InvalidRequest(f"{where}.{index}.text: expected a string")


def _expect(body: dict[str, Any], name: str, kind: type, *, required: bool = False) -> Any:
    value = body.get(name)
    if value is None:
        if required:
            raise InvalidRequest(f"{name}: Field required")
    elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidRequest(f"{name}: expected {kind.__name__}, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return type(value).__name__


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for block in content:
        if isinstance(block, Mapping) and block.get("type") == "text":
            yield str(block.get("text", ""))
