"""The lines from the client: each one that is no message is refused with an error, and logged.

The SDK drops such a line without an answer, and its client waits for one until it gives up.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCNotification,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

from agent_pool.text import one_line

LOGGED_CHARACTERS: Final = 200
"""Characters of a refused line that the log shows."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RefusedLine:
    """Why a line is no message.

    Attributes:
        code: the error code of JSON-RPC; 0 if the line must not be answered.
        reason: the problem and what to send instead.
        id: the id of the request; None if there is none that can be read.
    """

    code: int
    reason: str
    id: int | float | str | None = None

    def response(self) -> str:
        """Return the error response as a line."""
        error = {"code": self.code, "message": self.reason}
        # In ASCII: an id can hold half of a surrogate pair, which UTF-8 cannot carry.
        return json.dumps({"jsonrpc": "2.0", "id": self.id, "error": error}) + "\n"


class CheckedLines:
    """The messages among the lines of a client; the other lines are answered here.

    Args:
        lines: all lines; blank ones are ignored.
        write: sends a response to the client.
    """

    def __init__(self, lines: AsyncIterable[str], write: Callable[[str], Awaitable[None]]) -> None:
        self._lines = lines
        self._write = write

    async def __aiter__(self) -> AsyncIterator[str]:
        async for line in self._lines:
            refusal = refuse(line)
            if refusal is None:
                yield line
            elif line.strip():
                shown = one_line(line, LOGGED_CHARACTERS)
                logger.warning("refused a line of the client: %s: %s", refusal.reason, shown)
                if refusal.code:
                    await self._write(refusal.response())


def refuse(line: str) -> RefusedLine | None:
    """Return why a line is no message; None for a message that the server can handle."""
    try:
        message = jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            return _parse_error(line, first["msg"])
        return _invalid_request(_load(line))
    # The SDK ignores unknown members. So a request whose id is null, true or 1.5 passes as a
    # notification there, and its client gets no answer.
    if isinstance(message, JSONRPCNotification) and _has_id(found := _load(line)):
        return _invalid_request(found)
    return None


def _parse_error(line: str, problem: str) -> RefusedLine:
    # Python's parser takes more: half of a surrogate pair, for one. Claude Code can cut a string
    # between the two halves (seen on 2.1.330), and its request has a readable id then.
    number = _readable_id(_load(line))
    advice = "Send one JSON object on each line, in UTF-8, without half of a surrogate pair."
    return RefusedLine(PARSE_ERROR, f"Parse error: {problem}. {advice}", number)


def _invalid_request(found: Any) -> RefusedLine:
    if isinstance(found, list):
        reason = "a batch is not supported; send each request on a line of its own"
        return RefusedLine(INVALID_REQUEST, f"Invalid Request: {reason}")
    if not isinstance(found, dict):
        return RefusedLine(INVALID_REQUEST, f"Invalid Request: {_expected('an object', found)}")
    if "method" not in found and ("result" in found or "error" in found):
        # An answer to an answer would make the client look for a request that it never sent.
        return RefusedLine(0, "a response to the server has a wrong form")
    return RefusedLine(INVALID_REQUEST, f"Invalid Request: {_problem(found)}", _readable_id(found))


def _problem(found: dict[str, Any]) -> str:
    """Return what is wrong with the first member that has a wrong form."""
    if found.get("jsonrpc") != "2.0":
        return 'jsonrpc must be "2.0"'
    if not isinstance(found.get("method"), str):
        return _expected("method as a string", found.get("method"))
    if not isinstance(found.get("params"), dict | None):
        return _expected("params as an object", found["params"])
    return _expected("id as an integer or a string", found.get("id"))


def _expected(wanted: str, found: object) -> str:
    kinds: dict[type, str] = {dict: "an object", list: "an array"}
    return f"expected {wanted}, found {kinds.get(type(found)) or one_line(json.dumps(found), 60)}"


def _load(line: str) -> Any:
    """Return the value of a line as Python's lenient parser reads it; None if it cannot."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _has_id(found: Any) -> bool:
    return isinstance(found, dict) and "id" in found


def _readable_id(found: Any) -> int | float | str | None:
    number = found.get("id") if isinstance(found, dict) else None
    is_number = type(number) is int or (type(number) is float and math.isfinite(number))
    return number if is_number or isinstance(number, str) else None
