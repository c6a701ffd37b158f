"""`agent-pool install` and `uninstall` with the real Claude Code CLI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import agent_pool as package
from agent_pool.cli.registration import Scope, hook_command
from support.cli_runner import agent_pool, claude, invoke_in
from support.project import TempProject, file_contents

SCOPES: tuple[Scope, ...] = ("local", "project", "user")
HAND_WRITTEN = '{\r\n\t"model": "opus",\r\n\t"hooks": {"Stop": [],  "Odd": 1e3},\n"z": [1 ,2]}'
SERVERS = '{"mcpServers": {\n    "other": {"command": "x"}\n}}\n'


def settings_file(project: TempProject, scope: Scope) -> Path:
    if scope == "user":
        return project.home / ".claude" / "settings.json"
    name = "settings.local.json" if scope == "local" else "settings.json"
    return project.root / ".claude" / name


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def files(project: TempProject) -> dict[str, bytes]:
    """Return the content of the files that people write, by path."""
    # Not Claude Code's own state: it rewrites that file at every start.
    kept = {"project/" + name: data for name, data in file_contents(project.root).items()}
    user = settings_file(project, "user")
    return {**kept, **({"user": user.read_bytes()} if user.exists() else {})}


def states(project: TempProject, *args: str) -> list[str]:
    """Run a command and return the first word of each step that it reports."""
    done = invoke_in(project, *args)
    assert done.returncode == 0, done.stderr
    return [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")]


@pytest.mark.parametrize(
    "scope", [pytest.param(one, marks=[] if one == "local" else pytest.mark.long) for one in SCOPES]
)
def test_uninstall_restores_the_files_from_before_install_exactly(
    project: TempProject, scope: Scope
) -> None:
    project.agent("one")
    write(settings_file(project, scope), HAND_WRITTEN)
    write(project.root / ".mcp.json", SERVERS)
    before = files(project)
    assert states(project, "install", "--scope", scope) == ["done", "done"]
    assert "Args: -P -m agent_pool serve" in claude(project, "mcp", "get", "agent-pool")
    after = files(project)
    assert states(project, "install", "--scope", scope) == ["unchanged", "unchanged"]
    assert files(project) == after
    settings = json.loads(settings_file(project, scope).read_bytes())
    assert settings == {**json.loads(HAND_WRITTEN), "hooks": _hooks(settings)}
    assert states(project, "uninstall", "--scope", scope) == ["done", "done"]
    assert files(project) == before
    assert "No MCP server named" in claude(project, "mcp", "get", "agent-pool")
    assert states(project, "uninstall", "--scope", scope) == ["unchanged", "unchanged"]


def _hooks(settings: dict[str, Any]) -> dict[str, Any]:
    ours = [{"matcher": "Agent|Task", "hooks": [{"type": "command", "command": hook_command()}]}]
    return {**json.loads(HAND_WRITTEN)["hooks"], "PreToolUse": ours}


@pytest.mark.parametrize("others", [HAND_WRITTEN, '{"permissions": {"allow": ["Read"]}}', "{}\n"])
def test_uninstall_also_takes_back_the_rule_of_install_allow(
    project: TempProject, others: str
) -> None:
    write(settings_file(project, "project"), others)
    before = files(project)
    options = ("--scope", "project", "--allow")
    assert states(project, "install", *options) == ["done", "done", "done"]
    settings = json.loads(settings_file(project, "project").read_bytes())
    assert settings["permissions"]["allow"][-1] == "mcp__agent-pool"
    assert "PreToolUse" in settings["hooks"]
    assert states(project, "install", *options) == ["unchanged", "unchanged", "unchanged"]
    assert states(project, "uninstall", "--scope", "project") == ["done", "done", "done"]
    assert files(project) == before


def test_uninstall_removes_the_files_that_install_created(project: TempProject) -> None:
    before = sorted(path.name for path in project.root.rglob("*"))
    assert states(project, "install", "--scope", "project") == ["done", "done"]
    assert (project.root / ".mcp.json").exists()
    assert states(project, "uninstall", "--scope", "project") == ["done", "done"]
    assert sorted(path.name for path in project.root.rglob("*")) == before


def test_claude_code_can_start_the_registered_server(project: TempProject) -> None:
    assert agent_pool(project, "install", "--no-hook").returncode == 0
    assert "Connected" in claude(project, "mcp", "list")
    assert not settings_file(project, "local").exists()


def test_a_dry_run_does_not_change_any_file(project: TempProject) -> None:
    before = file_contents(project.home.parent)
    assert states(project, "install", "--dry-run") == ["would", "would"]
    assert file_contents(project.home.parent) == before
    states(project, "install")
    before = file_contents(project.root)
    assert states(project, "uninstall", "--dry-run") == ["would", "would"]
    assert file_contents(project.root) == before


@pytest.mark.parametrize("broken", ["{", "[]", '{"hooks": []}', '{"hooks": {"PreToolUse": {}}}'])
def test_an_invalid_settings_file_is_refused_and_left_unchanged(
    project: TempProject, broken: str
) -> None:
    write(settings_file(project, "local"), broken)
    before = file_contents(project.home.parent)
    done = invoke_in(project, "install")
    assert (done.returncode, done.stdout) == (3, "")
    assert str(settings_file(project, "local")) in done.stderr
    assert file_contents(project.home.parent) == before


def test_another_server_with_the_same_name_is_left_unchanged(project: TempProject) -> None:
    claude(project, "mcp", "add", "agent-pool", "--", "node", "/somewhere/index.js")
    done = invoke_in(project, "install")
    assert (done.returncode, done.stdout) == (3, "")
    assert "node /somewhere/index.js" in done.stderr
    assert states(project, "uninstall") == ["unchanged", "unchanged"]
    assert "/somewhere/index.js" in claude(project, "mcp", "get", "agent-pool")


def test_entries_of_an_older_python_are_replaced(project: TempProject) -> None:
    claude(project, "mcp", "add", "agent-pool", "--", "/old/python", "-m", "agent_pool", "serve")
    old = {"matcher": "Task", "hooks": [{"type": "command", "command": "x agent_pool/hook.py"}]}
    write(settings_file(project, "local"), json.dumps({"hooks": {"PreToolUse": [1, old, 2]}}))
    assert states(project, "install") == ["done", "done", "done"]
    assert f"Command: {sys.executable}" in claude(project, "mcp", "get", "agent-pool")
    hooks = json.loads(settings_file(project, "local").read_bytes())["hooks"]["PreToolUse"]
    assert [*hooks[:2], hooks[2]["hooks"][0]["command"]] == [1, 2, hook_command()]


def test_uninstall_names_the_scope_that_has_the_server(project: TempProject) -> None:
    states(project, "install", "--scope", "user", "--no-hook")
    assert "in scope user: use --scope" in invoke_in(project, "uninstall").stdout


def test_a_linked_settings_file_stays_a_link_with_its_mode(
    project: TempProject, tmp_path: Path
) -> None:
    real = tmp_path / "dotfiles.json"
    write(real, "\ufeff{}\n")
    real.chmod(0o640)
    settings_file(project, "local").symlink_to(real)
    states(project, "install")
    assert settings_file(project, "local").is_symlink()
    assert (real.stat().st_mode & 0o777, real.read_bytes()[:3]) == (0o640, b"\xef\xbb\xbf")
    assert list(tmp_path.glob(".dotfiles*")) == []
    states(project, "uninstall")
    assert real.read_bytes() == b"\xef\xbb\xbf{}\n"


def test_without_a_cli_install_does_not_change_any_file(project: TempProject) -> None:
    before = file_contents(project.home.parent)
    done = invoke_in(project, "install", CLAUDE_CLI="/nowhere/claude")
    assert (done.returncode, done.stdout) == (3, "")
    assert file_contents(project.home.parent) == before


def test_a_hook_with_a_missing_file_allows_delegations(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(package, "__file__", str(tmp_path / "it's gone" / "__init__.py"))
    done = subprocess.run(["sh", "-c", hook_command()], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
