"""The checks of the Claude Code CLI: its binary and version, and whether it works here."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final

from agent_pool import AgentPoolError, Settings, cli_version, find_cli, unknown_options
from agent_pool.cli.connect import make_pool
from agent_pool.cli.doctor.findings import Finding
from agent_pool.cli.doctor.sign_in import check_sign_in
from agent_pool.cli.offline import offline_sandbox
from agent_pool.settings import Environment
from agent_pool.text import seconds_text

SUBJECT: Final = "Live check"
AGENT: Final = "probe"
AGENT_FILES: Final = {
    f".claude/agents/{AGENT}.md": f"---\nname: {AGENT}\ntools: []\n---\n\nRepeat the task.\n"
}
SECRET_WORD: Final = "periwinkle"
ANSWER: Final = "I am here."
"""The answer of the model to every task."""
SETTINGS: Final = {
    "start_timeout": 30.0,
    "task_timeout": 30.0,
    "spares": 0,
    "reset": "clear",  # the check must see whether /clear works, so it is not probed before
}


async def check_cli(
    settings: Settings, *, quick: bool, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Finding]:
    """Report the binary, its version, its sign-in and, unless `quick`, two tasks that it runs."""
    environ = Environment(environ)
    try:
        cli = find_cli(settings, environ)
        version = await cli_version(cli, environ)
    except AgentPoolError as error:
        yield Finding("Claude Code", "wrong", str(error))
        return
    origin = _describe_origin(cli, settings, environ)
    yield Finding("Claude Code", "ok", f"{version} at {cli}, {origin}")
    for finding in _check_options(version):
        yield finding
    yield await check_sign_in(cli, version, settings.project_dir, environ)
    if quick:
        yield Finding(SUBJECT, "note", "skipped by --quick")
    else:
        async for finding in check_live(cli):
            yield finding


def _check_options(version: str) -> Iterator[Finding]:
    for option, cost in unknown_options(version).items():
        message = f"{version} does not know {option}: {cost}"
        yield Finding("Claude Code", "warning", message, "update Claude Code")


def _describe_origin(cli: Path, settings: Settings, environ: Mapping[str, str]) -> str:
    if settings.claude_cli:
        return "named by the setting claude_cli"
    if shutil.which("claude", path=environ.get("PATH", os.defpath)) == str(cli):
        return "found on the PATH"
    return "from the package claude-agent-sdk"


async def check_live(cli: Path) -> AsyncIterator[Finding]:
    """Run two tasks on the real CLI with an offline model, in a temporary home."""
    started = time.monotonic()
    try:
        async with offline_sandbox(cli, AGENT_FILES, lambda _: ANSWER) as sandbox:
            pool = make_pool(sandbox.settings.with_overrides(SETTINGS), sandbox.environ)
            async with pool:
                first = await pool.invoke(AGENT, f"The word is {SECRET_WORD}.")
                second = await pool.invoke(AGENT, "What was the word?")
            last = sandbox.api.requests[-1]
    except AgentPoolError as error:
        yield Finding(SUBJECT, "wrong", str(error), "see docs/troubleshooting.md")
        return
    for result in (first, second):
        if result.is_error or result.text != ANSWER:
            yield Finding(SUBJECT, "wrong", f"expected {ANSWER!r}, not {result.text!r}")
            return
    duration = seconds_text(time.monotonic() - started)
    yield Finding(SUBJECT, "ok", f"a worker carried out two tasks, offline, in {duration}")
    # The word of the first task is in the second task's request if `/clear` did not forget it.
    has_forgotten = SECRET_WORD not in json.dumps(last.body)
    yield _reuse_finding(is_reused=first.pid == second.pid, has_forgotten=has_forgotten)


def _reuse_finding(*, is_reused: bool, has_forgotten: bool) -> Finding:
    if is_reused and has_forgotten:
        message = "after /clear the CLI has forgotten; workers are reused"
        return Finding("Reuse", "ok", message)
    message = "/clear does not work in this CLI; each task gets a process of its own"
    return Finding("Reuse", "warning", message, "update Claude Code")
