"""The tools: how each is declared to clients, and what a call of it does."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, Tool, ToolAnnotations

from agent_pool import Agent, AgentPoolError, Broken, TaskEvent, TaskResult, WorkerInfo
from agent_pool.mcp import answers
from agent_pool.mcp.arguments import Arguments, Invoke, Nothing, OneAgent
from agent_pool.mcp.listing import describe_agents
from agent_pool.mcp.progress import Progress, narrate
from agent_pool.mcp.text import one_line

DESCRIPTION_LIMIT: Final = 2048  # characters; clients may cut what is longer
RESULT_LIMIT: Final = 500_000  # characters that Claude Code hands to the model, not to a file

logger = logging.getLogger(__name__)

Report = Callable[[int, str], Awaitable[None]]
"""Passes one line of progress to the client, with a number that grows."""

Found = Sequence[Agent | Broken] | Exception
"""The definitions in their order, or what keeps them from being read."""


class Definitions(Protocol):
    """What the server wants of `Catalog`."""

    def scan(self) -> Sequence[Agent | Broken]: ...

    def stamp(self) -> Hashable:
        """Called from another thread, as folders may be slow."""
        ...


class Pool(Protocol):
    """What the server wants of `AgentPool`."""

    @property
    def catalog(self) -> Definitions: ...

    async def invoke(
        self, agent: str, task: str, *, on_event: Callable[[TaskEvent], None]
    ) -> TaskResult: ...

    async def warmup(self, agent: str) -> WorkerInfo: ...
    async def list(self) -> Sequence[WorkerInfo]: ...
    async def reset(self, agent: str) -> int: ...
    def kill(self) -> None: ...


async def call_tool(
    pool: Pool, name: str, arguments: Mapping[str, Any] | None, report: Report
) -> CallToolResult:
    """Make one call; every failure but an unknown tool is a tool error for the model to read.

    Raises:
        MCPError: there is no such tool.
    """
    entry = _ENTRIES.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, _ENTRIES, n=1) or list(_ENTRIES)
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {name}; there is {', '.join(close)}")
    try:
        return await entry.run(pool, entry.arguments.read(name, arguments), report)
    except AgentPoolError as error:
        return answers.refusal(error)
    except Exception as error:
        logger.exception("bug: the tool %s failed", name)
        return answers.bug(error)


def declare(found: Found) -> list[Tool]:
    """The tools as clients see them, with the agents in the description of `invoke`."""
    return [
        Tool(
            name=name,
            title=entry.title,
            description=entry.description + (_about(found) if name == "invoke" else ""),
            input_schema=entry.arguments.schema_for_clients(),
            annotations=entry.annotations,
            _meta=entry.meta,
        )
        for name, entry in _ENTRIES.items()
    ]


def _about(found: Found) -> str:
    budget = DESCRIPTION_LIMIT - len(_INVOKE)
    if isinstance(found, Exception):
        return one_line(f"No agent can be called now: {found}", budget)
    return describe_agents(found, budget)


async def _invoke(pool: Pool, call: Invoke, report: Report) -> CallToolResult:
    progress = Progress(report)
    progress.say(f"{call.agent} is called")
    reporting = asyncio.create_task(progress.run())

    def tell(event: TaskEvent) -> None:
        if line := narrate(event):
            progress.say(line)

    try:
        return answers.task_answer(await pool.invoke(call.agent, call.task, on_event=tell))
    finally:
        reporting.cancel()  # not awaited: in a cancelled call every await is cancelled again


async def _warmup(pool: Pool, call: OneAgent, _: Report) -> CallToolResult:
    worker = await pool.warmup(call.agent)
    memory = answers.human_bytes(worker.rss)
    return answers.said(
        f"{call.agent} is warm: worker {worker.worker}, pid {worker.pid}, {worker.state}, {memory}."
    )


async def _list(pool: Pool, _: Nothing, __: Report) -> CallToolResult:
    return answers.worker_rows(await pool.list())


async def _reset(pool: Pool, call: OneAgent, _: Report) -> CallToolResult:
    count = await pool.reset(call.agent)
    if count == 0:
        return answers.said(f"{call.agent} had no worker; the next invoke starts one.")
    workers = "1 worker" if count == 1 else f"{count} workers"
    return answers.said(f"Stopped {workers} of {call.agent}; the next invoke starts a fresh one.")


@dataclass(frozen=True, slots=True)
class _Entry:
    title: str
    description: str
    arguments: type[Arguments]
    run: Callable[[Pool, Any, Report], Awaitable[CallToolResult]]
    annotations: ToolAnnotations
    meta: dict[str, Any] | None = None


_INVOKE: Final = (
    "Delegate a task to one of the agents below and get its final answer. Use it instead of the "
    "built-in Agent or Task tool for these agents: they run in warm Claude Code processes, with "
    "their own instructions and tools. An agent starts each task with an empty context, so write "
    "down everything it needs.\n\n"
)
_ENTRIES: Final[Mapping[str, _Entry]] = {
    "invoke": _Entry(
        "Invoke an agent",
        _INVOKE,
        Invoke,
        _invoke,
        ToolAnnotations(),
        {"anthropic/alwaysLoad": True, "anthropic/maxResultSizeChars": RESULT_LIMIT},
    ),
    "warmup": _Entry(
        "Warm up an agent",
        "Start a worker process of an agent beforehand, so that its next task begins at once. "
        "Never needed: invoke starts what is missing.",
        OneAgent,
        _warmup,
        ToolAnnotations(destructive_hint=False, idempotent_hint=True, open_world_hint=False),
    ),
    "list": _Entry(
        "List workers",
        "The worker processes that are alive, as a JSON array: agent name and description, "
        "worker, state, pid, tasks done, memory of the process tree, uptime, tokens and cost. "
        "The agents that can be called are in the description of invoke.",
        Nothing,
        _list,
        ToolAnnotations(read_only_hint=True, open_world_hint=False),
    ),
    "reset": _Entry(
        "Reset an agent",
        "Stop all worker processes of an agent, a running task included; the next invoke starts "
        "a fresh one. For an agent that hangs or holds too much memory: contexts are cleared "
        "between tasks, and edited definitions are read, without it.",
        OneAgent,
        _reset,
        ToolAnnotations(destructive_hint=True, idempotent_hint=True, open_world_hint=False),
    ),
}
