"""No text form of the library shows the environment: help, repr, tracebacks with variables."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import agent_pool
from support.environment import UNREACHABLE_URL
from support.project import TempProject

SECRET = "s3cret-of-the-environment"
PROGRAM = """
import asyncio, os, traceback
import agent_pool
from agent_pool import AgentPool, ConfigError, find_cli, load_settings

for name in agent_pool.__all__:
    help(getattr(agent_pool, name))

def show(error):
    print("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))

async def main():
    pool = AgentPool(environ=dict(os.environ))
    print(repr(pool), vars(pool))
    for wrong in (pool.launch_spec("two"), pool.invoke("one", "x")):
        try:
            await wrong
        except Exception as error:
            show(error)

for wrong in (lambda: load_settings(max_size=0), lambda: AgentPool(nonsense=1)):
    try:
        wrong()
    except ConfigError as error:
        show(error)
asyncio.run(main())
"""


def test_help_reprs_and_tracebacks_never_show_the_environment(project: TempProject) -> None:
    project.agent("one")
    environ = project.environment(UNREACHABLE_URL, SOME_VARIABLE=SECRET, PAGER="cat")
    environ |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=project.root,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "class AgentPool" in done.stdout
    assert "Traceback" in done.stdout
    assert "environment variables>" in done.stdout
    assert SECRET not in done.stdout


def test_no_public_function_has_the_environment_as_default() -> None:
    for name in agent_pool.__all__:
        member = getattr(agent_pool, name)
        if callable(member):
            try:
                signature = str(inspect.signature(member))
            except (TypeError, ValueError):  # a type alias
                continue
            assert "environ({" not in signature, name
