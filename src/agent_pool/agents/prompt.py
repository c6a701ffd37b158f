"""Compose the system prompt of an agent from its skills, its expertise and its body.

The same files always give the same bytes, so that the API's prompt cache is hit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from agent_pool.agents import frontmatter
from agent_pool.agents.files import (
    FileCache,
    FileSignature,
    list_markdown_files,
    make_signature,
    read_text,
)
from agent_pool.agents.names import check_name
from agent_pool.errors import ConfigError
from agent_pool.text import did_you_mean

_ARGUMENTS: Final = re.compile(r"\$ARGUMENTS(?!\[)")
_COMMAND: Final = re.compile(r"(?:^|\s)!`[^`]+`|^```!", re.MULTILINE)

SKILL_FILE: Final = "SKILL.md"
SKILL_DIR_VARIABLE: Final = "${CLAUDE_SKILL_DIR}"
"""A skill's text can refer to its own folder by this variable, as in Claude Code."""
PROJECT_DIR_VARIABLE: Final = "${CLAUDE_PROJECT_DIR}"
SESSION_VARIABLE: Final = "${CLAUDE_SESSION_ID}"
"""Claude Code replaces these two as well in the texts of skills and commands (2.1.332)."""


def compose_prompt(
    body: str, skills: Iterable[tuple[str, str]], expertise: Iterable[tuple[str, str]]
) -> str:
    """Compose the system prompt: skills, expertise and body, each under its own heading.

    A body without skills and expertise gets no heading.

    Args:
        body: the text of the agent's file below the frontmatter; can be empty.
        skills, expertise: (name, text) pairs, in the order of the prompt.
    """
    parts = [f"# Skill: {name}\n\n{text}" for name, text in skills]
    parts += [f"# Expertise: {name}\n\n{text}" for name, text in expertise]
    if not parts:
        return body
    if body:
        parts.append(f"# Instructions\n\n{body}")
    return "\n\n".join(part.rstrip() for part in parts)


def trim_text(text: str) -> str:
    """Return `text` without white space around it and without blanks at the ends of its lines."""
    return "\n".join(line.rstrip(" \t") for line in text.split("\n")).strip()


class TextNotFound(ConfigError):  # noqa: N818 - named as AgentNotFound is
    """No folder has a skill or expertise of this name, or the CLI would not load it."""


