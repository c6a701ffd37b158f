"""The tools: their declarations for clients, and what each call does."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    Tool,
    ToolAnnotations,
)

from agent_pool import AgentList, AgentPoolError, PoolAPI
from agent_pool.mcp import results
from agent_pool.mcp.agent_list import AgentNames
from agent_pool.mcp.agent_search import find_agents
from agent_pool.mcp.answers import CLAUDE_LIMIT
from agent_pool.mcp.background import fetch_result
from agent_pool.mcp.calls import Caller
from agent_pool.mcp.delegation import invoke, invoke_many
from agent_pool.mcp.tool_arguments import (
    AgentArguments,
    AgentsArguments,
    BackgroundArguments,
    InvokeManyArguments,
    NoArguments,
    ReadAnswerArguments,
    ResetArguments,
    ResultArguments,
    ToolArguments,
)
from agent_pool.mcp.tool_list import list_tools
from agent_pool.text import bytes_text, count, did_you_mean, one_line

DELEGATING: Final = frozenset({"invoke", "invoke_many"})
"""The tools that take as long as an agent's task."""
ANSWERING: Final = DELEGATING | {"result"}
"""The tools whose answers are those of agents, and can be long."""

logger = logging.getLogger(__name__)

Listing = AgentList | Exception
"""The agents, or why they cannot be listed."""


async def call_tool(
    pool: PoolAPI, name: str, arguments: Mapping[str, Any] | None, caller: Caller
) -> CallToolResult:
    """Carry out one call; all failures but an unknown tool are tool errors, for the model to read.

    Raises:
        MCPError: there is no such tool.
    """
    entry = _ENTRIES.get(name)
    if entry is None:
        hint = did_you_mean(name, _ENTRIES, most=1) or f"; the tools are {', '.join(_ENTRIES)}"
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {name}{hint}")
    try:
        return await entry.run(pool, entry.arguments.read(name, arguments), caller)
    except AgentPoolError as error:
        return results.error_result(error)
    except Exception as error:
        logger.exception("bug: the tool %s failed", name)
        return results.error_result(error)


def is_in_background(params: CallToolRequestParams) -> bool:
    """Return whether a call is to be answered before its task has ended."""
    return params.name == "invoke" and (params.arguments or {}).get("background") is True


def called_agents(arguments: Mapping[str, Any] | None) -> str:
    """Return the agents of a delegating call, for a person: ``reviewer+writer``.

    The arguments need not be valid.
    """
    given = arguments or {}
    tasks = given.get("tasks", [given])
    calls = tasks if isinstance(tasks, list) else []
    names = (one.get("agent") for one in calls if isinstance(one, dict))
    return "+".join(dict.fromkeys(one_line(name) for name in names if isinstance(name, str)))


def declare(found: Listing, limit: int) -> list[Tool]:
    """Return the tools as clients see them, with the agents in the description of `invoke`.

    Args:
        found: the agents, or why they cannot be listed.
        limit: the most characters of a description.
    """
    return [Tool.model_validate(tool) for tool in list_tools(_names_of(found), limit)]


def _names_of(found: Listing) -> AgentNames | Exception:
    if isinstance(found, Exception):
        return found
    usable = [(agent.name, agent.description) for agent in found.usable]
    return AgentNames(usable, [agent.name for agent in found.broken])


def static_tools() -> list[dict[str, Any]]:
    """Return the content of `tools.json`: the tools in the form of the protocol, without agents."""
    return [
        Tool(
            name=name,
            title=entry.title,
            description=entry.description,
            input_schema=entry.arguments.schema_for_clients(),
            annotations=entry.annotations,
            _meta=entry.meta,
        ).model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, entry in _ENTRIES.items()
    ]


async def _agents(pool: PoolAPI, call: AgentsArguments, _: Caller) -> CallToolResult:
    return results.text_result(find_agents(await pool.agents(project=call.cwd), call.query or ""))


async def _read_answer(_: PoolAPI, call: ReadAnswerArguments, caller: Caller) -> CallToolResult:
    return results.text_result(caller.answers.read(call.answer, call.start))


async def _warmup(pool: PoolAPI, call: AgentArguments, _: Caller) -> CallToolResult:
    worker = await pool.warmup(call.agent)
    memory = bytes_text(worker.rss)
    return results.text_result(
        f"{call.agent} is warm: worker {worker.worker}, pid {worker.pid}, {worker.state}, {memory}."
    )


async def _list(pool: PoolAPI, _: NoArguments, __: Caller) -> CallToolResult:
    return results.workers_result(await pool.workers())


