"""Tasks as rows of the store, and back."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from typing import Any, Final

from agent_pool.errors import AgentPoolError, ConfigError
from agent_pool.models import (
    Attachment,
    TaskRecord,
    TaskRequest,
    TaskResult,
    Usage,
    error_from_json,
)
from agent_pool.text import whole_characters

TASK_COLUMNS: Final = (
    *("number", "id", "state", "agent", "project", "created", "started", "ended", "attempts"),
    *("worker", "pid", "node", "line", "input_tokens", "output_tokens", "cache_write_tokens"),
    *("cache_read_tokens", "cost_usd"),
)
"""The columns of `tasks` that a `TaskRecord` is made of."""


def to_json(value: Any) -> str:
    """Return JSON text that SQLite can keep: half of a surrogate pair is an escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"))
    return text


def shown_request(request: TaskRequest) -> TaskRequest:
    """Return a request for records and events: values of `env` masked, attachments empty."""
    masked = request.without_secrets() if request.env else request
    if not masked.attachments:
        return masked
    return replace(masked, attachments=tuple(replace(one, data="") for one in masked.attachments))


def request_json(request: TaskRequest) -> str:
    """Return a shown request as JSON; its task has a column of its own."""
    values = request.as_json()
    del values["task"]
    return to_json({name: value for name, value in values.items() if value})


def request_from(text: str, task: str) -> TaskRequest:
    """Return the request of a row."""
    return TaskRequest.from_json({**json.loads(text), "task": task})


def attachments_from(text: str) -> tuple[Attachment, ...]:
    """Return the attachments of a request, with their content."""
    return tuple(Attachment.from_json(one) for one in json.loads(text))


def result_columns(result: TaskResult | None) -> tuple[str | None, str | None]:
    """Return the answer's text and the rest of the result as JSON."""
    if result is None:
        return None, None
    values = result.as_json()
    text = whole_characters(values.pop("text"))
    try:
        return text, to_json(values)
    except (ValueError, RecursionError):  # an object of a thousand levels; its text is kept
        return text, to_json({**values, "structured": None})


def result_from(answer: str | None, rest: str | None) -> TaskResult | None:
    """Return the result of a row."""
    if rest is None:
        return None
    return TaskResult.from_json({**json.loads(rest), "text": answer or ""})


def error_json(error: AgentPoolError | None) -> str | None:
    """Return an error as JSON."""
    return None if error is None else to_json(error.as_json())


def record_from(row: sqlite3.Row) -> TaskRecord:
    """Return the record of a row of `tasks` and `contents`."""
    return TaskRecord(
        id=row["id"],
        number=row["number"],
        state=row["state"],
        request=request_from(row["request"], row["task"]),
        agent=row["agent"],
        project=row["project"],
        created=row["created"],
        started=row["started"],
        ended=row["ended"],
        attempts=row["attempts"],
        worker=row["worker"],
        pid=row["pid"],
        node=row["node"],
        line=row["line"],
        usage=Usage(
            row["input_tokens"],
            row["output_tokens"],
            row["cache_write_tokens"],
            row["cache_read_tokens"],
        ),
        cost_usd=row["cost_usd"],
        result=result_from(row["answer"], row["result"]),
        error=_error_from(row["error"]),
    )


def _error_from(text: str | None) -> AgentPoolError | None:
    if text is None:
        return None
    try:
        return error_from_json(json.loads(text))
    except ConfigError as error:  # of a version that wrote errors in another form
        return AgentPoolError(str(error))
