"""Whether Claude Code is signed in, without the network."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent_pool.claude.binary import parse_version
from agent_pool.settings import Environment, claude_home

AUTH_STATUS_SINCE: Final = (2, 1, 41)
"""Older versions have no `claude auth`, and would take the words for a task."""
SIGN_IN_ADVICE: Final = "run `claude` and type /login, or set ANTHROPIC_API_KEY"

_STATUS_TIMEOUT_SECONDS: Final = 15.0
_PROVIDERS: Final = {
    "CLAUDE_CODE_USE_BEDROCK": "Amazon Bedrock",
    "CLAUDE_CODE_USE_VERTEX": "Google Vertex AI",
    "CLAUDE_CODE_USE_FOUNDRY": "Microsoft Foundry",
}
_CREDENTIALS: Final = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")


@dataclass(frozen=True, slots=True)
class SignIn:
    """Whether Claude Code is signed in on this machine.

    Attributes:
        is_signed_in: None if it cannot be found out here.
        text: how, or why not, in words; without a secret.
    """

    is_signed_in: bool | None
    text: str


async def read_sign_in(
    cli: Path, version: str, folder: Path, environ: Mapping[str, str] | None = None
) -> SignIn:
    """Return the sign-in as the CLI states it, or as variables and files show it.

    Args:
        cli: the binary.
        version: its version.
        folder: the project; its settings can sign in too.
        environ: the environment of workers.
    """
    environ = Environment(environ)
    if parse_version(version) >= AUTH_STATUS_SINCE:
        status = await _auth_status(cli, folder, environ)
        if status is not None:
            return _from_status(status)
    return _from_credentials(environ)


async def _auth_status(
    cli: Path, folder: Path, environ: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the output of `claude auth status`; None if it has another form."""
    # The command uses no network.
    process = await asyncio.create_subprocess_exec(
        cli,
        "auth",
        "status",
        cwd=folder,
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


def _from_status(status: Mapping[str, Any]) -> SignIn:
    if not status["loggedIn"]:
        return SignIn(False, "Claude Code is not signed in")
    known = [
        str(status[key])
        for key in ("authMethod", "apiKeySource", "email", "subscriptionType", "apiProvider")
        if status.get(key)
    ]
    return SignIn(True, ", ".join(known))


def _from_credentials(environ: Mapping[str, str]) -> SignIn:
    found = [name for name in _CREDENTIALS if environ.get(name)]
    found += [provider for name, provider in _PROVIDERS.items() if environ.get(name)]
    credentials = claude_home(environ) / ".credentials.json"
    if credentials.is_file():
        found.append(str(credentials))
    if found:
        return SignIn(True, f"found {', '.join(found)}; only a task shows whether it is valid")
    if sys.platform == "darwin":
        # On macOS the credentials can be in the keychain.
        return SignIn(None, "no credentials in the environment; the keychain was not checked")
    return SignIn(False, "no credentials found")
