"""Checks of a task's request that need no definition and no worker."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from typing import Final

from agent_pool.errors import AgentNotFound, ConfigError
from agent_pool.models import (
    MAX_ATTACHED_BYTES,
    MAX_ATTACHMENTS,
    MEDIA_TYPES,
    PLAIN_TEXT,
    Attachment,
    TaskRequest,
    media_type_of,
)
from agent_pool.pool.answer_schema import schema_text

MAX_SECONDS: Final = 1e9
"""About thirty years: a larger number of seconds is a mistake."""
MAX_ATTACHMENT_NAME: Final = 255
"""Characters; the name of a file has at most as many bytes."""
MAX_BUDGET_USD: Final = 1e9
"""A larger budget is a mistake; infinity too, which JSON cannot carry."""


def check_request(request: TaskRequest) -> str:
    """Check a request; return its schema as JSON text, empty without a schema.

    Raises:
        AgentNotFound: the agent's name is not text.
        ConfigError: another argument is wrong; the message names it.
    """
    check_agent_name(request.agent)
    _check_task(request.task)
    _check_timeout(request.timeout)
    _check_conversation(request.conversation)
    _check_budgets(request)
    check_attachments(request.attachments)
    return schema_text(request.schema)


def check_agent_name(agent: str) -> None:
    """Check that an agent's name is text.

    Raises:
        AgentNotFound: it is not.
    """
    if not isinstance(agent, str):
        raise AgentNotFound(f"agent: expected the name of an agent, found {agent!r}")


def _check_task(task: str) -> None:
    if not isinstance(task, str):
        raise ConfigError(f"task: expected text, found {type(task).__name__}")
    # The CLI takes U+FEFF for a blank too, and answers "Blank prompt" itself (2.1.330).
    if not task.replace("\ufeff", "").strip():
        raise ConfigError("task: it is empty; say what the agent should do")
    try:
        task.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"task: it holds half a surrogate pair at character {error.start}, which is not a "
            "character; remove it or decode the source again"
        ) from None


def _check_timeout(timeout: float | None) -> None:
    if timeout is None:
        return
    # For Python, true and false are integers too.
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    # Written so that NaN is refused: every comparison with it is false.
    if not is_number or not 0 < timeout <= MAX_SECONDS:
        raise ConfigError(f"timeout: expected seconds above 0, found {timeout!r}")


def _check_budgets(request: TaskRequest) -> None:
    usd, tokens = request.max_budget_usd, request.max_tokens
    # As in `_check_timeout`: true is an integer, and NaN fails every comparison.
    is_number = isinstance(usd, int | float) and not isinstance(usd, bool)
    if usd is not None and not (is_number and 0 < usd <= MAX_BUDGET_USD):
        raise ConfigError(f"max_budget_usd: expected US dollars above 0, found {usd!r:.80}")
    if tokens is not None and not (type(tokens) is int and tokens > 0):
        raise ConfigError(f"max_tokens: expected a whole number above 0, found {tokens!r:.80}")


def check_attachments(given: Sequence[Attachment]) -> None:
    """Check the attachments of a request: their number, types, content and size.

    Raises:
        ConfigError: one is wrong; the message names it.
    """
    if not isinstance(given, list | tuple) or not all(isinstance(one, Attachment) for one in given):
        raise ConfigError("attachments: expected a list of Attachment")
    if len(given) > MAX_ATTACHMENTS:
        raise ConfigError(
            f"attachments: {len(given)} of them, at most {MAX_ATTACHMENTS} are possible; give the "
            "agent the paths of the others"
        )
    for number, one in enumerate(given, 1):
        _check_attachment(f"attachment {number}", one)
    total = sum(one.size for one in given)
    if total > MAX_ATTACHED_BYTES:
        raise ConfigError(
            f"attachments: they have {total:,} bytes together, at most {MAX_ATTACHED_BYTES:,} are "
            "possible; attach fewer of them, or give the agent their paths"
        )


def _check_attachment(label: str, one: Attachment) -> None:
    if not isinstance(one.name, str) or len(one.name) > MAX_ATTACHMENT_NAME:
        raise ConfigError(f"{label}: expected a name of at most {MAX_ATTACHMENT_NAME} characters")
    label += f" ({one.name!r})" if one.name else ""
    if one.media_type not in MEDIA_TYPES:
        known = ", ".join(MEDIA_TYPES)
        raise ConfigError(f"{label}: its type {one.media_type!r:.80} is not one of {known}")
    if not isinstance(one.data, str) or not one.data:
        raise ConfigError(f"{label}: it has no content")
    if one.media_type == PLAIN_TEXT:
        _check_text_of(label, one)
        return
    # The bound first: an endless text must not be decoded.
    if one.size > MAX_ATTACHED_BYTES:
        return  # reported with all of them
    try:
        content = binascii.a2b_base64(one.data, strict_mode=True)
    except ValueError as error:  # also for characters that are not ASCII
        raise ConfigError(f"{label}: its data is not base64: {error}") from None
    if (found := media_type_of(content)) != one.media_type:
        is_other = f"is {found}" if found else "is of no known type"
        raise ConfigError(f"{label}: its type is {one.media_type}, but its content {is_other}")


def _check_text_of(label: str, one: Attachment) -> None:
    try:
        one.data.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{label}: it holds half a surrogate pair") from None
    # The API refuses a document without a visible character.
    if not one.data.strip():
        raise ConfigError(f"{label}: it has no content")


def _check_conversation(name: str | None) -> None:
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise ConfigError(f"conversation: expected a name, found {name!r}")
