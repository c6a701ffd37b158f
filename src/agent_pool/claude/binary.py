"""The Claude Code binary to use, and its version."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from agent_pool.claude import process_tree
from agent_pool.errors import SpawnError
from agent_pool.settings import Environment, Settings

VERSION_TIMEOUT = 20.0
"""Seconds. The first run of 2.0.77, a Node script, took 1.5 s; a native binary takes 0.02 s."""
OLDEST = (2, 0)
"""The oldest version that runs tasks here; `unknown_options` names what it cannot do."""


def find_cli(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Find the binary: `claude_cli`, else ``claude`` on the PATH, else the bundled one.

    Raises:
        SpawnError: no binary was found, or the named one cannot be run; the message has the next
            step.
    """
    path = Environment(environ).get("PATH", os.defpath)
    # A wrong name is an error: the user must not get another binary than the one named.
    if settings.claude_cli:
        return _named(settings.claude_cli, path)
    if found := shutil.which("claude", path=path):
        # The PATH can hold relative folders, and workers start in the project's folder.
        return Path(found).absolute()
    if (bundled := bundled_cli()) is not None:
        return bundled
    raise SpawnError(
        "no Claude Code CLI found: CLAUDE_CLI is not set, there is no `claude` on the PATH "
        f"({path}) and the package claude-agent-sdk, which carries one, is not installed. "
        "Install Claude Code, or run: pip install claude-agent-sdk"
    )


def _named(name: str, path: str) -> Path:
    if found := shutil.which(str(Path(name).expanduser()), path=path):
        # Workers start in the project's folder, where a relative path would name another file.
        return Path(found).absolute()
    exists = Path(name).expanduser().exists()
    problem = "is not an executable file" if exists else "does not exist"
    raise SpawnError(f"CLAUDE_CLI names {name!r}, which {problem}; correct it or unset it")


@lru_cache(maxsize=1)
def bundled_cli() -> Path | None:
    """Return the binary inside the claude-agent-sdk package; `None` if it has no binary.

    The package itself is not imported: that would cost time and memory.
    """
    try:
        spec = importlib.util.find_spec("claude_agent_sdk")
    except (ImportError, ValueError):
        # ValueError: a module of this name is loaded and has no `__spec__`.
        return None
    if spec is None or spec.origin is None:
        return None
    binary = Path(spec.origin).parent / "_bundled" / "claude"
    return binary if os.access(binary, os.X_OK) else None


async def cli_version(path: Path, environ: Mapping[str, str] | None = None) -> str:
    """Ask a binary for its version, e.g. ``2.1.330``.

    Raises:
        SpawnError: it cannot be run, does not answer within 20 seconds, is not Claude Code, or is
            older than 2.0.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            "--version",
            # Our own stdin can be the connection of an MCP client: no child must read it.
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(Environment(environ)),
            start_new_session=True,
        )
    except OSError as error:
        raise SpawnError(f"{path} cannot be run: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(VERSION_TIMEOUT):
            output, _ = await process.communicate()
    except TimeoutError:
        raise SpawnError(f"{path} --version did not answer in {VERSION_TIMEOUT:g} s") from None
    finally:
        # Reached by a cancelled caller too: no process must be left, not even a zombie.
        if process.returncode is None:
            process_tree.kill_group(process.pid)
            await process.wait()
    return _checked_version(path, output.decode("utf-8", "replace"))


def _checked_version(path: Path, output: str) -> str:
    # The words in brackets tell Claude Code from another program with the name `claude`.
    match = re.search(r"(\d+\.\d+\.\d+)\S*\s*\(Claude Code\)", output)
    if match is None:
        raise SpawnError(f"{path} --version did not answer as Claude Code does: {output[:200]!r}")
    if parse_version(match[1]) < OLDEST:
        raise SpawnError(f"{path} is Claude Code {match[1]}; agent-pool needs 2.0 or newer")
    return match[1]


def parse_version(version: str) -> tuple[int, ...]:
    """Parse '2.1.330' into (2, 1, 330); return () if it holds no number."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
