"""What the tools answer: plain text for the model, figures for programs in `_meta`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from mcp_types import CallToolResult, TextContent

from agent_pool import AgentPoolError, PoolStats, TaskResult, WorkerInfo
from agent_pool.mcp.permissions import Verdict
from agent_pool.mcp.text import clean

RESULT_KEY: Final = "agent-pool/result"
"""In `_meta` of `invoke`'s answer: the fields of `TaskResult` but for `text` and `is_error`."""

RESULTS_KEY: Final = "agent-pool/results"
"""In `_meta` of `invoke_many`'s answer: a list, for each task `agent`, `is_error`, `duration`, and
what `invoke` would have in `_meta`, under the same keys."""

ERROR_KEY: Final = "agent-pool/error"
"""In `_meta` of a failed call: `code` and `retryable` of the error."""

REFUSED_KEY: Final = "agent-pool/refused"
"""In `_meta`: the `tool`s that the agent asked permission for in vain, each with the reason."""

_HINTS = {
    "error_max_turns": "Give it a smaller task, or raise `maxTurns` in its definition.",
    "error_max_budget_usd": "Give it a smaller task, or raise its budget.",
}
_HINT = "`agent-pool doctor` checks the sign-in and the set-up; then call again."
_PERMIT = (
    "To permit more, change `permissionMode` in the agent's definition (acceptEdits, "
    "bypassPermissions), or the setting AGENT_POOL_PERMISSION_CEILING."
)

Outcome = TaskResult | Exception


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that has ended, one way or another.

    Attributes:
        agent: who had it.
        outcome: the result, or the error instead of one.
        duration: seconds from the call to the end.
        refused: what the agent asked permission for in vain, by tool.
    """

    agent: str
    outcome: Outcome
    duration: float = 0.0
    refused: tuple[tuple[str, Verdict], ...] = ()

    @property
    def is_error(self) -> bool:
        """Whether there is an error instead of an answer."""
        return not isinstance(self.outcome, TaskResult) or self.outcome.is_error


def said(text: str) -> CallToolResult:
    """An answer of text alone."""
    return _result(text)


def task_answer(ended: Ended) -> CallToolResult:
    """The agent's answer; a tool error when there is none."""
    return _result(_words(ended), _figures(ended), is_error=ended.is_error)


def many_answers(all_ended: Sequence[Ended]) -> CallToolResult:
    """Every answer under a heading of its own; a tool error only if all are errors."""
    failed = sum(ended.is_error for ended in all_ended)
    summary = f"{len(all_ended)} tasks: {len(all_ended) - failed} done, {failed} failed."
    sections = (
        f"## {number}. {ended.agent} ({'failed after ' if ended.is_error else ''}"
        f"{ended.duration:.1f} s)\n\n{_words(ended)}"
        for number, ended in enumerate(all_ended, 1)
    )
    rows = [
        {
            "agent": ended.agent,
            "is_error": ended.is_error,
            "duration": ended.duration,
            **_figures(ended),
        }
        for ended in all_ended
    ]
    text = "\n\n".join([summary, *sections])
    return _result(text, {RESULTS_KEY: rows}, is_error=failed == len(all_ended))


def refusal(error: AgentPoolError) -> CallToolResult:
    """A tool error for a failure that we foresaw: its message says what to do."""
    return task_answer(Ended("", error))


def bug(error: Exception) -> CallToolResult:
    """A tool error for a failure that nobody foresaw."""
    return task_answer(Ended("", error))


def _words(ended: Ended) -> str:
    match ended.outcome:
        case TaskResult() as result:
            text = _failure(result) if result.is_error else _answer(result)
        case AgentPoolError() as error:
            again = "\nThe same call may succeed if it is made again." if error.retryable else ""
            text = f"{error}{again}"
        case error:
            text = (
                f"A bug in agent-pool stopped this call: {type(error).__name__}: {error}\n"
                "The traceback is in the server's log (`claude --debug` shows it); please report "
                "it. The server goes on: other calls are not affected."
            )
    return text + _note_on_permissions(ended)


def _failure(result: TaskResult) -> str:
    how = "" if result.subtype == "success" else f" ({result.subtype})"
    hint = _HINTS.get(result.subtype, _HINT)
    return f"{result.agent} failed{how}: {result.text or 'no reason given'}\n{hint}"


def _answer(result: TaskResult) -> str:
    text = result.text or f"({result.agent} finished without saying anything.)"
    if result.conversation is not None and result.place == 1:
        text += f"\n\n(The conversation {result.conversation!r} began with this task.)"
    return text


def _note_on_permissions(ended: Ended) -> str:
    reasons = {f"{tool}: {why}": None for tool, why in ended.refused if why is not Verdict.DENIED}
    if not reasons:
        return ""
    return f"\n\n({ended.agent} was not permitted to use {'; '.join(reasons)}. {_PERMIT})"


def _figures(ended: Ended) -> dict[str, Any]:
    found: dict[str, Any] = {}
    match ended.outcome:
        case TaskResult() as result:
            figures = found[RESULT_KEY] = result.as_json()
            del figures["text"], figures["is_error"]
        case AgentPoolError() as error:
            found[ERROR_KEY] = {"code": error.code, "retryable": error.retryable}
        case _:
            found[ERROR_KEY] = {"code": "bug", "retryable": False}
    if ended.refused:
        found[REFUSED_KEY] = [{"tool": tool, "why": str(why)} for tool, why in ended.refused]
    return found


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


def pool_figures(stats: PoolStats) -> CallToolResult:
    """The pool's accounts as a JSON object."""
    return _result(json.dumps(stats.as_json(), ensure_ascii=False, indent=1))


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
