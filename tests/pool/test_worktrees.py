"""Worktrees by themselves, with real git: made, kept or removed, several at once, errors."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent_pool.errors import TaskFailed
from agent_pool.pool.worktrees import Worktree, finish_worktree, make_worktree
from support.repositories import branches, git, is_untouched, make_repository, worktrees
from support.waiting import run

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with a file in a subfolder."""
    root = tmp_path / "repo"
    (root / "pkg").mkdir(parents=True)
    (root / "pkg" / "a.txt").write_text("a\n")
    (root / ".gitignore").write_text("*.log\n")
    make_repository(root)
    return root


def commit_elsewhere(made: Worktree) -> None:
    git(made.path, "commit", "--quiet", "--allow-empty", "--message=work")
    git(made.path, "checkout", "--quiet", "--detach", made.base)


def test_a_worktree_has_the_commit_and_folder_of_its_caller(repository: Path) -> None:
    async def main() -> None:
        made = await make_worktree(repository / "pkg", ENVIRON)
        assert made.path.parent == repository / ".claude" / "worktrees"
        assert made.folder == made.path / "pkg"
        assert (made.folder / "a.txt").read_text() == "a\n"
        assert git(made.folder, "rev-parse", "HEAD") == made.base
        assert git(made.folder, "branch", "--show-current") == made.branch
        assert await finish_worktree(made, ENVIRON) is False

    run(main())
    assert is_untouched(repository)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: (made.path / "pkg" / "a.txt").write_text("b\n"),
        lambda made: (made.path / "new.txt").write_text("new\n"),
        lambda made: git(made.path, "rm", "--quiet", "pkg/a.txt"),
        lambda made: git(made.path, "commit", "--quiet", "--allow-empty", "--message=work"),
        commit_elsewhere,
    ],
    ids=["edited", "untracked", "staged", "committed", "commit left for another head"],
)
def test_a_changed_worktree_is_kept_with_its_branch(repository: Path, change: object) -> None:
    # The user's settings of git must not hide new files.
    git(repository, "config", "status.showUntrackedFiles", "no")

    async def main() -> None:
        made = await make_worktree(repository, ENVIRON)
        change(made)  # type: ignore[operator]
        assert await finish_worktree(made, ENVIRON) is True
        assert worktrees(repository) == [made.path]
        assert made.branch in branches(repository)
        assert "locked" not in git(repository, "worktree", "list", "--porcelain")

    run(main())


def test_files_that_git_ignores_do_not_keep_a_worktree(repository: Path) -> None:
    async def main() -> None:
        made = await make_worktree(repository, ENVIRON)
        (made.path / "debug.log").write_text("x")
        assert await finish_worktree(made, ENVIRON) is False

    run(main())
    assert is_untouched(repository)


def test_a_worktree_that_git_cannot_check_is_kept(repository: Path) -> None:
    async def main() -> None:
        made = await make_worktree(repository, ENVIRON)
        (made.path / ".git").unlink()
        git(repository, "config", "core.bare", "true")
        assert await finish_worktree(made, {**ENVIRON, "PATH": "/nonexistent"}) is True
        assert (made.path / "pkg").exists()

    run(main())


def test_many_worktrees_at_once_do_not_collide(repository: Path) -> None:
    async def main() -> None:
        made = await asyncio.gather(*(make_worktree(repository, ENVIRON) for _ in range(16)))
        assert len({one.path for one in made}) == len({one.branch for one in made}) == 16
        kept = await asyncio.gather(*(finish_worktree(one, ENVIRON) for one in made))
        assert not any(kept)

    run(main())
    assert is_untouched(repository)


def test_hooks_and_variables_of_git_have_no_effect(repository: Path, tmp_path: Path) -> None:
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    other = tmp_path / "other"
    other.mkdir()
    make_repository(other)
    environ = {**ENVIRON, "GIT_DIR": str(other / ".git"), "GIT_WORK_TREE": str(other)}

    async def main() -> None:
        made = await make_worktree(repository, environ)
        assert made.root == repository
        await finish_worktree(made, environ)

    run(main())
    assert not (tmp_path / "ran").exists()
    assert is_untouched(repository)
    assert is_untouched(other)


@pytest.mark.parametrize(
    ("prepare", "path", "message"),
    [
        ("", os.environ["PATH"], "not a git repository"),
        ("git init --quiet", os.environ["PATH"], "there is no commit yet"),
        ("", "/nonexistent", "git cannot be run: No such file"),
    ],
)
def test_a_folder_without_a_commit_gives_a_clear_error(
    tmp_path: Path, prepare: str, path: str, message: str
) -> None:
    subprocess.run(prepare, shell=True, cwd=tmp_path, check=True)

    async def main() -> None:
        with pytest.raises(TaskFailed, match=message) as caught:
            await make_worktree(tmp_path, {**ENVIRON, "PATH": path})
        assert str(tmp_path) in str(caught.value)

    run(main())
    assert not (tmp_path / ".claude").exists()


def test_a_link_out_of_the_repository_is_refused(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (repository / ".claude").symlink_to(tmp_path / "outside")

    async def main() -> None:
        with pytest.raises(TaskFailed, match="leads out of the repository"):
            await make_worktree(repository, ENVIRON)

    run(main())
    assert worktrees(repository) == []


def test_worktrees_of_a_killed_pool_are_removed_unless_changed(repository: Path) -> None:
    script = (
        "import asyncio, os, pathlib, sys; from agent_pool.pool.worktrees import make_worktree\n"
        "made = [asyncio.run(make_worktree(pathlib.Path(sys.argv[1]), os.environ)) for _ in 'ab']\n"
        "(made[1].path / 'new.txt').write_text('x'); print(made[1].path); os.kill(os.getpid(), 9)"
    )
    environ = {**ENVIRON, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-c", "import sys\nsys.stdout.reconfigure(line_buffering=True)\n" + script,
         str(repository)],
        env=environ, capture_output=True, text=True,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    assert len(worktrees(repository)) == 2

    async def main() -> None:
        mine = await make_worktree(repository, ENVIRON)
        other = await make_worktree(repository, ENVIRON)
        assert set(worktrees(repository)) == {Path(killed.stdout.strip()), mine.path, other.path}
        for made in (mine, other):
            await finish_worktree(made, ENVIRON)

    run(main())
    assert worktrees(repository) == [Path(killed.stdout.strip())]
    assert len(branches(repository)) == 2
