"""Run agent-pool's command line, as a process and inside this one, and the real `claude`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from unittest import mock

from click.testing import CliRunner, Result

from agent_pool.cli.app import cli
from support.environment import UNREACHABLE_URL, real_cli
from support.project import TempProject


def command(*args: str) -> list[str]:
    """Build the arguments that start the command line as a process."""
    return [sys.executable, "-m", "agent_pool", *args]


def package_place() -> dict[str, str]:
    """Return the variable that names the tested package, if that is not the installed one."""
    return {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


def agent_pool(
    project: TempProject,
    *args: str,
    url: str = UNREACHABLE_URL,
    stdin: bytes = b"",
    without: tuple[str, ...] = (),
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a project.

    Args:
        project: the project, which also gives the environment.
        args: the command's arguments.
        url: the API's URL.
        stdin: the input.
        without: variables to be left out of the environment.
        more: variables to be added to it.
    """
    environ = project.environment(url, **package_place(), **more)
    for name in without:
        del environ[name]
    done = subprocess.run(
        command(*args), cwd=project.root, env=environ, input=stdin, capture_output=True, timeout=110
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def invoke(*args: str, stdin: bytes | None = None) -> Result:
    """Run the command line in this process; an exception that it does not handle is raised."""
    return CliRunner().invoke(
        cli, args, input=stdin, prog_name="agent-pool", catch_exceptions=False
    )


def invoke_in(
    project: TempProject,
    *args: str,
    url: str = UNREACHABLE_URL,
    stdin: bytes = b"",
    without: tuple[str, ...] = (),
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """Run the command line as `agent_pool` does, but in this process: half a second faster."""
    environ = {**project.environment(url), **more}
    for name in without:
        del environ[name]
    with mock.patch.dict(os.environ, environ, clear=True), contextlib.chdir(project.root):
        done = invoke(*args, stdin=stdin)
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)


def claude(project: TempProject, *args: str) -> str:
    """Run the real CLI in a project; return its output, stdout and stderr together."""
    done = subprocess.run(
        [real_cli(), *args],
        cwd=project.root,
        env=project.environment(UNREACHABLE_URL),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    return done.stdout.decode()
