"""What a task changed in its git worktree."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Final

from agent_pool.text import whole_characters

MAX_DIFF: Final = 200_000
"""Bytes of a diff that are shown."""
MAX_NEW_FILE: Final = 20_000
"""Bytes of a new file that are shown."""
DIFF_TIMEOUT: Final = 5.0

_GIT: Final = (
    # Nothing that the repository configures may run a program here.
    *("git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "--no-pager"),
)
_DIFF: Final = ("diff", "--no-ext-diff", "--no-textconv", "--no-color")


async def worktree_diff(folder: str) -> str:
    """Return what changed in a worktree since it was made: commits, changes and new files.

    The result is empty if it cannot be read: there is no git, or the worktree was removed.
    """
    try:
        async with asyncio.timeout(DIFF_TIMEOUT):
            changes = await _git(folder, *_DIFF, await _base(folder), "--")
            # Files that git does not know are in none of its diffs.
            names = await _git(folder, "ls-files", "-z", "--others", "--exclude-standard")
    except OSError:
        return ""
    except TimeoutError:
        return "The changes could not be read in time."
    found = changes
    for name in names.split(b"\0"):
        if name and len(found) < MAX_DIFF:
            found += _new_file(Path(folder), os.fsdecode(name))
    text = whole_characters(found[:MAX_DIFF].decode("utf-8", "replace"))
    return text + ("\n… more is not shown" if len(found) >= MAX_DIFF else "")


async def _base(folder: str) -> str:
    """Return the commit that the worktree shares with the repository that it was made from."""
    listing = (await _git(folder, "worktree", "list", "--porcelain")).decode("utf-8", "replace")
    # The first worktree is the repository's own.
    main = next((line[5:] for line in listing.splitlines() if line.startswith("HEAD ")), "HEAD")
    return (await _git(folder, "merge-base", "HEAD", main)).decode().strip() or "HEAD"


def _new_file(folder: Path, name: str) -> bytes:
    """Return a new file in the form of a diff; the target of a link is not read."""
    head = f"new file {name}\n".encode("utf-8", "replace")
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(folder / name, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return head
            content = file.read(MAX_NEW_FILE + 1)
    except OSError:  # a link, or it was removed
        return head
    if b"\0" in content:
        return head + b"(binary)\n"
    lines = [b"+" + line for line in content[:MAX_NEW_FILE].splitlines()]
    more = [b"(more is not shown)"] if len(content) > MAX_NEW_FILE else []
    return head + b"\n".join([*lines, *more, b""])


async def _git(folder: str, *arguments: str) -> bytes:
    """Return up to `MAX_DIFF` bytes of what a git command prints."""
    # The variables of a hook of git would lead to another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    process = await asyncio.create_subprocess_exec(
        *_GIT,
        *arguments,
        cwd=folder,
        env={**env, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    found = bytearray()
    try:
        while len(found) < MAX_DIFF and (chunk := await process.stdout.read(65536)):
            found += chunk
        if len(found) < MAX_DIFF:
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return bytes(found)
