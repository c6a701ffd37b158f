"""Search folders for agent definitions and decide which agent a name stands for."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent_pool.agents.definition import Agent, BrokenAgent, ParsedDefinition, load_definition
from agent_pool.agents.files import FileCache, list_markdown_files
from agent_pool.agents.names import check_name
from agent_pool.agents.prompt import ExpertiseLibrary, SkillLibrary, compose_prompt
from agent_pool.errors import AgentNotFound, ConfigError
from agent_pool.settings import Settings, claude_home
from agent_pool.text import did_you_mean

LoadedDefinition = ParsedDefinition | BrokenAgent
NamedTexts = tuple[tuple[str, str], ...]
"""The (name, text) of each skill or expertise of an agent, in the order of its prompt."""
PromptSources = tuple[ParsedDefinition, NamedTexts, NamedTexts]
"""An agent's definition, skills and expertise: all that its prompt is composed from."""


@dataclass(frozen=True, slots=True)
class SearchFolders:
    """The folders that are searched, in order; a folder need not exist.

    Attributes:
        agents: folders of definitions: ``*.md``, subfolders included.
        skills: folders of skills: ``NAME/SKILL.md``.
        expertise: folders of expertise: ``NAME.md``.
    """

    agents: tuple[Path, ...]
    skills: tuple[Path, ...]
    expertise: tuple[Path, ...]