async def _stats(pool: PoolAPI, _: NoArguments, __: Caller) -> CallToolResult:
    return results.stats_result(await pool.stats())


async def _reset(pool: PoolAPI, call: ResetArguments, _: Caller) -> CallToolResult:
    if call.conversation is not None:
        return await _end_conversation(pool, call.agent, call.conversation)
    stopped = await pool.reset(call.agent)
    if stopped == 0:
        return results.text_result(f"{call.agent} had no worker; the next invoke starts one.")
    return results.text_result(
        f"Stopped {count(stopped, 'worker')} of {call.agent}; the next invoke starts a new one."
    )


async def _end_conversation(pool: PoolAPI, agent: str, conversation: str) -> CallToolResult:
    if await pool.end_conversation(agent, conversation):
        return results.text_result(f"The conversation {conversation!r} with {agent} has ended.")
    return results.text_result(f"There is no conversation {conversation!r} with {agent}.")


@dataclass(frozen=True, slots=True)
class _ToolEntry:
    title: str
    description: str
    arguments: type[ToolArguments]
    run: Callable[[PoolAPI, Any, Caller], Awaitable[CallToolResult]]
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
    "anthropic/maxResultSizeChars": CLAUDE_LIMIT,
}
_HARMLESS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_ENTRIES: Final[Mapping[str, _ToolEntry]] = {
    "invoke": _ToolEntry(
        "Invoke an agent",
        _INVOKE,
        BackgroundArguments,
        invoke,
        ToolAnnotations(),
        _LONG_ANSWERS,
    ),
    "invoke_many": _ToolEntry(
        "Invoke agents side by side",
        "Delegate several tasks at once, to the same agent or to different ones, and get all "
        "their answers together, each under a heading. The tasks run at the same time; one that "
        "fails does not stop the others. The agents are listed in the description of invoke.",
        InvokeManyArguments,
        invoke_many,
        ToolAnnotations(),
        _LONG_ANSWERS,
    ),
    "result": _ToolEntry(
        "Get the answer of a task",
        "The answer of a task that runs in the background, by its id. If it has not ended after "
        "wait_seconds, the answer says what it does now.",
        ResultArguments,
        fetch_result,
        _HARMLESS,
        _LONG_ANSWERS,
    ),
    "agents": _ToolEntry(
        "Find agents",
        "The agents that invoke can call, each with its whole description. With a query, only "
        "those whose name or description has all of its words. Use it if the description of "
        "invoke has no room for all of them.",
        AgentsArguments,
        _agents,
        _HARMLESS,
        {"anthropic/maxResultSizeChars": CLAUDE_LIMIT},
    ),
    "read_answer": _ToolEntry(
        "Read a long answer",
        "A part of a long answer of invoke or invoke_many, up to 10,000 characters. Use it if the "
        "first line of an answer names more characters than you see.",
        ReadAnswerArguments,
        _read_answer,
        _HARMLESS,
    ),
    "warmup": _ToolEntry(
        "Warm up an agent",
        "Start a worker process of an agent in advance, so that its next task starts at once. "
        "You never need it: invoke starts a worker by itself.",
        AgentArguments,
        _warmup,
        ToolAnnotations(destructive_hint=False, idempotent_hint=True, open_world_hint=False),
    ),
    "list": _ToolEntry(
        "List workers",
        "The worker processes that run now, as a JSON array: agent name and description, "
        "worker, state, pid, tasks done, memory of the process tree, uptime, tokens, cost, and a "
        "profile, equal for workers that can serve the same agents. "
        "The agents that can be called are in the description of invoke.",
        NoArguments,
        _list,
        _HARMLESS,
    ),
    "stats": _ToolEntry(
        "Statistics of the pool",
        "The figures since the server started, as a JSON object: tasks, failures, seconds, tokens "
        "and cost of each agent and in total, processes started, resets, and why workers were "
        "retired. For the workers as they are now use list.",
        NoArguments,
        _stats,
        _HARMLESS,
    ),
    "reset": _ToolEntry(
        "Reset an agent",
        "Stop all worker processes of an agent, including one that runs a task; the next invoke "
        "starts a new one. Use it for an agent that hangs or holds too much memory. You do not "
        "need it to clear contexts between tasks or to read edited definitions. With a "
        "conversation it only ends that conversation.",
        ResetArguments,
        _reset,
        ToolAnnotations(destructive_hint=True, idempotent_hint=True, open_world_hint=False),
    ),
}
