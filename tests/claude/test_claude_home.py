"""The folder of Claude Code's own files, found by the environment that the package is given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent_pool import Settings, load_settings
from agent_pool.agents import Project, Projects
from agent_pool.claude.mcp_config import McpConfig
from agent_pool.settings import claude_home


@pytest.fixture(autouse=True)
def other_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let this process have a home folder of its own, which the environment does not name."""
    folder = tmp_path / "other-home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    (folder / ".claude" / "agents").mkdir(parents=True)
    return folder


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Project:
    (tmp_path / "project").mkdir()
    return Projects(Settings(project_dir=tmp_path / "project"), {"HOME": str(home)}).default


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"CLAUDE_CONFIG_DIR": "/config", "HOME": "/home/me"}, "/config"),
        ({"HOME": "/home/me"}, "/home/me/.claude"),
        ({"CLAUDE_CONFIG_DIR": "", "HOME": "/home/me"}, "/home/me/.claude"),
    ],
)
def test_the_given_environment_names_the_folder_of_claude_code(
    environ: dict[str, str], folder: str
) -> None:
    assert claude_home(environ) == Path(folder)


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"CLAUDE_CONFIG_DIR": ""}])
def test_the_home_of_the_process_counts_if_none_is_given(
    environ: dict[str, str], other_home: Path
) -> None:
    assert claude_home(environ) == other_home / ".claude"


def test_agents_in_the_home_of_the_given_environment_are_found(
    home: Path, project: Project
) -> None:
    path = home / ".claude" / "agents" / "mine.md"
    path.write_text("---\nname: mine\n---\nYou test.\n")
    assert project.catalog.find("mine").path == path


def test_mcp_servers_in_the_home_of_the_given_environment_are_found(
    home: Path, project: Project
) -> None:
    server = {"url": "http://127.0.0.1:9/mcp"}
    (home / ".claude.json").write_text(json.dumps({"mcpServers": {"mine": server}}))
    path = home / ".claude" / "agents" / "mine.md"
    path.write_text("---\nname: mine\nmcpServers: [mine]\n---\nYou test.\n")
    agent = project.catalog.find("mine")
    assert McpConfig(project).find(agent).started == {"mine": server}


def test_the_settings_file_in_the_home_of_the_environment_is_read(home: Path) -> None:
    (home / ".claude" / "agent-pool.toml").write_text("max_size = 7\n")
    assert load_settings({"HOME": str(home)}).max_size == 7