class Catalog:
    """The agents that are defined, always as their files are now.

    Every call lists the files again and parses only those that changed. So a call is cheap (tens
    of microseconds per folder), and an edit takes effect at the next call. Relative folders in the
    settings are relative to the working directory at the time of creation, and a leading ``~`` is
    the user's home.

    Attributes:
        folders: the folders that are searched.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        """Create a catalog; no file is read yet.

        Args:
            settings: gives the project and the folders.
            environ: environment variables; CLAUDE_CONFIG_DIR replaces ``~/.claude``.
        """
        self.folders = _choose_folders(settings, environ)
        self._skills = SkillLibrary(self.folders.skills, _make_absolute(settings.project_dir))
        self._expertise = ExpertiseLibrary(self.folders.expertise)
        self._definitions = FileCache(load_definition)
        self._composed: dict[Path, tuple[PromptSources, Agent]] = {}

    def find(self, name: str) -> Agent:
        """Return the agent with this name: its field `name`, or its file's name without ``.md``.

        The first folder that has such an agent wins.

        Raises:
            AgentNotFound: no file defines it; the message lists the searched folders.
            ConfigError: its definition, or a skill or expertise that it names, cannot be used, or
                several files of one folder have this name.
        """
        try:
            check_name(name)
        except ValueError as error:
            raise AgentNotFound(f"no agent can have this name: {error}") from None
        for folder in self.folders.agents:
            if candidates := self._group_by_name(folder).get(name):
                return self._choose(name, candidates)
        raise AgentNotFound(self._describe_search(name))

    def scan(self) -> list[Agent | BrokenAgent]:
        """Return all agents and all definitions that cannot be used, sorted by name.

        Each name appears once, with the agent that `find` returns or the error that it raises.
        Definitions that an earlier folder hides are left out.
        """
        found: dict[str, Agent | BrokenAgent] = {}
        hidden: set[str] = set()
        for folder in self.folders.agents:
            groups = self._group_by_name(folder)
            for name, candidates in groups.items():
                # A name that only files have is a second name of an agent, not one more agent.
                if name not in hidden and any(one.name == name for one in candidates):
                    found[name] = self._choose_or_report(name, candidates)
            hidden.update(groups)
        self._drop_removed({one.path for one in found.values()})
        return [found[name] for name in sorted(found)]

    def stamp(self) -> Hashable:
        """Return a value that changes when an agent, a skill or an expertise changes.

        That is when a file of one is added, removed or edited. No file is opened for it.
        """
        files = [file for folder in self.folders.agents for file in list_markdown_files(folder)]
        return (tuple(files), self._skills.stamp(), self._expertise.stamp())

    def _group_by_name(self, folder: Path) -> dict[str, list[LoadedDefinition]]:
        """Return the definitions in `folder` by name; each is under its field and its file name."""
        groups: dict[str, list[LoadedDefinition]] = {}
        for one in self._load(folder):
            for name in dict.fromkeys((one.name, one.path.stem)):
                groups.setdefault(name, []).append(one)
        return groups

    def _load(self, folder: Path) -> Iterator[LoadedDefinition]:
        """Yield the definitions in `folder`, in the order of their paths."""
        for file in list_markdown_files(folder):
            if file.problem is not None:
                path = Path(file.path)
                yield BrokenAgent(path.stem, path, ConfigError(f"{path}: {file.problem}"))
            elif one := self._definitions.get(file.path, file.signature):
                yield one

    def _choose(self, name: str, candidates: Sequence[LoadedDefinition]) -> Agent:
        """Return the agent of the only candidate for `name`; raise ConfigError as `find`."""
        if len(candidates) > 1:
            paths = " and ".join(str(one.path) for one in candidates)
            raise ConfigError(
                f"{paths}: {len(candidates)} files of one folder have the agent name {name!r} "
                "(field `name` or file name); rename all but one"
            )
        (one,) = candidates
        if isinstance(one, BrokenAgent):
            # A new exception each time: one that is raised again collects the tracebacks of all
            # its raises.
            raise ConfigError(str(one.error))
        return self._compose(one)

    def _compose(self, definition: ParsedDefinition) -> Agent:
        """Return the agent with its complete prompt; raise ConfigError as `find`."""
        draft = definition.agent
        skills = _read_texts(self._skills, draft.skills, definition)
        expertise = _read_texts(self._expertise, draft.expertise, definition)
        sources = (definition, skills, expertise)
        known = self._composed.get(draft.path)
        if known is not None and known[0] == sources:
            return known[1]
        agent = replace(draft, prompt=compose_prompt(draft.prompt, skills, expertise))
        self._composed[draft.path] = (sources, agent)
        return agent

    def _choose_or_report(
        self, name: str, candidates: Sequence[LoadedDefinition]
    ) -> Agent | BrokenAgent:
        """Return the agent for `name`, or the reason why it cannot be used."""
        try:
            return self._choose(name, candidates)
        except ConfigError as error:
            return BrokenAgent(name, candidates[0].path, error)

    def _drop_removed(self, present: set[Path]) -> None:
        """Drop the cached values of files that no longer define an agent."""
        self._definitions.drop_unused()
        self._composed = {path: held for path, held in self._composed.items() if path in present}

    def _describe_search(self, name: str) -> str:
        """Build the message for a name that no file defines."""
        known = {known for folder in self.folders.agents for known in self._group_by_name(folder)}
        places = ", ".join(
            f"{folder}{'' if folder.is_dir() else ' (missing)'}" for folder in self.folders.agents
        )
        return (
            f"no agent is called {name!r}{did_you_mean(name, known)}; searched in {places}; "
            "correct the name or define the agent in one of these folders"
        )


def _read_texts(
    library: ExpertiseLibrary, names: Sequence[str], definition: ParsedDefinition
) -> NamedTexts:
    """Read the skills or expertise that a definition names; raise ConfigError with its line."""
    try:
        return tuple((name, library.read(name)) for name in names)
    except ConfigError as error:
        line = definition.lines[library.field_name]
        message = f"{definition.path}:{line}: {library.field_name}: {error}"
        raise ConfigError(message) from None


def _choose_folders(settings: Settings, environ: Mapping[str, str]) -> SearchFolders:
    """Return the folders to search for these settings, in order."""
    project = settings.project_dir / ".claude"
    home = claude_home(environ)
    # `agents_dir` is searched before the project's folder; `skills_dir` and `expertise_dir`
    # replace it.
    agents = [settings.agents_dir] if settings.agents_dir else []
    return SearchFolders(
        agents=_drop_duplicates(*agents, project / "agents", home / "agents"),
        skills=_drop_duplicates(settings.skills_dir or project / "skills", home / "skills"),
        expertise=_drop_duplicates(
            settings.expertise_dir or project / "expertise", home / "expertise"
        ),
    )


def _drop_duplicates(*folders: Path) -> tuple[Path, ...]:
    """Return the folders as absolute paths, each folder once, at its first place."""
    distinct: dict[str, Path] = {}
    for folder in map(_make_absolute, folders):
        # Two paths can be one folder: one is a link, or the project is the user's home.
        distinct.setdefault(os.path.realpath(folder), folder)
    return tuple(distinct.values())


def _make_absolute(path: Path) -> Path:
    """Return `path` as an absolute path, a leading ``~`` replaced; links are kept."""
    return path.expanduser().absolute()
