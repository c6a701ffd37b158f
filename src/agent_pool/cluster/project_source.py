"""Where nodes find a project: the same path, a commit of a git remote, or Ray's `working_dir`.

The caller's machine describes the project, each node looks it up: see `node_project`. A remote, a
path and a commit come from files of the project, so they are checked on both machines.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

from agent_pool.errors import ConfigError
from agent_pool.models import JsonValue
from agent_pool.pool.git import GitError, run_git
from agent_pool.text import count

ProjectKind = Literal["path", "git", "working_dir"]
"""The values of the setting `project_source`."""

MAX_REMOTE: Final = 2000
"""Characters of a remote's URL."""
MAX_NAMED: Final = 3
"""Files that an error names."""

_SCHEMES: Final = ("https", "http", "ssh", "git", "file")
"""Transports of git that run no program that the URL chooses, as ``ext::`` does."""
TRANSPORTS: Final = ":".join(_SCHEMES)
"""The value of `GIT_ALLOW_PROTOCOL`: it holds also where a node's own config rewrites the URL."""
_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
"""A user or a host: one that begins with a dash would be an option of ssh."""
_HOST: Final = re.compile(rf"{_NAME}|\[[0-9A-Fa-f:.]+\]")
_SCP_FORM: Final = re.compile(rf"(?:{_NAME}@)?{_NAME}:[^:\-].*")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Encoded ones too: a line break in a URL reaches the credential helper as a line of its own.
_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]|%0[0ad]", re.IGNORECASE)
_OWN_WORKTREES: Final = ":(top,exclude).claude/worktrees"
"""Worktrees of tasks and of Claude Code's sub-agents are no change of the project."""


@dataclass(frozen=True, slots=True)
class ProjectSource(JsonValue):
    """Where a node finds a project.

    Attributes:
        kind: see `ProjectKind`.
        folder: the project's folder on the caller's machine, absolute.
        inside: of `git` and `working_dir`: the folder's path below the repository's root, or below
            `working_dir`; empty for that itself.
        remote: of `git`: the URL that nodes fetch from; it has no password.
        commit: of `git`: the whole hash of the commit.
    """

    kind: ProjectKind
    folder: str
    inside: str = ""
    remote: str = ""
    commit: str = ""


async def find_source(
    folder: Path, kind: ProjectKind, environ: Mapping[str, str], working_dir: Path | None = None
) -> ProjectSource:
    """Describe a project for the nodes.

    Args:
        folder: the project's folder on this machine.
        kind: the setting `project_source`.
        environ: the environment of git.
        working_dir: the folder that Ray copies to the nodes; for the kind of this name alone.

    Raises:
        ConfigError: nodes cannot have this project in this way; the message has the next step.
    """
    if kind == "path":
        return ProjectSource(kind, str(folder))
    if kind == "working_dir":
        return _in_working_dir(folder, working_dir or folder)
    try:
        return await _in_git(folder, environ)
    except GitError as error:
        raise ConfigError(
            f"the project {folder} cannot be given to nodes by git (project_source = git): {error}"
        ) from None


def _in_working_dir(folder: Path, working_dir: Path) -> ProjectSource:
    try:
        inside = _below(folder, working_dir)
    except ValueError:
        raise ConfigError(
            f"the project {folder} is not in {working_dir}, the one folder that Ray copies to the "
            "nodes (project_source = working_dir); use project_source = path or git"
        ) from None
    return ProjectSource("working_dir", str(folder), _relative(inside))


def _below(folder: Path, root: Path) -> Path:
    return folder.resolve().relative_to(root.resolve())


def _relative(path: Path) -> str:
    return "" if path == Path() else path.as_posix()


async def _in_git(folder: Path, environ: Mapping[str, str]) -> ProjectSource:
    root = Path(await run_git(folder, environ, "rev-parse", "--show-toplevel"))
    commit = await _clean_commit(root, environ)
    name = await _remote_name(root, environ)
    urls = await run_git(root, environ, "config", "--get-all", f"remote.{name}.url")
    remote = checked_remote(urls.split("\n")[0])  # git fetches from the first one
    holders = ("for-each-ref", "--count=1", "--contains", commit, f"refs/remotes/{name}/")
    if not await run_git(root, environ, *holders):
        raise GitError(
            f"the commit {commit[:12]} is in no branch of the remote {name!r} that is known here; "
            "push it (`git push`), or fetch if it is there"
        )
    return ProjectSource("git", str(folder), _relative(_below(folder, root)), remote, commit)


