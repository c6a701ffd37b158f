"""The check whether Claude Code is signed in, without the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agent_pool import read_sign_in
from agent_pool.cli.doctor.findings import Finding, FindingState

SUBJECT: Final = "Sign-in"
ADVICE: Final = "run `claude` and type /login, or set ANTHROPIC_API_KEY"
_STATES: Final[dict[bool | None, FindingState]] = {True: "ok", False: "wrong", None: "note"}


async def check_sign_in(
    cli: Path, version: str, project: Path, environ: Mapping[str, str] | None = None
) -> Finding:
    """Report the sign-in as the CLI states it, or as variables and files show it."""
    found = await read_sign_in(cli, version, project, environ)
    advice = ADVICE if found.is_signed_in is False else ""
    return Finding(SUBJECT, _STATES[found.is_signed_in], found.text, advice)