class ExpertiseLibrary:
    """The files ``NAME.md`` of some folders; agents name them to add them to their prompts.

    Attributes:
        field_name: the frontmatter field that names these texts.
        noun: the word for one of them in messages.
    """

    field_name: ClassVar[str] = "expertise"
    noun: ClassVar[str] = "expertise"

    def __init__(self, folders: tuple[Path, ...]) -> None:
        """Search `folders` in this order; a folder need not exist."""
        self._folders = folders
        self._texts = FileCache(self._load)

    def read(self, name: str) -> str:
        """Return the text with this name, without its frontmatter.

        The first folder that has the file wins. The file is read again after it was edited.

        Raises:
            ConfigError: no folder has the file, or the file cannot be used.
        """
        for folder in self._folders:
            path = self._build_path(folder, name)
            try:
                return self._texts.get(str(path), self._read_signature(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        raise self._missing(name)

    def _missing(self, name: str) -> TextNotFound:
        """Build the error for a name that no folder has."""
        places = ", ".join(str(self._build_path(folder, name)) for folder in self._folders)
        return TextNotFound(
            f"no {self.noun} is called {name!r}{did_you_mean(name, self.list_names())}; "
            f"searched for {places}; correct the name or create one of these files"
        )

    def list_names(self) -> list[str]:
        """Return the names of all texts, sorted."""
        return sorted({name for folder in self._folders for name in self._list_names_in(folder)})

    def stamp(self) -> Hashable:
        """Return a value that changes when a text is added, removed or edited."""
        return tuple(
            (str(path), self._read_signature_or_error(path))
            for folder in self._folders
            for path in sorted(
                self._build_path(folder, name) for name in self._list_names_in(folder)
            )
        )

    def _build_path(self, folder: Path, name: str) -> Path:
        """Return the path of the text called `name` in `folder`."""
        return folder / f"{name}.md"

    def _list_names_in(self, folder: Path) -> list[str]:
        """Return the names of the texts in `folder`, in no order."""
        try:
            with os.scandir(folder) as entries:
                return [name for entry in entries if (name := self._get_name(entry))]
        except OSError:
            # A folder need not exist. If it cannot be read, `read` reports that to the agents
            # that need a text of it.
            return []

    def _get_name(self, entry: os.DirEntry[str]) -> str:
        """Return the name of the text that an entry of a folder holds; "" for other entries."""
        return entry.name.removesuffix(".md") if entry.name.endswith(".md") else ""

    def _read_signature(self, path: Path) -> FileSignature:
        """Return the signature of the text at `path`; raise OSError if it cannot be examined."""
        return make_signature(path.stat())

    def _read_signature_or_error(self, path: Path) -> FileSignature:
        """Return the signature of the text at `path`, or its error number if that fails."""
        try:
            return self._read_signature(path)
        except OSError as error:
            return (error.errno or 0,)

    def _load(self, path: Path) -> str:
        """Read the text at `path`; raise as `read`."""
        return trim_text(frontmatter.remove_fenced(read_text(path)))


class SkillLibrary(ExpertiseLibrary):
    """The files ``NAME/SKILL.md`` of some folders; a skill's folder can hold files for the agent.

    They are read as in `ExpertiseLibrary`. As in Claude Code 2.1.332, a name stands for the folder
    of a skill, or else for the field `name` of a skill, or else for a command.
    """

    field_name = "skills"
    noun = "skill"

    def __init__(
        self, folders: tuple[Path, ...], project_dir: Path, commands: tuple[Path, ...] = ()
    ) -> None:
        """Search `folders` in this order; a folder need not exist.

        Args:
            folders: the searched folders.
            project_dir: the folder in which agents work; paths in it are written relative to it.
            commands: the folders of commands, ``NAME.md``; a subfolder is written ``SUB:NAME``.
        """
        super().__init__(folders)
        self._project_dir = project_dir
        self._commands = commands
        self._heads = FileCache(_read_head)

    def read(self, name: str) -> str:
        """Return the text with this name, without its frontmatter.

        Raises:
            TextNotFound: there is none, or Claude Code loads it only on other occasions.
            ConfigError: the file cannot be used.
        """
        found = self._find(name)
        if found is None:
            raise self._missing(name)
        path, signature = found
        if self._heads.get(str(path), signature).is_not_preloaded:
            raise TextNotFound(
                f"{path}: Claude Code does not load this skill with an agent, because of its field "
                "`disable-model-invocation` or `paths`"
            )
        return self._texts.get(str(path), signature)

    def stamp(self) -> Hashable:
        """Return a value that changes when a text is added, removed or edited."""
        commands = [tuple(list_markdown_files(folder)) for folder in self._commands]
        return (super().stamp(), *commands)

    def _find(self, name: str) -> tuple[Path, FileSignature] | None:
        """Return the file for which a name stands, and its signature; None if there is none."""
        return self._find_folder(name) or self._find_title(name) or self._find_command(name)

    def _find_folder(self, name: str) -> tuple[Path, FileSignature] | None:
        try:
            check_name(name)  # it becomes a part of a path
        except ValueError:
            return None
        for folder in self._folders:
            path = self._build_path(folder, name)
            try:
                return path, self._read_signature(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        return None

    def _find_title(self, name: str) -> tuple[Path, FileSignature] | None:
        for folder in self._folders:
            for entry in sorted(self._list_names_in(folder)):
                path = self._build_path(folder, entry)
                # Those without a file, or with one that cannot be read, have no title.
                with suppress(OSError, ConfigError):
                    signature = self._read_signature(path)
                    if self._heads.get(str(path), signature).title == name:
                        return path, signature
        return None

    def _find_command(self, name: str) -> tuple[Path, FileSignature] | None:
        for folder in self._commands:
            for file in list_markdown_files(folder):
                parts = Path(file.path).relative_to(folder).with_suffix("").parts
                own = ":".join(parts[:-1] if parts[-1:] == ("SKILL",) else parts)
                # `deep` means `sub:deep` too (2.1.332).
                if file.problem is None and (own == name or own.endswith(f":{name}")):
                    return Path(file.path), file.signature
        return None

    def _build_path(self, folder: Path, name: str) -> Path:
        return folder / name / SKILL_FILE

    def _get_name(self, entry: os.DirEntry[str]) -> str:
        # A link counts: it can be a link to another skill's folder.
        return "" if entry.is_file(follow_symlinks=False) else entry.name

    def _read_signature(self, path: Path) -> FileSignature:
        # A folder's modification time changes when a file in it is added or removed, and the
        # text says whether there are other files (`_load`).
        return (*super()._read_signature(path), path.parent.stat().st_mtime_ns)

    def _load(self, path: Path) -> str:
        # Claude Code replaces the arguments of the command, and an agent has none (2.1.332).
        text = _ARGUMENTS.sub("", trim_text(frontmatter.split(read_text(path))[1]))
        text = text.replace(PROJECT_DIR_VARIABLE, str(self._project_dir))
        if path.name != SKILL_FILE:
            return text
        place = self._describe_folder(path.parent)
        text = text.replace(SKILL_DIR_VARIABLE, place)
        has_other_files = any(file.name != SKILL_FILE for file in path.parent.iterdir())
        return f"(Its files: {place})\n\n{text}" if has_other_files else text

    def _describe_folder(self, folder: Path) -> str:
        """Return the path of `folder` for the prompt, the same on every machine if possible.

        It is relative to the project, or else begins with ``~/``, or else is absolute.
        """
        for root, prefix in ((self._project_dir, ""), (Path.home(), "~/")):
            if folder.is_relative_to(root):
                return prefix + folder.relative_to(root).as_posix()
        return str(folder)


@dataclass(frozen=True, slots=True)
class _Head:
    """What the frontmatter of a skill says about its use.

    Attributes:
        title: the field `name`; "" without one.
        is_not_preloaded: whether Claude Code leaves the skill out of an agent that names it.
    """

    title: str
    is_not_preloaded: bool


def _read_head(path: Path) -> _Head:
    """Read the frontmatter of a skill; frontmatter that is no YAML counts as empty."""
    try:
        values = frontmatter.parse(frontmatter.split(read_text(path))[0] or "").values
    except frontmatter.FrontmatterError:
        values = {}
    title, hidden = values.get("name"), values.get("disable-model-invocation")
    return _Head(
        title if isinstance(title, str) else "",
        str(hidden).lower() == "true" or bool(values.get("paths")),
    )


def find_unsupported(name: str, text: str) -> Iterator[str]:
    """Yield a warning for each part of a skill that Claude Code would replace, but the pool not.

    Args:
        name: the name of the skill.
        text: its text, as `SkillLibrary.read` returns it.
    """
    if _COMMAND.search(text):
        yield (
            f"the commands in the text of {name} (after `!`) are not run; the agent reads them as "
            "they are written"
        )
    if SESSION_VARIABLE in text:
        # A worker gets a new session at each `/clear`, and its prompt stays.
        yield f"{SESSION_VARIABLE} in the text of {name} is not replaced"
