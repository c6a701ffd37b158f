"""What a task changed in its git worktree."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from agent_pool.text import whole_characters

MAX_DIFF: Final = 200_000
"""Bytes of a diff that are shown."""
DIFF_TIMEOUT: Final = 5.0

_COMMAND: Final = (
    # Nothing that the repository configures may run a program here.
    *("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-pager"),
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD"),
)


async def worktree_diff(folder: str) -> str:
    """Return the changes in a worktree against its last commit; empty if they cannot be read."""
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        process = await asyncio.create_subprocess_exec(
            *_COMMAND,
            cwd=folder,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:  # no git, or the worktree was removed
        return ""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DIFF_TIMEOUT):
            found = bytearray()
            while len(found) < MAX_DIFF and (chunk := await process.stdout.read(65536)):
                found += chunk
    except TimeoutError:
        return "The changes could not be read in time."
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    text = whole_characters(found[:MAX_DIFF].decode("utf-8", "replace"))
    return text + ("\n… more is not shown" if len(found) >= MAX_DIFF else "")
