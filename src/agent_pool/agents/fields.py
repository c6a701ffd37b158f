"""The fields of an agent's frontmatter, and a parser for the value of each.

A parser takes a value of JSON's types. It raises ValueError with the expected and the found value;
the caller adds the file, the line and the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from agent_pool.agents.names import check_agent_name, check_name
from agent_pool.text import did_you_mean

EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
PERMISSION_MODES: Final = (
    "default",
    "acceptEdits",
    "auto",
    "dontAsk",
    "bypassPermissions",
    "plan",
    # Not a mode of Claude Code: the pool starts it as `default` and forwards requests to a person.
    "ask",
)
MEMORY_SCOPES: Final = ("user", "project", "local")
ISOLATIONS: Final = ("worktree", "remote")
CACHE_TTLS: Final = ("5m", "1h")
WORKER_MEMORIES: Final = ("lean", "fast")
MCP_TRANSPORTS: Final = ("stdio", "http", "sse", "ws")
MAX_SHOWN_CHARACTERS: Final = 60
"""Longer values are cut in messages."""

KNOWN_TOOLS: Final = frozenset(
    {
        *("Agent", "AskUserQuestion", "Bash", "BashOutput", "CronCreate", "CronDelete", "CronList"),
        *("Edit", "EnterPlanMode", "EnterWorktree", "ExitPlanMode", "ExitWorktree", "Glob", "Grep"),
        *("KillShell", "LS", "LSP", "ListAgents", "ListMcpResourcesTool", "Monitor", "MultiEdit"),
        *("NotebookEdit", "NotebookRead", "PowerShell", "ProposeGoal", "PushNotification", "Read"),
        *("ReadMcpResourceTool", "RemoteTrigger", "ReportFindings", "RunWorkflow", "SendMessage"),
        *("ScheduleWakeup", "SetGoal", "Skill", "SlashCommand", "StructuredOutput", "Task"),
        *(
            "TaskCreate",
            "TaskGet",
            "TaskList",
            "TaskOutput",
            "TaskStop",
            "TaskUpdate",
            "TeamCreate",
        ),
        *("TeamDelete", "TodoWrite", "ToolSearch", "WebFetch", "WebSearch", "Workflow", "Write"),
    }
)
"""Tools of Claude Code up to 2.1.332; some exist only in old versions, or with certain settings."""

_TOOL = re.compile(r"[\w*][\w*.-]*(\(.*\))?")
_TOOL_SEPARATOR = re.compile(r"[,\s]")


def to_canonical_json(value: Any) -> str:
    """Return `value` as JSON; equal values give the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _build_error(expected: str, found: Any, advice: str = "") -> ValueError:
    """Build the error "expected …, found …", with advice after a semicolon if there is any."""
    shown = json.dumps(found, ensure_ascii=False, default=str)
    if len(shown) > MAX_SHOWN_CHARACTERS:
        shown = shown[: MAX_SHOWN_CHARACTERS - 1] + "…"
    return ValueError(f"expected {expected}, found {shown}{advice and f'; {advice}'}")


def _parse_text(value: Any) -> str:
    """Return a text without white space around it."""
    if not isinstance(value, str):
        raise _build_error("text", value, "put it in quotes")
    return value.strip()


def parse_agent_name(value: Any) -> str:
    """Return the name of an agent; raise ValueError if it cannot be one (`check_agent_name`)."""
    if not isinstance(value, str):
        raise _build_error("text", value, "put it in quotes")
    # Blanks at its ends, written in quotes, belong to the name (2.1.332).
    check_agent_name(value)
    return value


def _parse_description(value: Any) -> str:
    r"""Return a description; each ``\n`` of two characters becomes a line break."""
    # The descriptions that Claude Code generates contain these two characters, and 2.1.332 shows
    # them as a line break.
    return _parse_text(value).replace("\\n", "\n")


