"""The folders of a project in which Claude Code looks for definitions, nearest first."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from agent_pool.agents.files import read_text
from agent_pool.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ProjectFolders:
    """The folders whose ``.claude`` belongs to a project (as in Claude Code 2.1.332).

    Attributes:
        folders: the project's folder and those above it, nearest first.
        root: the root of the git repository or worktree; None outside of a repository.
        main: the main checkout, if `root` is a linked worktree.
    """

    folders: tuple[Path, ...]
    root: Path | None
    main: Path | None

    def has_own(self, *kinds: str) -> tuple[bool, ...]:
        """Return for each kind whether a linked worktree has a folder of it; () without one."""
        if self.main is None or self.root is None:
            return ()
        return tuple((self.root / ".claude" / kind).exists() for kind in kinds)

    def choose(self, kind: str) -> list[Path]:
        """Return the folders ``.claude/KIND`` to search; those of the project need not exist.

        The main checkout's folder is searched only while the worktree has none at its root.
        """
        found = [folder / ".claude" / kind for folder in self.folders]
        # 2.1.332 asks only whether it exists: an empty folder, or a file, is enough.
        if self.main and self.root and not (self.root / ".claude" / kind).exists():
            found.append(self.main / ".claude" / kind)
        return found


def find_project_folders(project: Path, home: str) -> ProjectFolders:
    """Find the folders of a project.

    The search ends with the root of the git repository, which is the first folder with a `.git` of
    any kind. Without a repository it ends below the user's home, or at the top of the disk.

    Args:
        project: the folder in which agents work, absolute.
        home: the user's home folder as the variable HOME names it; "" if it is not set.
    """
    folders: list[Path] = []
    # The CLI knows its working directory with all links followed, but HOME as it is written.
    resolved = Path(os.path.realpath(project))
    for folder in (resolved, *resolved.parents):
        if str(folder) == home:
            break
        # The first folder keeps the path that the user knows.
        folders.append(folder if folders else project)
        git = folder / ".git"
        if git.exists():
            return ProjectFolders(tuple(folders), folder, _find_main_checkout(git))
    return ProjectFolders(tuple(folders), None, None)


def _find_main_checkout(git: Path) -> Path | None:
    """Return the main checkout to which the file `.git` of a linked worktree leads, else None.

    The main checkout of a bare repository is the repository itself.
    """
    if not git.is_file():
        return None
    try:
        target = read_text(git).removeprefix("gitdir:").strip()
        folder = Path(os.path.realpath(git.parent / target))
    except (ConfigError, OSError, ValueError):
        return None
    # A submodule's file leads to `.git/modules/NAME`; it is no worktree.
    if folder.parent.name != "worktrees":
        return None
    common = folder.parent.parent
    return common.parent if common.name == ".git" else common
