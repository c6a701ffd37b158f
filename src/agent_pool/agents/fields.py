"""The frontmatter keys of an agent, and how the value of each is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from agent_pool.agents.names import check_name

EFFORTS: Final = ("low", "medium", "high", "xhigh", "max")
PERMISSION_MODES: Final = (
    "default",
    "acceptEdits",
    "auto",
    "dontAsk",
    "bypassPermissions",
    "plan",
    "ask",  # of this package: `default`, with the request put to a person
)
MEMORY_SCOPES: Final = ("user", "project", "local")
ISOLATIONS: Final = ("worktree", "remote")
CACHE_TTLS: Final = ("5m", "1h")
MCP_TRANSPORTS: Final = ("stdio", "http", "sse", "ws")

_TOOL = re.compile(r"[\w*][\w*.-]*(\(.*\))?")
_SEPARATOR = re.compile(r"[,\s]")


def canonical(value: Any) -> str:
    """JSON with one spelling for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _expected(what: str, value: Any) -> ValueError:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return ValueError(f"expected {what}, found {shown if len(shown) <= 60 else shown[:59] + '…'}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _expected("text (put it in quotes)", value)
    return value.strip()


def read_name(value: Any) -> str:
    """The name of an agent.

    Raises:
        ValueError: it is not text, or not a name that Claude Code and a folder can hold.
    """
    name = _text(value)
    check_name(name)
    if name.startswith("-") or ":" in name:
        raise ValueError(f"{name!r} may not begin with a dash or hold a colon")
    return name


def _description(value: Any) -> str:
    return _text(value).replace("\\n", "\n")  # descriptions written by Claude Code hold these two


def _names(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise _expected("a list of names, or names with commas between", value)
    names = tuple(dict.fromkeys(item.strip() for item in items if item.strip()))
    for name in names:
        check_name(name)
    return names


def _split_tools(text: str) -> Iterator[str]:
    """The tools in `text`, apart by commas or blanks; those in parentheses belong to their tool."""
    depth, tool = 0, ""
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth == 0 and _SEPARATOR.match(character):
            yield tool
            tool = ""
        else:
            tool += character
    yield tool


def _tool_list(value: Any) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise _expected("a list of tools, or tools with commas between", value)
    tools = tuple(dict.fromkeys(tool for item in items for tool in _split_tools(item) if tool))
    for tool in tools:
        if not (_TOOL.fullmatch(tool) and tool.isprintable()):
            raise ValueError(f"{tool!r} is not a tool's name, such as Read or Bash(git log:*)")
    return tools


def _tools(value: Any) -> tuple[str, ...] | None:
    if value is None:
        raise ValueError("empty; name the tools, write [] for none, or leave it out for all")
    tools = _tool_list(value)
    return None if "*" in tools else tools


def _model(value: Any) -> str | None:
    model = _text(value)
    if not model.isprintable() or model.startswith("-"):
        raise _expected("a model, such as opus or claude-opus-5", value)
    return None if model.lower() in {"", "inherit"} else model


def _effort(value: Any) -> str:
    level = str(value).strip().lower()
    if level not in EFFORTS and not re.fullmatch(r"[0-9]{1,9}", level):
        raise _expected(f"{', '.join(EFFORTS)} or a whole number", value)
    return level


def _permission_mode(value: Any) -> str:
    return "default" if value == "manual" else _one_of(PERMISSION_MODES)(value)


def _max_turns(value: Any) -> int:
    digits = str(value).strip()
    if not re.fullmatch(r"[0-9]{1,9}", digits) or int(digits) == 0:
        raise _expected("a whole number above 0", value)
    return int(digits)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return _one_of(("true", "false"))(value) == "true"


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise _expected(" or ".join(choices), value)
        return str(value)

    return read


def _mcp_servers(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    servers: list[Any] = []
    for item in items if isinstance(items, list) else [items]:
        if isinstance(item, str):
            servers.append(_server_name(item))
        elif isinstance(item, dict):
            servers += [{_server_name(name): _server(name, item[name])} for name in item]
        else:
            raise _expected("names of MCP servers, or `name: {command: …}`", value)
    return tuple(dict.fromkeys(canonical(server) for server in servers))


def _server_name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise _expected("the name of an MCP server", name)
    return name.strip()


def _server(name: str, config: Any) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise _expected(f"a mapping with `command` or `url` under {name!r}", config)
    where = config.get("command", config.get("url"))
    if not isinstance(where, str) or config.get("type", "stdio") not in MCP_TRANSPORTS:
        transports = ", ".join(MCP_TRANSPORTS)
        raise _expected(f"`command` or `url`, and `type` one of {transports}", config)
    return config


def _hooks(value: Any) -> str:
    groups = value.values() if isinstance(value, dict) else [None]
    if not all(isinstance(group, list) and all(map(_is_matcher, group)) for group in groups):
        raise _expected("for each event a list of `matcher` and `hooks`", value)
    return canonical(value)


def _is_matcher(value: Any) -> bool:
    hooks = value.get("hooks") if isinstance(value, dict) else None
    return isinstance(hooks, list) and all(
        isinstance(hook, dict) and isinstance(hook.get("type"), str) for hook in hooks
    )


def _cache_ttl(value: Any) -> str | None:
    if not isinstance(value, dict):
        raise _expected("a mapping", value)
    ttl = value.get("cacheTtl")
    return None if ttl is None else _one_of(CACHE_TTLS)(ttl)


FIELDS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = MappingProxyType(
    {
        "name": ("name", read_name),
        "description": ("description", _description),
        "skills": ("skills", _names),
        "expertise": ("expertise", _names),
        "tools": ("tools", _tools),
        "disallowedTools": ("disallowed_tools", _tool_list),
        "model": ("model", _model),
        "effort": ("effort", _effort),
        "permissionMode": ("permission_mode", _permission_mode),
        "maxTurns": ("max_turns", _max_turns),
        "mcpServers": ("mcp_servers", _mcp_servers),
        "hooks": ("hooks", _hooks),
        "memory": ("memory", _one_of(MEMORY_SCOPES)),
        "background": ("background", _flag),
        "isolation": ("isolation", _one_of(ISOLATIONS)),
        "color": ("color", _text),
        "initialPrompt": ("initial_prompt", _text),
        "omitClaudeMd": ("omit_claude_md", _flag),
        "experimental": ("cache_ttl", _cache_ttl),
    }
)
"""Each frontmatter key that means something, the attribute it becomes, and how it is read."""
