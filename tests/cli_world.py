"""What the tests of the command line share: running it as a process, and inside this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

from agent_pool.cli.app import cli
from support import Project, real_cli

NOWHERE = "http://127.0.0.1:9"
"""An API that nobody answers at, for commands that ask none."""


def command(*args: str) -> list[str]:
    """The command line as a process."""
    return [sys.executable, "-m", "agent_pool", *args]


def agent_pool(
    project: Project,
    *args: str,
    url: str = NOWHERE,
    stdin: bytes = b"",
    without: tuple[str, ...] = (),
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a project, with an environment built from nothing."""
    environ = project.environment(url, **more)
    for name in without:
        del environ[name]
    done = subprocess.run(
        command(*args), cwd=project.root, env=environ, input=stdin, capture_output=True, timeout=110
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def claude(project: Project, *args: str) -> str:
    """What the real CLI says."""
    done = subprocess.run(
        [real_cli(), *args],
        cwd=project.root,
        env=project.environment(NOWHERE),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    return done.stdout.decode()


def invoke(*args: str, stdin: bytes | None = None) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli, args, input=stdin, prog_name="agent-pool")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
