"""The commands and files of the how-to pages, with the real CLI and the offline model."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from agent_pool.loopback import LoopbackAPI, ModelRequest, ToolUseBlock, echo
from support.daemons import DaemonProject
from support.doc_blocks import ROOT, read_blocks, run_page, shell_environment
from support.repositories import git, make_repository, worktrees

pytestmark = pytest.mark.long
START, STOP = "agent-pool daemon start\n", "agent-pool daemon stop\n"
COMMITTER = {
    f"GIT_{role}_{field}": "tester@example.org"
    for role in ("AUTHOR", "COMMITTER")
    for field in ("NAME", "EMAIL")
}


def shell_codes(page: str) -> list[str]:
    return [block.code for block in read_blocks(page, "sh")]


def look_first(request: ModelRequest) -> Any:
    """Call the shell, then answer: a budget ends a turn between two requests."""
    return "It is summed up." if request.tool_results else ToolUseBlock("Bash", {"command": "ls"})


def test_the_commands_of_the_page_on_budgets_work(daemon_project: DaemonProject) -> None:
    daemon_project.agent("summarizer", description="Sums up a text file in one sentence")
    codes = [START, *shell_codes("budgets.md"), STOP]
    with LoopbackAPI(look_first).in_thread() as api:
        printed = run_page(codes, daemon_project.root, shell_environment(daemon_project, api.url))
    assert "exit code 1" in printed[2].splitlines()
    results = (daemon_project.root / "limited-results.jsonl").read_text().splitlines()
    assert len(results) == 2
    assert "failed summarizer" in printed[4]


def write_named_file(request: ModelRequest) -> Any:
    """Write the file that the task names."""
    named = re.search(r"Write a file (\S+)", request.last_user_text)
    if request.tool_results or named is None:
        return "It is written."
    return ToolUseBlock("Bash", {"command": f"echo text > {named[1]}"})


def test_the_commands_of_the_page_on_worktrees_work(daemon_project: DaemonProject) -> None:
    root = daemon_project.root
    daemon_project.agent("developer", description="Writes files")
    make_repository(root)
    codes = [START, *shell_codes("worktrees.md"), STOP]
    with LoopbackAPI(write_named_file).in_thread() as api:
        environ = {**shell_environment(daemon_project, api.url), **COMMITTER}
        printed = run_page(codes, root, environ)
    assert {"greeting.txt", "one.txt", "two.txt"} <= set(printed[3].split())
    assert worktrees(root) == []
    assert git(root, "branch", "--format=%(refname:short)") == "main"


def test_the_workflow_for_github_reviews_each_changed_file(
    daemon_project: DaemonProject, tmp_path: Path
) -> None:
    root = daemon_project.root
    daemon_project.agent("reviewer", description="Reviews", tools="Read, Grep, Glob")
    (root / "old.py").write_text("one = 1\n")
    make_repository(root)
    git(root, "update-ref", "refs/remotes/origin/main", "main")
    (root / "new file.py").write_text("two = 2\n")
    daemon_project.agent("reviewer", body="You are another one.")
    git(root, "switch", "--quiet", "--create", "change")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=change")
    workflow = YAML(typ="safe").load(read_blocks("github-actions.md", "yaml")[0].code)
    job = workflow["jobs"]["review"]
    steps = [step for step in job["steps"] if step.get("name") != "Install" and "run" in step]
    assert workflow["permissions"] == {"contents": "read"}
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    with LoopbackAPI(echo).in_thread() as api:
        environ = {
            **shell_environment(daemon_project, api.url),
            **{name: str(value) for name, value in job["env"].items()},
            "BASE": "origin/main",
            "AGENT_POOL_DAEMON": "off",
            "RUNNER_TEMP": str(tmp_path),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        }
        run_page([step["run"] + "\n" for step in steps], root, environ)
        prompts = {request.system_text for request in api.requests if not request.is_side}
    summary = (tmp_path / "summary.md").read_text()
    assert re.findall(r"^### (.*)$", summary, re.MULTILINE) == ["new file.py"]
    assert "Review new file.py" in summary
    assert any("You test." in prompt for prompt in prompts)
    assert not any("You are another one." in prompt for prompt in prompts)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_no_fault_in_the_units(daemon_project: DaemonProject) -> None:
    made = daemon_project.command("install", "--print").stdout
    (written,) = [block.code for block in read_blocks("systemd.md", "ini")]
    # A user and a program that this machine has; the rest of the unit stays.
    written = written.replace("User=agents", "User=daemon")
    written = written.replace("/opt/agent-pool/bin/agent-pool", "/bin/true")
    for number, text in enumerate((made, written)):
        unit = daemon_project.state.parent / f"unit-{number}.service"
        unit.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        faults = [line for line in done.stderr.splitlines() if unit.name in line]
        assert (text != "", faults) == (True, [])


def test_the_files_for_issues_are_valid_yaml() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    read = {form.name: YAML(typ="safe").load(form.read_text(encoding="utf-8")) for form in forms}
    assert read.pop("config.yml") == {"blank_issues_enabled": True}
    assert len(read) == 3
    for form in read.values():
        named = [part["id"] for part in form["body"] if part["type"] != "markdown"]
        assert form["name"]
        assert form["description"]
        assert len(named) == len(set(named)) > 0
