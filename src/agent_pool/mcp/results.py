"""The results of the tools: plain text for the model, figures for programs in `_meta`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp_types import CallToolResult, TextContent

from agent_pool import AgentPoolError, InternalError, PoolStats, TaskResult, WorkerInfo
from agent_pool.mcp.permissions import Decision
from agent_pool.text import bytes_text, one_line, whole_characters

RESULT_KEY: Final = "agent-pool/result"
"""In `_meta` of `invoke`'s result: the fields of `TaskResult`, without `text`, `partial` and
`is_error`."""

RESULTS_KEY: Final = "agent-pool/results"
"""In `_meta` of `invoke_many`'s result: a list; for each task `agent`, `is_error`, `duration`, and
what `invoke` would have in `_meta`, under the same keys."""

ERROR_KEY: Final = "agent-pool/error"
"""In `_meta` of a failed call: `code` and `retryable` of the error."""

REFUSED_KEY: Final = "agent-pool/refused"
"""In `_meta`: each `tool` for which the agent did not get permission, and why."""

_PERMIT: Final = (
    "To permit more, change `permissionMode` in the agent's definition (acceptEdits, "
    "bypassPermissions), the setting AGENT_POOL_PERMISSION_CEILING, or the rules in `permissions` "
    "of Claude Code's settings (`deny`, `ask`, `allow`)."
)


@dataclass(frozen=True, slots=True)
class EndedTask:
    """A task that has ended, with a result or with an error.

    Attributes:
        agent: the agent's name.
        outcome: the result, or the error instead of one.
        duration: seconds from the call to the end.
        refused: the tools for which the agent did not get permission, each with the reason.
    """

    agent: str
    outcome: TaskResult | Exception
    duration: float = 0.0
    refused: tuple[tuple[str, Decision], ...] = ()

    @property
    def is_error(self) -> bool:
        """Return whether there is an error instead of an answer."""
        return not isinstance(self.outcome, TaskResult) or self.outcome.is_error


TASK_KEY: Final = "agent-pool/task"
"""In `_meta` of an `invoke` in the background: the id of the task, as `task_id`."""


def text_result(text: str, *, is_error: bool = False) -> CallToolResult:
    """Return a result of text alone."""
    return _result(text, is_error=is_error)


def begun_result(agent: str, task_id: str) -> CallToolResult:
    """Return how the answer of a task in the background is read."""
    text = (
        f"{agent} works on this in the background, as task {task_id}. Go on with other work; the "
        f'tool result returns the answer: id="{task_id}".'
    )
    return _result(text, {TASK_KEY: {"task_id": task_id}})


def task_result(ended: EndedTask) -> CallToolResult:
    """Return the agent's answer; a tool error if there is none."""
    return _result(_answer_text(ended), _meta_of(ended), is_error=ended.is_error)


def batch_result(all_ended: Sequence[EndedTask]) -> CallToolResult:
    """Return every answer under a heading of its own; a tool error only if all are errors."""
    failed = sum(ended.is_error for ended in all_ended)
    summary = f"{len(all_ended)} tasks: {len(all_ended) - failed} done, {failed} failed."
    sections = (
        f"## {number}. {ended.agent} ({'failed after ' if ended.is_error else ''}"
        f"{ended.duration:.1f} s)\n\n{_answer_text(ended)}"
        for number, ended in enumerate(all_ended, 1)
    )
    rows = [
        {
            "agent": ended.agent,
            "is_error": ended.is_error,
            "duration": ended.duration,
            **_meta_of(ended),
        }
        for ended in all_ended
    ]
    text = "\n\n".join([summary, *sections])
    return _result(text, {RESULTS_KEY: rows}, is_error=failed == len(all_ended))


def error_result(error: Exception) -> CallToolResult:
    """Return a tool error: the message of an `AgentPoolError`, or that of a bug."""
    return task_result(EndedTask("", error))


def _answer_text(ended: EndedTask) -> str:
    match ended.outcome:
        case TaskResult() as result:
            text = _failure_text(result) if result.is_error else _success_text(result)
        case InternalError() as error:
            text = f"{error}\n`claude --debug` shows the log. Other calls are not affected."
        case AgentPoolError() as error:
            again = "\nThe same call can succeed if you make it again." if error.retryable else ""
            text = f"{error}{again}{_partial_note(getattr(error, 'result', None))}"
        case error:
            text = (
                f"A bug in agent-pool stopped this call: {type(error).__name__}: {error}\n"
                "The server's log has the traceback (`claude --debug` shows it); please report it. "
                "Other calls are not affected."
            )
    return text + _permission_note(ended)