def _parse_names(value: Any) -> tuple[str, ...]:
    """Return names from a list or from text with commas, each name once."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise _build_error("a list of names, or names separated by commas", value)
    names = tuple(dict.fromkeys(item.strip() for item in items if item.strip()))
    for name in names:
        # Each name becomes a part of a path.
        check_name(name)
    return names


def _parse_skills(value: Any) -> tuple[str, ...]:
    """Return the names of skills, separated by commas or blanks, each once."""
    items = value if isinstance(value, list) else [value]
    words = [item for item in items if isinstance(item, str)]
    # A value of another kind names no skill (2.1.332). A name need not be one: then the skill is
    # missing, which is a warning.
    return tuple(dict.fromkeys(name for word in words for name in _split_tools(word) if name))


def dropped_skills(value: Any) -> str:
    """Return which items of `skills`, which `_parse_skills` accepts, are ignored."""
    items = value if isinstance(value, list) else [value]
    wrong = [json.dumps(item, default=str) for item in items if not isinstance(item, str)]
    return f"no name of a skill: {', '.join(wrong)}" if wrong else ""


def _split_tools(text: str) -> Iterator[str]:
    """Yield the tools in `text`, separated by commas or blanks; some of them can be empty."""
    depth, tool = 0, ""
    for character in text:
        depth += (character == "(") - (character == ")")
        # Separators in parentheses belong to the tool: `Agent(a, b)`, `Bash(git log:*)`. Claude
        # Code 2.1.332 splits in the same way.
        if depth == 0 and _TOOL_SEPARATOR.match(character):
            yield tool
            tool = ""
        else:
            tool += character
    yield tool


def _list_tools(value: Any) -> tuple[str, ...]:
    """Return the entries of a list or text of tools, each once."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise _build_error("a list of tools, or tools separated by commas", value)
    return tuple(dict.fromkeys(tool for item in items for tool in _split_tools(item) if tool))


def _can_be_tool(entry: str) -> bool:
    return _TOOL.fullmatch(entry) is not None and entry.isprintable()


def _parse_tool_list(value: Any) -> tuple[str, ...]:
    """Return tools and rules such as ``Bash(git log:*)`` from a list or text, each once."""
    tools = _list_tools(value)
    for tool in tools:
        if not _can_be_tool(tool):
            raise _build_error("the name of a tool, such as Read or Bash(git log:*)", tool)
    return tools


def _list_given_tools(value: Any) -> list[str]:
    """Return the texts in the value of `tools`; a value of another kind names no tool."""
    items = value if isinstance(value, list) else [value]
    return [tool for item in items if isinstance(item, str) for tool in _split_tools(item) if tool]


def _parse_tools(value: Any) -> tuple[str, ...] | None:
    """Return the tools that an agent can use, None for all."""
    given = _list_given_tools(value)
    # Claude Code drops a name that no tool can have (2.1.332).
    tools = tuple(dict.fromkeys(filter(_can_be_tool, given)))
    if given and not any(map(_can_exist, tools)):
        # Claude Code does not start such an agent as a sub-agent either (2.1.332).
        raise ValueError(
            f"no such tool: {', '.join(given)}; the agent would have no tools. The names of tools "
            "begin with a capital, such as Read and Bash"
        )
    # Claude Code writes `*` for all tools.
    return None if "*" in tools else tools


def _can_exist(tool: str) -> bool:
    """Return whether a tool can have this name: those of Claude Code begin with a capital."""
    return tool == "*" or tool[0].isupper() or tool.startswith("mcp__")


def doubtful_tools(value: Any) -> str:
    """Return what is doubtful about the value of `tools`, which `_parse_tools` accepts."""
    given = _list_given_tools(value)
    if not given:
        is_meant = value == []
        return (
            "" if is_meant else "it is empty: the agent has no tools; remove the key for all tools"
        )
    dropped = [tool for tool in given if not (_can_be_tool(tool) and _can_exist(tool))]
    dropped += [json.dumps(item, default=str) for item in value if not isinstance(item, str)]
    unknown = [tool for tool in given if tool not in dropped and not _is_known(tool)]
    reasons = [f"no such tool: {', '.join(dropped)}"] if dropped else []
    if unknown:
        # A later version can have it: so it is left to Claude Code, which leaves out what it does
        # not know, and refuses an agent of whose list nothing is left (2.1.332).
        hint = did_you_mean(unknown[0], KNOWN_TOOLS)
        reasons.append(f"not a tool of Claude Code, as far as known: {', '.join(unknown)}{hint}")
    return "; ".join(reasons)


