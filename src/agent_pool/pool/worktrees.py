"""Git worktrees for tasks with `isolation: worktree`: made, checked for changes, removed.

A worktree stands where Claude Code puts those of its own sub-agents (2.1.332):
`.claude/worktrees/NAME` of the repository, on the branch `worktree-NAME`. It is kept if its task
changed it, and removed with its branch if not. Its lock names the process of its pool, so that
another pool can tell when the pool was killed, and remove what nobody changed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from agent_pool.errors import TaskFailed
from agent_pool.pool.git import GitError, run_git

log = logging.getLogger("agent_pool")

MAX_ADDS: Final = 5
"""Attempts to add a worktree."""
_UNFINISHED: Final = "/commondir"
"""In git's error if another git is just making a worktree of the repository: git reads all of them,
and that one has not all of its files yet (git 2.39)."""
_NAME: Final = re.compile(r"pool-[0-9a-f]{16}")
_LOCK: Final = re.compile(r"agent-pool \(pid (\d+) start (\d+(?:\.\d+)?)\)")


@dataclass(frozen=True, slots=True)
class Worktree:
    """A worktree of one task.

    Attributes:
        root: the root of the repository that it belongs to.
        path: its folder.
        branch: its branch.
        base: the commit that it began with.
        folder: the folder of the task in it: the one that the caller's folder is in the repository.
    """

    root: Path
    path: Path
    branch: str
    base: str
    folder: Path


async def make_worktree(folder: Path, environ: Mapping[str, str]) -> Worktree:
    """Make a worktree of the commit that is checked out in a folder.

    Args:
        folder: a folder in a git repository.
        environ: the environment of git.

    Raises:
        TaskFailed: that is not possible; the message says why.
    """
    try:
        root = Path(await run_git(folder, environ, "rev-parse", "--show-toplevel"))
        base = await run_git(root, environ, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        await remove_abandoned(root, environ)
        made = _plan(root, folder, base)
        await _add(made, environ)
        return made
    except (GitError, OSError) as error:
        raise TaskFailed(
            f"no git worktree can be made for {str(folder)!r}, so the task was not started "
            f"(isolation: worktree): {str(error) or 'there is no commit yet'}"
        ) from None


def _plan(root: Path, folder: Path, base: str) -> Worktree:
    """Choose a name and a place, and make the folder of all worktrees.

    Raises:
        GitError: the place leads out of the repository.
    """
    place = root / ".claude" / "worktrees"
    place.mkdir(parents=True, exist_ok=True)
    # A repository can hold a link there that leads out of it.
    if place.resolve() != root.resolve() / ".claude" / "worktrees":
        raise GitError(f"{place} leads out of the repository")
    name = f"pool-{secrets.token_hex(8)}"
    path = place / name
    inside = path / folder.resolve().relative_to(root.resolve())
    return Worktree(root, path, f"worktree-{name}", base, inside)


async def _add(made: Worktree, environ: Mapping[str, str]) -> None:
    try:
        for is_last in (*(False,) * (MAX_ADDS - 1), True):
            try:
                await _add_once(made, environ)
                break
            except GitError as error:
                if is_last or _UNFINISHED not in str(error):
                    raise
                await _remove(made, environ)
        # A folder without a committed file is not in the worktree.
        made.folder.mkdir(parents=True, exist_ok=True)
    except BaseException:
        # Cancelled in the middle too. What is left of it has no change of any task.
        await asyncio.shield(_remove(made, environ))
        raise


async def _add_once(made: Worktree, environ: Mapping[str, str]) -> None:
    reason = f"agent-pool (pid {os.getpid()} start {psutil.Process().create_time():.2f})"
    await run_git(
        made.root,
        environ,
        *("worktree", "add", "--quiet", "--lock", "--reason", reason),
        # Tracking would write to the repository's config, and that fails if two do it at once.
        *("--no-track", "-b", made.branch, str(made.path), made.base),
    )


async def finish_worktree(worktree: Worktree, environ: Mapping[str, str]) -> bool:
    """Remove a worktree that its task did not change; return whether it was kept.

    In doubt it is kept. No process of the task may be left, or it could write after the check.
    """
    try:
        changed = await _is_changed(worktree, environ)
        if not changed:
            await _remove(worktree, environ)
            return False
        # Without the lock its owner can remove it by `git worktree remove`.
        await run_git(worktree.root, environ, "worktree", "unlock", str(worktree.path))
    except (GitError, OSError) as error:
        log.warning("the worktree %s is kept: %s", worktree.path, error)
    return worktree.path.exists()


async def _is_changed(worktree: Worktree, environ: Mapping[str, str]) -> bool:
    """Check for uncommitted changes, new files and commits; ignored files do not count."""
    status = ("status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=none")
    if await run_git(worktree.path, environ, *status):
        return True
    # Both: the task can have checked out another branch after a commit on its own.
    tips = await run_git(
        worktree.path, environ, "rev-parse", "HEAD", f"refs/heads/{worktree.branch}"
    )
    return set(tips.split()) != {worktree.base}


async def _remove(worktree: Worktree, environ: Mapping[str, str]) -> None:
    root = worktree.root
    with suppress(GitError):  # it is there no more, or was never made
        # Twice: once for ignored files, once for the lock.
        await run_git(
            root, environ, *("worktree", "remove", "--force", "--force", str(worktree.path))
        )
    with suppress(GitError):
        # Only at the commit that it began with: git compares and deletes in one step.
        ref = f"refs/heads/{worktree.branch}"
        await run_git(root, environ, "update-ref", "-d", ref, worktree.base)
    with suppress(OSError):
        worktree.path.parent.rmdir()  # only if it is empty


async def remove_abandoned(root: Path, environ: Mapping[str, str]) -> None:
    """Remove the unchanged worktrees of pools that were killed; unlock the changed ones.

    Raises:
        GitError: git cannot list the worktrees.
    """
    place = root / ".claude" / "worktrees"
    # Most repositories have none, and then git need not be asked.
    if not place.is_dir() or not any(map(_NAME.fullmatch, os.listdir(place))):  # noqa: PTH208
        return
    listing = await run_git(root, environ, "worktree", "list", "--porcelain")
    for found in _abandoned(root, listing):
        # A branch begins at the commit of its first entry in the log of its changes.
        try:
            log_of = ("reflog", "show", "--format=%H", found.branch)
            first = (await run_git(root, environ, *log_of)).split()[-1:]
        except GitError:
            continue
        base = first[0] if first else ""
        kept = await finish_worktree(
            Worktree(found.root, found.path, found.branch, base, found.path), environ
        )
        log.info("%s of a pool that was killed was %s", found.path, "kept" if kept else "removed")


def _abandoned(root: Path, listing: str) -> Iterator[Worktree]:
    """Yield the worktrees in git's listing whose pool runs no more; their base is not known."""
    for block in listing.split("\n\n"):
        fields = dict(line.partition(" ")[::2] for line in block.splitlines())
        path = Path(fields.get("worktree", ""))
        owner = _LOCK.fullmatch(fields.get("locked", ""))
        is_ours = _NAME.fullmatch(path.name) and path.parent.name == "worktrees"
        if is_ours and owner and not _runs(int(owner[1]), float(owner[2])):
            yield Worktree(root, path, f"worktree-{path.name}", "", path)


def _runs(pid: int, start: float) -> bool:
    try:
        # The kernel gives the number of an ended process to another one later.
        return abs(psutil.Process(pid).create_time() - start) < 1
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
