"""The fields of a definition without effect are named, with the reason and the closest field."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from agent_pool import ConfigError, load_settings
from agent_pool.agents import Projects
from agent_pool.claude.unsupported import unsupported_fields
from support.project import TempProject

Look = Callable[..., dict[str, str]]


@pytest.fixture
def look(project: TempProject) -> Look:
    """Return a function that finds the fields without effect in a definition with these fields."""

    def look(settings: dict[str, Any] | None = None, **fields: str) -> dict[str, str]:
        project.agent("one", **fields)
        project.trust()
        environ = {"HOME": str(project.home), "CLAUDE_CONFIG_DIR": str(project.home / ".claude")}
        loaded = load_settings(environ, project_dir=project.root, **(settings or {}))
        place = Projects(loaded, environ).default
        return unsupported_fields(place.catalog.find("one"), place)

    return look


def test_fields_that_have_an_effect_are_not_named(look: Look) -> None:
    fields = {
        "description": "d",
        "tools": "Read, Bash, mcp__own",
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
        ("background", "true", "runs in the background of its caller"),
        ("isolation", "remote", "only worktree has an effect"),
        ("memory", "user", "without memories"),
        ("initialPrompt", "hi", "starts with the task"),
        ("experimental", "{cacheTtl: 1h}", "no option"),
        ("effort", "7", "low, medium, high, xhigh, max"),
    ],
)
def test_fields_without_effect_in_a_pool_are_named(
    look: Look, field: str, value: str, why: str
) -> None:
    ((key, said),) = look(**{field: value}).items()
    assert key == field
    assert why in said


def test_a_permission_mode_above_the_ceiling_is_named(look: Look) -> None:
    ceiling = {"permission_ceiling": "default"}
    assert "no more than default" in look(ceiling, permissionMode="auto")["permissionMode"]
    assert look(ceiling, permissionMode="plan") == {}
    assert look(ceiling, permissionMode="ask") == {}


def test_permission_rules_without_effect_are_named(look: Look) -> None:
    assert "Bash(git *)" in look(tools="Read, Bash(git *)")["tools"]
    assert look(tools="Read, Bash(git *)", permissionMode="dontAsk") == {}


def test_a_server_without_a_named_tool_is_reported(look: Look) -> None:
    own = json.dumps([{"own": {"command": "x"}}])
    said = look(tools="Read", mcpServers=own)
    assert said == {
        "mcpServers": "the MCP server own is left out: tools names none of its tools; add mcp__own"
    }
    assert look(tools="mcp__own", mcpServers=own) == {}
    assert look(tools="mcp__own__a", mcpServers=own) == {}
    assert look(mcpServers=own) == {}


def test_a_tool_of_an_unknown_server_is_named(look: Look) -> None:
    assert "name its server in mcpServers" in look(tools="Read, mcp__gone__a")["tools"]


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
def test_an_unknown_key_is_named_with_the_closest_field(look: Look, key: str, meant: str) -> None:
    assert look(**{key: "x"}) == {key: f"no such field (did you mean {meant}?)"}


def test_an_unknown_key_without_a_close_field_gets_no_hint(look: Look) -> None:
    assert look(zebra="x") == {"zebra": "no such field"}