def _is_known(tool: str) -> bool:
    """Return whether a tool is one of `KNOWN_TOOLS`, or of an MCP server, or stands for all."""
    return tool.partition("(")[0] in {*KNOWN_TOOLS, "*"} or tool.startswith("mcp__")


def _parse_model(value: Any) -> str | None:
    """Return a model's alias or id, None for the session's model."""
    model = _parse_text(value)
    # The CLI could take a value that begins with a dash for an option of its own.
    if not model.isprintable() or model.startswith("-"):
        raise _build_error("a model, such as opus or claude-opus-5", value)
    return None if model.lower() in {"", "inherit"} else model


def _parse_effort(value: Any) -> str:
    """Return one of `EFFORTS` or a whole number of up to nine digits, as text."""
    # Claude Code reads `[low]` as `low` (2.1.332).
    given = value[0] if isinstance(value, list) and len(value) == 1 else value
    level = str(given).strip().lower()
    if level not in EFFORTS and not re.fullmatch(r"[0-9]{1,9}", level):
        raise _build_error(f"{', '.join(EFFORTS)} or a whole number", value)
    return level


def _parse_permission_mode(value: Any) -> str:
    """Return one of `PERMISSION_MODES`."""
    # `manual` is another name of `default` in Claude Code.
    return "default" if value == "manual" else _make_choice_parser(PERMISSION_MODES)(value)


def _parse_max_turns(value: Any) -> int:
    """Return a whole number from 1 to 999,999,999, also if it is written in quotes."""
    digits = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,9}", digits) or int(digits) == 0:
        raise _build_error("a whole number above 0", value)
    return int(digits)


def _parse_budget(value: Any) -> float:
    """Return US dollars above 0, also if they are written in quotes."""
    digits = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", digits) or float(digits) == 0:
        raise _build_error("US dollars above 0, such as 0.50", value)
    return float(digits)


def _parse_boolean(value: Any) -> bool:
    """Return a boolean, also if it is written in quotes."""
    # YAML 1.2 has only `true` and `false`; `yes` and `no` are text.
    if isinstance(value, bool):
        return value
    return _make_choice_parser(("true", "false"))(value) == "true"


def _make_choice_parser(choices: tuple[str, ...]) -> Callable[[Any], str]:
    """Return a parser that accepts only these texts, upper and lower case distinguished."""

    def parse(value: Any) -> str:
        if value not in choices:
            raise _build_error(" or ".join(choices), value)
        return str(value)

    return parse


def _parse_mcp_servers(value: Any) -> tuple[str, ...]:
    """Return the canonical JSON of each server: a name, or an object of one name and its server."""
    items = value.split(",") if isinstance(value, str) else value
    servers: list[Any] = []
    for item in items if isinstance(items, list) else [items]:
        if isinstance(item, str):
            servers.append(_parse_server_name(item))
        elif isinstance(item, dict):
            servers += [
                {_parse_server_name(name): _parse_server(name, item[name])} for name in item
            ]
        else:
            raise _build_error("names of MCP servers, or `name: {command: …}`", value)
    return tuple(dict.fromkeys(to_canonical_json(server) for server in servers))


def _parse_server_name(name: str) -> str:
    """Return the name of an MCP server without blanks around it."""
    if not name.strip() or not name.isprintable():
        raise _build_error("the name of an MCP server", name)
    return name.strip()


def _parse_server(name: str, config: Any) -> dict[str, Any]:
    """Return the configuration of the MCP server `name`, unchanged."""
    if not isinstance(config, dict):
        raise _build_error(f"a mapping with `command` or `url` under {name!r}", config)
    target = config.get("command", config.get("url"))
    if not isinstance(target, str) or config.get("type", "stdio") not in MCP_TRANSPORTS:
        transports = ", ".join(MCP_TRANSPORTS)
        raise _build_error(f"`command` or `url`, and `type` one of {transports}", config)
    return config


