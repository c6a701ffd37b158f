"""`agent-pool completion`: the scripts, and the names that shells get."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from support.cli_runner import command, invoke, package_place
from support.environment import UNREACHABLE_URL
from support.project import TempProject

VARIABLE = "_AGENT_POOL_COMPLETE"


@pytest.fixture
def completing(project: TempProject) -> dict[str, str]:
    """Return an environment whose PATH has `agent-pool`, in a project with three agents."""
    project.agent("code-reviewer", description=json.dumps("Reviews \x1b]0;owned\x07 code."))
    project.agent("code tester", description="Tests.")
    project.agent("writer", description="Writes.")
    program = project.home / "bin" / "agent-pool"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    program.chmod(0o755)
    environ = project.environment(UNREACHABLE_URL, **package_place())
    return {**environ, "PATH": f"{program.parent}:{environ['PATH']}"}


def test_bash_completes_commands_and_agents_by_the_script(
    project: TempProject, completing: dict[str, str], tmp_path: Path
) -> None:
    script = """
        eval "$(agent-pool completion bash)"
        ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _agent_pool_completion $1
                printf '%s;' "${COMPREPLY[@]}"; echo; }
        complete -p agent-pool
        ask agent-pool r; ask agent-pool run code
        cd /
        ask agent-pool --project "$0" show w
    """
    bash = ["bash", "--norc", "-c", script, str(project.root)]
    done = subprocess.run(
        bash, cwd=project.root, env=completing, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "complete -o nosort -F _agent_pool_completion agent-pool",
        "run;retry;reset;",
        "'code tester';code-reviewer;",
        "writer;",
    ]


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("zsh", ["plain", "code-reviewer", r"Reviews \x1b]0;owned\x07 code."]),
        ("fish", [r"plain,code-reviewer	Reviews \x1b]0;owned\x07 code."]),
    ],
)
def test_zsh_and_fish_get_agents_with_safe_descriptions(
    project: TempProject, completing: dict[str, str], shell: str, expected: list[str]
) -> None:
    asked = {VARIABLE: f"{shell}_complete", "COMP_WORDS": "agent-pool run code-", "COMP_CWORD": "2"}
    if shell == "fish":  # its script gives the word itself
        asked["COMP_CWORD"] = "code-"
    done = subprocess.run(
        ["agent-pool"], cwd=project.root, env=completing | asked, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == expected
    script = invoke("completion", shell)
    assert f"{VARIABLE}={shell}_complete" in script.stdout
    assert script.exit_code == 0
