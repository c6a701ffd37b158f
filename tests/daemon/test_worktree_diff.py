"""What the page of a task shows of its worktree: commits, changes and new files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agent_pool.daemon.dashboard.worktree_diff import MAX_DIFF, worktree_diff

pytestmark = pytest.mark.anyio


@pytest.fixture
def worktree(tmp_path: Path) -> Path:
    """Return a worktree of a repository with one commit, which has the file a.txt."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q")
    (root / "a.txt").write_text("old\n")
    commit(root)
    git(root, "worktree", "add", "-q", "-b", "task", str(tmp_path / "tree"))
    return tmp_path / "tree"


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.email=a@example.org", "-c", "user.name=a")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "work")


async def test_changed_committed_and_new_files_are_all_shown(worktree: Path) -> None:
    (worktree / "b.txt").write_text("committed\n")
    commit(worktree)
    (worktree / "a.txt").write_text("changed\n")
    (worktree / "c.txt").write_text("unknown to git\n")
    shown = await worktree_diff(str(worktree))
    for line in ("+committed", "-old", "+changed", "new file c.txt", "+unknown to git"):
        assert line in shown.splitlines()


async def test_a_later_commit_of_the_repository_is_not_shown(worktree: Path) -> None:
    root = worktree.parent / "repository"
    (root / "other.txt").write_text("not of the task\n")
    commit(root)
    (worktree / "a.txt").write_text("changed\n")
    shown = await worktree_diff(str(worktree))
    assert "+changed" in shown
    assert "other.txt" not in shown


async def test_the_target_of_a_new_link_is_not_read(worktree: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    (worktree / "link").symlink_to(secret)
    os.mkfifo(worktree / "pipe")
    shown = await worktree_diff(str(worktree))
    assert "new file link" in shown
    assert "a secret" not in shown


async def test_a_large_diff_is_cut_and_says_so(worktree: Path) -> None:
    (worktree / "a.txt").write_text("line\n" * MAX_DIFF)
    shown = await worktree_diff(str(worktree))
    assert len(shown) < MAX_DIFF + 100
    assert shown.endswith("more is not shown")


async def test_a_removed_worktree_has_no_diff(tmp_path: Path) -> None:
    assert await worktree_diff(str(tmp_path / "gone")) == ""
