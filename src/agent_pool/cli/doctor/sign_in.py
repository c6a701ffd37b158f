"""The check whether Claude Code is signed in, without the network."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent_pool.cli.doctor.findings import Finding
from agent_pool.settings import Environment, claude_home

SUBJECT: Final = "Sign-in"
ADVICE: Final = "run `claude` and type /login, or set ANTHROPIC_API_KEY"
AUTH_STATUS_SINCE: Final = (2, 1, 41)
"""Older versions have no `claude auth`, and would take the words for a task."""

_STATUS_TIMEOUT_SECONDS: Final = 15.0
_PROVIDERS: Final = {
    "CLAUDE_CODE_USE_BEDROCK": "Amazon Bedrock",
    "CLAUDE_CODE_USE_VERTEX": "Google Vertex AI",
    "CLAUDE_CODE_USE_FOUNDRY": "Microsoft Foundry",
}
_CREDENTIALS: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")


async def check_sign_in(
    cli: Path, version: str, project: Path, environ: Mapping[str, str] | None = None
) -> Finding:
    """Report the sign-in as the CLI states it, or as variables and files show it."""
    environ = Environment(environ)
    if tuple(map(int, version.split("."))) >= AUTH_STATUS_SINCE:
        status = await _auth_status(cli, project, environ)
        if status is not None:
            return _finding_from_status(status)
    return _finding_from_credentials(environ)


async def _auth_status(
    cli: Path, project: Path, environ: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the output of `claude auth status`; None if it has another form."""
    # The command uses no network.
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
        output, _ = await asyncio.wait_for(process.communicate(), _STATUS_TIMEOUT_SECONDS)
        status = json.loads(output)
    except (TimeoutError, ValueError):
        return None
    finally:
        # After the time limit, or if the check is cancelled: the process must not outlive it.
        if process.returncode is None:
            process.kill()
    return status if isinstance(status, dict) and "loggedIn" in status else None


def _finding_from_status(status: Mapping[str, Any]) -> Finding:
    if not status["loggedIn"]:
        return Finding(SUBJECT, "wrong", "Claude Code is not signed in", ADVICE)
    known = [
        str(status[key])
        for key in ("authMethod", "apiKeySource", "email", "subscriptionType", "apiProvider")
        if status.get(key)
    ]
    return Finding(SUBJECT, "ok", ", ".join(known))


def _finding_from_credentials(environ: Mapping[str, str]) -> Finding:
    found = [name for name in _CREDENTIALS if environ.get(name)]
    found += [provider for name, provider in _PROVIDERS.items() if environ.get(name)]
    credentials = claude_home(environ) / ".credentials.json"
    if credentials.is_file():
        found.append(str(credentials))
    if found:
        message = f"found {', '.join(found)}; only a task shows whether it is valid"
        return Finding(SUBJECT, "ok", message)
    if sys.platform == "darwin":
        # On macOS the credentials can be in the keychain.
        message = "no credentials in the environment; the keychain was not checked"
        return Finding(SUBJECT, "note", message)
    return Finding(SUBJECT, "wrong", "no credentials found", ADVICE)
