"""`agent-pool doctor`: what it finds, and when it fails."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from agent_pool import Settings
from agent_pool.cli.doctor.checks import check_user
from agent_pool.cli.doctor.sign_in import check_sign_in
from cli_world import NOWHERE, agent_pool, tree
from support import Project, cli_environment, real_cli


def findings(project: Project, *args: str, **more: Any) -> tuple[int, dict[str, list[str]]]:
    """The exit code, and what is said by its subject and state: ``Agents/wrong``."""
    done = agent_pool(project, "doctor", "--json", *args, **more)
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    said: dict[str, list[str]] = {}
    for finding in report["findings"]:
        said.setdefault(f"{finding['about']}/{finding['state']}", []).append(finding["said"])
    return done.returncode, said


def test_when_everything_is_there_nothing_is_wrong(project: Project) -> None:
    project.agent("one")
    code, said = findings(project)
    assert code == 0
    assert said["Agents/ok"] == ["1 agent can be used"]
    assert said["Reuse/ok"] == ["after /clear the CLI has forgotten; workers are reused"]
    assert "named by the setting claude_cli" in said["Claude Code/ok"][0]
    assert said["Sign-in/ok"] == ["api_key, ANTHROPIC_API_KEY, firstParty"]


def test_whether_the_cli_forgets_is_found_out_on_request_and_kept(project: Project) -> None:
    project.agent("one")
    project.agent("two", tools="Read")

    _, before = findings(project, "--quick")
    _, probed = findings(project, "--quick", "--probe")
    _, after = findings(project, "--quick")

    assert before["Reset/note"] == [
        "not yet known for one, two; found out at the first task, or by --probe"
    ]
    forgets = ["after /clear it sent nothing of it: workers of one, two are used again"]
    assert probed["Reset/ok"] == forgets
    assert after["Reset/ok"] == forgets


def test_each_broken_definition_is_wrong(project: Project) -> None:
    project.agent("bad", skills="[gone]")
    project.agent("worse", tools="5")
    code, said = findings(project, "--quick")
    assert code == 1
    assert [line.split()[0] for line in said["Agents/wrong"]] == ["bad", "worse"]
    assert said["Live check/note"] == ["left out by --quick"]


def test_everything_else_is_told_in_spite_of_a_wrong_setting(project: Project) -> None:
    project.agent("one")
    code, said = findings(project, "--quick", AGENT_POOL_MAX_SIZE="many")
    assert code == 1
    assert said["Settings/wrong"][0].startswith("AGENT_POOL_MAX_SIZE: max_size: ")
    assert said["Agents/ok"] == ["1 agent can be used"]


def test_a_folder_that_a_setting_names_must_be_there(project: Project) -> None:
    code, said = findings(project, "--quick", SKILLS_DIR="/nowhere/skills")
    assert code == 1
    assert said["Settings/wrong"] == ["skills_dir is /nowhere/skills, which is no folder"]


def test_a_missing_cli_is_wrong_and_the_last_thing_said(project: Project) -> None:
    code, said = findings(project, CLAUDE_CLI="/nowhere/claude")
    assert code == 1
    assert "/nowhere/claude" in said["Claude Code/wrong"][0]
    assert list(said)[-1] == "Claude Code/wrong"


def test_not_being_signed_in_is_wrong(project: Project) -> None:
    code, said = findings(project, "--quick", without=("ANTHROPIC_API_KEY",))
    assert (code, said["Sign-in/wrong"]) == (1, ["Claude Code is not signed in"])


def test_what_is_registered_is_told(project: Project) -> None:
    agent_pool(project, "install", "--scope", "user")
    _, said = findings(project, "--quick")
    assert said["Registered/note"] == [
        "MCP server: in scope user",
        "delegation hook: in scope user",
    ]


def test_a_registered_server_whose_program_is_gone_is_wrong(project: Project) -> None:
    gone = {"command": "/old/python", "args": ["-m", "agent_pool", "serve"]}
    servers = json.dumps({"mcpServers": {"agent-pool": gone}})
    (project.root / ".mcp.json").write_text(servers)
    code, said = findings(project, "--quick")
    assert code == 1
    assert said["Registered/wrong"] == [
        "the MCP server in scope project starts /old/python, which is gone"
    ]


def test_a_worker_that_cannot_start_is_wrong_and_bounded(project: Project, tmp_path: Path) -> None:
    broken = tmp_path / "claude"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "2.1.330 (Claude Code)" && exit\n'
        "echo 'out of order' >&2\nexit 3\n"
    )
    broken.chmod(0o755)
    code, said = findings(project, CLAUDE_CLI=str(broken))
    assert code == 1
    assert "out of order" in said["Live check/wrong"][0]


def test_the_report_is_one_screen_for_people(project: Project) -> None:
    done = agent_pool(project, "doctor", "--quick")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Nothing is wrong.")
    assert len(done.stdout.splitlines()) <= 24
    assert "\x1b" not in done.stdout


def test_looking_changes_nothing_in_the_project(project: Project) -> None:
    before = tree(project.root)
    agent_pool(project, "doctor")
    assert tree(project.root) == before


@pytest.mark.parametrize(
    ("environ", "state"),
    [
        ({"ANTHROPIC_API_KEY": "x"}, "ok"),
        ({"CLAUDE_CODE_OAUTH_TOKEN": "x"}, "ok"),
        ({"CLAUDE_CODE_USE_BEDROCK": "1"}, "ok"),
        ({}, "wrong"),
    ],
)
def test_a_cli_without_auth_status_is_not_asked(
    project: Project, environ: dict[str, str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    environ = {"CLAUDE_CONFIG_DIR": str(project.home), **environ}
    old = check_sign_in(Path("/nowhere/claude"), "2.1.40", project.root, environ)
    assert asyncio.run(old).state == state


def test_a_credentials_file_counts_for_a_cli_without_auth_status(project: Project) -> None:
    (project.home / ".credentials.json").write_text("{}")
    environ = {"CLAUDE_CONFIG_DIR": str(project.home)}
    found = asyncio.run(check_sign_in(Path("/nowhere"), "2.0.77", project.root, environ))
    assert found.state == "ok"
    assert str(project.home / ".credentials.json") in found.said


def test_what_the_cli_says_of_its_sign_in_counts(project: Project) -> None:
    environ = cli_environment(project.home, NOWHERE, CLAUDE_CODE_USE_VERTEX="1")
    del environ["ANTHROPIC_API_KEY"]
    found = asyncio.run(check_sign_in(real_cli(), "2.1.330", project.root, environ))
    assert (found.state, found.said) == ("ok", "third_party, vertex")


@pytest.mark.parametrize(
    ("uid", "sandbox", "ceiling", "wrong"),
    [
        (0, "", "bypassPermissions", 1),
        (0, "1", "bypassPermissions", 0),
        (0, "", "acceptEdits", 0),
        (1000, "", "bypassPermissions", 0),
    ],
)
def test_root_is_told_that_it_may_not_bypass_permissions(
    monkeypatch: pytest.MonkeyPatch, uid: int, sandbox: str, ceiling: str, wrong: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    settings = Settings(permission_ceiling=ceiling)
    assert len(list(check_user(settings, {"IS_SANDBOX": sandbox}))) == wrong