_STRICT_EVENTS: Final = ("PreToolUse", "PermissionRequest")
"""Claude Code 2.1.332 refuses a file only for a wrong value of these events: their hooks can deny
an action. It ignores wrong values of other events, known or not."""


def _parse_hooks(value: Any) -> str | None:
    """Return the canonical JSON of hooks: lists of matchers by event; None if no event is left."""
    if not isinstance(value, dict):
        raise _build_error("for each event a list of `matcher` and `hooks`", value)
    for event in _STRICT_EVENTS:
        if value.get(event) is not None and not _is_matcher_list(value[event]):
            expected = f"a list of `matcher` and `hooks` for {event}"
            raise _build_error(expected, value[event])
    kept = {event: group for event, group in value.items() if _is_matcher_list(group)}
    return to_canonical_json(kept) if kept else None


def dropped_hooks(value: Any) -> str:
    """Return which events of `hooks`, which `_parse_hooks` accepts, are ignored."""
    wrong = [event for event, group in value.items() if not _is_matcher_list(group)]
    return f"ignored, because no list of `matcher` and `hooks`: {', '.join(wrong)}" if wrong else ""


def _is_matcher_list(value: Any) -> bool:
    """Return whether the value is a list of mappings with `hooks`."""
    return isinstance(value, list) and all(map(_is_matcher, value))


def _is_matcher(value: Any) -> bool:
    """Return whether the value is a mapping with `hooks`, a list of hooks that have a `type`."""
    hooks = value.get("hooks") if isinstance(value, dict) else None
    return isinstance(hooks, list) and all(
        isinstance(hook, dict) and isinstance(hook.get("type"), str) for hook in hooks
    )


def _parse_cache_ttl(value: Any) -> str | None:
    """Return `cacheTtl` from the field `experimental`, None if it is absent."""
    if not isinstance(value, dict):
        raise _build_error("a mapping", value)
    ttl = value.get("cacheTtl")
    return None if ttl is None else _make_choice_parser(CACHE_TTLS)(ttl)


FIELDS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = MappingProxyType(
    {
        "name": ("name", parse_agent_name),
        "description": ("description", _parse_description),
        "skills": ("skills", _parse_skills),
        "expertise": ("expertise", _parse_names),
        "tools": ("tools", _parse_tools),
        "disallowedTools": ("disallowed_tools", _parse_tool_list),
        "model": ("model", _parse_model),
        "effort": ("effort", _parse_effort),
        "permissionMode": ("permission_mode", _parse_permission_mode),
        "maxTurns": ("max_turns", _parse_max_turns),
        "maxBudgetUsd": ("max_budget_usd", _parse_budget),
        "mcpServers": ("mcp_servers", _parse_mcp_servers),
        "hooks": ("hooks", _parse_hooks),
        "memory": ("memory", _make_choice_parser(MEMORY_SCOPES)),
        "background": ("background", _parse_boolean),
        "isolation": ("isolation", _make_choice_parser(ISOLATIONS)),
        "color": ("color", _parse_text),
        "initialPrompt": ("initial_prompt", _parse_text),
        "omitClaudeMd": ("omit_claude_md", _parse_boolean),
        "experimental": ("cache_ttl", _parse_cache_ttl),
        "workerMemory": ("worker_memory", _make_choice_parser(WORKER_MEMORIES)),
    }
)
"""The keys of the frontmatter that have a meaning: the attribute of `Agent`, and the parser."""

WITHOUT_MEANING: Final = frozenset(
    {
        *("background", "color", "effort", "experimental", "initialPrompt", "isolation"),
        *("maxTurns", "memory", "model", "omitClaudeMd"),
    }
)
"""Keys of which Claude Code 2.1.332 ignores a wrong value. It ignores a wrong `permissionMode`,
`disallowedTools` and `mcpServers` too, but here they are errors: an agent would get more rights
than its author wanted, or miss a server."""

REFUSED_BY_POOL: Final = frozenset(
    {
        *("permissionMode", "disallowedTools", "mcpServers", "expertise", "workerMemory"),
        "maxBudgetUsd",
    }
)
"""Keys of which a wrong value is an error here, although Claude Code 2.1.332 loads the file."""
