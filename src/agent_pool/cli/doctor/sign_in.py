"""Whether Claude Code is signed in, without asking the network."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent_pool.cli.doctor.findings import Finding
from agent_pool.settings import claude_home

ABOUT: Final = "Sign-in"
ADVICE: Final = "run `claude` and type /login, or set ANTHROPIC_API_KEY"
AUTH_STATUS_SINCE: Final = (2, 1, 41)
"""Older ones have no `claude auth` and would take the words for a task."""

_TIMEOUT: Final = 15.0
_PROVIDERS: Final = {
    "CLAUDE_CODE_USE_BEDROCK": "Amazon Bedrock",
    "CLAUDE_CODE_USE_VERTEX": "Google Vertex AI",
    "CLAUDE_CODE_USE_FOUNDRY": "Microsoft Foundry",
}
_CREDENTIALS: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")


async def check_sign_in(
    cli: Path, version: str, project: Path, environ: Mapping[str, str] = os.environ
) -> Finding:
    """What the CLI says of itself; what can be seen from outside where it cannot say."""
    if tuple(map(int, version.split("."))) >= AUTH_STATUS_SINCE:
        status = await _auth_status(cli, project, environ)
        if status is not None:
            return _by_status(status)
    return _by_looking(environ)


async def _auth_status(
    cli: Path, project: Path, environ: Mapping[str, str]
) -> dict[str, Any] | None:
    """The answer of `claude auth status`, which asks nobody; None when it is not understood."""
    process = await asyncio.create_subprocess_exec(
        cli,
        "auth",
        "status",
        cwd=project,
        env=dict(environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT)
        status = json.loads(said)
    except (TimeoutError, ValueError):
        return None
    finally:
        if process.returncode is None:
            process.kill()
    return status if isinstance(status, dict) and "loggedIn" in status else None


def _by_status(status: Mapping[str, Any]) -> Finding:
    if not status["loggedIn"]:
        return Finding(ABOUT, "wrong", "Claude Code is not signed in", ADVICE)
    known = [
        str(status[key])
        for key in ("authMethod", "apiKeySource", "email", "subscriptionType", "apiProvider")
        if status.get(key)
    ]
    return Finding(ABOUT, "ok", ", ".join(known))


def _by_looking(environ: Mapping[str, str]) -> Finding:
    found = [name for name in _CREDENTIALS if environ.get(name)]
    found += [provider for name, provider in _PROVIDERS.items() if environ.get(name)]
    credentials = claude_home(environ) / ".credentials.json"
    if credentials.is_file():
        found.append(str(credentials))
    if found:
        return Finding(ABOUT, "ok", f"found {', '.join(found)}; whether it is valid, a task shows")
    if sys.platform == "darwin":
        return Finding(ABOUT, "note", "not in the environment; the keychain was not asked")
    return Finding(ABOUT, "wrong", "no credentials found", ADVICE)
