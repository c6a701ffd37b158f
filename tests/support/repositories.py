"""Git repositories for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

NAMED = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
"""Options without which git refuses a commit."""


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder; return its output."""
    done = subprocess.run(
        ["git", *NAMED, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def make_repository(folder: Path) -> None:
    """Make a repository of a folder, with one commit of all that is in it."""
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=first")


def worktrees(folder: Path) -> list[Path]:
    """Return the worktrees of a repository, besides its main one."""
    listing = git(folder, "worktree", "list", "--porcelain").splitlines()
    return [Path(line[9:]) for line in listing if line.startswith("worktree ")][1:]


def branches(folder: Path) -> list[str]:
    """Return the branches of a repository."""
    return git(folder, "branch", "--format=%(refname:short)").splitlines()


def is_untouched(folder: Path) -> bool:
    """Check that a repository has no worktree, no other branch and no file of one."""
    clean = not git(folder, "status", "--porcelain", "--ignored")
    return clean and worktrees(folder) == [] and branches(folder) == ["main"]
