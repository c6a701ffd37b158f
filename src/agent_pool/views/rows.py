"""Tasks and workers as the rows of the page: what is shown, and in which order."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from agent_pool.models import NodeInfo, NodeState, TaskRecord, TaskRequest, WorkerInfo
from agent_pool.text import count, mebibytes, one_line, whole_characters

STALLED_SECONDS: Final = 120.0
"""A running task whose step is this old is shown as stalled."""

STEP_WIDTH: Final = 120
TASK_WIDTH: Final = 160
"""Characters of a step and of a task's text in a row."""

NODE_WIDTH: Final = 400
"""Characters of the line about a machine: a reason can name a folder and a command."""

_NODE_WORDS: Final[dict[NodeState, str]] = {
    "starting": "starting",
    "ready": "ready",
    "left_out": "left out",
    "draining": "leaves after its tasks",
    "lost": "lost",
}

_PLACE: Final = {
    "asks": 0, "stalled": 1, "failed": 2, "running": 3, "queued": 4, "done": 5, "cancelled": 5
}  # fmt: skip
"""The place of each group of rows: first what a person must do something about."""

_STATE_WORDS: Final = {
    "queued": "queued",
    "running": "running",
    "input_required": "asks permission",
    "succeeded": "done",
    "failed": "failed",
    "cancelled": "cancelled",
    "interrupted": "interrupted",
}


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task as a row.

    Attributes:
        id: its id.
        group: one of ``asks``, ``stalled``, ``failed``, ``running``, ``queued``, ``done``,
            ``cancelled``.
        state: the state in words.
        agent: the agent's name.
        project: the last part of the project's folder.
        folder: the whole folder.
        text: the beginning of the task.
        step: what it does now, or how it ended.
        began: when its clock began, in seconds since 1970: its start, or its submission.
        ended: when its clock stopped; None while it runs.
        tokens: all tokens so far.
        cost: in US dollars.
        context: how much of the context window is used, 0 to 1; 0 if that is not known.
        worker: the worker that has or had it.
        node: the machine.
        can_cancel, can_retry: what a person can do with it.
    """

    id: str
    group: str
    state: str
    agent: str
    project: str
    folder: str
    text: str
    step: str
    began: float
    ended: float | None
    tokens: int
    cost: float
    context: float
    worker: str
    node: str
    can_cancel: bool
    can_retry: bool

    @property
    def seconds(self) -> float:
        """Return how long it has taken; 0 while it runs, where the page counts."""
        return max(0.0, self.ended - self.began) if self.ended is not None else 0.0


def task_row(record: TaskRecord, *, is_stalled: bool = False) -> TaskRow:
    """Return the row of a task.

    Args:
        record: the task.
        is_stalled: its step is older than `STALLED_SECONDS`.
    """
    return TaskRow(
        id=record.id,
        group=_group(record, is_stalled),
        state="stalled" if is_stalled else _STATE_WORDS[record.state],
        agent=record.agent or str(record.request.agent),
        project=PurePath(record.project).name,
        folder=record.project,
        text=one_line(record.request.task, TASK_WIDTH),
        step=one_line(step_text(record), STEP_WIDTH),
        began=record.started or record.created,
        ended=record.ended,
        tokens=record.usage.prompt_tokens + record.usage.output_tokens,
        cost=record.cost_usd,
        context=min(1.0, record.context_tokens / record.context_window)
        if record.context_window
        else 0.0,
        worker=record.worker,
        node=record.node,
        can_cancel=not record.has_ended,
        can_retry=record.has_ended and record.state != "succeeded",
    )


def _group(record: TaskRecord, is_stalled: bool) -> str:
    if record.state == "input_required":
        return "asks"
    if record.state == "running":
        return "stalled" if is_stalled else "running"
    if record.state in ("failed", "interrupted"):
        return "failed"
    return record.state if record.state in ("queued", "cancelled") else "done"


def step_text(record: TaskRecord) -> str:
    """Return what a task does now, or how it ended: its answer or its error."""
    if record.questions:
        request = record.questions[0].request
        return f"asks for permission to use {request.tool}"
    if record.error is not None:
        return record.error.message
    if record.result is not None:
        return record.result.text
    return record.line


def ordered(rows: Iterable[TaskRow]) -> list[TaskRow]:
    """Return the rows by group; within one the newest first, those that wait the oldest first."""
    found = list(rows)

    def key(row: TaskRow) -> tuple[int, float]:
        return _PLACE[row.group], row.began if row.group == "queued" else -row.began

    return sorted(found, key=key)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """One worker as a row.

    Attributes:
        id: tells it from all others of the pool: two machines each have a ``worker-1``.
        worker: the worker's id.
        state: its state.
        agent: the agent that it is; empty for a spare.
        project: the last part of the folder.
        pid: its process id.
        memory: of its process tree, with its unit.
        share: of its memory bound, 0 to 1.
        tasks: that it has done.
        tokens: all of them.
        cost: in US dollars.
        uptime: seconds.
        note: an unusual condition.
        node: the machine.
    """

    id: str
    worker: str
    state: str
    agent: str
    project: str
    pid: int
    memory: str
    share: float
    tasks: int
    tokens: int
    cost: float
    uptime: float
    note: str
    node: str


def worker_row(worker: WorkerInfo, max_rss: int | None) -> WorkerRow:
    """Return the row of a worker; `max_rss` is the bound of its memory in bytes."""
    return WorkerRow(
        id=f"{worker.node}-{worker.worker}" if worker.node else worker.worker,
        worker=worker.worker,
        state=worker.state,
        agent=worker.agent,
        project=PurePath(worker.project).name,
        pid=worker.pid or 0,
        memory=mebibytes(worker.rss),
        share=min(1.0, worker.rss / max_rss) if max_rss else 0.0,
        tasks=worker.tasks,
        tokens=worker.usage.prompt_tokens + worker.usage.output_tokens,
        cost=worker.cost_usd,
        uptime=worker.uptime,
        note=one_line(worker.note, STEP_WIDTH),
        node=worker.node,
    )


def node_text(node: NodeInfo) -> str:
    """Return a machine on one line: what it does, or why it gets no tasks."""
    words = _NODE_WORDS[node.state]
    if node.state == "ready":
        words = f"{node.running:,} of {count(node.size, 'task')} running"
    version = f", Claude Code {node.version}" if node.version else ""
    reason = f": {node.reason}" if node.reason else ""
    return one_line(f"{node.node}: {words}{version}{reason}", NODE_WIDTH)


def submit_command(request: TaskRequest) -> str:
    """Return the command line that submits the same task again."""
    options = {
        "--project": request.project,
        "--model": request.model,
        "--effort": request.effort,
        "--permission-mode": request.permission_mode,
        "--timeout": f"{request.timeout:g}" if request.timeout else None,
        "--budget": f"{request.max_budget_usd:g}" if request.max_budget_usd else None,
        "--max-tokens": str(request.max_tokens) if request.max_tokens else None,
        "--schema": json.dumps(dict(request.schema)) if request.schema else None,
        "--priority": str(request.priority) if request.priority else None,
    }
    flags = {
        "--worktree": request.isolation == "worktree",
        "--idempotent": request.idempotent,
        "--ask": request.asks,
    }
    words = ["agent-pool", "submit"]
    for option, value in options.items():
        words += [option, value] if value else []
    words += [flag for flag, is_on in flags.items() if is_on]
    task = whole_characters(request.task)
    return shlex.join([*words, str(request.agent), *(["--"] if task.startswith("-") else []), task])
