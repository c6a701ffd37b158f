"""The system prompt of an agent: its skills, its expertise and its body, the same bytes always."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Final

from agent_pool.agents import frontmatter
from agent_pool.agents.files import FileCache, Signature, is_inside, read_text, signature_of
from agent_pool.agents.names import did_you_mean
from agent_pool.errors import ConfigError

SKILL_FILE: Final = "SKILL.md"
SKILL_FOLDER: Final = "${CLAUDE_SKILL_DIR}"
"""By this a skill's text may call its own folder, as in Claude Code."""


def compose(
    body: str, skills: Iterable[tuple[str, str]], expertise: Iterable[tuple[str, str]]
) -> str:
    """The whole prompt: each (name, text) of a skill or an expertise under its heading, the body.

    A body that has nothing before it stands alone.
    """
    parts = [f"# Skill: {name}\n\n{text}" for name, text in skills]
    parts += [f"# Expertise: {name}\n\n{text}" for name, text in expertise]
    if body:
        parts.append(f"# Instructions\n\n{body}" if parts else body)
    return "\n\n".join(part.rstrip() for part in parts)


def tidy(text: str) -> str:
    """`text` without blanks around it and at the ends of its lines."""
    return "\n".join(line.rstrip(" \t") for line in text.split("\n")).strip()


class Expertise:
    """Texts that agents name to have them in their prompts: ``NAME.md`` in any of some folders."""

    key = "expertise"
    kind = "expertise"

    def __init__(self, folders: tuple[Path, ...]) -> None:
        """`folders` are searched in this order; they need not exist."""
        self._folders = folders
        self._texts = FileCache(self._load)

    def text(self, name: str) -> str:
        """The text called `name`, its frontmatter taken off; read again when it was edited.

        Raises:
            ConfigError: there is none, its file cannot be used, or a link leads out of its folder.
        """
        for folder in self._folders:
            path = self._path(folder, name)
            try:
                return self._texts.get(str(path), self._signature(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        looked = ", ".join(str(self._path(folder, name)) for folder in self._folders)
        hint = did_you_mean(name, self.names())
        raise ConfigError(f"no {self.kind} is called {name!r}{hint}; looked at {looked}")

    def names(self) -> list[str]:
        """The names of all texts, sorted."""
        return sorted({name for folder in self._folders for name in self._listed(folder)})

    def stamp(self) -> Hashable:
        """Changes when a text is added, removed or edited."""
        return tuple(
            (str(path), self._signature_or_error(path))
            for folder in self._folders
            for path in sorted(self._path(folder, name) for name in self._listed(folder))
        )

    def _path(self, folder: Path, name: str) -> Path:
        return folder / f"{name}.md"

    def _folder(self, path: Path) -> Path:
        return path.parent

    def _listed(self, folder: Path) -> list[str]:
        try:
            with os.scandir(folder) as entries:
                return [name for entry in entries if (name := self._name(entry))]
        except OSError:
            return []  # missing, or unreadable: `text` says so to who wants something out of it

    def _name(self, entry: os.DirEntry[str]) -> str:
        return entry.name.removesuffix(".md") if entry.name.endswith(".md") else ""

    def _signature(self, path: Path) -> Signature:
        return signature_of(path.stat())

    def _signature_or_error(self, path: Path) -> Signature:
        try:
            return self._signature(path)
        except OSError as error:
            return (error.errno or 0,)

    def _load(self, path: Path) -> str:
        folder = self._folder(path)
        if not is_inside(path, folder):
            raise ConfigError(f"{path}: leads out of {folder}, to {os.path.realpath(path)}")
        return tidy(frontmatter.split(read_text(path))[1])


class Skills(Expertise):
    """Likewise ``NAME/SKILL.md``; the other files of a skill's folder are there for the agent."""

    key = "skills"
    kind = "skill"

    def __init__(self, folders: tuple[Path, ...], project_dir: Path) -> None:
        """Folders within `project_dir`, where agents work, are named to them relative to it."""
        super().__init__(folders)
        self._project = project_dir

    def _path(self, folder: Path, name: str) -> Path:
        return folder / name / SKILL_FILE

    def _folder(self, path: Path) -> Path:
        return path.parent.parent

    def _name(self, entry: os.DirEntry[str]) -> str:
        return "" if entry.is_file(follow_symlinks=False) else entry.name

    def _signature(self, path: Path) -> Signature:
        # With the folder's own time: it changes when other files come or go.
        return (*super()._signature(path), path.parent.stat().st_mtime_ns)

    def _load(self, path: Path) -> str:
        text = super()._load(path).replace(SKILL_FOLDER, self._location(path.parent))
        others = any(file.name != SKILL_FILE for file in path.parent.iterdir())
        return f"(Its files: {self._location(path.parent)})\n\n{text}" if others else text

    def _location(self, folder: Path) -> str:
        """Where `folder` is, the same on every machine if that can be said."""
        for root, prefix in ((self._project, ""), (Path.home(), "~/")):
            if folder.is_relative_to(root):
                return prefix + folder.relative_to(root).as_posix()
        return str(folder)
