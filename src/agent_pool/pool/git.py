"""Runs git: bounded, without questions, and without programs that a repository brings along."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

GIT_TIMEOUT: Final = 120.0
"""Seconds for one git command; the checkout of a large repository is the longest."""
KILLED_TIMEOUT: Final = 5.0
"""Seconds in which a killed git must end."""

_OPTIONS: Final = (
    # Hooks and a file monitor are programs of the repository; Claude Code runs none for a worktree.
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
)
_OF_REPOSITORY: Final = re.compile(r"GIT_(DIR|WORK_TREE|INDEX_FILE|COMMON_DIR|PREFIX|NAMESPACE)")
"""Variables that would lead git to another repository; hooks of git set them."""


class GitError(Exception):
    """A git command failed; the message is its own, or says why it could not run."""


async def run_git(
    folder: Path, environ: Mapping[str, str], *arguments: str, timeout: float = GIT_TIMEOUT
) -> str:
    """Run git in a folder; return its output without the last line break.

    Args:
        folder: where it runs.
        environ: its environment.
        arguments: its command line.
        timeout: seconds after which it is killed.

    Raises:
        GitError: it cannot be run, it failed, or it took too long.
    """
    env = {name: value for name, value in environ.items() if not _OF_REPOSITORY.fullmatch(name)}
    try:
        process = await asyncio.create_subprocess_exec(
            *("git", *_OPTIONS, *arguments),
            cwd=folder,
            # No question can be answered here.
            env={**env, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C must not stop it half way
        )
    except OSError as error:
        raise GitError(f"git cannot be run: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(timeout):
            output, errors = await process.communicate()
    except TimeoutError:
        raise GitError(f"git {arguments[0]} took longer than {timeout:g} s") from None
    finally:
        if process.returncode is None:
            # With what it has started: an ssh that connects does not end with its git.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), KILLED_TIMEOUT)
    if process.returncode:
        raise GitError(errors.decode(errors="replace").strip().removeprefix("fatal: "))
    return output.decode(errors="surrogateescape").rstrip("\n")
