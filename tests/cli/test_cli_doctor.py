"""`agent-pool doctor`: its findings, and its exit code."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from agent_pool import Settings, describe_process_search, load_settings
from agent_pool.cli.doctor.checks import check_attribution, check_user
from agent_pool.cli.doctor.sign_in import check_sign_in
from support.cli_runner import agent_pool, invoke_in
from support.environment import UNREACHABLE_URL, cli_environment, real_cli
from support.project import TempProject, file_contents


def findings(
    project: TempProject, *args: str, run: Any = invoke_in, **more: Any
) -> tuple[int, dict[str, list[str]]]:
    """Return the exit code, and the messages by their subject and state: ``Agents/wrong``."""
    done = run(project, "doctor", "--json", *args, **more)
    report = json.loads(done.stdout)
    assert report["ok"] == (done.returncode == 0)
    messages: dict[str, list[str]] = {}
    for finding in report["findings"]:
        key = f"{finding['subject']}/{finding['state']}"
        messages.setdefault(key, []).append(finding["message"])
    return done.returncode, messages


def test_a_complete_setup_is_ok_and_gives_exit_code_0(project: TempProject) -> None:
    project.agent("one")
    code, messages = findings(project, run=agent_pool)
    assert code == 0
    assert messages["Agents/ok"] == ["1 agent can be used"]
    assert messages["Reuse/ok"] == ["after /clear the CLI has forgotten; workers are reused"]
    assert "named by the setting claude_cli" in messages["Claude Code/ok"][0]
    assert messages["Sign-in/ok"] == ["api_key, ANTHROPIC_API_KEY, firstParty"]


def test_hooks_are_measured_although_no_pool_runs(project: TempProject) -> None:
    project.agent("one")
    settings = project.home / ".claude/settings.json"
    settings.parent.mkdir(exist_ok=True)
    hooks = {"SessionStart": [{"hooks": [{"type": "command", "command": "sleep 1.2"}]}]}
    settings.write_text(json.dumps({"hooks": hooks}))
    code, messages = findings(project)
    assert code == 0
    (message,) = messages["SessionStart hooks/warning"]
    assert re.fullmatch(
        r"they take \d+\.\d s at each start and each reset of a worker "
        r"\(measured with a new worker of one\)",
        message,
    )
    _, quick = findings(project, "--quick")
    assert "SessionStart hooks/warning" not in quick


def test_doctor_says_how_processes_are_found_and_measured(project: TempProject) -> None:
    _, messages = findings(project, "--quick")
    assert messages["Processes/note"] == [f"what workers start is {describe_process_search()}"]


def test_doctor_names_lean_and_fast_agents(project: TempProject) -> None:
    project.agent("one")
    project.agent("two", workerMemory="fast")
    project.agent("three", workerMemory="lean")
    _, messages = findings(project, "--quick", AGENT_POOL_WORKER_MEMORY="lean")
    assert [line.partition(":")[0] for line in messages["Worker memory/note"]] == [
        "workers of one, three are lean",
        "workers of two are fast",
    ]


@pytest.mark.parametrize(
    ("url", "user", "environ", "is_reported"),
    [
        (None, None, {}, False),
        ("https://api.anthropic.com", None, {}, False),
        ("http://127.0.0.1:8080/v1", None, {}, True),
        ("https://user:secret@gateway.example", None, {}, True),
        ("https://api.anthropic.com.example", None, {}, True),
        (None, "http://localhost:11434", {}, True),
        ("http://127.0.0.1:8080", None, {"CLAUDE_CODE_ATTRIBUTION_HEADER": "0"}, False),
        ("http://127.0.0.1:8080", None, {"AGENT_POOL_ATTRIBUTION": "false"}, False),
        ("http://[", None, {}, False),
    ],
)
def test_a_gateway_that_gets_the_attribution_line_is_reported(
    tmp_path: Path, url: str | None, user: str | None, environ: dict[str, str], is_reported: bool
) -> None:
    given = {"CLAUDE_CONFIG_DIR": str(tmp_path), **environ}
    if url is not None:
        given["ANTHROPIC_BASE_URL"] = url
    if user is not None:
        content = {"env": {"ANTHROPIC_BASE_URL": user}}
        (tmp_path / "settings.json").write_text(json.dumps(content))
    settings = load_settings(given, project_dir=tmp_path)
    found = list(check_attribution(settings, given))
    assert [finding.state for finding in found] == (["warning"] if is_reported else [])
    assert all("secret" not in finding.message for finding in found)


@pytest.mark.long
def test_probe_finds_out_and_stores_whether_the_cli_forgets(project: TempProject) -> None:
    project.agent("one")
    project.agent("two", tools="Read")

    _, before = findings(project, "--quick")
    _, probed = findings(project, "--quick", "--probe")
    _, after = findings(project, "--quick")

    assert before["Reset/note"] == [
        "not yet known for one, two; found out at the first task, or by --probe"
    ]
    forgets = [
        "after a rewind it sent nothing of the earlier task: workers of one, two are used again"
    ]
    assert probed["Reset/ok"] == forgets
    assert after["Reset/ok"] == forgets


def test_each_broken_definition_is_reported_as_wrong(project: TempProject) -> None:
    project.agent("bad", expertise="[gone]")
    project.agent("worse", tools="read")
    code, messages = findings(project, "--quick")
    assert code == 1
    assert [line.split()[0] for line in messages["Agents/wrong"]] == ["bad", "worse"]
    assert messages["Live check/note"] == ["skipped by --quick"]


def test_a_wrong_setting_does_not_hide_the_other_findings(project: TempProject) -> None:
    project.agent("one")
    code, messages = findings(project, "--quick", AGENT_POOL_MAX_SIZE="many")
    assert code == 1
    assert messages["Settings/wrong"][0].startswith("AGENT_POOL_MAX_SIZE: max_size: ")
    assert messages["Agents/ok"] == ["1 agent can be used"]


def test_a_missing_folder_named_by_a_setting_is_wrong(project: TempProject) -> None:
    code, messages = findings(project, "--quick", SKILLS_DIR="/nowhere/skills")
    assert code == 1
    assert messages["Settings/wrong"] == ["skills_dir is /nowhere/skills, which is not a folder"]


def test_a_missing_cli_is_wrong_and_the_last_finding(project: TempProject) -> None:
    code, messages = findings(project, CLAUDE_CLI="/nowhere/claude")
    assert code == 1
    assert "/nowhere/claude" in messages["Claude Code/wrong"][0]
    assert list(messages)[-1] == "Claude Code/wrong"


def test_a_cli_that_is_not_signed_in_is_wrong(project: TempProject) -> None:
    code, messages = findings(project, "--quick", without=("ANTHROPIC_API_KEY",))
    assert (code, messages["Sign-in/wrong"]) == (1, ["Claude Code is not signed in"])


def test_the_registered_server_and_hook_are_reported_with_scope(project: TempProject) -> None:
    invoke_in(project, "install", "--scope", "user")
    _, messages = findings(project, "--quick")
    assert messages["Registered/note"] == [
        "MCP server: in scope user",
        "delegation hook: in scope user",
    ]


def test_a_registered_server_with_a_missing_program_is_wrong(project: TempProject) -> None:
    gone = {"command": "/old/python", "args": ["-m", "agent_pool", "serve"]}
    servers = json.dumps({"mcpServers": {"agent-pool": gone}})
    (project.root / ".mcp.json").write_text(servers)
    code, messages = findings(project, "--quick")
    assert code == 1
    assert messages["Registered/wrong"] == [
        "the MCP server in scope project starts /old/python, which does not exist"
    ]


def test_a_worker_that_cannot_start_is_reported_with_its_stderr(
    project: TempProject, tmp_path: Path
) -> None:
    broken = tmp_path / "claude"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "2.1.330 (Claude Code)" && exit\n'
        "echo 'out of order' >&2\nexit 3\n"
    )
    broken.chmod(0o755)
    code, messages = findings(project, CLAUDE_CLI=str(broken))
    assert code == 1
    assert "out of order" in messages["Live check/wrong"][0]


def test_options_that_the_cli_does_not_know_are_warnings(
    project: TempProject, tmp_path: Path
) -> None:
    old = tmp_path / "claude"
    old.write_text("#!/bin/sh\necho '2.0.30 (Claude Code)'\n")
    old.chmod(0o755)
    project.agent("one", effort="low")
    code, messages = findings(project, "--quick", CLAUDE_CLI=str(old))
    assert code == 0
    warnings = messages["Claude Code/warning"]
    assert "2.0.30 does not know --effort: effort has no effect" in warnings
    assert any("--no-session-persistence: a transcript of each task" in each for each in warnings)
    shown = json.loads(invoke_in(project, "show", "one", "--json", CLAUDE_CLI=str(old)).stdout)
    assert list(shown["left_out"]) == ["--no-session-persistence", "--effort"]
    text = invoke_in(project, "show", "one", "--no-measure", CLAUDE_CLI=str(old)).stdout
    assert "Options that Claude Code 2.0.30 does not know" in text
    assert "--effort: effort has no effect" in text


def test_the_report_for_people_fits_on_one_screen(project: TempProject) -> None:
    done = agent_pool(project, "doctor", "--quick")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Nothing is wrong.")
    assert len(done.stdout.splitlines()) <= 24
    assert "\x1b" not in done.stdout


def test_doctor_does_not_change_any_file_in_the_project(project: TempProject) -> None:
    before = file_contents(project.root)
    invoke_in(project, "doctor")
    assert file_contents(project.root) == before


@pytest.mark.parametrize(
    ("environ", "state"),
    [
        ({"ANTHROPIC_API_KEY": "x"}, "ok"),
        ({"CLAUDE_CODE_OAUTH_TOKEN": "x"}, "ok"),
        ({"CLAUDE_CODE_USE_BEDROCK": "1"}, "ok"),
        ({}, "wrong"),
    ],
)
def test_sign_in_of_an_old_cli_is_read_from_variables(
    project: TempProject, environ: dict[str, str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    environ = {"CLAUDE_CONFIG_DIR": str(project.home), **environ}
    old = check_sign_in(Path("/nowhere/claude"), "2.1.40", project.root, environ)
    assert asyncio.run(old).state == state


def test_a_credentials_file_is_enough_sign_in_for_old_clis(project: TempProject) -> None:
    (project.home / ".credentials.json").write_text("{}")
    environ = {"CLAUDE_CONFIG_DIR": str(project.home)}
    found = asyncio.run(check_sign_in(Path("/nowhere"), "2.0.77", project.root, environ))
    assert found.state == "ok"
    assert str(project.home / ".credentials.json") in found.message


def test_a_new_cli_reports_its_own_sign_in_state(project: TempProject) -> None:
    environ = cli_environment(project.home, UNREACHABLE_URL, CLAUDE_CODE_USE_VERTEX="1")
    del environ["ANTHROPIC_API_KEY"]
    found = asyncio.run(check_sign_in(real_cli(), "2.1.330", project.root, environ))
    assert (found.state, found.message) == ("ok", "third_party, vertex")


@pytest.mark.parametrize(
    ("uid", "sandbox", "ceiling", "wrong"),
    [
        (0, "", "bypassPermissions", 1),
        (0, "1", "bypassPermissions", 0),
        (0, "", "acceptEdits", 0),
        (1000, "", "bypassPermissions", 0),
    ],
)
def test_root_is_warned_about_bypass_permissions_without_a_sandbox(
    monkeypatch: pytest.MonkeyPatch, uid: int, sandbox: str, ceiling: str, wrong: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    settings = Settings(permission_ceiling=ceiling)
    assert len(list(check_user(settings, {"IS_SANDBOX": sandbox}))) == wrong
