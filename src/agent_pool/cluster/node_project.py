"""A project on a node: found at its path, or checked out of git into a folder of the cache.

Every remote has one repository in the cache, and every commit in use a worktree of it. A worktree
is shared by the tasks that run at the same time, as a folder is on one machine. One that a task has
changed is not given to a later task, and is kept for `CHANGED_SECONDS`; one that is unused and
unchanged is removed after `UNUSED_SECONDS`. Locks of files tell several processes of a node, and
the kernel drops those of a killed one.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

from agent_pool.claude.reset_probe import cache_folder
from agent_pool.cluster.project_source import TRANSPORTS, ProjectSource, check_source
from agent_pool.pool.git import GitError, run_git

log = logging.getLogger("agent_pool")

FETCH_TIMEOUT: Final = 600.0
"""Seconds for one fetch; the first one of a large repository is the longest."""
LOCK_TIMEOUT: Final = 900.0
"""Seconds to wait for another process that fetches from the same remote."""
LOCK_GAP: Final = 0.05
"""Seconds between two attempts to get a lock."""
UNUSED_SECONDS: Final = 3600.0
"""An unchanged worktree that is unused for so long is removed; longer than `max_idle`, after which
no worker stands in it."""
CHANGED_SECONDS: Final = 7 * 86400.0
"""A worktree that a task has changed is removed when it was unused for so long."""

_READY: Final = b"ready"
"""In the lock file of a worktree that is complete; a killed process leaves half of one."""


def checkouts_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder of all checkouts of this user; it need not exist."""
    # Not in Claude Code's own folder: below one with the name `.claude` it edits nothing in the
    # mode acceptEdits (2.1.332).
    return cache_folder(environ) / "projects"


class NodeLacksProject(Exception):  # noqa: N818 - an answer to the caller, who tries another node
    """This node does not have the project, or cannot get it; another one perhaps can."""


class NodeProjects:
    """The projects of one node.

    Args:
        cache: the folder of all checkouts; private to this user.
        environ: the environment of git: the node's own credentials.
        working_dir: Ray's copy of the caller's folder; None without one.
    """

    def __init__(
        self, cache: Path, environ: Mapping[str, str], working_dir: Path | None = None
    ) -> None:
        self._cache = cache
        self._environ = {**environ, "GIT_ALLOW_PROTOCOL": TRANSPORTS}
        self._working_dir = working_dir

    @asynccontextmanager
    async def hold(self, source: ProjectSource) -> AsyncIterator[Path]:
        """Return the project's folder on this node; it stays there until the end of the context.

        Raises:
            NodeLacksProject: there is no such folder here, or it cannot be checked out.
        """
        async with AsyncExitStack() as held:
            try:
                check_source(source)
                if source.kind == "git":
                    root = await held.enter_async_context(self._hold_checkout(source))
                    folder = _folder_in(root, source)
                else:
                    folder = self._find(source)
            except (GitError, OSError) as error:
                raise NodeLacksProject(str(error)) from None
            yield folder

    def _find(self, source: ProjectSource) -> Path:
        if source.kind == "path":
            folder = Path(source.folder)
            if not folder.is_dir():
                raise NodeLacksProject(f"there is no folder {folder}")
            return folder
        if self._working_dir is None:
            raise NodeLacksProject("Ray has given this node no working_dir")
        return _folder_in(self._working_dir, source)

    @asynccontextmanager
    async def _hold_checkout(self, source: ProjectSource) -> AsyncIterator[Path]:
        repository = self._repository(source.remote)
        async with _locked(repository / "lock"):
            checkout = await self._checkout(repository, source)
            held = os.open(checkout.lock, os.O_RDWR | os.O_CLOEXEC)
            # Nobody has it alone now: that needs the lock of the repository.
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            yield checkout.folder
        finally:
            with suppress(OSError):
                os.utime(checkout.lock)  # its age counts from here
            os.close(held)

    def _repository(self, remote: str) -> Path:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", remote.rstrip("/").removesuffix(".git"))[-40:]
        digest = hashlib.blake2b(os.fsencode(remote), digest_size=8).hexdigest()
        folder = self._cache / f"{name.strip('-')}-{digest}"
        (folder / "trees").mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    async def _checkout(self, repository: Path, source: ProjectSource) -> _Checkout:
        """Return a worktree of the commit that no earlier task has changed; make one if needed."""
        if not (repository / ".git").is_dir():
            # Not bare: Claude Code knows a worktree by the folder that has `.git`, so that a person
            # can trust all worktrees of this remote at once.
            await self._git(repository, "init", "--quiet", "--initial-branch=none")
        of_commit = [one for one in _checkouts(repository) if one.commit == source.commit]
        for one in of_commit:
            if one.is_ready and await self._is_usable(one):
                return one
        await self._clean(repository)
        await self._fetch(repository, source)
        number = max((one.number for one in of_commit), default=0) + 1
        return await self._add(repository, _Checkout.named(repository, source.commit, number))

    async def _is_usable(self, checkout: _Checkout) -> bool:
        with _alone(checkout) as is_unused:
            # One that is in use is shared, whatever its tasks have changed by now.
            return not is_unused or not await self._is_changed(checkout)

    async def _is_changed(self, checkout: _Checkout) -> bool:
        """Check for uncommitted changes, new files and commits; ignored files do not count."""
        try:
            status = ("status", "--porcelain", "--untracked-files=normal")
            if await self._git(checkout.folder, *status, "--ignore-submodules=none"):
                return True
            return await self._git(checkout.folder, "rev-parse", "HEAD") != checkout.commit
        except (GitError, OSError) as error:
            log.warning("the checkout %s cannot be used: %s", checkout.folder, error)
            return True

    async def _fetch(self, repository: Path, source: ProjectSource) -> None:
        if await self._has(repository, source.commit):
            return
        fetch = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--end-of-options")
        try:
            await self._git(repository, *fetch, source.remote, source.commit, timeout=FETCH_TIMEOUT)
        except GitError as error:
            # An old server gives out only what its branches point to.
            branches = "+refs/heads/*:refs/remotes/origin/*"
            await self._git(repository, *fetch, source.remote, branches, timeout=FETCH_TIMEOUT)
            if not await self._has(repository, source.commit):
                raise GitError(
                    f"the remote {source.remote} does not give the commit "
                    f"{source.commit[:12]}: {error}"
                ) from None

    async def _has(self, repository: Path, commit: str) -> bool:
        try:
            await self._git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
        except GitError:
            return False
        return True

    async def _add(self, repository: Path, made: _Checkout) -> _Checkout:
        made.lock.touch(mode=0o600)
        try:
            await self._git(
                repository,
                *("worktree", "add", "--quiet", "--detach", "--end-of-options"),
                *(str(made.folder), made.commit),
            )
            made.lock.write_bytes(_READY)
        except BaseException:
            await asyncio.shield(self._remove(repository, made))
            raise
        return made

    async def clean(self) -> None:
        """Remove the worktrees that are unused for long; those in use stay."""
        for lock in sorted(self._cache.glob("*/lock")):
            try:
                async with _locked(lock):
                    await self._clean(lock.parent)
            except (GitError, OSError) as error:
                log.warning("%s cannot be cleaned: %s", lock.parent, error)

    async def _clean(self, repository: Path) -> None:
        for one in _checkouts(repository):
            with _alone(one) as is_unused:
                if is_unused and await self._is_outdated(one):
                    await self._remove(repository, one)

    async def _is_outdated(self, checkout: _Checkout) -> bool:
        if not checkout.is_ready:  # its process was killed: another one would have the lock
            return True
        age = time.time() - checkout.lock.stat().st_mtime
        if age < UNUSED_SECONDS:
            return False
        if not await self._is_changed(checkout):
            return True
        if age >= CHANGED_SECONDS:
            log.warning("the changed checkout %s is removed, unused for long", checkout.folder)
        return age >= CHANGED_SECONDS

    async def _remove(self, repository: Path, checkout: _Checkout) -> None:
        with suppress(GitError):  # it was never made
            await self._git(
                repository,
                # Twice: once for changed files, once for a lock.
                *("worktree", "remove", "--force", "--force", str(checkout.folder)),
            )
        await asyncio.to_thread(shutil.rmtree, checkout.folder, ignore_errors=True)
        with suppress(GitError):
            await self._git(repository, "worktree", "prune")
        with suppress(OSError):
            checkout.lock.unlink()

    async def _git(self, folder: Path, *arguments: str, timeout: float = FETCH_TIMEOUT) -> str:
        return await run_git(folder, self._environ, *arguments, timeout=timeout)


