"""One request to `/v1/messages`, as scripts and tests read it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agent_pool.loopback.cache import InvalidRequest
from agent_pool.loopback.usage import ApiUsage

# Claude Code 2.1.330 puts reminders before the task into the user message, and after `/clear`
# also some 400 characters about that command.
_ADDED_TEXT = re.compile(
    r"\A(?:\s*<(?P<tag>system-reminder|local-command-[a-z]+|command-[a-z]+)>.*?</(?P=tag)>)+\s*",
    re.DOTALL,
)
# Claude Code 2.1.197 and 2.1.330 send the environment as a message of role `system`.
_ROLES = ("user", "assistant", "system")


@dataclass(eq=False)
class ModelRequest:
    """A well-formed call of `/v1/messages`.

    Attributes:
        body: the JSON body; do not change it.
        headers: values by lower-case name.
        path: the URL's path and query.
        index: 0 for the first request of this server.
        received_at: seconds of the server's clock (`time.monotonic` by default).
        usage: the billed tokens; None until the reply has begun.
        completed: whether the script's answer was sent to its end; true for a dropped connection.
        disconnected: whether the client left before that.
    """

    body: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    path: str
    index: int
    received_at: float
    usage: ApiUsage | None = field(default=None, init=False)
    completed: bool = field(default=False, init=False)
    disconnected: bool = field(default=False, init=False)

    @property
    def model(self) -> str:
        """Return the name of the model."""
        return str(self.body["model"])

    @property
    def stream(self) -> bool:
        """Return whether the client wants server-sent events."""
        return bool(self.body.get("stream"))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the messages as sent."""
        return list(self.body["messages"])

    @cached_property
    def tools(self) -> tuple[str, ...]:
        """Return the names of the tools that the model can call."""
        return tuple(str(tool.get("name", "")) for tool in self.body.get("tools") or ())

    @cached_property
    def system_text(self) -> str:
        """Return the text of the system prompt, its blocks joined by newlines."""
        return "\n".join(_iter_texts(self.body.get("system") or ""))

    @cached_property
    def last_user_text(self) -> str:
        """Return the task: the last text of the user, without the text that Claude Code adds.

        It stays the same while tools run. It is empty in a turn without a user's text, e.g. when
        Claude Code reports that a background shell has ended.
        """
        for message in reversed(self.body["messages"]):
            if message["role"] == "user":
                texts = (_ADDED_TEXT.sub("", text) for text in _iter_texts(message["content"]))
                task = "\n".join(text for text in texts if text.strip())
                # A user message with only tool results continues the turn of an earlier task.
                if task or not _find_tool_results(message):
                    return task
        return ""

    @cached_property
    def tool_results(self) -> tuple[dict[str, Any], ...]:
        """Return the `tool_result` blocks of the last message; empty if it has none."""
        messages = self.body["messages"]
        # Claude Code can put a message of the system behind it, e.g. the tokens left (2.1.260).
        last = next((one for one in reversed(messages) if one["role"] != "system"), messages[-1])
        return _find_tool_results(last)

    @property
    def session_id(self) -> str:
        """Return the Claude Code session, from its header; empty for other clients."""
        return self.headers.get("x-claude-code-session-id", "")

    @property
    def subagent_id(self) -> str:
        """Return the subagent, from Claude Code's header; empty for the main conversation."""
        return self.headers.get("x-claude-code-agent-id", "")

    @property
    def is_side(self) -> bool:
        """Return whether Claude Code asks for its own needs, e.g. a title or a hook's verdict.

        It is false for all requests of other clients.
        """
        # A side request of Claude Code 2.1.330 has neither tools nor `thinking`. A step of a
        # conversation always has `thinking`, also in a session without tools.
        return (
            self.headers.get("user-agent", "").startswith("claude-cli/")
            and not self.tools
            and "thinking" not in self.body
        )


def _find_tool_results(message: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    content = message["content"]
    blocks = () if isinstance(content, str) else content
    return tuple(block for block in blocks if block["type"] == "tool_result")


def get_result_text(result: Mapping[str, Any]) -> str:
    """Return the text of a `tool_result` block, its text blocks joined by newlines."""
    return "\n".join(_iter_texts(result.get("content") or ""))


def check_body(body: Any) -> dict[str, Any]:
    """Check the types of a request's body, and return it.

    Only the fields that the server reads are checked.

    Raises:
        InvalidRequest: a field is missing or has a wrong type; the message names it.
    """
    if not isinstance(body, dict):
        raise InvalidRequest(f"body: expected an object, got {_type_name(body)}")
    _get_field(body, "model", str, required=True)
    _get_field(body, "stream", bool)
    _get_field(body, "max_tokens", int)
    _check_blocks("system", body.get("system") or "")
    for index, tool in enumerate(_get_field(body, "tools", list) or ()):
        if not isinstance(tool, dict):
            raise InvalidRequest(f"tools.{index}: expected an object, got {_type_name(tool)}")
    messages = _get_field(body, "messages", list, required=True)
    if not messages:
        raise InvalidRequest("messages: at least one message is required")
    for index, message in enumerate(messages):
        _check_message(f"messages.{index}", message)
    return body


def _check_message(name: str, message: Any) -> None:
    if not isinstance(message, dict):
        raise InvalidRequest(f"{name}: expected an object, got {_type_name(message)}")
    if message.get("role") not in _ROLES:
        raise InvalidRequest(f"{name}.role: expected one of {', '.join(_ROLES)}")
    if "content" not in message:
        raise InvalidRequest(f"{name}.content: Field required")
    _check_blocks(f"{name}.content", message["content"])


def _check_blocks(name: str, content: Any) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidRequest(f"{name}: expected a string or a list, got {_type_name(content)}")
    for index, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise InvalidRequest(f"{name}.{index}: expected an object with a 'type'")
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            raise InvalidRequest(f"{name}.{index}.text: expected a string")


def _get_field(body: dict[str, Any], name: str, type_: type, *, required: bool = False) -> Any:
    value = body.get(name)
    if value is None:
        if required:
            raise InvalidRequest(f"{name}: Field required")
    # In Python True is an int, in JSON it is not a number.
    elif not isinstance(value, type_) or (type_ is int and isinstance(value, bool)):
        raise InvalidRequest(f"{name}: expected {type_.__name__}, got {_type_name(value)}")
    return value


def _type_name(value: Any) -> str:
    return type(value).__name__


def _iter_texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for block in content:
        if isinstance(block, Mapping) and block.get("type") == "text":
            yield str(block.get("text", ""))
