"""Which folder's trust counts for a project, and whose programs need it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent_pool import ConfigError, load_settings
from agent_pool.agents import Agent, Projects
from agent_pool.claude.mcp_config import AgentServers, McpConfig
from agent_pool.claude.trust import permitted_agent, project_key
from support.project import TempProject

HOOKS = '{"Stop":[]}'
INLINE = '{"own":{"command":"x"}}'


def make_agent(path: Path, **fields: Any) -> Agent:
    return Agent(name="one", description="", prompt="p", path=path, **fields)


def place(project: TempProject, **settings: Any) -> Any:
    environ = {"HOME": str(project.home), "CLAUDE_CONFIG_DIR": str(project.home / ".claude")}
    return Projects(load_settings(environ, project_dir=project.root, **settings), environ).default


# The folder that counts


def test_a_folder_outside_a_repository_counts_itself(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    assert project_key(link) == str(tmp_path.resolve())


def test_a_folder_of_a_repository_counts_as_its_root(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert project_key(inner) == str(tmp_path.resolve())


def test_a_worktree_counts_as_the_main_one_but_a_submodule_does_not(tmp_path: Path) -> None:
    main, tree, module = (tmp_path / name for name in ("main", "tree", "main/module"))
    (main / ".git" / "worktrees" / "tree").mkdir(parents=True)
    for folder in (tree, module):
        folder.mkdir()
    (tree / ".git").write_text(f"gitdir: {main}/.git/worktrees/tree\n")
    (module / ".git").write_text("gitdir: ../.git/modules/module\n")
    assert project_key(tree) == str(main.resolve())
    assert project_key(module) == str(module.resolve())


# The programs


@pytest.mark.parametrize("trusted", ["parent", "root", None])
def test_only_trust_in_the_project_itself_permits_its_programs(
    project: TempProject, trusted: str | None
) -> None:
    if trusted is not None:
        project.trust(project.root.parent if trusted == "parent" else None)
    agent = make_agent(
        project.root / ".claude" / "agents" / "one.md", hooks=HOOKS, mcp_servers=(INLINE, '"db"')
    )
    permitted = permitted_agent(agent, place(project))
    if trusted == "root":
        assert permitted == agent
    else:
        assert (permitted.hooks, permitted.mcp_servers) == (None, ('"db"',))


@pytest.mark.parametrize("folder", ["home/.claude/agents", "elsewhere"])
def test_programs_of_agents_outside_the_project_need_no_trust(
    project: TempProject, folder: str
) -> None:
    agent = make_agent(project.root.parent / folder / "one.md", hooks=HOOKS)
    chosen = project.root.parent / "elsewhere"
    assert permitted_agent(agent, place(project, agents_dir=chosen)) == agent


def test_programs_of_an_agent_above_the_project_need_trust(project: TempProject) -> None:
    path = project.root.parent / ".claude" / "agents" / "one.md"
    assert permitted_agent(make_agent(path, hooks=HOOKS), place(project)).hooks is None


def test_an_unreadable_state_file_is_an_error_only_if_needed(project: TempProject) -> None:
    project.trust()
    (project.home / ".claude" / ".claude.json").write_text("{")
    path = project.root / ".claude" / "agents" / "one.md"
    assert permitted_agent(make_agent(path), place(project)) == make_agent(path)
    with pytest.raises(ConfigError, match=r"\.claude\.json: cannot be read as JSON"):
        permitted_agent(make_agent(path, hooks=HOOKS), place(project))


# Disabled servers


@pytest.fixture
def find(project: TempProject) -> Callable[..., AgentServers]:
    """Return a function that finds the servers of an agent, given what the user has stored."""

    def find(stored: dict[str, Any], entry: dict[str, Any], **fields: Any) -> AgentServers:
        shared = {"mcpServers": {"both": {"command": "of-the-project"}, "shared": {"command": "x"}}}
        (project.root / ".mcp.json").write_text(json.dumps(shared))
        state = project.home / ".claude" / ".claude.json"
        state.parent.mkdir(exist_ok=True)
        state.write_text(json.dumps({**stored, "projects": {str(project.root.resolve()): entry}}))
        return McpConfig(place(project)).find(make_agent(project.root / "one.md", **fields))

    return find


USER = {"mcpServers": {"both": {"command": "of-the-user"}, "mine": {"command": "x"}}}


def test_the_users_server_replaces_a_disabled_one_of_the_project(
    find: Callable[..., AgentServers],
) -> None:
    found = find(USER, {"disabledMcpjsonServers": ["both"]}, mcp_servers=('"both"',))
    assert found.started["both"]["command"] == "of-the-user"
    assert found.disabled == {}


@pytest.mark.parametrize(
    ("key", "server"), [("disabledMcpServers", "mine"), ("disabledMcpjsonServers", "shared")]
)
@pytest.mark.parametrize("by", ["name", "tool"])
def test_servers_that_the_user_disabled_here_are_left_out(
    find: Callable[..., AgentServers], key: str, server: str, by: str
) -> None:
    asked: dict[str, Any] = {"mcp_servers": (f'"{server}"',)}
    if by == "tool":
        asked = {"tools": (f"mcp__{server}__query",)}
    found = find(USER, {key: [server]}, **asked)
    assert (dict(found.started), [*found.disabled]) == ({}, [server])
    assert [*find(USER, {key: ["other"]}, **asked).started] == [server]


def test_inherited_servers_keep_all_tools_unless_one_is_named(
    find: Callable[..., AgentServers], project: TempProject
) -> None:
    find(USER, {})
    agent = make_agent(project.root / "one.md", tools=("Read", "mcp__mine__query"))
    found = McpConfig(place(project, inherit="mcp")).find(agent)
    assert sorted(found.started) == ["both", "mine", "shared"]
    assert sorted(found.tools or ()) == ["mcp__both", "mcp__mine__query", "mcp__shared"]