async def _clean_commit(root: Path, environ: Mapping[str, str]) -> str:
    """Return the commit that is checked out.

    Raises:
        GitError: there is none, or files differ from it: a node would work on others.
    """
    status = ("status", "--porcelain=v2", "--branch", "--untracked-files=normal", "-z")
    lines = (await run_git(root, environ, *status, "--", ".", _OWN_WORKTREES)).split("\0")
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), "")
    if not _COMMIT.fullmatch(commit):
        raise GitError("there is no commit yet; commit the project and push it")
    changed = [line for line in lines if line and not line.startswith("#")]
    if changed:
        names = ", ".join(_name_in(line) for line in changed[:MAX_NAMED])
        more = ", …" if len(changed) > MAX_NAMED else ""
        raise GitError(
            f"{count(len(changed), 'change')} not committed ({names}{more}), and nodes have only "
            "what is committed and pushed; commit and push, or use project_source = path"
        )
    return commit


def _name_in(line: str) -> str:
    """Return the file's name of a line of `git status --porcelain=v2`."""
    fields = {"1": 8, "2": 9, "u": 10}.get(line[0], 1)
    return line.split(" ", fields)[-1]


async def _remote_name(root: Path, environ: Mapping[str, str]) -> str:
    """Return the remote of the current branch, else ``origin``, else the only one.

    Raises:
        GitError: there is none, or several and none of them is meant.
    """
    names = (await run_git(root, environ, "remote")).split("\n")
    try:
        branch = await run_git(root, environ, "symbolic-ref", "--quiet", "--short", "HEAD")
        upstream = await run_git(root, environ, "config", "--get", f"branch.{branch}.remote")
    except GitError:  # no branch is checked out, or it has no remote
        upstream = ""
    wanted = [name for name in (upstream, "origin", *(names if len(names) == 1 else ())) if name]
    found = next((name for name in wanted if name in names), "")
    if not found:
        known = ", ".join(filter(None, names)) or "none"
        raise GitError(f"its branch has no remote, and there is no `origin` (remotes: {known})")
    return found


def checked_remote(url: str) -> str:
    """Return a remote's URL without a password; git runs no program that it names.

    A user's name and password of ``https`` are left out: each node uses its own credentials.

    Raises:
        GitError: it is neither a URL of a permitted transport, nor ``host:path``, nor an absolute
            path.
    """
    if len(url) > MAX_REMOTE or not url or _CONTROL.search(url):
        raise GitError("the remote's URL is empty or too long, or has control characters or blanks")
    if url.startswith("/"):
        return url
    if "://" in url:
        return _checked_url(url)
    if _SCP_FORM.fullmatch(url):
        return url
    raise GitError(
        f"the remote {_without_user(url)!r} is neither a URL of {', '.join(_SCHEMES)}, nor "
        "host:path, nor an absolute path; nodes fetch from nothing else"
    )


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        user, _ = parts.username or "", parts.port
    except ValueError:
        raise GitError("the remote's URL cannot be read") from None
    host = parts.netloc.rpartition("@")[2]
    name = re.sub(r":\d*\Z", "", host)
    is_local = parts.scheme == "file" and not parts.netloc
    if parts.scheme not in _SCHEMES or not (is_local or _HOST.fullmatch(name)):
        shown = urlunsplit((parts.scheme, host, parts.path, "", ""))
        raise GitError(f"the remote {shown!r} has no host, or another transport than {TRANSPORTS}")
    if user and parts.scheme == "ssh":
        if not re.fullmatch(_NAME, user):
            raise GitError("the remote's URL has a wrong user name")
        host = f"{user}@{host}"
    return urlunsplit((parts.scheme, host, parts.path, parts.query, ""))


def _without_user(url: str) -> str:
    return url.rpartition("@")[2]


def check_source(source: ProjectSource) -> None:
    """Check a description that came over the network.

    Raises:
        GitError: a field is not what `find_source` makes.
    """
    inside = PurePosixPath(source.inside)
    if inside.is_absolute() or ".." in inside.parts or "\0" in source.inside + source.folder:
        raise GitError(f"the folder {source.inside!r} leads out of the project")
    if source.kind == "git":
        if checked_remote(source.remote) != source.remote:
            raise GitError("the remote's URL has a password")
        if not _COMMIT.fullmatch(source.commit):
            raise GitError("this is not the hash of a commit")
