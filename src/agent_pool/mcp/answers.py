"""What the tools answer: plain text for the model, figures for programs in `_meta`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mcp_types import CallToolResult, TextContent

from agent_pool import AgentPoolError, TaskResult, WorkerInfo
from agent_pool.mcp.text import clean

RESULT_KEY = "agent-pool/result"
"""In `_meta` of `invoke`'s answer: the fields of `TaskResult` but for `text` and `is_error`."""

ERROR_KEY = "agent-pool/error"
"""In `_meta` of a failed call: `code` and `retryable` of the error."""

_HINTS = {
    "error_max_turns": "Give it a smaller task, or raise `maxTurns` in its definition.",
    "error_max_budget_usd": "Give it a smaller task, or raise its budget.",
}
_HINT = "`agent-pool doctor` checks the sign-in and the set-up; then call again."


def said(text: str) -> CallToolResult:
    """An answer of text alone."""
    return _result(text)


def task_answer(result: TaskResult) -> CallToolResult:
    """The agent's answer; a tool error when the CLI reported one instead."""
    figures = asdict(result)
    text = figures.pop("text")
    figures.pop("is_error")
    if result.is_error:
        how = "" if result.subtype == "success" else f" ({result.subtype})"
        hint = _HINTS.get(result.subtype, _HINT)
        text = f"{result.agent} failed{how}: {text or 'no reason given'}\n{hint}"
    text = text or f"({result.agent} finished without saying anything.)"
    return _result(text, {RESULT_KEY: figures}, is_error=result.is_error)


def refusal(error: AgentPoolError) -> CallToolResult:
    """A tool error for a failure that we foresaw: its message says what to do."""
    text = str(error)
    if error.retryable:
        text += "\nThe same call may succeed if it is made again."
    figures = {"code": error.code, "retryable": error.retryable}
    return _result(text, {ERROR_KEY: figures}, is_error=True)


def bug(error: Exception) -> CallToolResult:
    """A tool error for a failure that nobody foresaw."""
    text = (
        f"A bug in agent-pool stopped this call: {type(error).__name__}: {error}\n"
        "The traceback is in the server's log (`claude --debug` shows it); please report it. "
        "The server goes on: other calls are not affected."
    )
    return _result(text, {ERROR_KEY: {"code": "bug", "retryable": False}}, is_error=True)


def worker_rows(workers: Sequence[WorkerInfo]) -> CallToolResult:
    """A JSON array, an object and a line for each worker."""
    rows = [json.dumps(_row(worker), ensure_ascii=False) for worker in workers]
    return _result("[" + ",\n ".join(rows) + "]")


def _row(worker: WorkerInfo) -> dict[str, Any]:
    return {
        "name": worker.agent,
        "description": worker.description if worker.agent else "(a spare, no agent yet)",
        "worker": worker.worker,
        "state": worker.state,
        "pid": worker.pid,
        "tasks": worker.tasks,
        "memory_bytes": worker.rss,
        "memory": human_bytes(worker.rss),
        "uptime_seconds": round(worker.uptime, 1),
        "tokens": asdict(worker.usage),
        "cost_usd": worker.cost_usd,
        "note": worker.note,
    }


def human_bytes(count: int) -> str:
    """``"512 B"``, ``"181.2 MiB"``."""
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"


def _result(
    text: str, meta: dict[str, Any] | None = None, *, is_error: bool = False
) -> CallToolResult:
    figures = clean(json.dumps(meta, ensure_ascii=False))
    return CallToolResult(
        content=[TextContent(type="text", text=clean(text))],
        is_error=is_error,
        _meta=json.loads(figures),
    )
