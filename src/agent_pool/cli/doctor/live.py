"""The Claude Code CLI: which it is, and whether it works here."""

from __future__ import annotations

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
TASK: Final = "Say that you are there."
ANSWER: Final = "I am here."
PROBE: Final = {
    ".claude/agents/probe.md": "---\nname: probe\ntools: []\n---\n\nSay what you are told.\n"
}
_BOUND: Final = 30.0


async def check_cli(
    settings: Settings, *, quick: bool, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Finding]:
    """The binary, its version, its sign-in, and unless `quick` a task that it carries out."""
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
        yield await check_live(cli)


def _origin(cli: Path, settings: Settings, environ: Mapping[str, str]) -> str:
    if settings.claude_cli:
        return "named by the setting claude_cli"
    if shutil.which("claude", path=environ.get("PATH", os.defpath)) == str(cli):
        return "found on the PATH"
    return "from the package claude-agent-sdk"


async def check_live(cli: Path) -> Finding:
    """One task, carried out by the real CLI with the offline model, in a temporary home."""
    began = time.monotonic()
    try:
        async with offline_world(cli, PROBE, lambda _: ANSWER) as world:
            bounds = {"start_timeout": _BOUND, "task_timeout": _BOUND}
            async with AgentPool(world.settings, environ=world.environ, **bounds) as pool:
                result = await pool.invoke("probe", TASK)
    except AgentPoolError as error:
        return Finding(ABOUT, "wrong", str(error), "report it if Claude Code itself works here")
    if result.is_error or result.text != ANSWER:
        return Finding(ABOUT, "wrong", f"expected {ANSWER!r}, the CLI answered {result.text!r}")
    took = seconds(time.monotonic() - began)
    return Finding(ABOUT, "ok", f"a worker started and carried out a task, offline, in {took}")