def _folder_in(root: Path, source: ProjectSource) -> Path:
    """Return the project's folder below a root.

    Raises:
        NodeLacksProject: there is none, or a link of the project leads out of it.
    """
    folder = root / source.inside
    if not folder.resolve().is_relative_to(root.resolve()):
        raise NodeLacksProject(f"the folder {source.inside} leads out of the project")
    if not folder.is_dir():
        raise NodeLacksProject(f"the project has no folder {source.inside or root} here")
    return folder


class _Checkout:
    """One worktree in the cache.

    Args:
        lock: its lock file, ``COMMIT-NUMBER.lock``; it stands beside the worktree.

    Attributes:
        folder: the worktree.
        commit: the commit that it began with.
        number: tells it from others of the same commit.
    """

    def __init__(self, lock: Path) -> None:
        self.lock = lock
        self.folder = lock.with_suffix("")
        self.commit, _, number = self.folder.name.partition("-")
        self.number = int(number)

    @classmethod
    def named(cls, repository: Path, commit: str, number: int) -> _Checkout:
        """Return the worktree of a commit and a number; it need not exist."""
        return cls(repository / "trees" / f"{commit}-{number}.lock")

    @property
    def is_ready(self) -> bool:
        """Return whether it is complete."""
        try:
            return self.lock.read_bytes() == _READY
        except OSError:
            return False


def _checkouts(repository: Path) -> list[_Checkout]:
    names = sorted((repository / "trees").glob("*.lock"))
    return [_Checkout(path) for path in names if re.fullmatch(r"[0-9a-f]+-\d+\.lock", path.name)]


@contextmanager
def _alone(checkout: _Checkout) -> Iterator[bool]:
    """Hold a worktree alone if nobody has it; yield whether that is so."""
    file = os.open(checkout.lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield _try_lock(file)
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock file that other tasks and processes of this node use too.

    Raises:
        GitError: another one holds it for too long.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + LOCK_TIMEOUT
        while not _try_lock(file):
            if time.monotonic() > end:
                raise GitError(f"another process holds {path} for more than {LOCK_TIMEOUT:g} s")
            await asyncio.sleep(LOCK_GAP)
        yield
    finally:
        os.close(file)
