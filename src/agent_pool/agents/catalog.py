"""Search folders for agent definitions and decide which agent a name stands for."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from agent_pool.agents.claude_settings import AgentSettings
from agent_pool.agents.definition import Agent, BrokenAgent, ParsedDefinition, load_definition
from agent_pool.agents.files import FileCache, list_markdown_files
from agent_pool.agents.names import normalize_name
from agent_pool.agents.places import find_project_folders
from agent_pool.agents.prompt import (
    ExpertiseLibrary,
    SkillLibrary,
    TextNotFound,
    compose_prompt,
    find_unsupported,
)
from agent_pool.errors import AgentNotFound, ConfigError
from agent_pool.settings import Settings, claude_home, managed_agents
from agent_pool.text import did_you_mean

LoadedDefinition = ParsedDefinition | BrokenAgent
NamedTexts = tuple[tuple[str, str], ...]
"""The (name, text) of each skill or expertise of an agent, in the order of its prompt."""
AgentSources = tuple[ParsedDefinition, NamedTexts, NamedTexts, tuple[str, ...], str | None]
"""An agent's definition, skills, expertise, warnings and the model that settings give to it."""


@dataclass(frozen=True, slots=True)
class SearchFolders:
    """The folders that are searched, in order; a folder need not exist.

    Attributes:
        agents: folders of definitions: ``*.md``, subfolders included.
        skills: folders of skills: ``NAME/SKILL.md``.
        expertise: folders of expertise: ``NAME.md``.
        commands: folders of commands, which can be named as skills: ``NAME.md``.
    """

    agents: tuple[Path, ...]
    skills: tuple[Path, ...]
    expertise: tuple[Path, ...]
    commands: tuple[Path, ...]