def _failure_text(result: TaskResult) -> str:
    how = f" ({result.code or result.subtype})"
    text = f"{result.agent} failed{how}: {result.text or 'no reason given'}\n{result.advice}"
    return text + _partial_note(result) + _worktree_note(result)


def _partial_note(result: TaskResult | None) -> str:
    if result is None or not result.partial:
        return ""
    return f"\n\nWhat it had said, not a complete answer:\n{result.partial}"


def _success_text(result: TaskResult) -> str:
    text = result.text or f"({result.agent} finished without an answer.)"
    if result.conversation is not None and result.place == 1:
        text += f"\n\n(The conversation {result.conversation!r} began with this task.)"
    if (instead := result.fallback) is not None:
        text += f"\n\n({instead.model} answered instead of {instead.original}: {instead.reason}.)"
    return text + _worktree_note(result)


def _worktree_note(result: TaskResult) -> str:
    if result.worktree is None:
        return ""
    return f"\n\n(Its changes are in the worktree {result.worktree}, branch {result.branch}.)"


def _permission_note(ended: EndedTask) -> str:
    # A person's own "no" needs no note: the person knows it.
    reasons = {f"{tool}: {why}": None for tool, why in ended.refused if why is not Decision.DENIED}
    reasons |= dict.fromkeys(_denied_by_rules(ended))
    if not reasons:
        return ""
    return f"\n\n({ended.agent} was not permitted to use {'; '.join(reasons)}. {_PERMIT})"


def _denied_by_rules(ended: EndedTask) -> list[str]:
    """Return the refused tools about which nobody was asked, each with the reason."""
    if not isinstance(ended.outcome, TaskResult):
        return []
    asked = {tool for tool, _ in ended.refused}
    denied = [one for one in ended.outcome.denied if one.tool not in asked]
    return [f"{one.tool}: {one_line(one.reason, 200)}" for one in denied]


def _meta_of(ended: EndedTask) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    match ended.outcome:
        case TaskResult() as result:
            fields = meta[RESULT_KEY] = result.as_json()
            del fields["text"], fields["partial"], fields["is_error"]
        case AgentPoolError() as error:
            meta[ERROR_KEY] = {"code": error.code, "retryable": error.retryable}
        case _:
            meta[ERROR_KEY] = {"code": InternalError.code, "retryable": InternalError.retryable}
    if ended.refused:
        meta[REFUSED_KEY] = [{"tool": tool, "why": str(why)} for tool, why in ended.refused]
    return meta


def workers_result(workers: Sequence[WorkerInfo]) -> CallToolResult:
    """Return the workers as a JSON array, one object and one line for each."""
    rows = [json.dumps(_worker_row(worker), ensure_ascii=False) for worker in workers]
    return _result("[" + ",\n ".join(rows) + "]")


def _worker_row(worker: WorkerInfo) -> dict[str, Any]:
    return {
        "name": worker.agent,
        "description": worker.description if worker.agent else "(a spare, no agent yet)",
        "worker": worker.worker,
        "state": worker.state,
        "pid": worker.pid,
        "tasks": worker.tasks,
        "memory_bytes": worker.rss,
        "memory": bytes_text(worker.rss),
        "worker_memory": worker.memory,
        "profile": worker.profile,
        "uptime_seconds": round(worker.uptime, 1),
        "tokens": worker.usage.as_json(),
        "cost_usd": worker.cost_usd,
        "note": worker.note,
        "hook_seconds": round(worker.hook_seconds, 1),
        **({"node": worker.node} if worker.node else {}),
    }


def stats_result(stats: PoolStats) -> CallToolResult:
    """Return the pool's figures as a JSON object."""
    return _result(json.dumps(stats.as_json(), ensure_ascii=False, indent=1))


def _result(
    text: str, meta: dict[str, Any] | None = None, *, is_error: bool = False
) -> CallToolResult:
    # A server that writes half a surrogate pair fails altogether; a task can hold one in `agent`.
    clean_meta = whole_characters(json.dumps(meta, ensure_ascii=False))
    return CallToolResult(
        content=[TextContent(type="text", text=whole_characters(text))],
        is_error=is_error,
        _meta=json.loads(clean_meta),
    )
