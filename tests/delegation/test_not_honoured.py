"""What of a definition has no effect is named, with the reason and with what was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agent_pool import Catalog, ConfigError, load_settings, not_honoured
from support import Project

Look = Callable[..., dict[str, str]]


@pytest.fixture
def look(project: Project) -> Look:
    """What `not_honoured` says of a definition with these fields."""

    def look(settings: dict[str, Any] | None = None, **fields: str) -> dict[str, str]:
        project.agent("one", **fields)
        environ = {"HOME": str(project.home), "CLAUDE_CONFIG_DIR": str(project.home / ".claude")}
        loaded = load_settings(environ, project_dir=project.root, **(settings or {}))
        return not_honoured(Catalog(loaded, environ).find("one"), loaded, environ)

    return look


def test_what_can_be_honoured_is_not_named(look: Look) -> None:
    fields = {
        "description": "d",
        "tools": "Read, Bash",
        "disallowedTools": "Write",
        "model": "haiku",
        "effort": "low",
        "permissionMode": "acceptEdits",
        "maxTurns": "3",
        "color": "blue",
        "omitClaudeMd": "true",
        "hooks": '{"Stop": [{"hooks": [{"type": "command", "command": "true"}]}]}',
        "mcpServers": '[{"own": {"command": "x"}}]',
    }
    assert look(**fields) == {}


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("background", "true", "beside its caller"),
        ("isolation", "worktree", "project's folder"),
        ("memory", "user", "nothing remembered"),
        ("initialPrompt", "hi", "begins with the task"),
        ("experimental", "{cacheTtl: 1h}", "no option"),
        ("effort", "7", "low, medium, high, xhigh, max"),
    ],
)
def test_what_means_nothing_in_a_pool_is_named(
    look: Look, field: str, value: str, why: str
) -> None:
    ((key, said),) = look(**{field: value}).items()
    assert key == field
    assert why in said


def test_a_mode_above_the_ceiling_is_named(look: Look) -> None:
    ceiling = {"permission_ceiling": "default"}
    assert "no more than default" in look(ceiling, permissionMode="auto")["permissionMode"]
    assert look(ceiling, permissionMode="plan") == {}
    assert look(ceiling, permissionMode="ask") == {}


def test_rules_are_named_where_they_bind_nothing(look: Look) -> None:
    assert "Bash(git *)" in look(tools="Read, Bash(git *)")["tools"]
    assert look(tools="Read, Bash(git *)", permissionMode="dontAsk") == {}


def test_a_tool_of_a_server_brings_all_of_its_tools(look: Look) -> None:
    own = json.dumps([{"own": {"command": "x"}}])
    assert "all tools of the MCP server own" in look(tools="mcp__own__a", mcpServers=own)["tools"]
    assert look(tools="mcp__own", mcpServers=own) == {}


def test_a_tool_of_a_server_that_is_not_there_is_named(look: Look) -> None:
    assert "name it in mcpServers" in look(tools="Read, mcp__gone__a")["tools"]


def test_a_server_that_is_configured_nowhere_is_an_error(look: Look) -> None:
    with pytest.raises(ConfigError, match="'gone'"):
        look(mcpServers="[gone]")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("allowed-tools", "tools"),
        ("allowedTools", "tools"),
        ("disallowed_tools", "disallowedTools"),
        ("max_turns", "maxTurns"),
        ("permisionMode", "permissionMode"),
    ],
)
def test_an_unknown_key_is_named_with_what_was_meant(look: Look, key: str, meant: str) -> None:
    assert look(**{key: "x"}) == {key: f"no such field (did you mean {meant}?)"}


def test_an_unknown_key_like_no_other_is_named_alone(look: Look) -> None:
    assert look(zebra="x") == {"zebra": "no such field"}