class Catalog:
    """The agents that are defined, always as their files are now.

    Every call lists the files again and parses only those that changed. So a call is cheap (tens
    of microseconds per folder), and an edit takes effect at the next call. Relative folders in the
    settings are relative to the working directory at the time of creation, and a leading ``~`` is
    the user's home.

    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        """Create a catalog; no file is read yet.

        Args:
            settings: gives the project and the folders.
            environ: environment variables; CLAUDE_CONFIG_DIR replaces ``~/.claude``.
        """
        self._choose_folders = _FolderChoice(settings, environ)
        folders = self.folders
        project = _make_absolute(settings.project_dir)
        self._skills = SkillLibrary(folders.skills, project, folders.commands)
        self._expertise = ExpertiseLibrary(folders.expertise)
        self._definitions = FileCache(load_definition)
        self._composed: dict[Path, tuple[AgentSources, Agent]] = {}
        self._claude_settings = AgentSettings(settings.project_dir, environ)

    @property
    def folders(self) -> SearchFolders:
        """Return the folders that are searched now."""
        return self._choose_folders.choose()

    def find(self, name: str) -> Agent:
        """Return the agent with this name.

        The name is an agent's field `name`, or else the name of a file without ``.md``, or else a
        similar name: `Code Reviewer` means `code-reviewer`. The first folder that has the name
        wins, and in a folder the last path.

        Raises:
            AgentNotFound: no file defines it, or several similar names are as near; the message
                lists the searched folders or these names.
            ConfigError: its definition, or a skill or expertise that it names, cannot be used, or
                a setting denies it.
        """
        if not isinstance(name, str):
            raise AgentNotFound(f"expected the name of an agent, found {name!r}")
        found = list(self._load_all())
        exact = [one for one in found if one.name == name]
        if candidates := exact or [one for one in found if one.path.stem == name]:
            # A file that is found by its own name has an agent name that others can have, too.
            return self._choose(exact or [one for one in found if one.name == candidates[0].name])
        wanted = normalize_name(name)
        similar = {one.name: one for one in found if normalize_name(one.name) == wanted}
        if len(similar) > 1:
            names = " and ".join(sorted(similar))
            raise AgentNotFound(f"{name!r} can mean {names}; use the exact name of one")
        if similar and wanted:
            return self._choose([one for one in found if one.name in similar])
        raise AgentNotFound(self._describe_search(name, found))

    def scan(self) -> list[Agent | BrokenAgent]:
        """Return all agents and all definitions that cannot be used, sorted by name.

        Each name appears once, with the agent that `find` returns or the error that it raises.
        """
        groups: dict[str, list[LoadedDefinition]] = {}
        for one in self._load_all():
            groups.setdefault(one.name, []).append(one)
        found = {name: self._choose_or_report(group) for name, group in groups.items()}
        self._drop_removed({one.path for one in found.values()})
        return [found[name] for name in sorted(found)]

    def stamp(self) -> Hashable:
        """Return a value that changes when an agent, a skill or an expertise changes.

        That is when a file of one is added, removed or edited. No file is opened for it.
        """
        files = [file for folder in self.folders.agents for file in list_markdown_files(folder)]
        stamps = (self._skills.stamp(), self._expertise.stamp(), self._claude_settings.stamp())
        return (tuple(files), *stamps)

    def _load_all(self) -> Iterator[LoadedDefinition]:
        """Yield all definitions, in the order in which one of two with the same name wins."""
        for folder in self.folders.agents:
            # The last path of a folder wins (2.1.332).
            yield from reversed(list(self._load(folder)))

    def _load(self, folder: Path) -> Iterator[LoadedDefinition]:
        """Yield the definitions in `folder`, in the order of their paths."""
        for file in list_markdown_files(folder):
            if file.problem is not None:
                path = Path(file.path)
                yield BrokenAgent(path.stem, path, ConfigError(f"{path}: {file.problem}"))
            elif one := self._definitions.get(file.path, file.signature):
                yield one

    def _choose(self, candidates: Sequence[LoadedDefinition]) -> Agent:
        """Return the agent of the first of these definitions that can be used; raise as `find`.

        A definition that Claude Code would not load does not hide one that it would.
        """
        one = next((one for one in candidates if one.is_known_to_cli), candidates[0])
        if isinstance(one, BrokenAgent):
            # A new exception each time: one that is raised again collects the tracebacks of all
            # its raises.
            raise ConfigError(str(one.error))
        self._claude_settings.check(one.name)
        return self._note_others(self._compose(one), one, candidates)

    def _note_others(
        self, agent: Agent, one: ParsedDefinition, candidates: Sequence[LoadedDefinition]
    ) -> Agent:
        """Return the agent with a warning about files of its name that are not used."""
        if len(candidates) == 1:
            return agent
        folder = self._folder_of(one.path)
        before = candidates[: candidates.index(one)]
        clashes = [other for other in candidates if self._folder_of(other.path) == folder]
        unused = [
            str(other.path)
            for other in dict.fromkeys((*before, *clashes))
            if other is not one and not _is_copy(other, one)
        ]
        if not unused:
            return agent
        reason = f"{one.path} is used, and not {', '.join(sorted(unused))}, which has the same name"
        return replace(agent, ignored=MappingProxyType({**agent.ignored, "name": reason}))

    def _folder_of(self, path: Path) -> Path | None:
        """Return the searched folder in which a definition was found."""
        return next((one for one in self.folders.agents if path.is_relative_to(one)), None)

    def _compose(self, definition: ParsedDefinition) -> Agent:
        """Return the agent with its complete prompt; raise ConfigError as `find`."""
        draft = definition.agent
        skills, warnings = self._read_skills(definition)
        expertise = _read_texts(self._expertise, draft.expertise, definition)
        default_model = None if definition.names_model else self._claude_settings.default_model()
        sources = (definition, skills, expertise, warnings, default_model)
        known = self._composed.get(draft.path)
        if known is not None and known[0] == sources:
            return known[1]
        agent = replace(draft, prompt=compose_prompt(draft.prompt, skills, expertise))
        if warnings:
            # The definition's own warning about `skills`, if it has one, comes first.
            reasons = "; ".join(filter(None, (draft.ignored.get("skills"), *warnings)))
            agent = replace(agent, ignored=MappingProxyType({**draft.ignored, "skills": reasons}))
        if default_model:
            agent = replace(agent, model=default_model)
        self._composed[draft.path] = (sources, agent)
        return agent

    def _read_skills(self, definition: ParsedDefinition) -> tuple[NamedTexts, tuple[str, ...]]:
        """Return the skills of a definition that exist, and warnings; raise ConfigError."""
        skills: list[tuple[str, str]] = []
        warnings: list[str] = []
        for name in definition.agent.skills:
            try:
                skills += _read_texts(self._skills, (name,), definition)
            except TextNotFound as error:
                # Claude Code leaves such a skill out (2.1.332).
                warnings.append(f"left out: {error}")
        for name, text in skills:
            warnings += find_unsupported(name, text)
        return tuple(skills), tuple(warnings)

    def _choose_or_report(self, candidates: Sequence[LoadedDefinition]) -> Agent | BrokenAgent:
        """Return the agent of these definitions, or the reason why it cannot be used."""
        try:
            return self._choose(candidates)
        except ConfigError as error:
            return BrokenAgent(candidates[0].name, candidates[0].path, error)

    def _drop_removed(self, present: set[Path]) -> None:
        """Drop the cached values of files that no longer define an agent."""
        self._definitions.drop_unused()
        self._composed = {path: held for path, held in self._composed.items() if path in present}

    def _describe_search(self, name: str, found: Sequence[LoadedDefinition]) -> str:
        """Build the message for a name that no file defines."""
        known = {known for one in found for known in (one.name, one.path.stem)}
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
        if isinstance(error, TextNotFound) and library.field_name == "skills":
            raise
        line = definition.lines[library.field_name]
        message = f"{definition.path}:{line}: {library.field_name}: {error}"
        raise ConfigError(message) from None


def _is_copy(other: LoadedDefinition, one: ParsedDefinition) -> bool:
    """Return whether a definition is equal to another except for its path, e.g. a link to it."""
    return isinstance(other, ParsedDefinition) and replace(other.agent, path=one.path) == one.agent


class _FolderChoice:
    """Chooses the folders to search for some settings, in order."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._user = claude_home(environ)
        home = environ.get("HOME", "")
        self._places = find_project_folders(_make_absolute(settings.project_dir), home)
        self._known: dict[tuple[bool, ...], SearchFolders] = {}

    def choose(self) -> SearchFolders:
        """Return the folders; only those of a linked worktree or an administrator can change."""
        own = self._places.has_own("agents", "skills", "commands")
        state = (*own, managed_agents().is_dir())
        if state not in self._known:
            self._known[state] = self._build()
        return self._known[state]

    def _build(self) -> SearchFolders:
        settings, user = self._settings, self._user
        project = settings.project_dir / ".claude"
        # `agents_dir` is searched before the project's folders; `skills_dir` and `expertise_dir`
        # replace them.
        first = [settings.agents_dir] if settings.agents_dir else []
        if managed_agents().is_dir():
            # The administrator's agents win over all others of their names (2.1.332).
            first.insert(0, managed_agents())
        skills = [settings.skills_dir] if settings.skills_dir else []
        # The user's skills come before the project's, other than the user's agents (2.1.332).
        skills += [user / "skills"]
        skills += [] if settings.skills_dir else self._places.choose("skills")
        commands = [user / "commands", *self._places.choose("commands")]
        return SearchFolders(
            commands=_drop_duplicates(*commands),
            agents=_drop_duplicates(*first, *self._places.choose("agents"), user / "agents"),
            skills=_drop_duplicates(*skills),
            expertise=_drop_duplicates(
                settings.expertise_dir or project / "expertise", user / "expertise"
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
