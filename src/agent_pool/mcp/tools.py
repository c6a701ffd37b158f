"""The tools: how each is declared to clients, and what a call of it does."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, Tool, ToolAnnotations

from agent_pool import Agent, AgentPoolError, Broken
from agent_pool.mcp import answers
from agent_pool.mcp.arguments import Arguments, Invoke, InvokeMany, Nothing, OneAgent, Reset
from agent_pool.mcp.delegation import invoke, invoke_many
from agent_pool.mcp.interfaces import Caller, Pool
from agent_pool.mcp.listing import describe_agents
from agent_pool.mcp.text import one_line

DESCRIPTION_LIMIT: Final = 2048  # characters; clients may cut what is longer
RESULT_LIMIT: Final = 500_000  # characters that Claude Code hands to the model, not to a file
DELEGATING: Final = frozenset({"invoke", "invoke_many"})
"""The tools that take as long as an agent does."""

logger = logging.getLogger(__name__)

Found = Sequence[Agent | Broken] | Exception
"""The definitions in their order, or what keeps them from being read."""


async def call_tool(
    pool: Pool, name: str, arguments: Mapping[str, Any] | None, caller: Caller
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
        return await entry.run(pool, entry.arguments.read(name, arguments), caller)
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


async def _warmup(pool: Pool, call: OneAgent, _: Caller) -> CallToolResult:
    worker = await pool.warmup(call.agent)
    memory = answers.human_bytes(worker.rss)
    return answers.said(
        f"{call.agent} is warm: worker {worker.worker}, pid {worker.pid}, {worker.state}, {memory}."
    )


async def _list(pool: Pool, _: Nothing, __: Caller) -> CallToolResult:
    return answers.worker_rows(await pool.list())


async def _stats(pool: Pool, _: Nothing, __: Caller) -> CallToolResult:
    return answers.pool_figures(pool.stats())


async def _reset(pool: Pool, call: Reset, _: Caller) -> CallToolResult:
    if call.conversation is not None:
        return _end_conversation(pool, call.agent, call.conversation)
    count = await pool.reset(call.agent)
    if count == 0:
        return answers.said(f"{call.agent} had no worker; the next invoke starts one.")
    workers = "1 worker" if count == 1 else f"{count} workers"
    return answers.said(f"Stopped {workers} of {call.agent}; the next invoke starts a fresh one.")


def _end_conversation(pool: Pool, agent: str, conversation: str) -> CallToolResult:
    if pool.end_conversation(agent, conversation):
        return answers.said(f"The conversation {conversation!r} with {agent} has ended.")
    return answers.said(f"There is no conversation {conversation!r} with {agent}.")


@dataclass(frozen=True, slots=True)
class _Entry:
    title: str
    description: str
    arguments: type[Arguments]
    run: Callable[[Pool, Any, Caller], Awaitable[CallToolResult]]
    annotations: ToolAnnotations
    meta: dict[str, Any] | None = None


_INVOKE: Final = (
    "Delegate a task to one of the agents below and get its final answer. Use it instead of the "
    "built-in Agent or Task tool for these agents: they run in warm Claude Code processes, with "
    "their own instructions and tools. An agent starts each task with an empty context, so write "
    "down everything it needs. For several tasks at the same time use invoke_many.\n\n"
)
_LONG_ANSWERS: Final = {
    "anthropic/alwaysLoad": True,
    "anthropic/maxResultSizeChars": RESULT_LIMIT,
}
_HARMLESS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_ENTRIES: Final[Mapping[str, _Entry]] = {
    "invoke": _Entry(
        "Invoke an agent",
        _INVOKE,
        Invoke,
        invoke,
        ToolAnnotations(),
        _LONG_ANSWERS,
    ),
    "invoke_many": _Entry(
        "Invoke agents side by side",
        "Delegate several tasks at once, to the same agent or to different ones, and get all "
        "their answers together, each under a heading. The tasks run at the same time; one that "
        "fails does not stop the others. The agents are listed in the description of invoke.",
        InvokeMany,
        invoke_many,
        ToolAnnotations(),
        _LONG_ANSWERS,
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
        _HARMLESS,
    ),
    "stats": _Entry(
        "Accounts of the pool",
        "What happened since the server started, as a JSON object: tasks, failures, seconds, "
        "tokens and cost of each agent and in all, processes started, resets, and why workers "
        "went. For the workers as they are now use list.",
        Nothing,
        _stats,
        _HARMLESS,
    ),
    "reset": _Entry(
        "Reset an agent",
        "Stop all worker processes of an agent, a running task included; the next invoke starts "
        "a fresh one. For an agent that hangs or holds too much memory: contexts are cleared "
        "between tasks, and edited definitions are read, without it. With a conversation it ends "
        "that one and stops nothing else.",
        Reset,
        _reset,
        ToolAnnotations(destructive_hint=True, idempotent_hint=True, open_world_hint=False),
    ),
}
