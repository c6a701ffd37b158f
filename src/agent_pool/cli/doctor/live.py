"""The Claude Code CLI: which it is, and whether it works here."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from agent_pool import AgentPool, AgentPoolError, Settings, cli_version, find_cli
from agent_pool.cli.doctor.findings import Finding
from agent_pool.cli.doctor.sign_in import check_sign_in
from agent_pool.cli.offline import offline_world
from agent_pool.cli.output import seconds

ABOUT: Final = "Live check"
WORD: Final = "periwinkle"
ANSWER: Final = "I am here."
PROBE: Final = {
    ".claude/agents/probe.md": "---\nname: probe\ntools: []\n---\n\nSay what you are told.\n"
}
BOUNDS: Final = {
    "start_timeout": 30.0,
    "task_timeout": 30.0,
    "spares": 0,
    "reset": "clear",  # whether that works is what is looked at
}


async def check_cli(
    settings: Settings, *, quick: bool, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Finding]:
    """The binary, its version, its sign-in, and unless `quick` tasks that it carries out."""
    try:
        cli = find_cli(settings, environ)
        version = await cli_version(cli, environ)
    except AgentPoolError as error:
        yield Finding("Claude Code", "wrong", str(error))
        return
    yield Finding("Claude Code", "ok", f"{version} at {cli}, {_origin(cli, settings, environ)}")
    yield await check_sign_in(cli, version, settings.project_dir, environ)
    if quick:
        yield Finding(ABOUT, "note", "left out by --quick")
    else:
        async for finding in check_live(cli):
            yield finding


def _origin(cli: Path, settings: Settings, environ: Mapping[str, str]) -> str:
    if settings.claude_cli:
        return "named by the setting claude_cli"
    if shutil.which("claude", path=environ.get("PATH", os.defpath)) == str(cli):
        return "found on the PATH"
    return "from the package claude-agent-sdk"


async def check_live(cli: Path) -> AsyncIterator[Finding]:
    """Two tasks, carried out by the real CLI with the offline model, in a temporary home."""
    began = time.monotonic()
    try:
        async with offline_world(cli, PROBE, lambda _: ANSWER) as world:
            pool = AgentPool(world.settings, environ=world.environ, **BOUNDS)
            async with pool:
                first = await pool.invoke("probe", f"The word is {WORD}.")
                second = await pool.invoke("probe", "What was the word?")
            last = world.api.requests[-1]
    except AgentPoolError as error:
        yield Finding(ABOUT, "wrong", str(error), "see docs/troubleshooting.md")
        return
    for result in (first, second):
        if result.is_error or result.text != ANSWER:
            yield Finding(ABOUT, "wrong", f"expected {ANSWER!r}, not {result.text!r}")
            return
    took = seconds(time.monotonic() - began)
    yield Finding(ABOUT, "ok", f"a worker carried out two tasks, offline, in {took}")
    yield _reuse(reused=first.pid == second.pid, forgot=WORD not in json.dumps(last.body))


def _reuse(*, reused: bool, forgot: bool) -> Finding:
    if reused and forgot:
        return Finding("Reuse", "ok", "after /clear the CLI has forgotten; workers are reused")
    said = "/clear does not work in this CLI; each task gets a process of its own"
    return Finding("Reuse", "warning", said, "update Claude Code")
