"""Where agents are looked for, and which file is meant by a name."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent_pool.agents.definition import Agent, Broken, Definition, load_definition
from agent_pool.agents.files import FileCache, markdown_files
from agent_pool.agents.names import check_name, did_you_mean
from agent_pool.agents.prompt import Expertise, Skills, compose
from agent_pool.errors import AgentNotFound, ConfigError
from agent_pool.settings import Settings, claude_home

Source = Definition | Broken
Texts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Folders:
    """What is searched, each in this order; none of them need exist."""

    agents: tuple[Path, ...]
    skills: tuple[Path, ...]
    expertise: tuple[Path, ...]


class Catalog:
    """The agents that are defined, always as their files are now.

    Files are looked at again at every call and parsed again only when they changed, so a call is
    cheap (tens of microseconds a folder) and an edit takes effect at the next one. Relative
    folders in the settings are relative to the working directory at the time of creation, and a
    leading ``~`` is the user's home.

    Attributes:
        folders: what is searched.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str] = os.environ) -> None:
        self.folders = _folders(settings, environ)
        self._skills = Skills(self.folders.skills, _absolute(settings.project_dir))
        self._expertise = Expertise(self.folders.expertise)
        self._parsed = FileCache(load_definition)
        self._composed: dict[Path, tuple[Definition, Texts, Texts, Agent]] = {}

    def find(self, name: str) -> Agent:
        """The agent called `name` in its frontmatter, or by its file.

        Raises:
            AgentNotFound: there is none; the message says where it was looked for.
            ConfigError: its definition, or a skill or an expertise that it names, cannot be used,
                or two files of one folder are called so.
        """
        try:
            check_name(name)
        except ValueError as error:
            raise AgentNotFound(f"no agent can be called that: {error}") from None
        for folder in self.folders.agents:
            if claimants := self._claims(folder).get(name):
                return self._agent(name, claimants)
        raise AgentNotFound(self._not_found(name))

    def scan(self) -> list[Agent | Broken]:
        """All agents and all definitions that cannot be used, by name.

        Each name is there once: what `find` gives or why it refuses. What an earlier folder
        shadows is left out.
        """
        found: dict[str, Agent | Broken] = {}
        seen: set[str] = set()
        for folder in self.folders.agents:
            claims = self._claims(folder)
            for name, claimants in claims.items():
                if name not in seen and any(one.name == name for one in claimants):
                    found[name] = self._agent_or_broken(name, claimants)
            seen.update(claims)
        self._forget_removed({one.path for one in found.values()})
        return [found[name] for name in sorted(found)]

    def stamp(self) -> Hashable:
        """Changes whenever an agent's, a skill's or an expertise's file comes, goes or is edited.

        No file is opened for it.
        """
        files = [entry for folder in self.folders.agents for entry in markdown_files(folder)]
        return (tuple(files), self._skills.stamp(), self._expertise.stamp())

    def _claims(self, folder: Path) -> dict[str, list[Source]]:
        """What each name may mean in `folder`; a file goes by its agent's name and by its own."""
        claims: dict[str, list[Source]] = {}
        for one in self._load(folder):
            for name in dict.fromkeys((one.name, one.path.stem)):
                claims.setdefault(name, []).append(one)
        return claims

    def _load(self, folder: Path) -> Iterator[Source]:
        for entry in markdown_files(folder):
            if entry.problem is not None:
                path = Path(entry.path)
                yield Broken(path.stem, path, ConfigError(f"{path}: {entry.problem}"))
            elif one := self._parsed.get(entry.path, entry.signature):
                yield one

    def _agent(self, name: str, claimants: Sequence[Source]) -> Agent:
        if len(claimants) > 1:
            paths = " and ".join(str(one.path) for one in claimants)
            raise ConfigError(f"{paths}: both are called {name!r}; rename all but one")
        (one,) = claimants
        if isinstance(one, Broken):
            raise ConfigError(str(one.error))  # a new one: a raised error keeps its traceback
        return self._compose(one)

    def _compose(self, definition: Definition) -> Agent:
        draft = definition.agent
        skills = _texts(self._skills, draft.skills, definition)
        expertise = _texts(self._expertise, draft.expertise, definition)
        known = self._composed.get(draft.path)
        if known is not None and known[:3] == (definition, skills, expertise):
            return known[3]
        agent = replace(draft, prompt=compose(draft.prompt, skills, expertise))
        self._composed[draft.path] = (definition, skills, expertise, agent)
        return agent

    def _agent_or_broken(self, name: str, claimants: Sequence[Source]) -> Agent | Broken:
        try:
            return self._agent(name, claimants)
        except ConfigError as error:
            return Broken(name, claimants[0].path, error)

    def _forget_removed(self, present: set[Path]) -> None:
        self._parsed.forget_unused()
        self._composed = {path: made for path, made in self._composed.items() if path in present}

    def _not_found(self, name: str) -> str:
        known = {known for folder in self.folders.agents for known in self._claims(folder)}
        looked = ", ".join(
            f"{folder}{'' if folder.is_dir() else ' (missing)'}" for folder in self.folders.agents
        )
        return f"no agent is called {name!r}{did_you_mean(name, known)}; looked in {looked}"


def _texts(library: Expertise, names: Sequence[str], definition: Definition) -> Texts:
    try:
        return tuple((name, library.text(name)) for name in names)
    except ConfigError as error:
        line = definition.lines[library.key]
        raise ConfigError(f"{definition.path}:{line}: {library.key}: {error}") from None


def _folders(settings: Settings, environ: Mapping[str, str]) -> Folders:
    project = settings.project_dir / ".claude"
    home = claude_home(environ)
    agents = [settings.agents_dir] if settings.agents_dir else []
    return Folders(
        agents=_distinct(*agents, project / "agents", home / "agents"),
        skills=_distinct(settings.skills_dir or project / "skills", home / "skills"),
        expertise=_distinct(settings.expertise_dir or project / "expertise", home / "expertise"),
    )


def _distinct(*folders: Path) -> tuple[Path, ...]:
    distinct: dict[str, Path] = {}
    for folder in map(_absolute, folders):
        distinct.setdefault(os.path.realpath(folder), folder)
    return tuple(distinct.values())


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()
