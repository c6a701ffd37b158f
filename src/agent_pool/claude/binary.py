"""Which Claude Code binary is used, and which version it is."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from agent_pool.claude import tree
from agent_pool.errors import SpawnError
from agent_pool.settings import Settings

VERSION_TIMEOUT = 20.0
"""Seconds; the first run of an old version, a Node script, took 1.5."""
OLDEST = (2, 0)


def find_cli(settings: Settings, environ: Mapping[str, str] = os.environ) -> Path:
    """The binary to run: `claude_cli`, else ``claude`` on the PATH, else the bundled one.

    Raises:
        SpawnError: there is none, or the named one cannot be run; the message says what to do.
    """
    path = environ.get("PATH", os.defpath)
    if settings.claude_cli:
        return _named(settings.claude_cli, path)
    if found := shutil.which("claude", path=path):
        return Path(found)
    if (bundled := bundled_cli()) is not None:
        return bundled
    raise SpawnError(
        "no Claude Code CLI found: CLAUDE_CLI is not set, there is no `claude` on the PATH "
        f"({path}) and the package claude-agent-sdk, which carries one, is not installed. "
        "Install Claude Code, or run: pip install claude-agent-sdk"
    )


def _named(name: str, path: str) -> Path:
    if found := shutil.which(str(Path(name).expanduser()), path=path):
        return Path(found).absolute()
    exists = Path(name).expanduser().exists()
    problem = "is not an executable file" if exists else "does not exist"
    raise SpawnError(f"CLAUDE_CLI names {name!r}, which {problem}; correct it or unset it")


@lru_cache(maxsize=1)
def bundled_cli() -> Path | None:
    """The binary inside the claude-agent-sdk package, which is not imported for it."""
    try:
        spec = importlib.util.find_spec("claude_agent_sdk")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "_bundled" / "claude"
    return binary if os.access(binary, os.X_OK) else None


async def cli_version(path: Path, environ: Mapping[str, str] = os.environ) -> str:
    """The version of a binary, e.g. ``2.1.330``.

    Raises:
        SpawnError: it cannot be run, does not answer in 20 seconds, is no Claude Code or is older
            than 2.0.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
        )
    except OSError as error:
        raise SpawnError(f"{path} cannot be run: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(VERSION_TIMEOUT):
            said, _ = await process.communicate()
    except TimeoutError:
        raise SpawnError(f"{path} --version did not answer in {VERSION_TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            tree.kill_group(process.pid)
            await process.wait()
    return _checked_version(path, said.decode("utf-8", "replace"))


def _checked_version(path: Path, said: str) -> str:
    match = re.search(r"(\d+\.\d+\.\d+)\S*\s*\(Claude Code\)", said)
    if match is None:
        raise SpawnError(f"{path} --version did not answer as Claude Code does: {said[:200]!r}")
    if parse_version(match[1]) < OLDEST:
        raise SpawnError(f"{path} is Claude Code {match[1]}; agent-pool needs 2.0 or newer")
    return match[1]


def parse_version(version: str) -> tuple[int, ...]:
    """A version as numbers that compare; empty for what is none."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
